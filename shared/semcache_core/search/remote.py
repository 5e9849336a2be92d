"""Lets other processes of this user query the embedded index that one process owns.

Two processes that write to one Chroma directory lose vectors, so one process owns it. The others
query it over a Unix socket, in a fraction of a millisecond; a scan of 100,000 vectors takes ten. (A
Chroma server was rejected: somebody would have to start and watch it.) Messages are bytes of a
fixed layout, framed by `multiprocessing.connection`; nothing is pickled.
"""

import hashlib
import os
import shutil
import socket
import struct
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from semcache_core._utils.files import write_whole
from semcache_core.errors import CollectionGoneError, IndexUnavailableError
from semcache_core.storage.database import Connections
from semcache_core.types import EMPTY, Generation, Vector

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TIMEOUT_SECONDS = 1.0
"""For each read and write: an owner that is stopped keeps its socket open and does not answer."""
MOST_NEIGHBOURS = 4096
MOST_PARTITIONS = 1 << 20
MOST_BYTES = 1 << 16  # of a vector
_BACKLOG = 128
_KEPT = 32

Nearest: TypeAlias = Callable[[bytes, int, Vector, int], list[tuple[int, float]]]
"""(partition, the id through which it must be indexed, vector, k) -> (entry id, similarity), or
IndexUnavailableError."""
Held: TypeAlias = Callable[[], dict[bytes, int]]
"""Partition -> the last entry id that the index holds."""

# name, partition, through, k; the vector follows; k = 0 asks what the index holds
_QUESTION = struct.Struct("!32s32sQI")
_NEIGHBOUR = np.dtype([("id", ">i8"), ("similarity", ">f4")])
_HOLDING = np.dtype([("partition", "V32"), ("through", ">i8")])
# an answer: one of these two, then the rows
_FOUND, _UNAVAILABLE = b"\1", b"\0"


def can_share() -> bool:
    return hasattr(socket, "AF_UNIX")


def name_of(ledger_id: int, fingerprint: str) -> bytes:
    """The name, 32 bytes, of the index of one ledger and one model."""
    return hashlib.sha256(f"{ledger_id} {fingerprint}".encode()).digest()


class IndexServer:
    """Answers other processes of this user until it is closed, with a thread per connection.

    `close` waits for answers in progress, TIMEOUT_SECONDS at most, so that Chroma is not closed
    under a query.

    The socket lies in a new directory that only this user can enter, since the cache's own path may
    be too long for a socket; `address_file` holds its path.
    """

    def __init__(self, address_file: Path, name: bytes, nearest: Nearest, held: Held) -> None:
        from multiprocessing.connection import Listener  # 4 ms, which few processes need

        self._address_file = address_file
        self._name, self._nearest, self._held = name, nearest, held
        self._closed = threading.Event()
        self._idle = threading.Condition()
        self._answering = 0
        directory = Path(tempfile.mkdtemp(prefix="semcache-"))  # mode 0700
        self._address = str(directory / "index")
        with ExitStack() as opened:
            opened.callback(shutil.rmtree, directory, ignore_errors=True)
            self._listener = opened.enter_context(Listener(self._address, "AF_UNIX", _BACKLOG))
            write_whole(address_file, [self._address.encode()], IndexUnavailableError, private=True)
            self._opened = opened.pop_all()
        _SERVERS.add(self)
        threading.Thread(target=self._accept, name="semcache-index", daemon=True).start()

    def close(self) -> None:
        """Accept no more connections, and look nothing up any more for those that are open."""
        _SERVERS.discard(self)
        self._address_file.unlink(missing_ok=True)
        with self._idle:
            self._closed.set()
            self._idle.wait_for(lambda: not self._answering, TIMEOUT_SECONDS)
        with suppress(OSError):
            _connect(self._address).close()  # wakes `accept`, which has no timeout
        with suppress(OSError):
            self._opened.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()
            except (OSError, RuntimeError):  # no more files, or threads, at the moment
                self._closed.wait(0.1)

    def _answer(self, connection: "Connection[Any, Any]") -> None:
        with connection, suppress(EOFError, OSError):  # the other side went away, or sent too much
            while answer := self._answer_to(connection.recv_bytes(_QUESTION.size + MOST_BYTES)):
                connection.send_bytes(answer)

    def _answer_to(self, message: bytes) -> bytes:
        """The answer to a question; empty where the message is not a question about this index."""
        if len(message) < _QUESTION.size:
            return b""
        name, partition, through, k = _QUESTION.unpack_from(message)
        body = message[_QUESTION.size :]
        if name != self._name or k > MOST_NEIGHBOURS or len(body) % 4:
            return b""
        if not k:
            return _FOUND + np.array([*self._held().items()], _HOLDING).tobytes()
        with self._idle:
            if self._closed.is_set():
                return b""
            self._answering += 1
        try:
            found = self._nearest(partition, through, np.frombuffer(body, np.float32), k)
        except IndexUnavailableError:
            return _UNAVAILABLE
        finally:
            with self._idle:
                self._answering -= 1
                self._idle.notify_all()
        return _FOUND + np.array(found, _NEIGHBOUR).tobytes()


_SERVERS: "weakref.WeakSet[IndexServer]" = weakref.WeakSet()


def _in_forked_child() -> None:
    """Close the sockets of the parent: a child that keeps one open makes the others wait for it
    once the parent is gone.
    """
    for server in list(_SERVERS):
        server._listener.close()  # leaves the file, which is the parent's
    _SERVERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


class RemoteIndex:
    """The index of the process that owns it, read by another process.

    Every method raises IndexUnavailableError when the owner is gone or does not answer in time.
    Safe for many threads: each question has a connection to itself.
    """

    def __init__(self, address: str, name: bytes) -> None:
        self._name = name
        self._connections = Connections(lambda: _connect(address), _KEPT)

    @classmethod
    def at(cls, address_file: Path, name: bytes) -> "RemoteIndex | None":
        """The index whose owner wrote `address_file`; None where there is no such file."""
        try:
            address = address_file.read_text()
        except (OSError, ValueError):
            return None
        return cls(address, name) if can_share() and address else None

    def held(self) -> dict[bytes, int]:
        """Partition -> the last entry id that the owner's index holds."""
        rows = self._ask(bytes(32), 0, 0, b"", _HOLDING)
        return {bytes(row["partition"]): int(row["through"]) for row in rows}

    def nearest(
        self, partition: bytes, vector: Vector, k: int, generation: Generation = EMPTY
    ) -> list[tuple[int, float]]:
        """The `k` nearest entries by the owner's current collection.

        Raises CollectionGoneError where that holds less than `generation`, as a new one may.
        """
        body = np.ascontiguousarray(vector, np.float32).tobytes()
        rows = self._ask(partition, generation.through, k, body, _NEIGHBOUR)
        return [(int(row["id"]), float(row["similarity"])) for row in rows]

    def close(self) -> None:
        self._connections.close()

    def _ask(
        self, partition: bytes, through: int, k: int, body: bytes, row: "np.dtype[Any]"
    ) -> Any:
        most = 1 + (k or MOST_PARTITIONS) * row.itemsize
        try:
            with self._connections.one() as connection:
                connection.send_bytes(_QUESTION.pack(self._name, partition, through, k) + body)
                answer = connection.recv_bytes(most)
            if answer != _UNAVAILABLE:
                return np.frombuffer(answer[1:], row)
        except (EOFError, OSError, ValueError) as error:
            raise IndexUnavailableError(
                f"the process that owns the vector index does not answer: {error!r}"
            ) from error
        raise CollectionGoneError("the owner of the vector index does not hold this partition")


def _connect(address: str) -> "Connection[Any, Any]":
    """A connection whose every read and write ends within TIMEOUT_SECONDS, or raises OSError.

    `multiprocessing.connection.Client` has no timeout: it would wait for an owner that hangs.
    """
    from multiprocessing.connection import Connection

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
        plain.settimeout(TIMEOUT_SECONDS)
        plain.connect(address)
        plain.settimeout(None)  # the file blocks again, the kernel keeps the time
        limit = struct.pack("@ll", int(TIMEOUT_SECONDS), int(TIMEOUT_SECONDS % 1 * 1e6))
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plain.setsockopt(socket.SOL_SOCKET, direction, limit)
        return Connection(plain.detach())

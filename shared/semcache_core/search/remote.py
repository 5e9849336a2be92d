"""The owner of an embedded index answers for the other processes of its path.

Two processes on one Chroma directory lose vectors, so one owns it. The others ask it over a Unix
socket, which takes a fraction of a millisecond, where a scan of 100,000 vectors takes ten. (A
Chroma server beside it was rejected: someone would have to start and watch it.)
"""

import hashlib
import os
import shutil
import socket
import socketserver
import struct
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from semcache_core._utils.files import write_whole
from semcache_core.errors import CollectionGoneError, IndexUnavailableError
from semcache_core.storage.database import Connections
from semcache_core.types import EMPTY, Generation, Vector

TIMEOUT_SECONDS = 1.0
"""An owner that was stopped, or is gone with its socket held open by a child, answers nothing."""
MOST_NEIGHBOURS = 4096
MOST_PARTITIONS = 1 << 20
MOST_BYTES = 1 << 16  # of a vector
_KEPT = 32

Nearest: TypeAlias = Callable[[bytes, int, Vector, int], list[tuple[int, float]]]
"""(partition, the id through which it must be held, vector, k) -> (entry id, similarity), or
IndexUnavailableError."""
Held: TypeAlias = Callable[[], dict[bytes, int]]
"""Partition -> the last entry id that the index holds."""

# name, partition, through, k, bytes of the vector; with k = 0 the question is what is held
_QUESTION = struct.Struct("!32s32sQII")
_COUNT = struct.Struct("!i")
_NEIGHBOUR = np.dtype([("id", ">i8"), ("similarity", ">f4")])
_HOLDING = np.dtype([("partition", "V32"), ("through", ">i8")])
_UNAVAILABLE = -1


def can_share() -> bool:
    return hasattr(socket, "AF_UNIX") and hasattr(socketserver, "ThreadingUnixStreamServer")


def name_of(ledger_id: int, fingerprint: str) -> bytes:
    """Which index is meant, 32 bytes: that of one ledger and one model."""
    return hashlib.sha256(f"{ledger_id} {fingerprint}".encode()).digest()


class IndexServer:
    """Answers other processes of this user, as long as it is open; one thread for each connection.

    The socket lies in a new directory that only this user can enter, as a path of its own may be
    longer than a socket's may be; `address_file` says where.
    """

    def __init__(self, address_file: Path, name: bytes, nearest: Nearest, held: Held) -> None:
        self._address_file = address_file
        self._directory = Path(tempfile.mkdtemp(prefix="semcache-"))  # mode 0700
        address = str(self._directory / "index")
        try:
            self._server: Any = _server(address, name, nearest, held)
            write_whole(address_file, [address.encode()], IndexUnavailableError, private=True)
        except (OSError, IndexUnavailableError):
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        _SERVERS.add(self)
        threading.Thread(
            target=self._server.serve_forever, name="semcache-index", daemon=True
        ).start()

    def close(self) -> None:
        _SERVERS.discard(self)
        self._address_file.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._directory, ignore_errors=True)


_SERVERS: "weakref.WeakSet[IndexServer]" = weakref.WeakSet()


def _in_forked_child() -> None:
    """Else whoever asks a dead owner waits for a child that holds its socket and never answers."""
    for server in list(_SERVERS):
        server._server.socket.close()
    _SERVERS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def _server(address: str, name: bytes, nearest: Nearest, held: Held) -> Any:
    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (found := _answered(self.rfile, name, nearest, held)) is not None:
                self.wfile.write(found)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """The other side went away; it is on its own then."""

    return Server(address, Connection)


def _answered(stream: Any, name: bytes, nearest: Nearest, held: Held) -> bytes | None:
    """The reply to the next question; None where there is none, or it is not one of ours."""
    head = stream.read(_QUESTION.size)
    if len(head) < _QUESTION.size:
        return None
    asked, partition, through, k, size = _QUESTION.unpack(head)
    if asked != name or k > MOST_NEIGHBOURS or size > MOST_BYTES or size % 4:
        return None
    body = stream.read(size)
    if len(body) < size:
        return None
    if not k:
        rows = np.array([*held().items()], _HOLDING)
        return _COUNT.pack(len(rows)) + rows.tobytes()
    try:
        found = nearest(partition, through, np.frombuffer(body, np.float32), k)
    except IndexUnavailableError:
        return _COUNT.pack(_UNAVAILABLE)
    return _COUNT.pack(len(found)) + np.array(found, _NEIGHBOUR).tobytes()


class RemoteIndex:
    """The index of the process that owns it, asked by another. It can only be read.

    Every method raises IndexUnavailableError when the owner is gone or does not answer in time.
    Safe for many threads, each of which has a connection to itself.
    """

    def __init__(self, address: str, name: bytes) -> None:
        self._address = address
        self._name = name
        self._connections = Connections(self._connected, _KEPT)

    @classmethod
    def at(cls, address_file: Path, name: bytes) -> "RemoteIndex | None":
        """The index whose owner wrote `address_file`; None where nobody did."""
        try:
            address = address_file.read_text()
        except (OSError, ValueError):
            return None
        return cls(address, name) if can_share() and address else None

    def held(self) -> dict[bytes, int]:
        """Partition -> last entry id that the owner says it holds."""
        rows = self._ask(bytes(32), 0, 0, b"", _HOLDING)
        return {bytes(row["partition"]): int(row["through"]) for row in rows}

    def nearest(
        self, partition: bytes, vector: Vector, k: int, generation: Generation = EMPTY
    ) -> list[tuple[int, float]]:
        """From whatever collection the owner asks by now, if it goes as far as `generation`;
        CollectionGoneError if it does not: one made anew may not.
        """
        body = np.ascontiguousarray(vector, np.float32).tobytes()
        rows = self._ask(partition, generation.through, k, body, _NEIGHBOUR)
        return [(int(row["id"]), float(row["similarity"])) for row in rows]

    def close(self) -> None:
        self._connections.close()

    def _ask(
        self, partition: bytes, through: int, k: int, body: bytes, row: "np.dtype[Any]"
    ) -> Any:
        head = _QUESTION.pack(self._name, partition, through, k, len(body))
        try:
            with self._connections.one() as connection:
                connection.sendall(head + body)
                (count,) = _COUNT.unpack(_received(connection, _COUNT.size))
                if count == _UNAVAILABLE:
                    raise CollectionGoneError("the owner of the vector index has not got it")
                if not 0 <= count <= (k or MOST_PARTITIONS):
                    raise ConnectionError(f"an answer of {count} rows")
                return np.frombuffer(_received(connection, count * row.itemsize), row)
        except OSError as error:
            raise IndexUnavailableError(
                f"the process that owns the vector index does not answer: {error!r}"
            ) from error

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(self._address)
        except BaseException:
            connection.close()
            raise
        return connection


def _received(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if not (part := connection.recv(size - len(parts))):
            raise ConnectionResetError("it closed the connection")
        parts += part
    return bytes(parts)

"""The vector index: Chroma, one collection per large partition, rebuildable from the ledger."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from semcache_core.deadline import Deadline
from semcache_core.errors import CollectionGoneError, IndexBusyError, IndexUnavailableError
from semcache_core.segments import ForeignLock, identity, remove_unreferenced
from semcache_core.types import EMPTY, Generation, Matrix, Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")
T = TypeVar("T")

MAX_BATCH = 300  # Chroma Cloud's quota on records per write
PROBE_SECONDS = 120
READS_AT_ONCE = 5
READ_SECONDS = 2.0
"""A lookup waits so long for the index, and then scans."""
WRITE_SECONDS = 30.0
EMBEDDED_READS_AT_ONCE = 64
EMBEDDED_WRITE_SECONDS = 600.0
_NUMBERED = re.compile(r"-[0-9a-f]{16}-[0-9a-f]{7}$")
# Twice Chroma's defaults for both: where a small dense topic was stored before 30k entries on
# other topics, the defaults missed 35 % of its questions by their own vector, these 0.25 %.
# Building takes up to three times as long, in the background. `ef_search` is 100 there: at a
# million entries that overlooks 26 of 300 paraphrases, 400 overlooks 15 and takes 1.3 ms more
# (800: 12, and 3 ms).
_HNSW: Any = {
    "space": "cosine",
    "max_neighbors": 32,
    "ef_construction": 200,
    "ef_search": 400,
}


class ChromaIndex:
    """A collection per partition, so that no scope can crowd out another's candidates.

    A `where` filter on one shared collection was rejected: at 100k entries it takes 100 to 300 ms
    (every matching id is listed first), and over-fetching without a filter misses small scopes.
    Ledger id, model fingerprint and generation are part of a collection's name: vectors of two
    ledgers or two models never meet. Every failure of Chroma becomes an IndexUnavailableError, also
    that it does not answer.
    """

    def __init__(
        self,
        client: "ClientAPI",
        ledger_id: int,
        fingerprint: str,
        calls: "Calls | None" = None,
        check_free: Callable[[bool], None] = lambda writing: None,
    ) -> None:
        self._client = client
        self._prefix = f"semcache-{ledger_id:016x}-{fingerprint[:12]}-"
        self._collections: dict[tuple[bytes, int], Any] = {}
        calls = calls or Calls()
        self._reads, self._writes = calls.reads, calls.writes
        self._check_free = check_free

    def identity(self, partition: bytes, number: int = 0) -> str:
        """Chroma's id of the collection with this number, which is made if it is not there."""
        with self._failing("open", partition):
            made = partial(self._collection, partition, Generation(number), create=True)
            return str(self._write(made).id)

    def add(
        self,
        partition: bytes,
        ids: Sequence[int],
        vectors: Matrix,
        generation: Generation = EMPTY,
    ) -> None:
        """Add or replace vectors (float32 [n, d], unit rows) in batches. The collection is made
        where `generation` names none.
        """
        for start in range(0, len(ids), MAX_BATCH):
            chunk = slice(start, start + MAX_BATCH)
            with self._failing("add to", partition):
                upsert = partial(self._upsert, partition, ids[chunk], vectors[chunk], generation)
                self._write(upsert)

    def nearest(
        self, partition: bytes, vector: Vector, k: int, generation: Generation = EMPTY
    ) -> list[tuple[int, float]]:
        with self._failing("query", partition):
            found = self._read(
                lambda: self._collection(partition, generation).query(
                    query_embeddings=vector[None, :], n_results=k, include=["distances"]
                )
            )
            pairs = zip(found["ids"][0], found["distances"][0], strict=True)
            return [(_entry_id(one), 1.0 - float(distance)) for one, distance in pairs][:k]

    def remove(self, partition: bytes, ids: Sequence[int], generation: Generation = EMPTY) -> None:
        with suppress(CollectionGoneError), self._failing("delete from", partition):
            ids_there = [str(i) for i in ids]
            self._write(lambda: self._collection(partition, generation).delete(ids=ids_there))

    def drop(self, partition: bytes, number: int = 0) -> None:
        with suppress(CollectionGoneError), self._failing("drop", partition):
            self._collections.pop((partition, number), None)
            name = self._name(partition, number)
            self._write(partial(self._client.delete_collection, name))

    def sweep(self, live: Callable[[], Mapping[bytes, Generation]], others: bool) -> int:
        """Drop the collections that `live` has another generation of; with `others` also those of
        partitions that it does not name. Returns how many.
        """
        with _as_unavailable("drop"):
            # listed before `live` is read: a collection that is made meanwhile is not in the list
            collections = self._write(self._client.list_collections)
            ours = {c.name for c in collections if c.name.startswith(self._prefix)}
            kept = {self._name(partition, one.number) for partition, one in live().items()}
            known = tuple(name[: -len(_number(0))] for name in kept)
            doomed = [
                name
                for name in ours - kept
                if others or name.startswith(known) or not _NUMBERED.search(name)
            ]
            for name in doomed:
                with suppress(CollectionGoneError), _as_unavailable("drop"):  # another was faster
                    self._write(partial(self._client.delete_collection, name))
        return len(doomed)

    def count(self, partition: bytes, generation: Generation = EMPTY) -> int:
        """Vectors in the collection; 0 where it is gone."""
        with suppress(CollectionGoneError), self._failing("count", partition):
            return int(self._write(lambda: self._collection(partition, generation).count()))
        return 0

    def close(self) -> None:
        self._collections.clear()
        with _as_unavailable("close"):
            close = getattr(self._client, "close", None)  # clients before 1.3 have none
            if close is not None:
                self._writes.run(close)

    def _read(self, call: Callable[[], T]) -> T:
        self._check_free(False)
        return self._reads.run(call)

    def _write(self, call: Callable[[], T]) -> T:
        self._check_free(True)
        return self._writes.run(call)

    def _upsert(
        self, partition: bytes, ids: Sequence[int], vectors: Matrix, generation: Generation
    ) -> None:
        collection = self._collection(partition, generation, create=not generation.collection)
        collection.upsert(ids=[str(i) for i in ids], embeddings=vectors)

    def _name(self, partition: bytes, number: int) -> str:
        # 63 characters, the most Chroma allows
        return self._prefix + partition.hex()[:16] + _number(number)

    def _collection(
        self, partition: bytes, generation: Generation = EMPTY, create: bool = False
    ) -> Any:
        key = (partition, generation.number)
        collection = self._collections.get(key)
        if collection is None or not _is(collection, generation):
            name = self._name(*key)
            # Only who adds creates: an empty one in place of one that is gone would hide entries.
            if create:
                collection = self._client.get_or_create_collection(
                    name, configuration={"hnsw": _HNSW}, embedding_function=None
                )
            else:
                collection = self._client.get_collection(name, embedding_function=None)
            _check_distance(collection)
            if not _is(collection, generation):
                raise CollectionGoneError(f"collection {name} was dropped, and made anew")
            self._collections[key] = collection
        return collection

    @contextmanager
    def _failing(self, action: str, partition: bytes) -> Iterator[None]:
        try:
            with _as_unavailable(action):
                yield
        except CollectionGoneError:
            for key in [key for key in self._collections if key[0] == partition]:
                self._collections.pop(key, None)
            raise


@dataclass(frozen=True)
class Calls:
    """How many calls may be under way, and for how long; kept while clients come and go.

    On a server half of the concurrent reads that Chroma Cloud allows a collection, so that two
    processes keep to it; and one write.
    """

    reads: Deadline = field(default_factory=lambda: Deadline(READS_AT_ONCE, READ_SECONDS))
    writes: Deadline = field(default_factory=lambda: Deadline(1, WRITE_SECONDS))

    @classmethod
    def embedded(cls) -> "Calls":
        """Chroma within this process does not hang as a server may, but it takes its time: to open
        a million vectors six seconds, more from a slow disk; to write their file longer still, and
        it lets nobody read meanwhile. So a lookup that waits in vain says nothing of the index.
        """
        return cls(
            Deadline(EMBEDDED_READS_AT_ONCE, READ_SECONDS, late=IndexBusyError),
            Deadline(1, EMBEDDED_WRITE_SECONDS),
        )


def _number(number: int) -> str:
    return f"-{number:07x}"


def _is(collection: Any, generation: Generation) -> bool:
    return generation.collection in ("", str(collection.id))


def _check_distance(collection: Any) -> None:
    # get_or_create keeps an older collection's distance without a word
    space = ((collection.configuration_json or {}).get("hnsw") or {}).get("space")
    if space != "cosine":
        raise CollectionGoneError(
            f"collection {collection.name} measures {space!r}, not cosine; delete it, "
            "it is rebuilt from the ledger"
        )


def _entry_id(text: str) -> int:
    """The ledger's id behind a Chroma id; ValueError for what this ledger never wrote."""
    if not text.isdecimal() or not 0 < (entry_id := int(text[:20])) < 2**63:
        raise ValueError(f"{text[:40]!r} is no id of an entry")
    return entry_id


def usable_here() -> bool:
    """False in a process forked from one that had Chroma open: its locks hang in the child."""
    return not _inherited_chroma


_inherited_chroma = False


def _in_forked_child() -> None:
    global _inherited_chroma
    clients: Any = sys.modules.get("chromadb.api.shared_system_client")
    # Chroma keeps one system per path for the whole process, and hands it out again
    if clients is not None and clients.SharedSystemClient._identifier_to_system:
        _inherited_chroma = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


@contextmanager
def _as_unavailable(action: str) -> Iterator[None]:
    try:
        yield
    except IndexUnavailableError:
        raise
    # Chroma raises errors of its Rust core, SQLite, HTTP client and server, without a common base
    except Exception as error:
        gone = type(error).__name__ == "NotFoundError"  # chromadb is not imported only for this
        kind = CollectionGoneError if gone else IndexUnavailableError
        raise kind(f"cannot {action} the vector index: {error!r}") from error


class IndexHome:
    """The directory of an embedded index. One process owns it: two on one path lose vectors.

    The lock is on the real path, so `dir` and `./dir` are the same index. After an unclean stop
    the index is first opened in a subprocess, because a torn file can crash the process that
    opens it, which no `except` catches.
    """

    def __init__(self, directory: Path) -> None:
        directory = directory.resolve()
        self._chroma = directory / "chroma"
        self._open_marker = directory / "index.open"
        self.address_file = directory / "index.address"
        """Where the owner can be asked; see `sharing`."""
        self._opened: tuple[int, int] | None = None
        self._foreign_lock: ForeignLock | None = None
        self._lock = FileLock(directory / "index.lock", timeout=0, mode=0o600, thread_local=False)

    def acquire(self) -> bool:
        """Become the owner; False when another process (or cache) is."""
        try:
            with _as_unavailable("lock"):
                self._lock.acquire()
        except IndexUnavailableError as error:
            if isinstance(error.__cause__, Timeout):
                return False
            raise
        return True

    def open(self) -> "ClientAPI":
        """A client on the directory, set aside and begun anew first where it is broken."""
        before = ForeignLock(self._chroma)
        try:
            _check_free(before, writing=True)
        finally:
            before.close()
        if self._open_marker.exists() and not _probe(self._chroma):
            self.set_aside()
        with _as_unavailable("open"):
            self._open_marker.touch(mode=0o600)
            # Chroma's own files are as the umask says: nobody else gets as far as to them
            self._chroma.mkdir(mode=0o700, exist_ok=True)
            self._chroma.chmod(0o700)
            client = _persistent_client(self._chroma)
            self._opened = identity(self._chroma)
            self._forget_lock()
            self._foreign_lock = ForeignLock(self._chroma)
            return client

    def is_intact(self) -> bool:
        """Whether the directory is still the one that was opened: a deleted one is written to
        without an error, and to no end.
        """
        return self._opened is not None and identity(self._chroma) == self._opened

    def check_free(self, writing: bool) -> None:
        """IndexBusyError while another program has the database locked."""
        if self._foreign_lock is not None:
            _check_free(self._foreign_lock, writing)

    def tidy(self) -> None:
        """Remove the directories of collections that were dropped: Chroma leaves them."""
        remove_unreferenced(self._chroma)

    def set_aside(self) -> None:
        """Move the directory out of the way as `chroma.broken`, in place of an older one."""
        if not self._chroma.exists():
            return
        kept = self._chroma.with_name("chroma.broken")
        with _as_unavailable("set aside"):
            if kept.is_dir() and not kept.is_symlink():
                shutil.rmtree(kept)
            else:
                kept.unlink(missing_ok=True)
            if self._chroma.is_dir():
                self._chroma.chmod(0o700)  # an older version made it as the umask said
            self._chroma.rename(kept)
        log.warning(
            "semcache: the vector index is rebuilt from the ledger, which lost nothing; the old "
            "one is kept as %s and can be deleted",
            kept,
        )

    def release(self, clean: bool) -> None:
        """Stop being the owner; `clean` when the client was closed without an error."""
        self._forget_lock()
        if clean:
            self._open_marker.unlink(missing_ok=True)
        self._lock.release()

    def _forget_lock(self) -> None:
        if self._foreign_lock is not None:
            self._foreign_lock.close()
            self._foreign_lock = None


def _check_free(lock: ForeignLock, writing: bool) -> None:
    if lock.is_held(writing):
        raise IndexBusyError("another program has its database locked")


def _persistent_client(directory: Path) -> "ClientAPI":
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(
        path=str(directory), settings=Settings(anonymized_telemetry=False)
    )


def memory_client() -> "ClientAPI":
    """A Chroma client without a directory, for a cache that is kept in memory."""
    import chromadb
    from chromadb.config import Settings

    with _as_unavailable("open"):
        return chromadb.EphemeralClient(settings=Settings(anonymized_telemetry=False))


def _probe(directory: Path) -> bool:
    """Whether a subprocess can open and query every collection of the index."""
    if not directory.exists():
        return True
    command = [sys.executable, "-m", "semcache_core.index", str(directory)]
    path = os.pathsep.join(p for p in sys.path if p)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=PROBE_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _query_all(directory: Path) -> None:
    for collection in _persistent_client(directory).list_collections():
        some = collection.get(limit=1, include=["embeddings"])["embeddings"]
        if some is not None and len(some):
            collection.query(query_embeddings=np.asarray(some), n_results=1)


if __name__ == "__main__":
    _query_all(Path(sys.argv[1]))

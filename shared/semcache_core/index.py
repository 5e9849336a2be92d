"""The vector index: Chroma, one collection per large partition, rebuildable from the ledger."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from semcache_core.errors import IndexUnavailableError
from semcache_core.types import Matrix, Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

MAX_BATCH = 300  # Chroma Cloud's quota on records per write
PROBE_SECONDS = 120
# Twice Chroma's defaults for both: where a small dense topic was stored before 30k entries on
# other topics, the defaults missed 35 % of its questions by their own vector, these 0.25 %.
# Building takes up to three times as long, in the background.
_HNSW: Any = {"space": "cosine", "max_neighbors": 32, "ef_construction": 200}


class ChromaIndex:
    """A collection per partition, so that no scope can crowd out another's candidates.

    A `where` filter on one shared collection was rejected: at 100k entries it takes 100 to 300 ms
    (every matching id is listed first), and over-fetching without a filter misses small scopes.
    Ledger id and model fingerprint are part of a collection's name: vectors of two ledgers or two
    models never meet. Every failure of Chroma becomes an IndexUnavailableError.
    """

    def __init__(self, client: "ClientAPI", ledger_id: int, fingerprint: str) -> None:
        self._client = client
        self._prefix = f"semcache-{ledger_id:016x}-{fingerprint[:12]}-"
        self._collections: dict[bytes, Any] = {}

    def add(self, partition: bytes, ids: Sequence[int], vectors: Matrix) -> None:
        """Add or replace vectors (float32 [n, d], unit rows) in batches."""
        with _as_unavailable("add to"):
            collection = self._collection(partition)
            for start in range(0, len(ids), MAX_BATCH):
                chunk = slice(start, start + MAX_BATCH)
                collection.upsert(ids=[str(i) for i in ids[chunk]], embeddings=vectors[chunk])

    def nearest(self, partition: bytes, vector: Vector, k: int) -> list[tuple[int, float]]:
        with _as_unavailable("query"):
            found = self._collection(partition).query(
                query_embeddings=vector[None, :], n_results=k, include=["distances"]
            )
            pairs = zip(found["ids"][0], found["distances"][0], strict=True)
            return [(_entry_id(one), 1.0 - float(distance)) for one, distance in pairs][:k]

    def remove(self, partition: bytes, ids: Sequence[int]) -> None:
        with _as_unavailable("delete from"):
            self._collection(partition).delete(ids=[str(i) for i in ids])

    def drop(self, partition: bytes) -> None:
        with _as_unavailable("drop"):
            self._collections.pop(partition, None)
            if self._name(partition) in {c.name for c in self._client.list_collections()}:
                self._client.delete_collection(self._name(partition))

    def drop_all(self) -> None:
        """Drop what this ledger has for this model, also what cannot be used."""
        with _as_unavailable("drop"):
            self._collections.clear()
            for collection in self._client.list_collections():
                if collection.name.startswith(self._prefix):
                    self._client.delete_collection(collection.name)

    def identity(self, partition: bytes) -> str:
        """Names this very collection: one that is dropped and made again has another."""
        with _as_unavailable("open"):
            return str(self._collection(partition).id)

    def count(self, partition: bytes) -> int:
        with _as_unavailable("count"):
            return int(self._collection(partition).count())

    def close(self) -> None:
        self._collections.clear()
        with _as_unavailable("close"):
            close = getattr(self._client, "close", None)  # clients before 1.3 have none
            if close is not None:
                close()

    def _name(self, partition: bytes) -> str:
        return self._prefix + partition.hex()[:24]  # 63 characters, the most Chroma allows

    def _collection(self, partition: bytes) -> Any:
        collection = self._collections.get(partition)
        if collection is None:
            collection = self._client.get_or_create_collection(
                self._name(partition),
                configuration={"hnsw": _HNSW},
                embedding_function=None,
            )
            # get_or_create keeps an older collection's distance without a word
            space = ((collection.configuration_json or {}).get("hnsw") or {}).get("space")
            if space != "cosine":
                raise IndexUnavailableError(
                    f"collection {collection.name} measures {space!r}, not cosine; delete it, "
                    "it is rebuilt from the ledger"
                )
            self._collections[partition] = collection
        return collection


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
        raise IndexUnavailableError(f"cannot {action} the vector index: {error!r}") from error


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
        if self._open_marker.exists() and not _probe(self._chroma):
            self.set_aside()
        with _as_unavailable("open"):
            self._open_marker.touch(mode=0o600)
            # Chroma's own files are as the umask says: nobody else gets as far as to them
            self._chroma.mkdir(mode=0o700, exist_ok=True)
            self._chroma.chmod(0o700)
            return _persistent_client(self._chroma)

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
        if clean:
            self._open_marker.unlink(missing_ok=True)
        self._lock.release()


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

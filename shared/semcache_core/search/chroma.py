"""The vector index in Chroma: a collection per large partition, rebuildable from the ledger."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from semcache_core._utils.deadline import Deadline
from semcache_core._utils.own_faults import is_own_fault
from semcache_core.errors import (
    CollectionGoneError,
    IndexBusyError,
    IndexStalledError,
    IndexUnavailableError,
)
from semcache_core.types import EMPTY, Generation, Matrix, Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")
T = TypeVar("T")

MAX_BATCH = 300  # Chroma Cloud's quota on records per write
READS_AT_ONCE = 5
READ_SECONDS = 2.0
"""A lookup waits so long for the index, then it scans."""
WRITE_SECONDS = 30.0
EMBEDDED_READS_AT_ONCE = 64
EMBEDDED_WRITE_SECONDS = 600.0
ABANDON_SECONDS = 600.0
"""A call without an answer for so long makes room for another."""
_NUMBERED = re.compile(r"-[0-9a-f]{16}-[0-9a-f]{7}$")
# Twice Chroma's defaults for both: where a small dense topic was stored before 30k entries on
# other topics, the defaults missed 35 % of its questions by their own vector, these 0.25 %.
# Building takes up to three times as long, in the background. `ef_search` is 100 there: at a
# million entries that overlooks 26 of 300 paraphrases, 400 overlooks 15 and takes 1.3 ms more
# (800: 12, and 3 ms).
_HNSW: Any = {"space": "cosine", "max_neighbors": 32, "ef_construction": 200, "ef_search": 400}


class ChromaIndex:
    """A collection per partition, so that no scope can crowd out another's candidates.

    A `where` filter on one shared collection was rejected: at 100k entries it takes 100 to 300 ms
    (every matching id is listed first), and over-fetching without a filter misses small scopes.
    Ledger id, model fingerprint and generation are part of a collection's name: vectors of two
    ledgers or two models never meet. Every failure of Chroma, a missing answer included, becomes an
    IndexUnavailableError. `check_free` raises one before a read or a write (True) that would hang.
    """

    def __init__(
        self,
        client: "ClientAPI",
        ledger_id: int,
        fingerprint: str,
        calls: "CallLimits | None" = None,
        check_free: Callable[[bool], None] = lambda writing: None,
    ) -> None:
        self._client = client
        self._prefix = f"semcache-{ledger_id:016x}-{fingerprint[:12]}-"
        self._collections: dict[tuple[bytes, int], Any] = {}
        calls = calls or CallLimits()
        self._reads, self._writes = calls.reads, calls.writes
        self._check_free = check_free

    def identity(self, partition: bytes, number: int = 0) -> str:
        """Chroma's id of the collection with this number, which is created if it is missing."""
        with self._failing("open", partition):
            create = partial(self._collection, partition, Generation(number), create=True)
            return str(self._write(create).id)

    def add(
        self,
        partition: bytes,
        ids: Sequence[int],
        vectors: Matrix,
        generation: Generation = EMPTY,
    ) -> None:
        """Add or replace vectors (float32 [n, d], unit rows) in batches.

        The collection is created where `generation` names none.
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
        """Drop the collections that are not the live one of their partition; returns how many.

        With `others` also those of partitions that `live` does not name.
        """
        with as_unavailable("drop"):
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
                with suppress(CollectionGoneError), as_unavailable("drop"):  # another was faster
                    self._write(partial(self._client.delete_collection, name))
        return len(doomed)

    def count(self, partition: bytes, generation: Generation = EMPTY) -> int:
        """Vectors in the collection; 0 where it is gone."""
        with suppress(CollectionGoneError), self._failing("count", partition):
            return int(self._write(lambda: self._collection(partition, generation).count()))
        return 0

    def close(self) -> None:
        self._collections.clear()
        with as_unavailable("close"):
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
            # Created only to add to it: an empty one in place of one that is gone hides entries.
            if create:
                collection = self._client.get_or_create_collection(
                    name, configuration={"hnsw": _HNSW}, embedding_function=None
                )
            else:
                collection = self._client.get_collection(name, embedding_function=None)
            _check_distance(collection)
            if not _is(collection, generation):
                raise CollectionGoneError(f"collection {name} was dropped, and created again")
            self._collections[key] = collection
        return collection

    @contextmanager
    def _failing(self, action: str, partition: bytes) -> Iterator[None]:
        try:
            with as_unavailable(action):
                yield
        except CollectionGoneError:
            for key in [key for key in self._collections if key[0] == partition]:
                self._collections.pop(key, None)
            raise


_limit = partial(
    Deadline,
    busy=IndexBusyError,
    late=IndexStalledError,
    service="Chroma",
    abandon_after=ABANDON_SECONDS,
)


@dataclass(frozen=True)
class CallLimits:
    """How many calls may run at once and how long each may take; kept when the client changes.

    Chroma may wait for ever: its HTTP client for a server that accepts a connection and does not
    answer, the embedded one for a database that another program has locked. A timeout on the user's
    own client was rejected: they use it for other work too. On a server, reads are limited to half
    of the concurrent reads that Chroma Cloud allows a collection, so that two processes stay within
    it; writes to one.
    """

    reads: Deadline = field(default_factory=lambda: _limit(READS_AT_ONCE, READ_SECONDS))
    writes: Deadline = field(default_factory=lambda: _limit(1, WRITE_SECONDS))

    @classmethod
    def embedded(cls) -> "CallLimits":
        """Limits for Chroma in this process, which is slow at times and does not hang.

        It takes six seconds or more to open a million vectors, and longer to write their file, and
        blocks reads meanwhile. So a read without an answer means that the index is busy, not that
        it is broken.
        """
        return cls(
            _limit(EMBEDDED_READS_AT_ONCE, READ_SECONDS, late=IndexBusyError),
            _limit(1, EMBEDDED_WRITE_SECONDS),
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


@contextmanager
def as_unavailable(action: str) -> Iterator[None]:
    try:
        yield
    except IndexUnavailableError:
        raise
    # Chroma raises errors of its Rust core, SQLite, HTTP client and server, without a common base
    except Exception as error:
        kind = IndexUnavailableError
        if is_own_fault(error):
            kind = IndexBusyError  # an index that is taken for broken is set aside
        elif type(error).__name__ == "NotFoundError":  # chromadb is not imported only for this
            kind = CollectionGoneError
        raise kind(f"cannot {action} the vector index: {error!r}") from error


def local_client(directory: Path | None = None) -> "ClientAPI":
    """A Chroma client in this process, on a directory or in memory."""
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False)
    with as_unavailable("open"):
        if directory is None:
            return chromadb.EphemeralClient(settings=settings)
        return chromadb.PersistentClient(str(directory), settings)

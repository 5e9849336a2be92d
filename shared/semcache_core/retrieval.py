"""Candidates for a question: scanned from memory, from the index, or both."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semcache_core.errors import CollectionGoneError, IndexBusyError, IndexUnavailableError
from semcache_core.ledger import Ledger, Stored
from semcache_core.types import Matrix, Vector, VectorIndex

log = logging.getLogger("semcache")

Ids = NDArray[np.int64]
CANDIDATES = 16
"""Enough to meet one with another answer where a popular one was stored many times over."""
MOST_CANDIDATES = 256
"""Chroma Cloud gives at most 300 results."""


@dataclass(frozen=True)
class Near:
    """A stored entry and its cosine similarity to the question asked."""

    entry: Stored
    similarity: float


@dataclass(frozen=True)
class _Rows:
    """Vectors of one partition with ids above `start`, complete up to `last`.

    `ids` and `vectors` are the first rows of buffers that may be longer: appending writes behind
    them, so rows that someone still reads never change.
    """

    start: int
    last: int
    ids: Ids
    vectors: Matrix

    def above(self, start: int) -> "_Rows":
        keep = self.ids > start
        return _Rows(start, max(self.last, start), self.ids[keep], self.vectors[keep])

    def without(self, dead: Sequence[int]) -> "_Rows":
        keep = ~np.isin(self.ids, dead)
        return _Rows(self.start, self.last, self.ids[keep], self.vectors[keep])

    def plus(self, ids: Ids, vectors: Matrix) -> "_Rows":
        n, total = len(self.ids), len(self.ids) + len(ids)
        all_ids, all_vectors = self.ids.base, self.vectors.base
        if all_ids is None or all_vectors is None or len(all_ids) < total:
            # half as much again, but not on first loading: growing a row at a time then copies
            # each row a few times only
            all_ids = np.zeros(total + (total // 2 if n else 0), np.int64)
            all_vectors = np.zeros((len(all_ids), vectors.shape[1]), np.float32)
            if n:
                all_ids[:n], all_vectors[:n] = self.ids, self.vectors
        all_ids[n:total] = ids
        all_vectors[n:total] = vectors
        return _Rows(self.start, int(ids[-1]), all_ids[:total], all_vectors[:total])

    def nearest(self, vector: Vector, k: int) -> list[int]:
        if not len(self.ids):
            return []
        # Not `vectors @ vector`: that lets BLAS split it over threads of its own, which fight with
        # the callers' (32 callers had 22 products a second together, against 2,700 one by one),
        # and blocks too small to be split read memory at a third of the speed.
        similarities = np.vecdot(self.vectors, vector)
        best: Ids = np.arange(len(similarities))
        if len(similarities) > k:
            best = np.argpartition(-similarities, k)[:k]
        return [int(i) for i in self.ids[best]]

    @property
    def nbytes(self) -> int:
        buffer = self.vectors if self.vectors.base is None else self.vectors.base
        return int(buffer.nbytes)


class ScanMemory:
    """Vectors of the partitions in use, kept current by reading only what is newer.

    Ids only grow, so "everything above the last id seen" is all that another thread or process
    has added since. Rows deleted since are still here; whoever finds one says `forget`.
    """

    def __init__(self, ledger: Ledger, fingerprint: str, max_bytes: int) -> None:
        self._ledger = ledger
        self._fingerprint = fingerprint
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._partitions: OrderedDict[bytes, _Rows] = OrderedDict()
        self._held = 0

    def rows(self, partition: bytes, start: int) -> _Rows:
        """All vectors of this partition with ids above `start`, as of now."""
        while True:
            with self._lock:
                held = self._partitions.get(partition)
            known = _EMPTY if held is None or held.start > start else held
            if known.start < start:
                known = known.above(start)
            ids, vectors = self._ledger.vectors_after(
                partition, self._fingerprint, max(known.last, start)
            )
            with self._lock:
                if self._partitions.get(partition) is not held:
                    continue  # another thread was faster; what it read is cheap to build on
                if len(ids):
                    known = known.plus(ids, vectors)
                if known is not _EMPTY:
                    self._keep(partition, known)
                return known

    def forget(self, partition: bytes, dead: Sequence[int]) -> None:
        with self._lock:
            if (known := self._partitions.get(partition)) is not None:
                self._keep(partition, known.without(dead))

    def clear(self) -> None:
        with self._lock:
            self._partitions.clear()
            self._held = 0

    def _keep(self, partition: bytes, rows: _Rows) -> None:
        before = self._partitions.get(partition, _EMPTY)
        self._partitions[partition] = rows
        self._partitions.move_to_end(partition)
        # a running total: summing over thousands of scopes at every lookup took longer than a scan
        self._held += rows.nbytes - before.nbytes
        while self._held > self._max_bytes and len(self._partitions) > 1:
            self._held -= self._partitions.popitem(last=False)[1].nbytes


_EMPTY = _Rows(0, 0, np.zeros(0, np.int64), np.zeros((0, 0), np.float32))


class Retrieval:
    """Nearest live entries of one partition, whoever wrote them, indexed or not."""

    def __init__(
        self, ledger: Ledger, fingerprint: str, scan_limit: int, scan_memory_bytes: int
    ) -> None:
        self._ledger = ledger
        self.fingerprint = fingerprint
        self._scan_limit = scan_limit
        self._scan = ScanMemory(ledger, fingerprint, scan_memory_bytes)
        self.found_large = threading.Event()
        """Set when a scan met more entries than it should have to: the indexer then looks."""
        self.index: VectorIndex | None = None
        self.indexed: dict[bytes, int] = {}
        """Partition -> last entry id that `index` holds. Both are set by the upkeep."""
        self.lost: IndexUnavailableError | None = None
        """Why lookups took `index` out of use, for the upkeep."""

    def nearest(
        self, partition: bytes, vector: Vector, now: float, asked: bytes = b""
    ) -> list[Near]:
        """Up to CANDIDATES live entries and their cosine similarity, best first; `asked` is the
        exact key of the request.

        The index and the scan only propose ids; that an entry is live, in this partition, and how
        similar it is, is read from the ledger. When all that one of them proposed is deleted or
        expired, both are asked again for more, so that dead entries never hide a live one. So they
        are when one was found dead that was not before: it may just have been replaced.
        """
        k, known_dead = CANDIDATES, set[int]()
        while True:
            sources = self._propose(partition, vector, k)
            proposed = [entry_id for source in sources for entry_id in source]
            live = self._ledger.live(proposed, partition, self.fingerprint, now, asked)
            dead = set(proposed) - {entry.id for entry in live}
            if dead:
                self._scan.forget(partition, list(dead))
            hidden = any(source and dead.issuperset(source) for source in sources)
            if not hidden and dead <= known_dead:
                break
            known_dead |= dead
            if hidden:
                k = min(2 * k, MOST_CANDIDATES) if k < MOST_CANDIDATES else 1 << 30
        near = [Near(entry, float(entry.vector @ vector)) for entry in live]
        return sorted(near, key=lambda one: -one.similarity)[:CANDIDATES]

    def renewed(self) -> None:
        """Entries got new vectors under their old ids: read all of them again."""
        self._scan.clear()

    def _propose(self, partition: bytes, vector: Vector, k: int) -> list[list[int]]:
        """The ids nearest by the index, and those by the scan of what it lacks; or by one scan."""
        index, through = self.index, self.indexed.get(partition, 0)
        if index is None or not through:
            return [self._scan_all(partition, vector, k)]
        try:
            found = [i for i, _ in index.nearest(partition, vector, min(k, MOST_CANDIDATES))]
        except IndexBusyError:
            return [self._scan_all(partition, vector, k)]
        except CollectionGoneError:
            # another process may have put a new one in its place: the indexer looks
            self.indexed.pop(partition, None)
            return [self._scan_all(partition, vector, k)]
        except IndexUnavailableError as error:
            self._lose_index(index, error)
            return [self._scan_all(partition, vector, k)]
        if k > MOST_CANDIDATES:
            # the index is full of deleted entries; the ledger knows the living
            return [self._scan_all(partition, vector, k)]
        rest = self._scan.rows(partition, through)
        return [found, rest.nearest(vector, k)]

    def _scan_all(self, partition: bytes, vector: Vector, k: int) -> list[int]:
        rows = self._scan.rows(partition, 0)
        if len(rows.ids) > self._scan_limit:
            self.found_large.set()
        return rows.nearest(vector, k)

    def _lose_index(self, index: VectorIndex, error: IndexUnavailableError) -> None:
        if self.index is index:
            self.lost = error
            self.index = None
            log.warning(
                "semcache: %s; large scopes are scanned, which is as right and slower, until the "
                "index is open again: that is tried within seconds",
                error,
            )

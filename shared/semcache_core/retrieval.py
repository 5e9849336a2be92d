"""Candidates for a question: scanned from memory, from the index, or both."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semcache_core.errors import (
    CollectionGoneError,
    EmbedderError,
    IndexBusyError,
    IndexUnavailableError,
)
from semcache_core.ledger import Ledger, Stored
from semcache_core.types import Generation, Matrix, NearestIndex, Vector

log = logging.getLogger("semcache")

Ids = NDArray[np.int64]
CANDIDATES = 16
"""Enough to meet one with another answer where a popular one was stored many times over."""
MOST_CANDIDATES = 256
"""Chroma Cloud gives at most 300 results."""
OPENING_SECONDS = 1.0
"""A first lookup waits so long for an index that is being opened; then it is a miss. A million
entries take seven seconds to open, which is longer than most models take to answer: whoever wants
their hits from the first question on calls `warm_up`.
"""


@dataclass(frozen=True)
class Near:
    """A stored entry and its cosine similarity to the question asked."""

    entry: Stored
    similarity: float


_ROWS_BYTES = 1500
"""What a scope takes besides its vectors, ids included: one whose entries are gone too."""


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

    def __init__(
        self, ledger: Ledger, fingerprint: str, max_bytes: int, dimension: int | None = None
    ) -> None:
        self._ledger = ledger
        self._dimension = dimension
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
                partition,
                self._fingerprint,
                max(known.last, start),
                dimension=self._dimension,
            )
            with self._lock:
                if self._partitions.get(partition) is not held:
                    continue  # another thread was faster; what it read is cheap to build on
                if len(ids):
                    known = known.plus(ids, vectors)
                if known is not _EMPTY:
                    self._keep(partition, known)
                return known

    def holds(self, partition: bytes, start: int = 0) -> bool:
        """Whether all of this partition above id `start` has been read, so that a scan reads only
        what is newer.
        """
        with self._lock:
            held = self._partitions.get(partition)
        return held is not None and held.start <= start

    def forget(self, partition: bytes, dead: Sequence[int]) -> None:
        with self._lock:
            if (known := self._partitions.get(partition)) is not None:
                self._keep(partition, known.without(dead))

    def clear(self) -> None:
        with self._lock:
            self._partitions.clear()
            self._held = 0

    def _keep(self, partition: bytes, rows: _Rows) -> None:
        before = self._partitions.get(partition)
        self._partitions[partition] = rows
        self._partitions.move_to_end(partition)
        # a running total: summing over thousands of scopes at every lookup took longer than a scan
        self._held += _bytes(rows) - _bytes(before)
        while self._held > self._max_bytes and len(self._partitions) > 1:
            self._held -= _bytes(self._partitions.popitem(last=False)[1])


def _bytes(rows: _Rows | None) -> int:
    return 0 if rows is None else rows.nbytes + _ROWS_BYTES


TOO_LARGE = "the scope is too large to scan, and its vector index is not ready"

_EMPTY = _Rows(0, 0, np.zeros(0, np.int64), np.zeros((0, 0), np.float32))


class Retrieval:
    """Nearest live entries of one partition, whoever wrote them, indexed or not."""

    def __init__(
        self,
        ledger: Ledger,
        fingerprint: str,
        scan_limit: int,
        scan_memory_bytes: int,
        dimension: int | None = None,
    ) -> None:
        self._ledger = ledger
        self.fingerprint = fingerprint
        self._scan_limit = scan_limit
        self.dimension = dimension
        """Numbers in a vector; None where nothing is matched by meaning."""
        self._scan_memory_bytes = scan_memory_bytes
        self._told_too_large = False
        self._scan = ScanMemory(ledger, fingerprint, scan_memory_bytes, dimension)
        self.found_large = threading.Event()
        """Set when a scan met more entries than it should have to: the indexer then looks."""
        self.index: NearestIndex | None = None
        self.indexed: dict[bytes, Generation] = {}
        """Partition -> what is asked of `index`, and holds what. Both are set by the upkeep."""
        self.lost: IndexUnavailableError | None = None
        """Why lookups took `index` out of use, for the upkeep."""
        self.settled = threading.Event()
        """Set when the upkeep has opened the index, or found that it need not or cannot."""

    def nearest(
        self, partition: bytes, vector: Vector, now: float, asked: bytes = b""
    ) -> list[Near]:
        """Up to CANDIDATES live entries and their cosine similarity, best first; `asked` is the
        exact key of the request.

        The index and the scan only propose ids; that an entry is live, in this partition, and how
        similar it is, is read from the ledger. When all that one of them proposed is deleted or
        expired, both are asked again for more, so that dead entries never hide a live one. So they
        are when one was found dead that was not before: it may just have been replaced.
        Raises IndexUnavailableError where there is no index and the partition is too large to scan.
        """
        if self.dimension not in (None, len(vector)):
            raise EmbedderError(
                f"the embedder returned {len(vector)} numbers, its calibration is for "
                f"{self.dimension}; calibrate it anew"
            )
        k, known_dead = CANDIDATES, set[int]()
        while True:
            sources = self._propose(partition, vector, k)
            proposed = [entry_id for source in sources for entry_id in source]
            live = [
                entry
                for entry in self._ledger.live(proposed, partition, self.fingerprint, now, asked)
                if len(entry.vector) == len(vector)  # else it was planted
            ]
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

    def await_index(self, seconds: float) -> None:
        """Until the index is open, or the upkeep has found that it need not or cannot be."""
        self.settled.wait(seconds)

    def renewed(self) -> None:
        """Entries got new vectors under their old ids: read all of them again."""
        self._scan.clear()

    def by_index(
        self, partition: bytes, vector: Vector, k: int
    ) -> tuple[list[tuple[int, float]], int] | None:
        """What the index finds, and the last entry id that it was to hold; None where it cannot
        tell.
        """
        # Read once: the collection that is asked, and how far it goes, belong together.
        index, live = self.index, self.indexed.get(partition)
        if index is None or live is None:
            return None
        try:
            return index.nearest(partition, vector, k, live), live.through
        except IndexBusyError:
            pass
        except CollectionGoneError:
            # there may be a new one in its place, which the indexer looks for
            if self.indexed.get(partition) is live:
                self.indexed.pop(partition, None)
        except IndexUnavailableError as error:
            self._lose_index(index, error)
        return None

    def _propose(self, partition: bytes, vector: Vector, k: int) -> list[list[int]]:
        """The ids nearest by the index, and those by the scan of what it lacks; or by one scan."""
        if (
            self.index is None
            and not self.settled.is_set()
            and self._too_large(partition, vector, 0)
        ):
            self.await_index(OPENING_SECONDS)
        answer = self.by_index(partition, vector, min(k, MOST_CANDIDATES))
        # where the index is full of deleted entries, the ledger knows the living
        if answer is None or k > MOST_CANDIDATES:
            return [self._scan_all(partition, vector, k)]
        found, through = answer
        return [[i for i, _ in found], self._rows(partition, vector, through).nearest(vector, k)]

    def _too_large(self, partition: bytes, vector: Vector, start: int) -> bool:
        """Whether a scan would need more memory than it may have, and is not there already."""
        most = max(self._scan_limit, self._scan_memory_bytes // vector.nbytes)
        return not self._scan.holds(partition, start) and self._ledger.has_more_vectors(
            partition, self.fingerprint, most, start
        )

    def _scan_all(self, partition: bytes, vector: Vector, k: int) -> list[int]:
        rows = self._rows(partition, vector, 0)
        if len(rows.ids) > self._scan_limit:
            self.found_large.set()
        return rows.nearest(vector, k)

    def _rows(self, partition: bytes, vector: Vector, start: int) -> _Rows:
        """Those above id `start`, if they fit."""
        if self._too_large(partition, vector, start):
            self.found_large.set()
            self._tell_too_large()
            raise IndexUnavailableError(TOO_LARGE)
        return self._scan.rows(partition, start)

    def _tell_too_large(self) -> None:
        if not self._told_too_large:
            self._told_too_large = True
            log.warning(
                "semcache: %s; there questions are answered by exact keys alone meanwhile; give "
                "scans more memory (scan_memory_mb), or see why there is no index",
                TOO_LARGE,
            )

    def _lose_index(self, index: NearestIndex, error: IndexUnavailableError) -> None:
        if self.index is index:
            self.lost = error
            self.index = None
            log.warning(
                "semcache: %s; large scopes are scanned, which is as right and slower, until the "
                "index is open again: that is tried within seconds",
                error,
            )

"""Vectors kept in memory and compared one by one."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semcache_core.storage.ledger import Ledger
from semcache_core.types import Matrix, Vector

Ids = NDArray[np.int64]

_ROWS_BYTES = 1500
"""Memory of a partition besides its vectors, ids included; also of one without live entries."""


@dataclass(frozen=True)
class PartitionRows:
    """Ids [n] and vectors [n, d] of one partition: those above id `start`, complete up to `last`.

    Both are the first rows of buffers that may be longer: appending writes behind them, so rows
    that another thread still reads never change.
    """

    start: int
    last: int
    ids: Ids
    vectors: Matrix

    def above(self, start: int) -> "PartitionRows":
        keep = self.ids > start
        return PartitionRows(start, max(self.last, start), self.ids[keep], self.vectors[keep])

    def without(self, dead: Sequence[int]) -> "PartitionRows":
        keep = ~np.isin(self.ids, dead)
        return PartitionRows(self.start, self.last, self.ids[keep], self.vectors[keep])

    def plus(self, ids: Ids, vectors: Matrix) -> "PartitionRows":
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
        return PartitionRows(self.start, int(ids[-1]), all_ids[:total], all_vectors[:total])

    def nearest(self, vector: Vector, k: int) -> list[int]:
        """The ids of the `k` rows nearest to `vector`, in no order."""
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


@dataclass(eq=False)
class ScanMemory:
    """Vectors of the partitions in use, in up to `max_bytes`, kept current by reading new ones.

    Ids only grow, so "everything above the last id read" is all that another thread or process
    has added since. Deleted rows stay until a caller that finds one calls `forget`. A partition of
    up to `scan_limit` entries is scanned whatever memory it takes.
    """

    ledger: Ledger
    fingerprint: str
    max_bytes: int
    dimension: int | None = None
    scan_limit: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: OrderedDict[bytes, PartitionRows] = OrderedDict()
        self._held = 0

    def nearest(
        self, partition: bytes, start: int, vector: Vector, k: int
    ) -> tuple[list[int], int] | None:
        """The ids of the `k` nearest vectors among those with ids above `start`, and the number of
        vectors compared; None where these do not fit into memory.
        """
        if not self.fits(partition, start, vector.nbytes):
            return None
        rows = self.rows(partition, start)
        return rows.nearest(vector, k), len(rows.ids)

    def fits(self, partition: bytes, start: int, row_bytes: int) -> bool:
        """Whether the vectors above id `start` are in memory, or few enough to be read into it."""
        with self._lock:
            held = self._partitions.get(partition)
        if held is not None and held.start <= start:
            return True
        most = max(self.scan_limit, self.max_bytes // row_bytes)
        return not self.ledger.lookups.has_more_vectors(partition, self.fingerprint, most, start)

    def rows(self, partition: bytes, start: int) -> PartitionRows:
        """All vectors of this partition with ids above `start`, the newest included."""
        while True:
            with self._lock:
                held = self._partitions.get(partition)
            known = _EMPTY if held is None or held.start > start else held
            if known.start < start:
                known = known.above(start)
            ids, vectors = self.ledger.lookups.vectors_after(
                partition,
                self.fingerprint,
                max(known.last, start),
                dimension=self.dimension,
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

    def _keep(self, partition: bytes, rows: PartitionRows) -> None:
        before = self._partitions.get(partition)
        self._partitions[partition] = rows
        self._partitions.move_to_end(partition)
        # a running total: summing over thousands of scopes at every lookup took longer than a scan
        self._held += _bytes(rows) - _bytes(before)
        while self._held > self.max_bytes and len(self._partitions) > 1:
            self._held -= _bytes(self._partitions.popitem(last=False)[1])


def _bytes(rows: PartitionRows | None) -> int:
    return 0 if rows is None else rows.nbytes + _ROWS_BYTES


_EMPTY = PartitionRows(0, 0, np.zeros(0, np.int64), np.zeros((0, 0), np.float32))

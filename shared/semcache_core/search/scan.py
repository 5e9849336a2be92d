"""Candidates for a question: scanned from memory, from the index, or both."""

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
"""What a scope takes besides its vectors, ids included: one whose entries are gone too."""


@dataclass(frozen=True)
class PartitionRows:
    """Vectors of one partition with ids above `start`, complete up to `last`.

    `ids` and `vectors` are the first rows of buffers that may be longer: appending writes behind
    them, so rows that someone still reads never change.
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
        self._partitions: OrderedDict[bytes, PartitionRows] = OrderedDict()
        self._held = 0

    def rows(self, partition: bytes, start: int) -> PartitionRows:
        """All vectors of this partition with ids above `start`, as of now."""
        while True:
            with self._lock:
                held = self._partitions.get(partition)
            known = _EMPTY if held is None or held.start > start else held
            if known.start < start:
                known = known.above(start)
            ids, vectors = self._ledger.lookups.vectors_after(
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

    def _keep(self, partition: bytes, rows: PartitionRows) -> None:
        before = self._partitions.get(partition)
        self._partitions[partition] = rows
        self._partitions.move_to_end(partition)
        # a running total: summing over thousands of scopes at every lookup took longer than a scan
        self._held += _bytes(rows) - _bytes(before)
        while self._held > self._max_bytes and len(self._partitions) > 1:
            self._held -= _bytes(self._partitions.popitem(last=False)[1])


def _bytes(rows: PartitionRows | None) -> int:
    return 0 if rows is None else rows.nbytes + _ROWS_BYTES


_EMPTY = PartitionRows(0, 0, np.zeros(0, np.int64), np.zeros((0, 0), np.float32))

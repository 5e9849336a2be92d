"""Candidates for a question: scanned from memory, from the index, or both."""

import logging
import threading
from dataclasses import dataclass

from semcache_core.errors import (
    CollectionGoneError,
    EmbedderError,
    IndexBusyError,
    IndexUnavailableError,
)
from semcache_core.search.scan import PartitionRows, ScanMemory
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.lookups import StoredEntry
from semcache_core.types import Generation, NearestIndex, Vector

log = logging.getLogger("semcache")
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
class Retrieved:
    """A stored entry and its cosine similarity to the question asked."""

    entry: StoredEntry
    similarity: float


TOO_LARGE = "the scope is too large to scan, and its vector index is not ready"


class Retriever:
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
        self.count_requested = threading.Event()
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
    ) -> list[Retrieved]:
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
                for entry in self._ledger.lookups.live(
                    proposed, partition, self.fingerprint, now, asked
                )
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
        near = [Retrieved(entry, float(entry.vector @ vector)) for entry in live]
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
        return not self._scan.holds(partition, start) and self._ledger.lookups.has_more_vectors(
            partition, self.fingerprint, most, start
        )

    def _scan_all(self, partition: bytes, vector: Vector, k: int) -> list[int]:
        rows = self._rows(partition, vector, 0)
        if len(rows.ids) > self._scan_limit:
            self.count_requested.set()
        return rows.nearest(vector, k)

    def _rows(self, partition: bytes, vector: Vector, start: int) -> PartitionRows:
        """Those above id `start`, if they fit."""
        if self._too_large(partition, vector, start):
            self.count_requested.set()
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

"""Candidates for a question: from the scan, the index, or both."""

import logging
import threading
from dataclasses import dataclass

from semcache_core.errors import (
    CollectionGoneError,
    EmbedderError,
    IndexBusyError,
    IndexUnavailableError,
)
from semcache_core.search.scan import ScanMemory
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.lookups import StoredEntry
from semcache_core.types import Generation, NearestIndex, Vector

log = logging.getLogger("semcache")
CANDIDATES = 16
"""Enough to include one with another answer where a popular answer was stored many times."""
MOST_CANDIDATES = 256
"""Chroma Cloud gives at most 300 results."""
OPENING_SECONDS = 1.0
"""A first lookup waits so long for an index that is being opened; then it is a miss. A million
entries take seven seconds to open, which is longer than most models take to answer. An app that
needs hits from the first question on calls `warm_up`.
"""
TOO_LARGE = "the scope is too large to scan, and its vector index is not ready"


@dataclass(frozen=True)
class Retrieved:
    """A stored entry and its cosine similarity to the question asked."""

    entry: StoredEntry
    similarity: float


@dataclass(eq=False)
class Retriever:
    """Finds the nearest live entries of one partition, indexed or not, of whatever process.

    Lookups of many threads read `index` and `indexed`; the background worker sets them. `dimension`
    is how many numbers a vector has, None where nothing is matched by meaning.
    """

    ledger: Ledger
    fingerprint: str
    scan_limit: int
    scan_memory_bytes: int
    dimension: int | None = None

    def __post_init__(self) -> None:
        self._scan = ScanMemory(
            self.ledger, self.fingerprint, self.scan_memory_bytes, self.dimension, self.scan_limit
        )
        self.index: NearestIndex | None = None
        self.indexed: dict[bytes, Generation] = {}
        """Partition -> the collection of `index` to query, and which entries it holds."""
        self.index_error: IndexUnavailableError | None = None
        """Why a lookup took `index` out of use; the background worker looks into it."""
        self.index_checked = threading.Event()
        """Set once the background worker has opened the index, or found that it need not or
        cannot."""
        self.count_requested = threading.Event()
        """Set where a scan compared more entries than `scan_limit`: IndexSync then counts."""
        self._warned_too_large = False

    def nearest(
        self, partition: bytes, vector: Vector, now: float, asked: bytes = b""
    ) -> list[Retrieved]:
        """Up to CANDIDATES live entries and their cosine similarity, best first; `asked` is the
        exact key of the request.

        The index and the scan only propose ids; whether an entry is live and in this partition, and
        how similar it is, is read from the ledger. When all that one of them proposed is deleted or
        expired, both are asked for more, so that dead entries never hide a live one. They are asked
        again too when an entry was found dead for the first time: it may just have been replaced.
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
                for entry in self.ledger.lookups.live(
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
        """Wait until the index is open, or known to stay closed."""
        self.index_checked.wait(seconds)

    def forget_vectors(self) -> None:
        """Read all vectors again: entries got new ones under their old ids."""
        self._scan.clear()

    def by_index(
        self, partition: bytes, vector: Vector, k: int
    ) -> tuple[list[tuple[int, float]], int] | None:
        """(entry id, similarity) of the `k` nearest by the index, and the last entry id that it
        holds; None where the index cannot answer.
        """
        # Read once: the collection that is queried and the entries it holds belong together.
        index, live = self.index, self.indexed.get(partition)
        if index is None or live is None:
            return None
        try:
            return index.nearest(partition, vector, k, live), live.through
        except IndexBusyError:
            pass
        except CollectionGoneError:
            # there may be a new one in its place, which IndexSync looks for
            if self.indexed.get(partition) is live:
                self.indexed.pop(partition, None)
        except IndexUnavailableError as error:
            self._stop_using(index, error)
        return None

    def _propose(self, partition: bytes, vector: Vector, k: int) -> list[list[int]]:
        """The nearest ids by the index and by a scan of what it lacks; or by a scan of all."""
        if (
            self.index is None
            and not self.index_checked.is_set()
            and not self._scan.fits(partition, 0, vector.nbytes)
        ):
            self.await_index(OPENING_SECONDS)
        answer = self.by_index(partition, vector, min(k, MOST_CANDIDATES))
        # where the index is full of deleted entries, the ledger knows the live ones
        if answer is None or k > MOST_CANDIDATES:
            return [self._scan_all(partition, vector, k)]
        found, through = answer
        return [[i for i, _ in found], self._scan_above(partition, through, vector, k)[0]]

    def _scan_all(self, partition: bytes, vector: Vector, k: int) -> list[int]:
        ids, compared = self._scan_above(partition, 0, vector, k)
        if compared > self.scan_limit:
            self.count_requested.set()
        return ids

    def _scan_above(
        self, partition: bytes, start: int, vector: Vector, k: int
    ) -> tuple[list[int], int]:
        """The nearest ids above `start`, if these vectors fit into memory, and their number."""
        found = self._scan.nearest(partition, start, vector, k)
        if found is not None:
            return found
        self.count_requested.set()
        if not self._warned_too_large:
            self._warned_too_large = True
            log.warning(
                "semcache: %s; there questions are answered by exact keys alone meanwhile; give "
                "scans more memory (scan_memory_mb), or see why there is no index",
                TOO_LARGE,
            )
        raise IndexUnavailableError(TOO_LARGE)

    def _stop_using(self, index: NearestIndex, error: IndexUnavailableError) -> None:
        if self.index is index:
            self.index_error = error
            self.index = None
            log.warning(
                "semcache: %s; large scopes are scanned, which is as right and slower, until the "
                "index is open again: that is tried within seconds",
                error,
            )

"""The background thread of a cache: writes hit counts, evicts entries, feeds the index."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from semcache_core.costs import Saved
from semcache_core.errors import SemcacheError
from semcache_core.quality.hubs import HubFinder
from semcache_core.quality.verdicts import VerdictLog
from semcache_core.search.sync import IndexSync
from semcache_core.storage.eviction import AT_ONCE, Limits, Policy
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import Traffic
from semcache_core.types import Clock

log = logging.getLogger("semcache")

INTERVAL_SECONDS = 1.0
STEPS = 10
"""How many steps of each kind one round takes at most: ranking, evicting, shrinking files."""


class HitCounter:
    """Hits not yet written to the ledger, so that a lookup never waits for a write.

    `on_saved` is called with what they saved, once they are written. With them are written the
    counts of lookups, by `counted` and since this counter was made, and `max_error_rate`.
    """

    def __init__(
        self,
        on_saved: Callable[[Saved], None] = lambda saved: None,
        counted: Callable[[], Mapping[str, int]] = dict,
        max_error_rate: float | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[int, float]] = {}
        self._on_saved = on_saved
        self._counted = counted
        self._written = Counter(counted())
        self._max_error_rate = max_error_rate
        self.saved = Saved()
        """What all hits saved that were written."""

    def add(self, entry_id: int, at: float, hits: int = 1) -> None:
        """Count hits of an entry, the last one at `at`."""
        with self._lock:
            count, last = self._pending.get(entry_id, (0, at))
            self._pending[entry_id] = (count + hits, max(last, at))

    def flush(self, ledger: Ledger) -> None:
        """Write what is pending. Raises LedgerError; the hits then stay pending."""
        with self._lock:
            pending, self._pending = self._pending, {}
            counted = Counter(self._counted())
            new, self._written = counted - self._written, counted
        lookups = (new["exact"], new["semantic"], new["miss"])
        try:
            saved = ledger.entries.touch(pending, Traffic(*lookups, self._max_error_rate))
        except SemcacheError:
            with self._lock:
                self._written -= new
            for entry_id, (count, last) in pending.items():
                self.add(entry_id, last, count)
            raise
        with self._lock:
            self.saved = self.saved.plus(saved)
        self._on_saved(saved)


class BackgroundWorker:
    """One background thread per cache, started at its first use.

    No answer depends on it: a lookup checks expiry itself and scans what the index lacks. So an
    error is logged (once per text) and the next round tries again.
    """

    def __init__(
        self,
        ledger: Ledger,
        limits: Limits,
        hit_counter: HitCounter,
        verdicts: VerdictLog,
        index_sync: IndexSync,
        clock: Clock,
        hubs: HubFinder | None,
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._policy_change = PolicyChange(ledger, limits.policy)
        self._hit_counter = hit_counter
        self._verdicts = verdicts
        self._index_sync = index_sync
        self._clock = clock
        self._hubs = hubs
        self._served: set[int] = set()
        self._turn = threading.Lock()
        self.stopping = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self.started = False
        self._last_problem = ""
        self.written = 0
        """Entries this process has stored; as it grows, the index sync counts partitions again."""

    def start(self) -> None:
        """Start the thread, unless it runs or was stopped."""
        if self._thread is None and self._turn.acquire(blocking=False):
            try:
                if self._thread is None and not self.stopping.is_set():
                    self._thread = threading.Thread(
                        target=self._run, name="semcache-background", daemon=True
                    )
                    self._thread.start()
                    self.started = True
            finally:
                self._turn.release()

    def stop(self) -> None:
        """End the thread, write the last hits, close the index and the ledger."""
        self.stopping.set()
        self._wake.set()
        if self._thread is None:
            self._finish()
        elif self._thread is not threading.current_thread():
            self._thread.join()
        # else the garbage collector closes a dropped cache from within the thread's own round,
        # which may hold every lock there is: the thread finishes when that round ends

    def _finish(self) -> None:
        with self._turn:
            try:
                if not self._ledger.is_displaced():
                    self._hit_counter.flush(self._ledger)
                    self._verdicts.flush()
            except SemcacheError as error:
                log.warning(
                    "semcache: the last hits were not counted: %s; no answer is lost, but counts "
                    "of hits and savings are too low",
                    error,
                )
            self._index_sync.close()
            self._ledger.close()

    @contextmanager
    def paused(self) -> Iterator[IndexSync]:
        """The index sync for the caller's own use, while the thread waits."""
        with self._turn:
            yield self._index_sync

    def round(self) -> None:
        """Do one round of work, as the thread does every second."""
        with self._turn:
            if self._ledger.is_displaced():  # the next use of the cache opens it again
                return
            try:
                self._hit_counter.flush(self._ledger)
                self._served |= self._verdicts.flush()
                self._make_room()
                self._index_sync.step(self.written, self.stopping)
                # last, as the embedder may fail; and one a round: that may be dozens of questions
                if self._served:
                    entry_id = self._served.pop()
                    if self._hubs is not None:
                        self._hubs.check(entry_id)
            # not only SemcacheError: an unforeseen error must not end the thread for good
            except Exception as error:  # noqa: BLE001
                if str(error) != self._last_problem:
                    log.warning(
                        "semcache: upkeep failed, trying again each second: %s; meanwhile answers "
                        "are served, but hits are not counted, what expired stays on disk, and the "
                        "index falls behind",
                        error,
                    )
                self._last_problem = str(error)

    def _make_room(self) -> None:
        """Delete what expired, evict what updates left (each evicts only so much), free disk."""
        ledger, limits, now = self._ledger, self._limits, self._clock()
        if expired := ledger.entries.delete_expired(now):
            limits.on_evicted("expired", expired)
        for _ in range(STEPS):
            if not self._policy_change.step():
                break
        for _ in range(STEPS):
            if not limits.bounded or ledger.entries.make_room(limits, now) < AT_ONCE:
                break
        for _ in range(STEPS):
            if not ledger.shrink():
                break

    def _run(self) -> None:
        while not self.stopping.is_set():
            self.round()
            self._wake.wait(INTERVAL_SECONDS)
            self._wake.clear()
        self._finish()


class PolicyChange:
    """Ranks the entries by an eviction policy that is new to the ledger.

    A step is one short transaction: others write in between. After an error it goes on from there.
    """

    def __init__(self, ledger: Ledger, policy: Policy) -> None:
        self._ledger = ledger
        self._policy = policy
        self._ranked_to: int | None = 0
        # at once where that takes no time: until all are ranked, the policy is not followed
        if ledger.space().entries < AT_ONCE:
            self.step()

    def step(self) -> bool:
        """Rank AT_ONCE entries; returns whether there are more."""
        if self._ranked_to is not None:
            self._ranked_to = self._ledger.entries.rank(self._policy, self._ranked_to)
        return self._ranked_to is not None

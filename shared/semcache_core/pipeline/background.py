"""What happens behind a cache's back: counting hits, making room, feeding the index."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from semcache_core.costs import Saved
from semcache_core.errors import SemcacheError
from semcache_core.quality.verdicts import VerdictLog
from semcache_core.search.sync import IndexSync
from semcache_core.storage.eviction import AT_ONCE, Limits, Policy
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Clock

log = logging.getLogger("semcache")

INTERVAL_SECONDS = 1.0
STEPS = 10
"""Of ranking, of evicting, and of giving room back to the disk, in one round."""


class HitCounter:
    """Hits not yet written to the ledger, so that a lookup never waits for a write.

    `tell` hears what they saved, once they are written.
    """

    def __init__(self, tell: Callable[[Saved], None] = lambda saved: None) -> None:
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[int, float]] = {}
        self._tell = tell
        self.saved = Saved()
        """By all that were written."""

    def add(self, entry_id: int, at: float, hits: int = 1) -> None:
        with self._lock:
            count, last = self._pending.get(entry_id, (0, at))
            self._pending[entry_id] = (count + hits, max(last, at))

    def flush(self, ledger: Ledger) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
        try:
            saved = ledger.entries.touch(pending)
        except SemcacheError:
            for entry_id, (count, last) in pending.items():
                self.add(entry_id, last, count)
            raise
        with self._lock:
            self.saved = self.saved.plus(saved)
        self._tell(saved)


class BackgroundWorker:
    """One background thread per cache, started at its first use.

    Nothing here is needed for a right answer: a lookup checks expiry itself and scans what the
    index lacks. So an error is logged (once per text) and the next round tries again.
    """

    def __init__(
        self,
        ledger: Ledger,
        limits: Limits,
        touches: HitCounter,
        records: VerdictLog,
        indexer: IndexSync,
        clock: Clock,
        look_for_hub: Callable[[int], None],
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._policy_change = PolicyChange(ledger, limits.policy)
        self._touches = touches
        self._records = records
        self._indexer = indexer
        self._clock = clock
        self._look_for_hub = look_for_hub
        self._served: set[int] = set()
        self._turn = threading.Lock()
        self.stopping = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_problem = ""
        self.written = 0
        """Entries this process has stored; the indexer counts partitions anew as it grows."""

    def start(self) -> None:
        if self._thread is None and self._turn.acquire(blocking=False):
            try:
                if self._thread is None and not self.stopping.is_set():
                    self._thread = threading.Thread(
                        target=self._run, name="semcache-background", daemon=True
                    )
                    self._thread.start()
            finally:
                self._turn.release()

    def stop(self) -> None:
        """End the thread, write the last hits, let go of the index and close the ledger."""
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
                    self._touches.flush(self._ledger)
                    self._records.flush()
            except SemcacheError as error:
                log.warning(
                    "semcache: the last hits were not counted: %s; no answer is lost, but counts "
                    "of hits and savings are too low",
                    error,
                )
            self._indexer.close()
            self._ledger.close()

    @contextmanager
    def paused(self) -> Iterator[IndexSync]:
        """The indexer for the caller's own use, while the thread waits."""
        with self._turn:
            yield self._indexer

    def round(self) -> None:
        """One round of upkeep, as the thread does every second."""
        with self._turn:
            if self._ledger.is_displaced():  # whoever uses the cache next opens it anew
                return
            try:
                self._touches.flush(self._ledger)
                self._served |= self._records.flush()
                self._make_room()
                self._indexer.step(self.written, self.stopping)
                # last, as the embedder may fail; and one a round: that may be dozens of questions
                if self._served:
                    self._look_for_hub(self._served.pop())
            # not only SemcacheError: an error nobody thought of must not end the thread for good
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
        """What an update left: it evicts only so much at once. And what was never its to do."""
        ledger, limits, now = self._ledger, self._limits, self._clock()
        if expired := ledger.entries.delete_expired(now):
            limits.tell("expired", expired)
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

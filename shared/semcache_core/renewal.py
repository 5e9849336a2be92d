"""Copies a collection that is full of dead entries into a new one, while the old one serves."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from filelock import FileLock, Timeout

from semcache_core.errors import CollectionGoneError, IndexUnavailableError
from semcache_core.generations import Generation, Generations
from semcache_core.index import MAX_BATCH, ChromaIndex
from semcache_core.ledger import Ledger
from semcache_core.retrieval import Retrieval

log = logging.getLogger("semcache")

MIN_DEAD = 5_000
"""Fewer dead entries than these are left where they are."""
LOOK_SECONDS = 60.0
# Lookups of this process are done with the old collection at once, those of others once their
# upkeep has read the ledger again, which it does every second.
RETIRE_SECONDS = 10.0
BATCHES_A_ROUND = 5


@dataclass(frozen=True)
class _Copy:
    partition: bytes
    old: int
    new: Generation


@dataclass(frozen=True)
class _Retired:
    partition: bytes
    number: int
    at: float


class Renewal:
    """One copy at a time, some batches in each round of upkeep.

    A copy is in no way known to lookups before the ledger names it as the live generation, in one
    statement. A crash leaves a collection that nobody knows of; it is dropped before the next copy
    and when the index is opened. `lock` lets one process at a time copy and drop where several
    share a Chroma server; None where nobody else can.
    """

    def __init__(
        self, ledger: Ledger, generations: Generations, retrieval: Retrieval, lock: FileLock | None
    ) -> None:
        self._ledger = ledger
        self._generations = generations
        self._retrieval = retrieval
        self._lock = lock
        self._copy: _Copy | None = None
        self._waiting: list[bytes] = []
        self._retired: list[_Retired] = []
        self._look_at = 0.0
        self.dropped = False
        """Whether collections were dropped: their directories may be left."""

    def step(self, index: ChromaIndex) -> None:
        """Some batches of the copy under way, or the beginning of another."""
        self._drop_retired(index, wait=RETIRE_SECONDS)
        if self._copy is None and not self._waiting and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._waiting = self._generations.worn(MIN_DEAD)
        if self._copy is None and self._waiting:
            self._begin(index)
        if self._copy is not None:
            self._go_on(index, BATCHES_A_ROUND)

    def renew(self, index: ChromaIndex, stopped: Callable[[], bool]) -> None:
        """Copy every collection in use, to the end."""
        self._copy = None
        self._waiting = [p for p, live in self._generations.all().items() if live.through]
        while self._waiting and not stopped():
            self._begin(index)
            if self._copy is None:
                raise IndexUnavailableError(
                    "another process is making collections of this index anew; try again later"
                )
            while self._copy is not None and not stopped():
                self._go_on(index, BATCHES_A_ROUND)

    def sweep(self, index: ChromaIndex) -> None:
        """Drop what a process that is gone left behind; not while another one copies."""
        if self._acquire():
            try:
                self._sweep(index)
            finally:
                self._release()

    def finish(self, index: ChromaIndex) -> None:
        """Before the index is closed: what the retired ones are kept for is over."""
        self._drop_retired(index, wait=0.0)

    def abandon(self) -> None:
        """The index is closed: what was under way is left, to be swept when it is open again."""
        self._copy, self._waiting, self._retired = None, [], []
        self._release()

    def _begin(self, index: ChromaIndex) -> None:
        if not self._acquire():
            return
        partition = self._waiting.pop()
        live = self._generations.all().get(partition, Generation())
        try:
            self._sweep(index)
            index.drop(partition, live.number + 1)
        except IndexUnavailableError:
            self._release()
            raise
        self._copy = _Copy(partition, live.number, Generation(live.number + 1))

    def _go_on(self, index: ChromaIndex, batches: int) -> None:
        try:
            for _ in range(batches):
                if self._copy is not None:
                    self._add_batch(index, self._copy)
        except CollectionGoneError:  # somebody dropped it: another copy is begun later
            self._copy = None
            self._release()

    def _add_batch(self, index: ChromaIndex, copy: _Copy) -> None:
        partition, new = copy.partition, copy.new
        ids, vectors = self._ledger.vectors_after(
            partition, self._retrieval.fingerprint, new.through, MAX_BATCH
        )
        if len(ids):
            index.add(partition, [int(i) for i in ids], vectors, generation=new.number)
            new = replace(new, through=int(ids[-1]), added=new.added + len(ids))
            copy = self._copy = replace(copy, new=new)
        if len(ids) < MAX_BATCH:
            self._swap(index, copy)

    def _swap(self, index: ChromaIndex, copy: _Copy) -> None:
        self._copy = None
        try:
            if not self._is_whole(index, copy):
                return
            # Not where the index was forgotten meanwhile: entries may have vectors that came after
            # the copy had passed them.
            if not self._generations.swap(copy.partition, copy.old, copy.new):
                return
        finally:
            self._release()
        # first the collection: it holds all that the old one did, and what lookups may scan twice
        index.use(copy.partition, copy.new.number)
        if copy.new.through:
            self._retrieval.indexed[copy.partition] = copy.new.through
        else:
            self._retrieval.indexed.pop(copy.partition, None)
        self._retired.append(_Retired(copy.partition, copy.old, time.monotonic()))
        log.info("semcache: a collection of %d entries was made anew", copy.new.added)

    def _is_whole(self, index: ChromaIndex, copy: _Copy) -> bool:
        """Whether it has all that it should: nothing that is not there may be named as indexed."""
        partition, new = copy.partition, copy.new
        model = self._retrieval.fingerprint
        wanted = self._ledger.count_vectors(partition, model, new.through)
        return index.count(partition, new.number) >= wanted

    def _drop_retired(self, index: ChromaIndex, wait: float) -> None:
        due = [one for one in self._retired if time.monotonic() - one.at >= wait]
        for one in due:
            index.drop(one.partition, one.number)
            self._retired.remove(one)
            self.dropped = True

    def _sweep(self, index: ChromaIndex) -> None:
        alone = self._lock is None

        def live() -> dict[bytes, int]:
            return {p: one.number for p, one in self._generations.all().items()}

        if not self._retired and index.sweep(live, others=alone):
            self.dropped = True

    def _acquire(self) -> bool:
        if self._lock is None or self._lock.is_locked:
            return True
        try:
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            raise IndexUnavailableError(f"cannot lock {self._lock.lock_file}: {error}") from error
        return True

    def _release(self) -> None:
        if self._lock is not None and self._lock.is_locked:
            self._lock.release()

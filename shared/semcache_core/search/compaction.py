"""Of all processes that share a ledger one does a thing at a time."""

import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import sqlalchemy as sa

from semcache_core.errors import CollectionGoneError, LedgerError
from semcache_core.search.chroma import MAX_BATCH, ChromaIndex
from semcache_core.search.retriever import Retriever
from semcache_core.storage.index_state import IndexState
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import meta
from semcache_core.types import EMPTY, Generation

SECONDS = 120.0
"""Who shows no sign of life for so long has lost its claim."""


class Lease:
    """A row of the ledger, in which the holder writes a new number at every sign of life.

    A number, and not the time: the clocks of hosts differ. So who finds it taken watches whether it
    changes, by a clock of its own. (A lock on a file holds on one host, one of PostgreSQL in one
    connection, which may break unnoticed.) It is advice: a process that was stopped in the middle
    may go on once it has lost the claim, so what is done under it must be safe without.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self._row = meta.c.name == name
        self._mine = 0
        self._seen, self._since = 0, 0.0

    @property
    def held(self) -> bool:
        """As far as this process knows."""
        return self._mine != 0

    def hold(self) -> bool:
        """Take it, or show that it is still held; False where another process has it."""
        found = self._value()
        free = found in (0, self._mine) or self._is_left(found)
        self._mine = self._take(found) if free else 0
        return self.held

    def release(self) -> None:
        mine, self._mine = self._mine, 0
        if mine:
            with suppress(LedgerError), self._ledger.write() as connection:  # else SECONDS free it
                connection.execute(sa.delete(meta).where(self._row, meta.c.value == mine))

    def _value(self) -> int:
        rows = self._ledger.read(sa.select(meta.c.value).where(self._row), {})
        return int(rows[0][0]) if rows else 0

    def _is_left(self, found: int) -> bool:
        if found != self._seen:
            self._seen, self._since = found, time.monotonic()
        return time.monotonic() - self._since >= SECONDS

    def _take(self, found: int) -> int:
        """A new number in place of the one `found`; 0 if that is not there any more."""
        number = 1 + secrets.randbits(62)
        with self._ledger.write() as connection:
            query = sa.select(meta.c.value).where(self._row)
            if (connection.execute(query).scalar() or 0) != found:
                return 0
            connection.execute(sa.delete(meta).where(self._row))
            connection.execute(sa.insert(meta), {"name": self._name, "value": number})
        return number


MIN_DEAD = 5_000
"""Fewer dead entries than these are left where they are."""
LOOK_SECONDS = 60.0
# Lookups of this process are done with the old collection at once, those of others once their
# upkeep has read the ledger again, which it does every second.
RETIRE_SECONDS = 10.0
BATCHES_A_ROUND = 5
LEASE_POLL_SECONDS = 1.0


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


class Compaction:
    """One copy at a time, some batches in each round of upkeep.

    A copy is in no way known to lookups before the ledger names it as the live generation, in one
    statement. A crash leaves a collection that nobody knows of; it is dropped before the next copy
    and when the index is opened. `claim` lets one process at a time copy and drop where several
    share a Chroma server, until the collection that it replaced is dropped; None where nobody else
    can. One that lost it in the middle spoils nothing: its collection has an id of its own.
    """

    def __init__(
        self, ledger: Ledger, generations: IndexState, retrieval: Retriever, claim: Lease | None
    ) -> None:
        self._ledger = ledger
        self._generations = generations
        self._retrieval = retrieval
        self._claim = claim
        self._copy: _Copy | None = None
        self._waiting: list[bytes] = []
        self._retired: list[_Retired] = []
        self._look_at = 0.0
        self.dropped = False
        """Whether collections were dropped: their directories may be left."""

    def step(self, index: ChromaIndex) -> None:
        """Some batches of the copy under way, or the beginning of another."""
        self._drop_retired(index, wait=RETIRE_SECONDS)
        self._keep_claim()
        if self._copy is None and not self._waiting and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._look()
        if self._copy is None and self._waiting:
            self._begin(index)
        if self._copy is not None:
            self._go_on(index, BATCHES_A_ROUND)

    def renew(self, index: ChromaIndex, stopping: threading.Event) -> bool:
        """Copy every collection in use, to the end; False where another process is at it."""
        self._copy = None
        self._waiting = [p for p, live in self._generations.all().items() if live.through]
        if self._waiting and not self._wait_for_claim(stopping):
            self._waiting = []
            return False
        while self._waiting and not stopping.is_set():
            self._begin(index)
            while self._copy is not None and not stopping.is_set():
                self._keep_claim()
                self._go_on(index, BATCHES_A_ROUND)
        return True

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

    def _look(self) -> None:
        waiting = self._generations.worn(MIN_DEAD)
        if waiting and self._claim is not None:
            # looked once more under the claim: another process may just have done it
            waiting = self._generations.worn(MIN_DEAD) if self._claim.hold() else []
        self._waiting = waiting
        self._release()

    def _begin(self, index: ChromaIndex) -> None:
        partition = self._waiting.pop()
        live = self._generations.all().get(partition, EMPTY)
        self._sweep(index)
        index.drop(partition, live.number + 1)
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
        ids, vectors = self._ledger.lookups.vectors_after(
            partition,
            self._retrieval.fingerprint,
            new.through,
            MAX_BATCH,
            self._retrieval.dimension,
        )
        if len(ids):
            if not new.collection:
                new = replace(new, collection=index.identity(partition, new.number))
            index.add(partition, [int(i) for i in ids], vectors, new)
            new = replace(new, through=int(ids[-1]), added=new.added + len(ids))
            copy = self._copy = replace(copy, new=new)
        if len(ids) < MAX_BATCH:
            self._swap(index, copy)

    def _swap(self, index: ChromaIndex, copy: _Copy) -> None:
        self._copy = None
        # Not where the index was forgotten meanwhile: entries may have vectors that came after the
        # copy had passed them.
        if not self._is_whole(index, copy) or not self._generations.swap(
            copy.partition, copy.old, copy.new
        ):
            self._release()
            return
        if copy.new.through:
            self._retrieval.indexed[copy.partition] = copy.new
        else:
            self._retrieval.indexed.pop(copy.partition, None)
        self._retired.append(_Retired(copy.partition, copy.old, time.monotonic()))

    def _is_whole(self, index: ChromaIndex, copy: _Copy) -> bool:
        """Whether it has all that it should: nothing that is not there may be named as indexed."""
        partition, new = copy.partition, copy.new
        wanted = self._generations.count_vectors(partition, new.through)
        return index.count(partition, new) >= wanted

    def _drop_retired(self, index: ChromaIndex, wait: float) -> None:
        due = [one for one in self._retired if time.monotonic() - one.at >= wait]
        for one in due:
            index.drop(one.partition, one.number)
            self._retired.remove(one)
            self.dropped = True
        if due:
            self._release()

    def _sweep(self, index: ChromaIndex) -> None:
        if not self._retired and index.sweep(self._generations.all, others=self._claim is None):
            self.dropped = True

    def _acquire(self) -> bool:
        return self._claim is None or self._claim.hold()

    def _keep_claim(self) -> None:
        if self._claim is not None and self._claim.held and not self._claim.hold():
            self._copy, self._waiting = None, []

    def _wait_for_claim(self, stopping: threading.Event) -> bool:
        """As long as it takes to find out that a process which had it is gone."""
        until = time.monotonic() + SECONDS + LEASE_POLL_SECONDS
        while not self._acquire():
            if time.monotonic() > until or stopping.wait(LEASE_POLL_SECONDS):
                return False
        return True

    def _release(self) -> None:
        """Unless something is left to do that others should not do meanwhile."""
        if self._claim is not None and not (self._copy or self._waiting or self._retired):
            self._claim.release()

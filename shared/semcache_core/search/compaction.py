"""Replaces collections full of deleted vectors, under a lease that one process holds at a time."""

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

LEASE_SECONDS = 120.0
"""A lease that is not renewed for so long is free."""
LEASE_POLL_SECONDS = 1.0
MIN_DEAD = 5_000
"""Fewer dead entries than these are left in their collection."""
LOOK_SECONDS = 60.0
# Lookups of this process are done with the old collection at once, those of others once their
# background worker has read the ledger again, which it does every second.
RETIRE_SECONDS = 10.0
BATCHES_A_ROUND = 5


class Lease:
    """A lease in a row of the ledger: one process at a time runs the maintenance task `name`.

    The holder writes a new number whenever it renews the lease. A number and not the time, as the
    clocks of hosts differ: a process that finds the lease taken watches by its own clock whether
    the number changes. (A lock on a file holds on one host only, a lock of PostgreSQL in one
    connection, which may break unnoticed.) The lease is advisory: a process that was stopped may go
    on after it lost the lease, so its task must be safe without.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self._row = meta.c.name == name
        self._own = 0
        self._seen, self._since = 0, 0.0

    @property
    def held(self) -> bool:
        """Whether this process holds it, as far as it knows."""
        return self._own != 0

    def acquire(self) -> bool:
        """Take the lease, or renew it; False where another process holds it."""
        found = self._value()
        free = found in (0, self._own) or self._has_expired(found)
        self._own = self._replace(found) if free else 0
        return self.held

    def release(self) -> None:
        own, self._own = self._own, 0
        if own:
            with suppress(LedgerError), self._ledger.write() as connection:  # else it expires
                connection.execute(sa.delete(meta).where(self._row, meta.c.value == own))

    def _value(self) -> int:
        rows = self._ledger.read(sa.select(meta.c.value).where(self._row), {})
        return int(rows[0][0]) if rows else 0

    def _has_expired(self, found: int) -> bool:
        if found != self._seen:
            self._seen, self._since = found, time.monotonic()
        return time.monotonic() - self._since >= LEASE_SECONDS

    def _replace(self, found: int) -> int:
        """Write a new number in place of `found`; 0 where another process was faster."""
        number = 1 + secrets.randbits(62)
        with self._ledger.write() as connection:
            query = sa.select(meta.c.value).where(self._row)
            if (connection.execute(query).scalar() or 0) != found:
                return 0
            connection.execute(sa.delete(meta).where(self._row))
            connection.execute(sa.insert(meta), {"name": self._name, "value": number})
        return number


@dataclass(frozen=True)
class Filler:
    """Fills collections from the ledger and checks that they are complete."""

    ledger: Ledger
    fingerprint: str
    dimension: int | None

    def add_batch(
        self, index: ChromaIndex, partition: bytes, into: Generation, limit: int, least: int = 1
    ) -> Generation:
        """Add the next `limit` vectors after those that `into` holds to its collection.

        Returns `into` with them; unchanged where fewer than `least` are left. The ledger hears of
        it later: it scans what it does not name as indexed, so a crash in between costs a second
        write of the same vectors and never a missed entry.
        """
        ids, vectors = self.ledger.lookups.vectors_after(
            partition, self.fingerprint, into.through, limit, self.dimension
        )
        if len(ids) < least:
            return into
        if not into.collection:
            into = replace(into, collection=index.identity(partition, into.number))
        index.add(partition, [int(i) for i in ids], vectors, into)
        return replace(into, through=int(ids[-1]), added=into.added + len(ids))

    def is_complete(self, index: ChromaIndex, partition: bytes, live: Generation) -> bool:
        """Whether the collection has as many vectors as the ledger up to `live.through`."""
        wanted = self.ledger.index_state(self.fingerprint).count_vectors(partition, live.through)
        return index.count(partition, live) >= wanted


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
    """Copies the live vectors of one collection at a time into a new one, some batches a round.

    Lookups know nothing of a copy before the ledger names it as the live generation, in one
    statement. A crash leaves a collection that nobody knows; it is dropped before the next copy and
    when the index is opened. Where several processes share a Chroma server, the one with the
    `lease` copies and drops, until the collection that it replaced is dropped; None where no other
    process can. A process that loses the lease in the middle does no harm: its collection has an id
    of its own.
    """

    def __init__(
        self, filler: Filler, state: IndexState, retriever: Retriever, lease: Lease | None
    ) -> None:
        self._filler = filler
        self._state = state
        self._retriever = retriever
        self._lease = lease
        self._copy: _Copy | None = None
        self._waiting: list[bytes] = []
        self._retired: list[_Retired] = []
        self._look_at = 0.0
        self.dropped = False
        """Whether collections were dropped: their directories may be left."""

    def step(self, index: ChromaIndex) -> None:
        """Copy some batches, or look for another collection to copy."""
        self._drop_retired(index, wait=RETIRE_SECONDS)
        self._renew_lease()
        if self._copy is None and not self._waiting and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._look()
        if self._copy is None and self._waiting:
            self._begin(index)
        if self._copy is not None:
            self._go_on(index)

    def copy_all(self, index: ChromaIndex, stopping: threading.Event) -> bool:
        """Copy every collection in use; False where another process is copying."""
        self._copy = None
        self._waiting = [p for p, live in self._state.all().items() if live.through]
        if self._waiting and not self._await_lease(stopping):
            self._waiting = []
            return False
        while self._waiting and not stopping.is_set():
            self._begin(index)
            while self._copy is not None and not stopping.is_set():
                self._renew_lease()
                self._go_on(index)
        return True

    def sweep(self, index: ChromaIndex) -> None:
        """Drop what crashed processes left behind, unless another process is copying."""
        if self._acquire_lease():
            try:
                self._sweep(index)
            finally:
                self._release_lease()

    def finish(self, index: ChromaIndex) -> None:
        """Drop the retired collections at once, before the index is closed."""
        self._drop_retired(index, wait=0.0)

    def abandon(self) -> None:
        """Forget the copy: the index is closed, and swept when it is open again."""
        self._copy, self._waiting, self._retired = None, [], []
        self._release_lease()

    def _look(self) -> None:
        waiting = self._state.worn(MIN_DEAD)
        if waiting and self._lease is not None:
            # again under the lease: another process may just have copied them
            waiting = self._state.worn(MIN_DEAD) if self._lease.acquire() else []
        self._waiting = waiting
        self._release_lease()

    def _begin(self, index: ChromaIndex) -> None:
        partition = self._waiting.pop()
        live = self._state.all().get(partition, EMPTY)
        self._sweep(index)
        index.drop(partition, live.number + 1)
        self._copy = _Copy(partition, live.number, Generation(live.number + 1))

    def _go_on(self, index: ChromaIndex) -> None:
        try:
            for _ in range(BATCHES_A_ROUND):
                if self._copy is not None:
                    self._add_batch(index, self._copy)
        except CollectionGoneError:  # another process dropped it: another copy is begun later
            self._copy = None
            self._release_lease()

    def _add_batch(self, index: ChromaIndex, copy: _Copy) -> None:
        new = self._filler.add_batch(index, copy.partition, copy.new, MAX_BATCH)
        was, self._copy = copy.new, replace(copy, new=new)
        if new.added - was.added < MAX_BATCH:
            self._swap(index, self._copy)

    def _swap(self, index: ChromaIndex, copy: _Copy) -> None:
        """Make the copy the live collection, if it is complete: only what is in a collection may be
        named as indexed.
        """
        self._copy = None
        # Not where the index was forgotten meanwhile: entries may have vectors that came after the
        # copy had passed them.
        if not self._filler.is_complete(index, copy.partition, copy.new) or not self._state.swap(
            copy.partition, copy.old, copy.new
        ):
            self._release_lease()
            return
        if copy.new.through:
            self._retriever.indexed[copy.partition] = copy.new
        else:
            self._retriever.indexed.pop(copy.partition, None)
        self._retired.append(_Retired(copy.partition, copy.old, time.monotonic()))

    def _drop_retired(self, index: ChromaIndex, wait: float) -> None:
        due = [one for one in self._retired if time.monotonic() - one.at >= wait]
        for one in due:
            index.drop(one.partition, one.number)
            self._retired.remove(one)
            self.dropped = True
        if due:
            self._release_lease()

    def _sweep(self, index: ChromaIndex) -> None:
        if not self._retired and index.sweep(self._state.all, others=self._lease is None):
            self.dropped = True

    def _acquire_lease(self) -> bool:
        return self._lease is None or self._lease.acquire()

    def _renew_lease(self) -> None:
        if self._lease is not None and self._lease.held and not self._lease.acquire():
            self._copy, self._waiting = None, []

    def _await_lease(self, stopping: threading.Event) -> bool:
        """Wait for the lease, until that of a process which is gone has expired."""
        until = time.monotonic() + LEASE_SECONDS + LEASE_POLL_SECONDS
        while not self._acquire_lease():
            if time.monotonic() > until or stopping.wait(LEASE_POLL_SECONDS):
                return False
        return True

    def _release_lease(self) -> None:
        """Give the lease back, unless there is work left that others should not do meanwhile."""
        if self._lease is not None and not (self._copy or self._waiting or self._retired):
            self._lease.release()

"""Keeps the vector index level with the ledger; the only place that opens it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from semcache_core.errors import (
    CollectionGoneError,
    IndexBusyError,
    IndexStalledError,
    IndexUnavailableError,
    SemcacheError,
)
from semcache_core.search.chroma import MAX_BATCH, CallLimits, ChromaIndex
from semcache_core.search.compaction import Compaction, Lease
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.ownership import Ownership
from semcache_core.search.retriever import Retriever
from semcache_core.storage.ledger import Ledger
from semcache_core.types import EMPTY, Generation

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

RETRY_SECONDS = 10.0
"""After a failure. Whoever only waits for the owner of the index to end asks each round."""
LOSE_AGAIN_SECONDS = 600.0

# A write of one vector takes Chroma about as long as one of a hundred; fewer are scanned meanwhile.
WORTH_WRITING = 100
COUNT_EVERY = 1000
COUNT_EVERY_ROUNDS = 60


class IndexSync:
    """Indexes the partitions that are too large to scan.

    Where that is, `Ownership` knows. Methods are called by one thread at a time: the upkeep's, or
    `rebuild` while it holds the upkeep's turn.

    Any process may write to an index on a server. What one says of it in the ledger is about the
    collection that it wrote to, and only goes on from what it had read (see `Generations`): so
    nothing is named as indexed that is in a collection dropped meanwhile, on another server, or
    not there yet.
    """

    def __init__(
        self,
        ledger: Ledger,
        retrieval: Retriever,
        scan_limit: int,
        home: EmbeddedIndex | None,
        client: "ClientAPI | None",
    ) -> None:
        self._ledger = ledger
        self._retrieval = retrieval
        self._fingerprint = retrieval.fingerprint
        self._scan_limit = scan_limit
        self._home = home
        self.ownership = Ownership(ledger, retrieval, home, client)
        self._generations = ledger.index_state(retrieval.fingerprint)
        claim = None if client is None else Lease(ledger, "renewal")
        self._renewal = Compaction(ledger, self._generations, retrieval, claim)
        self._calls = CallLimits.embedded() if client is None else CallLimits()
        self._lost_at: dict[bytes, float] = {}
        self._index: ChromaIndex | None = None
        self._rounds = 0
        self._told_elsewhere = False
        self._problem = ""
        self._retry_at = 0.0
        self._last_count = -COUNT_EVERY
        self._large: list[bytes] = []

    def step(self, written: int, stopping: threading.Event) -> None:
        """One round: open the index if a partition needs it, add what is new, drop what is gone.

        `written` is how many entries this process has stored so far; partitions are counted anew
        now and then as it grows. A failure is logged; later rounds try again.
        """
        try:
            self._step(written, stopping)
        finally:
            self._retrieval.settled.set()

    def _step(self, written: int, stopping: threading.Event) -> None:
        if time.monotonic() < self._retry_at:
            return
        self._count_large(written)
        with self._surviving():
            self._see_to_lost()
            # an index that is open may have something left to drop
            if (self._index is None and not self._wanted()) or not self._open():
                return
            self._retrieval.settled.set()  # what follows may take long
            self._follow(stopping)
            self._remove_deleted()
            if not stopping.is_set():
                self._renewal.step(self._opened)
                self._tidy()
            self._problem = ""

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except (IndexBusyError, IndexStalledError) as error:
            self._wait(str(error))
        except IndexUnavailableError as error:
            self._abandon(str(error))

    def _count_large(self, written: int) -> None:
        """Now and then, as this process stores or meets many entries, or others may have."""
        self._rounds += 1
        if (
            written - self._last_count >= COUNT_EVERY
            or self._retrieval.count_requested.is_set()
            or self._rounds % COUNT_EVERY_ROUNDS == 0
        ):
            self._last_count = written
            self._retrieval.count_requested.clear()
            self._large = self._generations.large_partitions(self._scan_limit)

    def renew(self, stopping: threading.Event) -> None:
        """Make every collection anew from the ledger; one that is broken in the next step."""
        if self.ownership.homeless:
            self._generations.forget_all()  # others have a client
            return
        self.ownership.check()
        self._last_count = -COUNT_EVERY
        self._lost_at.clear()
        mine = True
        with self._surviving():
            self._see_to_lost()
            if self._wanted() and self._open():
                self._follow(stopping)  # what was embedded anew is already without a collection
                mine = self._renewal.renew(self._opened, stopping)
        self._retry_at = 0.0
        if not mine and not stopping.is_set():
            raise IndexUnavailableError(
                "another process is making collections of this index anew; try again later"
            )

    def close(self) -> None:
        """Let go of the index: an owned client is closed, the user's own is left alone."""
        if self._index is not None:
            with suppress(IndexUnavailableError):
                self._renewal.finish(self._index)
        clean = self._close_index()
        self._tidy()
        self.ownership.release(clean)

    @property
    def _opened(self) -> ChromaIndex:
        if self._index is None:
            raise IndexUnavailableError("the vector index is closed")
        return self._index

    def _open(self) -> bool:
        if self._index is not None:
            return True
        if not self.ownership.take():  # tried each round: a lock costs nothing, a dead owner time
            self.ownership.borrow()
            return False
        self.ownership.give_back()
        client = self.ownership.client()
        index = self._index = ChromaIndex(
            client, self._ledger.id, self._fingerprint, self._calls, self._check_free
        )
        try:
            self._check(index)
            self._renewal.sweep(index)  # after it: what lost entries is not the live one any more
        except SemcacheError:
            # closed before it is set aside: Chroma gives an open system out again by its path
            self._close_index()
            raise
        self._renewal.dropped = True  # by whoever was killed before the files were removed
        self._retrieval.index = index
        self.ownership.serve()
        return True

    def _check_free(self, writing: bool) -> None:
        if self._home is not None:
            self._home.check_free(writing)

    def _see_to_lost(self) -> None:
        """Raise what made lookups take the index out of use, unless it answers again."""
        if self._index is None:
            return
        if self._home is not None and not self._home.is_intact():
            raise IndexUnavailableError("its files were deleted or replaced")
        if self._retrieval.index is not None:
            return
        if isinstance(self._retrieval.lost, IndexStalledError):
            for partition, live in list(self._retrieval.indexed.items())[:1]:
                self._index.count(partition, live)  # raises, or it answers
            self._retrieval.index = self._index
            return
        raise IndexUnavailableError("a lookup found it broken")

    def _wanted(self) -> dict[bytes, Generation]:
        """The partitions that are to be indexed, and what the ledger says of them."""
        known = self._generations.all()
        due = dict.fromkeys(self._large, EMPTY)
        held = {partition: one for partition, one in known.items() if one.through}
        return {partition: known.get(partition, one) for partition, one in (due | held).items()}

    def _check(self, index: ChromaIndex) -> None:
        """Hand lookups what the ledger says the index holds, less what it has lost."""
        lost = 0
        for partition, live in self._generations.all().items():
            if not live.through:
                continue
            if self._is_whole(index, partition, live):
                self._retrieval.indexed[partition] = live
            else:
                lost += 1
                self._lose(partition, live)
        if lost:
            log.warning(
                "semcache: the vector index lost entries of %d scopes; they are scanned until it "
                "has them again, there is nothing to do",
                lost,
            )

    def _is_whole(self, index: ChromaIndex, partition: bytes, live: Generation) -> bool:
        wanted = self._generations.count_vectors(partition, live.through)
        return index.count(partition, live) >= wanted

    def _lose(self, partition: bytes, live: Generation) -> None:
        """What the ledger names is not here: begin the index of this partition anew.

        But not again and again: where two processes have a Chroma server each, neither finds what
        the other says, and they would fill theirs in turns for ever.
        """
        self._retrieval.indexed.pop(partition, None)
        now = time.monotonic()
        if now - self._lost_at.get(partition, -LOSE_AGAIN_SECONDS) >= LOSE_AGAIN_SECONDS:
            if self._generations.forget(partition, live):
                self._lost_at[partition] = now
                self._retrieval.count_requested.set()  # soon filled anew
        elif not self._told_elsewhere:
            self._told_elsewhere = True
            log.warning(
                "semcache: a collection that another process filled is not in this vector index, "
                "again; give all processes the same Chroma server, or see who deletes there; "
                "meanwhile its scope is scanned"
            )

    def _follow(self, stopping: threading.Event) -> None:
        """Bring every partition level with the ledger, in whatever generation is live by now."""
        for partition, live in self._wanted().items():
            try:
                self._go_over(partition, live)
                self._catch_up(partition, live, stopping)
            except CollectionGoneError:
                self._lose(partition, live)

    def _go_over(self, partition: bytes, live: Generation) -> None:
        """Let lookups ask no other collection than the live one, which was made sure of first."""
        held = self._retrieval.indexed.get(partition)
        if held is not None and not live.through:  # somebody found that it lost some
            self._retrieval.indexed.pop(partition, None)
        elif live.through and (held is None or not held.is_same_collection(live)):
            if not self._is_whole(self._opened, partition, live):
                raise CollectionGoneError("it lost entries")
            # Where they had none, only when it is complete: see `_catch_up`.
            if held is not None:
                self._retrieval.indexed[partition] = live

    def _catch_up(self, partition: bytes, live: Generation, stopping: threading.Event) -> None:
        was = live
        while not stopping.is_set():
            ids, vectors = self._ledger.lookups.vectors_after(
                partition, self._fingerprint, live.through, MAX_BATCH, self._retrieval.dimension
            )
            if len(ids) < (WORTH_WRITING if live.through else 1):
                # Only now do lookups hear of it: until a partition is first complete they scan
                # all of it, rather than copy a shrinking rest at every batch.
                if live.through:
                    self._retrieval.indexed[partition] = live
                return
            if not live.collection:
                live = replace(live, collection=self._opened.identity(partition, live.number))
            self._opened.add(partition, [int(i) for i in ids], vectors, live)
            # After the vectors: what the ledger does not name as indexed is scanned, so a crash
            # in between costs a second write of the same vectors and never a missed entry.
            live = replace(live, through=int(ids[-1]), added=live.added + len(ids))
            if not self._generations.advance(partition, was, live):
                return  # another process was faster, or began anew: look again next time
            was = live

    def _remove_deleted(self) -> None:
        for partition, gone in self._generations.take_removed(MAX_BATCH).items():
            if (live := self._retrieval.indexed.get(partition)) is not None:
                self._opened.remove(partition, gone, live)

    def _tidy(self) -> None:
        if self._renewal.dropped and self._home is not None and self.ownership.held:
            self._home.tidy()
            self._renewal.dropped = False

    def _wait(self, why: str) -> None:
        """The index does not answer: lookups scan, and it is asked again later."""
        if why != self._problem:
            self._problem = why
            log.warning(
                "semcache: the vector index does not answer (%s); large scopes are scanned, which "
                "is as right and slower, until it does; see to the Chroma server, or to a program "
                "that keeps the files of the index locked",
                why,
            )
        # Lookups go on asking it: what keeps a write need not keep them, and if it does they see.
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _abandon(self, why: str) -> None:
        if why != self._problem:  # not at every try while a server is down
            self._problem = why
            log.warning(
                "semcache: the vector index failed (%s); large scopes are scanned, which is as "
                "right and slower, until it is rebuilt; see to the Chroma server, or to the disk",
                why,
            )
        self._close_index()
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if self._home is not None:
            self._home.set_aside()
            self._generations.forget_all()

    def _close_index(self) -> bool:
        """Whether the index was closed without an error (or was not open)."""
        self.ownership.stop_serving()
        self.ownership.give_back()
        self._renewal.abandon()
        index, self._index = self._index, None
        self._retrieval.index = None
        self._retrieval.indexed = {}
        if index is None or self.ownership.of_user:
            return True
        try:
            index.close()
        except IndexUnavailableError as error:
            log.warning("semcache: %s; it is checked when it is next opened", error)
            return False
        return True

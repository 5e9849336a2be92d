"""Keeps the vector index up to date with the ledger; the only place that opens the index."""

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from semcache_core._utils.own_faults import is_shutting_down
from semcache_core.errors import (
    CollectionGoneError,
    IndexBusyError,
    IndexStalledError,
    IndexUnavailableError,
    SemcacheError,
)
from semcache_core.search.chroma import MAX_BATCH, CallLimits, ChromaIndex
from semcache_core.search.compaction import Compaction, Filler, Lease
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.ownership import Ownership
from semcache_core.search.retriever import Retriever
from semcache_core.storage.ledger import Ledger
from semcache_core.types import EMPTY, Generation

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

RETRY_SECONDS = 10.0
"""After a failure. A process that only waits for the owner of the index to end tries each round."""
LOSE_AGAIN_SECONDS = 600.0

# A write of one vector takes Chroma about as long as one of a hundred; fewer are scanned meanwhile.
WORTH_WRITING = 100
COUNT_EVERY = 1000
COUNT_EVERY_ROUNDS = 60


class IndexSync:
    """Indexes the partitions that are too large to scan, in the index that `Ownership` opens.

    One thread at a time calls its methods: the background worker's, or that of a rebuild while
    the worker is paused.

    Any process may write to an index on a server. What it writes about this in the ledger names
    the collection that it wrote to, and is only accepted where the ledger still says what the
    process had read (see `IndexState`). So the ledger never names as indexed what is in a
    collection that was dropped meanwhile, is on another server, or is not there yet.
    """

    def __init__(
        self,
        ledger: Ledger,
        retriever: Retriever,
        scan_limit: int,
        home: EmbeddedIndex | None,
        client: "ClientAPI | None",
    ) -> None:
        self._ledger = ledger
        self._retriever = retriever
        self._fingerprint = retriever.fingerprint
        self._scan_limit = scan_limit
        self._home = home
        self.ownership = Ownership(ledger, retriever, home, client)
        self._state = ledger.index_state(retriever.fingerprint)
        self._filler = Filler(ledger, retriever.fingerprint, retriever.dimension)
        lease = None if client is None else Lease(ledger, "renewal")
        self._compaction = Compaction(self._filler, self._state, retriever, lease)
        self._calls = CallLimits.embedded() if client is None else CallLimits()
        self._index: ChromaIndex | None = None
        self._lost_at: dict[bytes, float] = {}
        self._warned_lost_again = False
        self._problem = ""
        self._retry_at = 0.0
        self._rounds = 0
        self._last_count = -COUNT_EVERY
        self._large: list[bytes] = []

    def step(self, written: int, stopping: threading.Event) -> None:
        """One round: open the index if a partition needs it, add what is new, drop what is gone.

        `written` is how many entries this process has stored so far; partitions are counted again
        now and then as it grows. A failure is logged; later rounds try again.
        """
        try:
            if time.monotonic() >= self._retry_at:
                self._count_large(written)
                with self._handling_failures():
                    self._synchronise(stopping)
        finally:
            self._retriever.index_checked.set()

    def rebuild(self, stopping: threading.Event) -> None:
        """Replace every collection by a new one, filled from the ledger.

        The next step replaces one that turns out to be broken. Raises IndexUnavailableError where
        another process owns the index, or is copying.
        """
        if self.ownership.no_index:
            self._state.forget_all()  # other hosts have a client
            return
        self.ownership.check()
        self._last_count = -COUNT_EVERY
        self._lost_at.clear()
        copied = True
        with self._handling_failures():
            self._recover()
            if self._wanted() and self._open():
                self._catch_up_all(stopping)  # entries with new vectors have no collection yet
                copied = self._compaction.copy_all(self._opened, stopping)
        self._retry_at = 0.0
        if not copied and not stopping.is_set():
            raise IndexUnavailableError(
                "another process is making collections of this index anew; try again later"
            )

    def close(self) -> None:
        """Release the index: an embedded client is closed, the user's own is left open."""
        if self._index is not None:
            with suppress(IndexUnavailableError):
                self._compaction.finish(self._index)
        clean = self._close_index()
        self._remove_dropped_files()
        self.ownership.release(clean)

    def _synchronise(self, stopping: threading.Event) -> None:
        self._recover()
        # an index that is open may have something left to drop
        if (self._index is None and not self._wanted()) or not self._open():
            return
        self._retriever.index_checked.set()  # what follows may take long
        self._catch_up_all(stopping)
        self._remove_deleted()
        if not stopping.is_set():
            self._compaction.step(self._opened)
            self._remove_dropped_files()
        self._problem = ""

    def _count_large(self, written: int) -> None:
        """Count now and then, as this process stores or scans many entries, or others may have."""
        self._rounds += 1
        if (
            written - self._last_count >= COUNT_EVERY
            or self._retriever.count_requested.is_set()
            or self._rounds % COUNT_EVERY_ROUNDS == 0
        ):
            self._last_count = written
            self._retriever.count_requested.clear()
            self._large = self._state.large_partitions(self._scan_limit)

    # -- opened and closed ---------------------------------------------------------------------

    @property
    def _opened(self) -> ChromaIndex:
        if self._index is None:
            raise IndexUnavailableError("the vector index is closed")
        return self._index

    def _open(self) -> bool:
        if self._index is not None:
            return True
        # tried each round: a lock costs nothing, an owner that has died costs time
        if not self.ownership.acquire():
            self.ownership.attach_remote()
            return False
        self.ownership.detach_remote()
        client = self.ownership.client()
        index = self._index = ChromaIndex(
            client, self._ledger.id, self._fingerprint, self._calls, self._check_free
        )
        try:
            self._check_all(index)
            # after the check: what has lost entries is not the live collection any more
            self._compaction.sweep(index)
        except SemcacheError:
            # closed before it is set aside: Chroma hands an open system out again by its path
            self._close_index()
            raise
        self._compaction.dropped = True  # a process may have died before it removed the files
        self._retriever.index = index
        self.ownership.serve()
        return True

    def _close_index(self) -> bool:
        """Whether the index closed without an error, or was not open."""
        self.ownership.stop_serving()
        self.ownership.detach_remote()
        self._compaction.abandon()
        index, self._index = self._index, None
        self._retriever.index = None
        self._retriever.indexed = {}
        if index is None or self.ownership.has_user_client:
            return True
        try:
            index.close()
        except IndexUnavailableError as error:
            log.warning("semcache: %s; it is checked when it is next opened", error)
            return False
        return True

    def _check_free(self, writing: bool) -> None:
        if self._home is not None:
            self._home.check_free(writing)

    def _check_all(self, index: ChromaIndex) -> None:
        """Let lookups use the collections that the ledger names, except those that lost entries."""
        lost = 0
        for partition, live in self._state.all().items():
            if not live.through:
                continue
            if self._filler.is_complete(index, partition, live):
                self._retriever.indexed[partition] = live
            else:
                lost += 1
                self._lose(partition, live)
        if lost:
            log.warning(
                "semcache: the vector index lost entries of %d scopes; they are scanned until it "
                "has them again, there is nothing to do",
                lost,
            )

    # -- kept up to date -----------------------------------------------------------------------

    def _wanted(self) -> dict[bytes, Generation]:
        """The partitions that are to be indexed, and what the ledger says about them."""
        known = self._state.all()
        due = dict.fromkeys(self._large, EMPTY)
        held = {partition: one for partition, one in known.items() if one.through}
        return {partition: known.get(partition, one) for partition, one in (due | held).items()}

    def _catch_up_all(self, stopping: threading.Event) -> None:
        """Bring every partition up to date with the ledger, in the generation that is now live."""
        for partition, live in self._wanted().items():
            try:
                self._verify(partition, live)
                self._catch_up(partition, live, stopping)
            except CollectionGoneError:
                self._lose(partition, live)

    def _verify(self, partition: bytes, live: Generation) -> None:
        """Let lookups query no other collection than the live one, once it is known complete."""
        held = self._retriever.indexed.get(partition)
        if held is not None and not live.through:  # another process found that it lost entries
            self._retriever.indexed.pop(partition, None)
        elif live.through and (held is None or not held.is_same_collection(live)):
            if not self._filler.is_complete(self._opened, partition, live):
                raise CollectionGoneError("it lost entries")
            # where they had none, only when it is complete: see `_catch_up`
            if held is not None:
                self._retriever.indexed[partition] = live

    def _catch_up(self, partition: bytes, live: Generation, stopping: threading.Event) -> None:
        while not stopping.is_set():
            least = WORTH_WRITING if live.through else 1
            more = self._filler.add_batch(self._opened, partition, live, MAX_BATCH, least)
            if more is live:
                # Only now do lookups use it: until a partition is first complete they scan all of
                # it, rather than copy a shrinking rest at every batch.
                if live.through:
                    self._retriever.indexed[partition] = live
                return
            if not self._state.advance(partition, live, more):
                return  # another process was faster, or began anew: look again next time
            live = more

    def _remove_deleted(self) -> None:
        for partition, gone in self._state.take_removed(MAX_BATCH).items():
            if (live := self._retriever.indexed.get(partition)) is not None:
                self._opened.remove(partition, gone, live)

    def _remove_dropped_files(self) -> None:
        if self._compaction.dropped and self._home is not None and self.ownership.writable:
            self._home.remove_dropped()
            self._compaction.dropped = False

    # -- failures ------------------------------------------------------------------------------

    @contextmanager
    def _handling_failures(self) -> Iterator[None]:
        """Decide what a failure means, here alone: an index that does not answer is tried again
        later; one that is broken is closed, and rebuilt. A process that ends decides nothing.
        """
        try:
            yield
        except IndexUnavailableError as error:
            if is_shutting_down():  # the fault is that of an ending process, and of no interest
                self._retry_at = math.inf
            elif isinstance(error, IndexBusyError | IndexStalledError):
                self._wait(str(error))
            else:
                self._abandon(str(error))

    def _recover(self) -> None:
        """Use an index again that a lookup took out of use, or raise where it is broken."""
        if self._index is None:
            return
        if self._home is not None and not self._home.is_intact():
            raise IndexUnavailableError("its files were deleted or replaced")
        if self._retriever.index is not None:
            return
        if isinstance(self._retriever.index_error, IndexStalledError):
            for partition, live in list(self._retriever.indexed.items())[:1]:
                self._index.count(partition, live)  # raises, or it answers
            self._retriever.index = self._index
            return
        raise IndexUnavailableError("a lookup found it broken")

    def _lose(self, partition: bytes, live: Generation) -> None:
        """Begin the index of a partition anew whose collection lacks what the ledger names.

        At most once in LOSE_AGAIN_SECONDS: two processes with a Chroma server each would find that
        the other's entries are missing, and fill their own in turns for ever.
        """
        self._retriever.indexed.pop(partition, None)
        now = time.monotonic()
        if now - self._lost_at.get(partition, -LOSE_AGAIN_SECONDS) >= LOSE_AGAIN_SECONDS:
            if self._state.forget(partition, live):
                self._lost_at[partition] = now
                self._retriever.count_requested.set()  # soon filled anew
        elif not self._warned_lost_again:
            self._warned_lost_again = True
            log.warning(
                "semcache: a collection that another process filled is not in this vector index, "
                "again; give all processes the same Chroma server, or see who deletes there; "
                "meanwhile its scope is scanned"
            )

    def _wait(self, why: str) -> None:
        """Try again later. Lookups go on asking the index: what keeps a write waiting need not
        keep a read, and if it does they scan.
        """
        if why != self._problem:
            self._problem = why
            log.warning(
                "semcache: the vector index does not answer (%s); large scopes are scanned, which "
                "is as right and slower, until it does; see to the Chroma server, or to a program "
                "that keeps the files of the index locked",
                why,
            )
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _abandon(self, why: str) -> None:
        """Close the index; an embedded one is set aside, and built again from the ledger."""
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
            self._state.forget_all()

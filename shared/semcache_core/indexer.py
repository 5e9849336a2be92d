"""Keeps the vector index level with the ledger; the only place that opens it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from filelock import FileLock

from semcache_core.errors import (
    CollectionGoneError,
    IndexBusyError,
    IndexStalledError,
    IndexUnavailableError,
    SemcacheError,
)
from semcache_core.generations import Generation, Generations
from semcache_core.index import (
    MAX_BATCH,
    Calls,
    ChromaIndex,
    IndexHome,
    memory_client,
    usable_here,
)
from semcache_core.ledger import Ledger
from semcache_core.renewal import Renewal
from semcache_core.retrieval import Retrieval

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

RETRY_SECONDS = 10.0
# A write of one vector takes Chroma about as long as one of a hundred; fewer are scanned meanwhile.
WORTH_WRITING = 100
COUNT_EVERY = 1000


class Indexer:
    """Indexes the partitions that are too large to scan.

    Through the user's own `client` (a Chroma server serves many processes); else in `home`, the
    embedded index, which one process owns while the others scan; else in memory. Methods are
    called by one thread at a time: the upkeep's, or `rebuild` while it holds the upkeep's turn.
    """

    def __init__(
        self,
        ledger: Ledger,
        retrieval: Retrieval,
        scan_limit: int,
        home: IndexHome | None,
        client: "ClientAPI | None",
    ) -> None:
        self._ledger = ledger
        self._retrieval = retrieval
        self._fingerprint = retrieval.fingerprint
        self._scan_limit = scan_limit
        self._home = home
        self._client = client
        self._generations = Generations(ledger, retrieval.fingerprint)
        lock = None
        if client is not None and ledger.file is not None:
            lock = FileLock(ledger.file.parent / "renewal.lock", timeout=0, thread_local=False)
        self._renewal = Renewal(ledger, self._generations, retrieval, lock)
        self._calls = Calls()
        self._index: ChromaIndex | None = None
        self._owner = home is None
        self._told = False
        self._problem = ""
        self._retry_at = 0.0
        self._last_count = -COUNT_EVERY
        self._large: list[bytes] = []

    def step(self, written: int, stopping: threading.Event) -> None:
        """One round: open the index if a partition needs it, add what is new, drop what is gone.

        `written` is how many entries this process has stored so far; partitions are counted anew
        now and then as it grows. A failure is logged; later rounds try again.
        """
        if time.monotonic() < self._retry_at:
            return
        if written - self._last_count >= COUNT_EVERY or self._retrieval.found_large.is_set():
            self._last_count = written
            self._retrieval.found_large.clear()
            self._large = self._ledger.large_partitions(self._fingerprint, self._scan_limit)
        with self._surviving():
            self._see_to_lost()
            # an index that is open may have something left to drop
            if (self._index is None and not self._wanted()) or not self._open():
                return
            self._follow(stopping)
            for partition, gone in self._ledger.take_removed(MAX_BATCH).items():
                self._opened.remove(partition, gone)
            if not stopping.is_set():
                self._renewal.step(self._opened)
                self._tidy()
            self._problem = ""

    def check_own(self) -> None:
        """IndexUnavailableError where another process owns the index."""
        if not self._own():
            raise IndexUnavailableError(
                "another process owns the index of this path; rebuild there, or stop it first"
            )

    def renew(self, stopping: threading.Event) -> None:
        """Make every collection anew from the ledger; one that is broken in the next step."""
        self.check_own()
        self._last_count = -COUNT_EVERY
        with self._surviving():
            self._see_to_lost()
            if self._wanted() and self._open():
                self._follow(stopping)  # what was embedded anew is already without a collection
                self._renewal.renew(self._opened, stopping.is_set)
        self._retry_at = 0.0

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except (IndexBusyError, IndexStalledError) as error:
            self._wait(str(error))
        except IndexUnavailableError as error:
            self._abandon(str(error))

    def close(self) -> None:
        """Let go of the index: an owned client is closed, the user's own is left alone."""
        if self._index is not None:
            with suppress(IndexUnavailableError):
                self._renewal.finish(self._index)
        clean = self._close_index()
        self._tidy()
        if self._home is not None and self._owner:
            self._home.release(clean)
            self._owner = False

    @property
    def _opened(self) -> ChromaIndex:
        if self._index is None:
            raise IndexUnavailableError("the vector index is closed")
        return self._index

    def _new_client(self) -> "ClientAPI":
        if self._client is not None:
            return self._client
        return memory_client() if self._home is None else self._home.open()

    def _own(self) -> bool:
        if self._client is None and not usable_here():
            self._tell("this process was forked from one with a vector index open;")
            return False
        if not self._owner and self._home is not None:
            self._owner = self._home.acquire()
            if not self._owner:
                self._tell("another process owns the vector index of this path;")
        return self._owner

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "semcache: %s this one answers by exact keys and scans, which is as right, and "
                "slower in large scopes; a Chroma server (chroma_client=) serves every process",
                why,
            )

    def _open(self) -> bool:
        if self._index is not None:
            return True
        if not self._own():
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        client = self._new_client()
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
            for partition in self._retrieval.indexed:
                self._index.count(partition)  # raises, or it answers
                break
            self._retrieval.index = self._index
            return
        raise IndexUnavailableError("a lookup found it broken")

    def _wanted(self) -> dict[bytes, Generation]:
        """The partitions that are to be indexed, and what the ledger says of them."""
        live = self._generations.all()
        due = dict.fromkeys(self._large, Generation())
        held = {partition: one for partition, one in live.items() if one.through}
        return {partition: live.get(partition, one) for partition, one in (due | held).items()}

    def _check(self, index: ChromaIndex) -> None:
        """Hand lookups what the index holds, and forget what it has lost."""
        lost = 0
        for partition, live in self._generations.all().items():
            index.use(partition, live.number)
            if not live.through:
                continue
            if self._is_whole(index, partition, live):
                self._retrieval.indexed[partition] = live.through
            else:
                lost += 1
                self._generations.forget(partition, live.number)
                index.use(partition, live.number + 1)
        if lost:
            log.warning(
                "semcache: the vector index lost entries of %d scopes; they are scanned until it "
                "has them again, there is nothing to do",
                lost,
            )

    def _is_whole(self, index: ChromaIndex, partition: bytes, live: Generation) -> bool:
        wanted = self._ledger.count_vectors(partition, self._fingerprint, live.through)
        return index.count(partition, live.number) >= wanted

    def _follow(self, stopping: threading.Event) -> None:
        """Bring every partition level with the ledger, in whatever generation is live by now."""
        index = self._opened
        for partition, live in self._wanted().items():
            try:
                if live.through and (
                    live.number != index.generation(partition)
                    or partition not in self._retrieval.indexed
                ):
                    if not self._is_whole(index, partition, live):
                        raise CollectionGoneError("it lost entries")
                    # first the collection, then how far it goes: never the other way round
                    index.use(partition, live.number)
                    self._retrieval.indexed[partition] = live.through
                elif not live.through:
                    self._retrieval.indexed.pop(partition, None)
                    index.use(partition, live.number)
                self._catch_up(partition, live, stopping)
            except CollectionGoneError:
                self._retrieval.indexed.pop(partition, None)
                self._generations.forget(partition, live.number)
                self._retrieval.found_large.set()  # soon filled anew

    def _catch_up(self, partition: bytes, live: Generation, stopping: threading.Event) -> None:
        while not stopping.is_set():
            ids, vectors = self._ledger.vectors_after(
                partition, self._fingerprint, live.through, MAX_BATCH
            )
            if len(ids) < (WORTH_WRITING if live.through else 1):
                # Only now do lookups hear of it: until a partition is first complete they scan
                # all of it, rather than copy a shrinking rest at every batch.
                if live.through:
                    self._retrieval.indexed[partition] = live.through
                return
            self._opened.add(partition, [int(i) for i in ids], vectors)
            # After the vectors: what the ledger does not name as indexed is scanned, so a crash
            # in between costs a second write of the same vectors and never a missed entry.
            more = replace(live, through=int(ids[-1]), added=live.added + len(ids))
            if not self._generations.advance(partition, live, more):
                return  # another process did it, or put a new generation in its place
            live = more

    def _tidy(self) -> None:
        if self._renewal.dropped and self._home is not None and self._owner:
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
        if self._index is not None and self._retrieval.index is not None:
            self._retrieval.lost = IndexStalledError(why)
            self._retrieval.index = None
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
            self._generations.forget()

    def _close_index(self) -> bool:
        """Whether the index was closed without an error (or was not open)."""
        index, self._index = self._index, None
        self._renewal.abandon()
        self._retrieval.index = None
        self._retrieval.indexed = {}
        if index is None or self._client is not None:
            return True
        try:
            index.close()
        except IndexUnavailableError as error:
            log.warning("semcache: %s; it is checked when it is next opened", error)
            return False
        return True

"""Keeps the vector index level with the ledger; the only place that opens it."""

import logging
import threading
import time
from typing import TYPE_CHECKING

from semcache_core.errors import IndexUnavailableError, SemcacheError
from semcache_core.index import MAX_BATCH, ChromaIndex, IndexHome, memory_client, usable_here
from semcache_core.ledger import Ledger
from semcache_core.retrieval import Retrieval

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

RETRY_SECONDS = 10.0
"""After a failure. Whoever only waits for the owner of the index to end asks each round."""

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
        try:
            if self._index is not None and self._retrieval.index is None:
                raise IndexUnavailableError("a lookup found it broken")
            needed = self._large or self._ledger.all_indexed(self._fingerprint)
            if not needed or not self._open():
                return
            # read after opening, which may have found that the index lost some of it
            wanted = dict.fromkeys(self._large, 0) | self._ledger.all_indexed(self._fingerprint)
            for partition, through in wanted.items():
                self._catch_up(partition, through, stopping)
            for partition, gone in self._ledger.take_removed(MAX_BATCH).items():
                self._opened.remove(partition, gone)
            self._problem = ""
        except IndexUnavailableError as error:
            self._abandon(str(error))

    def begin_anew(self) -> None:
        """Throw the index away; the next step builds it from the ledger."""
        if not self._own():
            raise IndexUnavailableError(
                "another process owns the index of this path; rebuild there, or stop it first"
            )
        if self._home is not None:
            self._close_index()
            self._home.set_aside()
        else:
            self._close_index()  # first: lookups must not take an emptied collection for the whole
            index = ChromaIndex(self._new_client(), self._ledger.id, self._fingerprint)
            index.drop_all()
            if self._client is None:
                index.close()
        self._ledger.forget_indexed(self._fingerprint)
        self._last_count = -COUNT_EVERY
        self._retry_at = 0.0

    def close(self) -> None:
        """Let go of the index: an owned client is closed, the user's own is left alone."""
        clean = self._close_index()
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
        if not self._own():  # tried again each round: a lock costs nothing, a dead owner time
            return False
        index = self._index = ChromaIndex(self._new_client(), self._ledger.id, self._fingerprint)
        try:
            self._retrieval.indexed = self._check(index)
        except SemcacheError:
            # closed before it is set aside: Chroma gives an open system out again by its path
            self._close_index()
            raise
        self._retrieval.index = index
        return True

    def _check(self, index: ChromaIndex) -> dict[bytes, int]:
        """What the ledger says the index holds, less what it has lost."""
        indexed = self._ledger.all_indexed(self._fingerprint)
        lost = [
            partition
            for partition, through in indexed.items()
            if index.count(partition)
            < self._ledger.count_vectors(partition, self._fingerprint, through)
        ]
        for partition in lost:
            self._ledger.forget_indexed(self._fingerprint, partition)
            del indexed[partition]
        if lost:
            log.warning(
                "semcache: the vector index lost entries of %d scopes; they are scanned until it "
                "has them again, there is nothing to do",
                len(lost),
            )
        return indexed

    def _catch_up(self, partition: bytes, through: int, stopping: threading.Event) -> None:
        while not stopping.is_set():
            ids, vectors = self._ledger.vectors_after(
                partition, self._fingerprint, through, MAX_BATCH
            )
            if len(ids) < (WORTH_WRITING if through else 1):
                # Only now do lookups hear of it: until a partition is first complete they scan
                # all of it, rather than copy a shrinking rest at every batch.
                if through:
                    self._retrieval.indexed[partition] = through
                return
            self._opened.add(partition, [int(i) for i in ids], vectors)
            # After the vectors: what the ledger does not name as indexed is scanned, so a crash
            # in between costs a second write of the same vectors and never a missed entry.
            through = int(ids[-1])
            self._ledger.set_indexed(partition, self._fingerprint, through)

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
            self._ledger.forget_indexed(self._fingerprint)

    def _close_index(self) -> bool:
        """Whether the index was closed without an error (or was not open)."""
        index, self._index = self._index, None
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

"""Keeps the vector index level with the ledger; the only place that opens it."""

import logging
import threading
import time
from typing import TYPE_CHECKING

from semcache_core.errors import IndexUnavailableError, SemcacheError
from semcache_core.index import MAX_BATCH, ChromaIndex, IndexHome, memory_client, usable_here
from semcache_core.ledger import Ledger, Position
from semcache_core.retrieval import Retrieval
from semcache_core.sharing import IndexServer, RemoteIndex, can_share, name_of
from semcache_core.types import Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

RETRY_SECONDS = 10.0
"""After a failure. Whoever only waits for the owner of the index to end asks each round."""

# A write of one vector takes Chroma about as long as one of a hundred; fewer are scanned meanwhile.
WORTH_WRITING = 100
COUNT_EVERY = 1000
COUNT_EVERY_ROUNDS = 60


class Indexer:
    """Indexes the partitions that are too large to scan.

    Through the user's own `client` (a Chroma server serves many processes); else in `home`, the
    embedded index, which one process owns and the others ask it about; else in memory, where the
    ledger is too. A ledger that other hosts share is scanned without a client: an index in each
    process's memory was rejected, as each would be built for minutes at every start. Methods are
    called by one thread at a time: the upkeep's, or `rebuild` while it holds the upkeep's turn.

    Any process may write to an index on a server. What one says of it in the ledger is about the
    collection that it wrote to, and only goes on from what it had read: so nothing is named as
    indexed that is in a collection dropped meanwhile, on another server, or not there yet.
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
        self._server: IndexServer | None = None
        self._remote: RemoteIndex | None = None
        self._rounds = 0
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
        try:
            self._step(written, stopping)
        finally:
            self._retrieval.settled.set()

    def _step(self, written: int, stopping: threading.Event) -> None:
        if time.monotonic() < self._retry_at:
            return
        self._count_large(written)
        try:
            if self._index is not None and self._retrieval.index is None:
                raise IndexUnavailableError("a lookup found it broken")
            needed = self._large or self._ledger.all_indexed(self._fingerprint)
            if not needed or not self._open():
                return
            self._retrieval.settled.set()  # what follows may take long
            # read after opening, which may have found that the index lost some of it
            positions = self._ledger.all_indexed(self._fingerprint)
            for partition in dict.fromkeys([*self._large, *positions]):
                self._catch_up(partition, positions.get(partition), stopping)
            for partition, gone in self._ledger.take_removed(MAX_BATCH).items():
                self._opened.remove(partition, gone)
            self._problem = ""
        except IndexUnavailableError as error:
            self._abandon(str(error))

    def _count_large(self, written: int) -> None:
        """Now and then, as this process stores or meets many entries, or others may have."""
        self._rounds += 1
        if (
            written - self._last_count >= COUNT_EVERY
            or self._retrieval.found_large.is_set()
            or self._rounds % COUNT_EVERY_ROUNDS == 0
        ):
            self._last_count = written
            self._retrieval.found_large.clear()
            self._large = self._ledger.large_partitions(self._fingerprint, self._scan_limit)

    def begin_anew(self) -> None:
        """Throw the index away; the next step builds it from the ledger."""
        if self._homeless:
            self._ledger.forget_indexed(self._fingerprint)  # vectors change: others have a client
            return
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

    @property
    def _homeless(self) -> bool:
        return self._client is None and self._home is None and self._ledger.shared

    def _own(self) -> bool:
        if self._homeless:
            self._tell_homeless()
            return False
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
                "semcache: %s this one asks the owner about large scopes, and scans those that it "
                "does not hold, which is as right and slower",
                why,
            )

    def _tell_homeless(self) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "semcache: many hosts may share this ledger, so without chroma_client= there is "
                "no vector index: large scopes are scanned, which is as right and slower, and "
                "those that do not fit into scan_memory_mb are answered by exact keys alone"
            )

    def _borrow(self) -> None:
        """Use the index of the process that owns it, as far as that says it holds something."""
        if self._home is None:
            return
        if self._retrieval.index is None:  # a lookup lost it, if it ever was there
            self._give_back()
        if self._remote is None:
            name = name_of(self._ledger.id, self._fingerprint)
            self._remote = RemoteIndex.at(self._home.address_file, name)
        if self._remote is not None:
            try:
                self._retrieval.indexed = self._remote.held()
                self._retrieval.index = self._remote
            except IndexUnavailableError:
                self._give_back()  # it is only just opening, or has just ended

    def _give_back(self) -> None:
        """Stop using another's index."""
        if self._remote is not None:
            self._retrieval.index = None
            self._retrieval.indexed = {}
            self._remote.close()
            self._remote = None

    def _serve(self) -> None:
        """Answer the other processes of this path; without, they scan."""
        if self._home is None or not can_share():
            return
        name = name_of(self._ledger.id, self._fingerprint)
        try:
            self._server = IndexServer(
                self._home.address_file, name, self._nearest, lambda: dict(self._retrieval.indexed)
            )
        except (OSError, IndexUnavailableError) as error:
            log.warning(
                "semcache: other processes cannot ask this one about its vector index (%s), so "
                "they scan, which is as right and slower; see to the directory for temporary files",
                error,
            )

    def _nearest(
        self, partition: bytes, through: int, vector: Vector, k: int
    ) -> list[tuple[int, float]]:
        index, held = self._retrieval.index, self._retrieval.indexed.get(partition, 0)
        if index is None or not held or held < through:
            raise IndexUnavailableError("the vector index does not hold all of this")
        return index.nearest(partition, vector, k)

    def _open(self) -> bool:
        if self._index is not None:
            return True
        if not self._own():  # tried again each round: a lock costs nothing, a dead owner time
            self._borrow()
            return False
        self._give_back()
        index = self._index = ChromaIndex(self._new_client(), self._ledger.id, self._fingerprint)
        try:
            self._retrieval.indexed = self._check(index)
        except SemcacheError:
            # closed before it is set aside: Chroma gives an open system out again by its path
            self._close_index()
            raise
        self._retrieval.index = index
        self._serve()
        return True

    def _check(self, index: ChromaIndex) -> dict[bytes, int]:
        """What the ledger says the index holds, less what it has lost."""
        indexed, lost = dict[bytes, int](), list[bytes]()
        for partition, position in self._ledger.all_indexed(self._fingerprint).items():
            if self._holds(index, partition, position):
                indexed[partition] = position.through
            else:
                lost.append(partition)
        for partition in lost:
            self._ledger.forget_indexed(self._fingerprint, partition)
        if lost:
            log.warning(
                "semcache: the vector index lost entries of %d scopes; they are scanned until it "
                "has them again, there is nothing to do",
                len(lost),
            )
        return indexed

    def _holds(self, index: ChromaIndex, partition: bytes, position: Position) -> bool:
        collection = index.identity(partition)
        wanted = self._ledger.count_vectors(partition, self._fingerprint, position.through)
        if position.collection not in ("", collection) or index.count(partition) < wanted:
            return False
        named = Position(position.through, collection)
        return named == position or self._ledger.set_indexed(
            partition, self._fingerprint, position, named
        )

    def _catch_up(
        self, partition: bytes, position: Position | None, stopping: threading.Event
    ) -> None:
        collection = self._opened.identity(partition)
        if position is None:  # it is new, or somebody found that it lost some
            self._retrieval.indexed.pop(partition, None)
        if position is not None and position.collection == collection:
            through = position.through
        else:  # told of another collection: go on from what is known of this one
            through = self._retrieval.indexed.get(partition, 0)
        while not stopping.is_set():
            ids, vectors = self._ledger.vectors_after(
                partition, self._fingerprint, through, MAX_BATCH, self._retrieval.dimension
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
            now = Position(through, collection)
            if not self._ledger.set_indexed(partition, self._fingerprint, position, now):
                return  # another process was faster, or threw the index away: look anew next time
            position = now

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
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._give_back()
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

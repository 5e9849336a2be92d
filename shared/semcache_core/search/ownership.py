"""Whose the vector index is: this process's, a server's, or another's, which is asked about it."""

import logging
from typing import TYPE_CHECKING

from semcache_core.errors import IndexUnavailableError
from semcache_core.search.chroma import memory_client
from semcache_core.search.embedded import EmbeddedIndex, usable_here
from semcache_core.search.remote import IndexServer, RemoteIndex, can_share, name_of
from semcache_core.search.retriever import Retriever
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Generation, Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")


class Ownership:
    """The index is the user's own `client` (a Chroma server serves many processes); else in `home`,
    embedded, which one process owns and the others ask it about; else in memory, as the ledger is.

    A ledger that other hosts share is scanned without a client: an index in each process's memory
    was rejected, as each would be built for minutes at every start.
    """

    def __init__(
        self,
        ledger: Ledger,
        retrieval: Retriever,
        home: EmbeddedIndex | None,
        client: "ClientAPI | None",
    ) -> None:
        self._retrieval = retrieval
        self._home = home
        self._client = client
        self._name = name_of(ledger.id, retrieval.fingerprint)
        self.homeless = client is None and home is None and ledger.shared
        """Whether there is to be no index at all."""
        self.held = home is None
        """Whether this process may write to it."""
        self._server: IndexServer | None = None
        self._remote: RemoteIndex | None = None
        self._told = False

    @property
    def of_user(self) -> bool:
        """Whether the client is the user's, to close."""
        return self._client is not None

    def take(self) -> bool:
        """Become the owner, if nobody else is; whether this process may write to the index."""
        if self.homeless:
            self._tell_homeless()
            return False
        if self._client is None and not usable_here():
            self._tell("this process was forked from one with a vector index open;")
            return False
        if not self.held and self._home is not None:
            self.held = self._home.acquire()
            if not self.held:
                self._tell("another process owns the vector index of this path;")
        return self.held

    def check(self) -> None:
        """IndexUnavailableError where another process owns the index."""
        if not self.homeless and not self.take():
            raise IndexUnavailableError(
                "another process owns the index of this path; rebuild there, or stop it first"
            )

    def client(self) -> "ClientAPI":
        if self._client is not None:
            return self._client
        return memory_client() if self._home is None else self._home.open()

    def release(self, clean: bool) -> None:
        """Let another own it; `clean` where it was closed without an error."""
        if self._home is not None and self.held:
            self._home.release(clean)
            self.held = False

    # -- the owner is asked by the others ------------------------------------------------------

    def serve(self) -> None:
        """Answer the other processes of this path; without, they scan."""
        if self._home is None or not can_share():
            return
        try:
            address = self._home.address_file
            self._server = IndexServer(address, self._name, self._nearest, self._through)
        except (OSError, IndexUnavailableError) as error:
            log.warning(
                "semcache: other processes cannot ask this one about its vector index (%s), so "
                "they scan, which is as right and slower; see to the directory for temporary files",
                error,
            )

    def stop_serving(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def borrow(self) -> None:
        """Use the index of the process that owns it, as far as that says it holds something."""
        if self._home is None:
            return
        if self._retrieval.index is None:  # a lookup lost it, if it ever was there
            self.give_back()
        if self._remote is None:
            self._remote = RemoteIndex.at(self._home.address_file, self._name)
        if self._remote is not None:
            try:
                held = self._remote.held()
                self._retrieval.indexed = {p: Generation(through=n) for p, n in held.items()}
                self._retrieval.index = self._remote
            except IndexUnavailableError:
                self.give_back()  # it is only just opening, or has just ended

    def give_back(self) -> None:
        """Stop using another's index."""
        if self._remote is not None:
            self._retrieval.index = None
            self._retrieval.indexed = {}
            self._remote.close()
            self._remote = None

    def _nearest(
        self, partition: bytes, through: int, vector: Vector, k: int
    ) -> list[tuple[int, float]]:
        answer = self._retrieval.by_index(partition, vector, k)
        if answer is None or answer[1] < through:
            raise IndexUnavailableError("the vector index does not hold all of this")
        return answer[0]

    def _through(self) -> dict[bytes, int]:
        return {p: live.through for p, live in dict(self._retrieval.indexed).items()}

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

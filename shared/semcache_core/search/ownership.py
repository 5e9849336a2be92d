"""Decides which process has the vector index open, and lets the others query it."""

import logging
from typing import TYPE_CHECKING

from semcache_core.errors import IndexUnavailableError
from semcache_core.search.chroma import local_client
from semcache_core.search.embedded import EmbeddedIndex, usable_here
from semcache_core.search.remote import IndexServer, RemoteIndex, can_share, name_of
from semcache_core.search.retriever import Retriever
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Generation, Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")


class Ownership:
    """The place of the index: a Chroma server, a directory, or memory.

    The user's own `client`, to a server, serves many processes. The embedded index in `home` has
    one owner, which the other processes query. Without either the index is in memory, as the ledger
    is; but a ledger that other hosts share is scanned, since an index in the memory of each process
    would be built for minutes at every start.
    """

    def __init__(
        self,
        ledger: Ledger,
        retriever: Retriever,
        home: EmbeddedIndex | None,
        client: "ClientAPI | None",
    ) -> None:
        self._retriever = retriever
        self._home = home
        self._client = client
        self._name = name_of(ledger.id, retriever.fingerprint)
        self.no_index = client is None and home is None and ledger.shared
        """Whether there is no place for an index."""
        self.writable = home is None
        """Whether this process may write to the index."""
        self._server: IndexServer | None = None
        self._remote: RemoteIndex | None = None
        self._warned = False

    @property
    def has_user_client(self) -> bool:
        """Whether the client is the user's, who closes it."""
        return self._client is not None

    def acquire(self) -> bool:
        """Become the owner if there is no other; whether this process may write to the index."""
        if self.no_index:
            self._warn_no_index()
            return False
        if self._client is None and not usable_here():
            self._warn_not_owner("this process was forked from one with a vector index open;")
            return False
        if not self.writable and self._home is not None:
            self.writable = self._home.acquire()
            if not self.writable:
                self._warn_not_owner("another process owns the vector index of this path;")
        return self.writable

    def check(self) -> None:
        """Raise IndexUnavailableError where another process owns the index."""
        if not self.no_index and not self.acquire():
            raise IndexUnavailableError(
                "another process owns the index of this path; rebuild there, or stop it first"
            )

    def client(self) -> "ClientAPI":
        if self._client is not None:
            return self._client
        return local_client() if self._home is None else self._home.open()

    def release(self, clean: bool) -> None:
        """Let another process become the owner; `clean` if the client closed without an error."""
        if self._home is not None and self.writable:
            self._home.release(clean)
            self.writable = False

    # -- the other processes query the owner ---------------------------------------------------

    def serve(self) -> None:
        """Answer the other processes of this path, which scan otherwise."""
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

    def attach_remote(self) -> None:
        """Use the index of its owner for the partitions that the owner has indexed."""
        if self._home is None:
            return
        if self._retriever.index is None:  # never attached, or a lookup found it broken
            self.detach_remote()
        if self._remote is None:
            self._remote = RemoteIndex.at(self._home.address_file, self._name)
        if self._remote is not None:
            try:
                held = self._remote.held()
                self._retriever.indexed = {p: Generation(through=n) for p, n in held.items()}
                self._retriever.index = self._remote
            except IndexUnavailableError:
                self.detach_remote()  # it is only just opening, or has just ended

    def detach_remote(self) -> None:
        """Stop using the index of another process."""
        if self._remote is not None:
            self._retriever.index = None
            self._retriever.indexed = {}
            self._remote.close()
            self._remote = None

    def _nearest(
        self, partition: bytes, through: int, vector: Vector, k: int
    ) -> list[tuple[int, float]]:
        answer = self._retriever.by_index(partition, vector, k)
        if answer is None or answer[1] < through:
            raise IndexUnavailableError("the vector index does not hold all of this")
        return answer[0]

    def _through(self) -> dict[bytes, int]:
        return {p: live.through for p, live in dict(self._retriever.indexed).items()}

    def _warn_not_owner(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "semcache: %s this one asks the owner about large scopes, and scans those that it "
                "does not hold, which is as right and slower",
                why,
            )

    def _warn_no_index(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "semcache: many hosts may share this ledger, so without chroma_client= there is "
                "no vector index: large scopes are scanned, which is as right and slower, and "
                "those that do not fit into scan_memory_mb are answered by exact keys alone"
            )

"""A ledger on a PostgreSQL server, for many hosts."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from semcache_core.errors import LedgerError
from semcache_core.storage import database
from semcache_core.storage.database import CompiledQueries, Connections, ForkGate
from semcache_core.storage.schema import metadata

try:
    import psycopg
except ImportError as missing:
    raise LedgerError(
        "a ledger on PostgreSQL needs the driver psycopg; "
        "run: pip install 'semcache-core[postgres]'"
    ) from missing

READERS = 8
"""Connections of one process for lookups, and half as many for everything else."""
SECONDS = 5
"""How long the server may take to let a connection in, and for one statement."""
SILENT_SECONDS = 7.0
"""A server that says nothing for so long is given up: longer than it is allowed for a statement."""
SPARED_SECONDS = 10.0
"""For so long no other lookup waits for a server that did not let one in within SECONDS."""
_WRITER = 0x73656D6361636865  # "semcache", the key of the lock that a writer holds
_BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock({_WRITER})"
_ENDED = {"57P01", "57P02"}  # the server shuts down, or one of its processes crashed
_OPTIONS = {
    "statement_timeout": f"{SECONDS}s",
    "lock_timeout": f"{database.BUSY_SECONDS}s",
    # a writer that was stopped in the middle must not keep all others waiting
    "idle_in_transaction_session_timeout": f"{2 * SECONDS}s",
    "default_transaction_isolation": "read\\ committed",
}
# of the network, where a host vanishes without a word
_NETWORK = {
    "connect_timeout": SECONDS,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 1000 * SECONDS,
}

T = TypeVar("T")


class _NotAgain(psycopg.OperationalError):
    """To ask a second time would only take as long once more."""


class _Connection(psycopg.Connection[Any]):
    """Gives up a server that is silent: its own timeouts act only as long as it runs."""

    def wait(self, gen: Any, *given: Any, **options: Any) -> Any:
        try:
            return super().wait(gen, *given, **{"timeout": SILENT_SECONDS, **options})
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # what it may still say belongs to nobody's question
            raise _NotAgain(f"no answer within {SILENT_SECONDS:g} s") from error


class _Readers:
    """Connections for the queries of a lookup, out of no pool of SQLAlchemy's: see SqliteDatabase.

    At most READERS: a server allows a hundred to all processes together.
    """

    def __init__(self, connect: Callable[[], _Connection]) -> None:
        self._turns = threading.BoundedSemaphore(READERS)
        self._connections = Connections(connect, READERS)

    @contextmanager
    def one(self) -> Iterator[_Connection]:
        if not self._turns.acquire(timeout=SECONDS):
            raise _NotAgain(f"{READERS} reads at once took over {SECONDS} s")
        try:
            with self._connections.one() as connection:
                yield connection
        finally:
            self._turns.release()

    def close(self) -> None:
        self._connections.close()


class PostgresDatabase:
    """See `Database`. Reads are one statement each, READ COMMITTED; a write is durable when it
    returns, unless the server was told otherwise (`synchronous_commit`).

    Writers take turns over all hosts, by a lock that they hold from before an id is drawn until
    what they wrote can be seen: a reader that has seen id n will never find a lower one later. One
    lock for the ledger, not one for each partition: evicting and forgetting touch many of them, in
    any order, and would deadlock.
    """

    file: Path | None = None
    shared = True
    displaced = False  # a server's tables stay where they are

    def __init__(self, url: sa.URL) -> None:
        if url.drivername == "postgresql":  # the driver that this means depends on SQLAlchemy
            url = url.set(drivername="postgresql+psycopg")
        if url.get_driver_name() != "psycopg":
            raise database.unsupported(url)
        host = url.host or url.query.get("host") or ""
        self.name = f"postgresql://{host}{f':{url.port}' if url.port else ''}/{url.database or ''}"
        # no turns: while one waits for the network another can ask
        self.turn: AbstractContextManager[object] = nullcontext()
        self._write_lock = threading.Lock()
        self._fork_gate = ForkGate()
        self._spared_until = 0.0
        with self._as_ledger_error():
            self._engine = sa.create_engine(
                url,
                creator=self._connect,
                isolation_level="AUTOCOMMIT",
                use_native_hstore=False,  # else it asks for that type in each new connection
                pool_size=READERS // 2,
                max_overflow=0,
                pool_timeout=SECONDS,
                pool_use_lifo=True,
            )
            self._compiled = CompiledQueries(self._engine.dialect)
            _, given = self._engine.dialect.create_connect_args(url)
            own = " ".join(f"-c {name}={value}" for name, value in _OPTIONS.items())
            options = f"{own} {given.get('options', '')}"  # the user's come last, and win
            self._arguments: dict[str, Any] = {**_NETWORK, **given, "options": options}
            self._readers = _Readers(self._connect)

    def read(self, query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        def once() -> Sequence[Any]:
            with self._engine.connect() as connection:
                return connection.execute(query, parameters).all()

        with self._as_ledger_error(), self._fork_gate:
            return self._again_if_lost(once)

    def read_fast(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
        bare = self._compiled[query]
        values = {**bare.defaults, **parameters}

        def once() -> Sequence[Any]:
            with self._readers.one() as connection:
                return connection.execute(bare.sql, values, binary=True).fetchall()

        with self._as_ledger_error(), self._fork_gate:
            return self._again_if_lost(once)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with (
            self._as_ledger_error(),
            self._fork_gate,
            database.in_turn(self._write_lock, _writes_take_long),
            self._again_if_lost(self._begun) as connection,
        ):
            yield connection
            connection.commit()

    def is_displaced(self) -> bool:
        return False

    def bytes_used(self) -> int:
        """Of the ledger's tables with their indexes; of an index on another server nothing."""
        sizes = (
            sa.func.coalesce(sa.func.pg_total_relation_size(sa.func.to_regclass(name)), 0)
            for name in metadata.tables
        )
        return sum(map(int, self.read(sa.select(*sizes), {})[0]))

    def shrink(self) -> bool:
        return False  # the server's own autovacuum does what can be done without stopping others

    def close(self) -> None:
        self._readers.close()
        self._engine.dispose()

    def before_fork(self) -> None:
        """A child that used a socket of its parent's would take answers meant for the parent; one
        that closed it would say goodbye in its name.
        """
        if self._fork_gate.shut():
            self.close()

    def after_fork(self) -> None:
        self._fork_gate.open()

    def _connect(self) -> _Connection:
        started = time.monotonic()
        if started < self._spared_until:
            raise _NotAgain(f"it did not answer, and is asked again {SPARED_SECONDS:g} s later")
        try:
            return _Connection.connect(**self._arguments, autocommit=True)
        except psycopg.OperationalError as error:
            # one that refuses at once is asked each time: it may be up again the next moment
            if (now := time.monotonic()) - started > 1:
                self._spared_until = now + SPARED_SECONDS
            raise _NotAgain(str(error)) from None

    def _begun(self) -> sa.Connection:
        connection = self._engine.connect()
        driver: Any = connection.connection.driver_connection
        try:
            driver.execute(_BEGIN)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _again_if_lost(self, once: Callable[[], T]) -> T:
        """What `once` gives; asked a second time if its connection had ended, as all do when the
        server is restarted. For what changes nothing.
        """
        try:
            return once()
        except (psycopg.Error, sa.exc.DBAPIError) as error:
            cause = getattr(error, "orig", None) or error
            if not _has_ended(cause):
                raise
            self.close()  # the others have ended with it
            return once()

    @contextmanager
    def _as_ledger_error(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.SQLAlchemyError, psycopg.Error, OSError) as error:
            origin = getattr(error, "orig", None) or error
            # not the details, which may quote a row
            told = origin.diag.message_primary if isinstance(origin, psycopg.Error) else None
            cause = " ".join((told or str(origin)).split())
            raise LedgerError(f"the ledger {self.name} failed: {cause}; {_fix(cause)}") from error


def _writes_take_long() -> _NotAgain:
    return _NotAgain(f"the writes before this one took over {database.BUSY_SECONDS} s")


def _has_ended(error: BaseException) -> bool:
    if isinstance(error, _NotAgain) or not isinstance(error, psycopg.OperationalError):
        return False
    if error.sqlstate is not None:
        return error.sqlstate in _ENDED
    return error.pgconn is None or error.pgconn.status == psycopg.pq.ConnStatus.BAD


def _fix(cause: str) -> str:
    if "lock timeout" in cause or "before this one" in cause:
        return f"other writers held it for over {database.BUSY_SECONDS} s"
    if "permission denied" in cause or "no schema" in cause:
        return "let this role create tables in its schema, or create the ledger as one that may"
    if "statement timeout" in cause:
        return f"a statement may take {SECONDS} s; see what the server is busy with"
    return "see that the server is up, can be reached, and lets this role in"

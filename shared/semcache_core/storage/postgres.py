"""A ledger on a PostgreSQL server, for many hosts."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import sqlalchemy as sa

from semcache_core.errors import LedgerError
from semcache_core.storage import database
from semcache_core.storage.database import CompiledQueries, Connections, Database
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
"""Timeout of a connection, and of one statement."""
SILENT_SECONDS = 7.0
"""A server that is silent for so long is given up."""
SPARED_SECONDS = 10.0
"""After a connection timed out, lookups do not try again for so long."""
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


class _NotAgain(psycopg.OperationalError):
    """An error after which a read is not repeated."""


class _Connection(psycopg.Connection[Any]):
    """Gives up a server that is silent: its own timeouts act only as long as it runs."""

    def wait(self, gen: Any, *given: Any, **options: Any) -> Any:
        try:
            return super().wait(gen, *given, **{"timeout": SILENT_SECONDS, **options})
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()  # what it may still say belongs to nobody's question
            raise _NotAgain(f"no answer within {SILENT_SECONDS:g} s") from error


class _Readers(Connections):
    """At most READERS connections: a server allows a hundred to all processes together."""

    def __init__(self, connect: Callable[[], _Connection]) -> None:
        super().__init__(connect, READERS)
        self._available = threading.BoundedSemaphore(READERS)

    @contextmanager
    def one(self) -> Iterator[_Connection]:
        if not self._available.acquire(timeout=SECONDS):
            raise _NotAgain(f"{READERS} reads at once took over {SECONDS} s")
        try:
            with super().one() as connection:
                yield connection
        finally:
            self._available.release()


class PostgresDatabase(Database):
    """A `Database` on a server. A write is durable when it returns, unless the server's
    `synchronous_commit` says otherwise.

    All writers take one advisory lock before an id is drawn, until what they wrote is visible: a
    reader that has seen id n never finds a lower one later. One lock per partition would deadlock,
    as evictions change many. `shrink` does nothing: autovacuum does.
    """

    shared = True
    _errors = (sa.exc.SQLAlchemyError, psycopg.Error, OSError)
    _fast_options: ClassVar[dict[str, Any]] = {"binary": True}

    def __init__(self, url: sa.URL) -> None:
        if url.drivername == "postgresql":  # the driver that this means depends on SQLAlchemy
            url = url.set(drivername="postgresql+psycopg")
        if url.get_driver_name() != "psycopg":
            raise database.unsupported(url)
        host = url.host or url.query.get("host") or ""
        name = f"postgresql://{host}{f':{url.port}' if url.port else ''}/{url.database or ''}"
        super().__init__(name, f"the ledger {name}")
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

    def bytes_used(self) -> int:
        """Bytes of the tables with their indexes, without a vector index on another server."""
        sizes = (
            sa.func.coalesce(sa.func.pg_total_relation_size(sa.func.to_regclass(name)), 0)
            for name in metadata.tables
        )
        return sum(map(int, self.read(sa.select(*sizes), {})[0]))

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

    def _open_transaction(self) -> sa.Connection:
        connection = self._engine.connect()
        driver: Any = connection.connection.driver_connection
        try:
            driver.execute(_BEGIN)
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        return connection

    def _begin(self) -> sa.Connection:
        return self._again_if_lost(self._open_transaction)

    def _connection_lost(self, error: Exception) -> bool:
        cause = getattr(error, "orig", None) or error
        if isinstance(cause, _NotAgain) or not isinstance(cause, psycopg.OperationalError):
            return False
        if cause.sqlstate is not None:
            return cause.sqlstate in _ENDED
        return cause.pgconn is None or cause.pgconn.status == psycopg.pq.ConnStatus.BAD

    def _ledger_error(self, error: Exception) -> LedgerError:
        origin = getattr(error, "orig", None) or error
        # not the details, which may quote a row
        primary = origin.diag.message_primary if isinstance(origin, psycopg.Error) else None
        cause = " ".join((primary or str(origin)).split())
        return LedgerError(f"{self._where} failed: {cause}; {_fix(cause)}")


def _fix(cause: str) -> str:
    if "lock timeout" in cause:
        return f"other writers held it for over {database.BUSY_SECONDS} s"
    if "permission denied" in cause or "no schema" in cause:
        return "let this role create tables in its schema, or create the ledger as one that may"
    if "statement timeout" in cause:
        return f"a statement may take {SECONDS} s; see what the server is busy with"
    return "see that the server is up, can be reached, and lets this role in"

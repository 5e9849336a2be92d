"""The base class of both databases: reads, writes, connections, forks.

`sqlite` and `postgres` say how a connection is made and what their errors mean.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa

from semcache_core.errors import LedgerError

BUSY_SECONDS = 5
"""How long a write waits for the writes of other threads, and then for those of other processes."""

T = TypeVar("T")


class Database(ABC):
    """Connections to one ledger. Every method raises LedgerError when it fails.

    `name` is the database without a password, `file` its file, if it is one, `where` the subject of
    an error. `shared` says whether other hosts may have it open, `displaced` whether `is_displaced`
    ever returned true.
    """

    file: Path | None = None
    shared = False
    displaced = False
    read_lock: AbstractContextManager[object] = nullcontext()
    """Held around the shortest reads."""

    _errors: ClassVar[tuple[type[Exception], ...]]
    """What the driver, SQLAlchemy and the system raise; `_ledger_error` translates them."""
    _fast_options: ClassVar[dict[str, Any]] = {}
    """Keyword arguments of the driver's `execute`."""

    _engine: sa.Engine
    _compiled: "CompiledQueries"
    _readers: "Connections"

    def __init__(self, name: str, where: str) -> None:
        self.name = name
        self._where = where
        self._write_lock = threading.Lock()
        self._fork_gate = ForkGate()

    def read(self, query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        """The rows of one statement, in SQLAlchemy's types."""

        def once() -> Sequence[Any]:
            with self._engine.connect() as connection:
                return connection.execute(query, parameters).all()

        return self._guarded(once)

    def read_fast(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
        """The rows of one statement in the driver's types, AnyText as bytes.

        Without SQLAlchemy, which took three times as long as SQLite itself.
        """
        compiled = self._compiled[query]
        values = compiled.values(parameters)

        def once() -> Sequence[Any]:
            with self._readers.one() as connection:
                rows = connection.execute(compiled.sql, values, **self._fast_options).fetchall()
            return rows  # type: ignore[no-any-return]

        return self._guarded(once)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction without concurrent writers, durable when the block ends; an error undoes
        it.
        """
        with (
            self._as_ledger_error(),
            self._fork_gate,
            self._write_turn(),
            self._begin() as connection,
        ):
            yield connection
            connection.commit()

    def is_displaced(self) -> bool:
        """Whether another file, or none, is now where this one was opened."""
        return False

    @abstractmethod
    def bytes_used(self) -> int:
        """Bytes of the ledger and of the index beside it; 0 in memory."""

    def shrink(self) -> bool:
        """Return some unused space to the disk; returns whether there is more."""
        return False

    def close(self) -> None:
        self._readers.close()
        self._engine.dispose()

    def before_fork(self) -> None:
        """Close all connections, so that a child inherits none; `after_fork` undoes it."""
        if self._fork_gate.shut():
            self.close()

    def after_fork(self) -> None:
        self._fork_gate.open()

    @abstractmethod
    def _begin(self) -> sa.Connection:
        """A connection in a transaction that no other writer is in."""

    @abstractmethod
    def _ledger_error(self, error: Exception) -> LedgerError:
        """One of `_errors` as an error that says what to do."""

    def _connection_lost(self, error: Exception) -> bool:
        """Whether asking again on a new connection may help."""
        return False

    def _guarded(self, once: Callable[[], T]) -> T:
        try:
            with self._fork_gate:
                return self._again_if_lost(once)
        except self._errors as error:
            raise self._ledger_error(error) from error

    def _again_if_lost(self, once: Callable[[], T]) -> T:
        """The result of `once`, a read; it is repeated if its connection was lost, as when a server
        restarts.
        """
        try:
            return once()
        except self._errors as error:
            if not self._connection_lost(error):
                raise
        self.close()  # the other connections have ended with it
        return once()

    @contextmanager
    def _as_ledger_error(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise self._ledger_error(error) from error

    @contextmanager
    def _write_turn(self) -> Iterator[None]:
        """Threads queue here, up to BUSY_SECONDS: SQLite's own wait sleeps up to 100 ms between
        tries.
        """
        if not self._write_lock.acquire(timeout=BUSY_SECONDS):
            raise LedgerError(
                f"{self._where} is locked: other writes held it for over {BUSY_SECONDS} s; "
                "try again, and see which writer takes so long"
            )
        try:
            yield
        finally:
            self._write_lock.release()


@dataclass(frozen=True)
class CompiledQuery:
    """A query in the SQL of one driver.

    `names` are the parameters in their order, None for a driver that takes them by name; `defaults`
    are the values within the query.
    """

    sql: str
    names: tuple[str, ...] | None
    defaults: dict[str, Any]

    def values(self, parameters: dict[str, Any]) -> "list[Any] | dict[str, Any]":
        values = {**self.defaults, **parameters}
        return values if self.names is None else [values[name] for name in self.names]


class CompiledQueries(dict["sa.Select[Any]", CompiledQuery]):
    """Queries compiled for one dialect at their first use."""

    def __init__(self, dialect: sa.Dialect) -> None:
        super().__init__()
        self._dialect = dialect

    def __missing__(self, query: "sa.Select[Any]") -> CompiledQuery:
        compiled: Any = query.compile(dialect=self._dialect)
        names = tuple(compiled.positiontup or ()) if self._dialect.positional else None
        found = self[query] = CompiledQuery(compiled.string, names, compiled.params)
        return found


class Connections:
    """A pool of the driver's connections for reads, which keeps up to `most` unused ones.

    A connection with an error is closed. No lock, as `pop` and `append` are atomic.
    """

    def __init__(self, connect: Callable[[], Any], most: int) -> None:
        self._connect = connect
        self._most = most
        self._free: list[Any] = []

    def one(self) -> AbstractContextManager[Any]:
        """Lends a connection."""
        return _Lent(self)

    def close(self) -> None:
        """Close the unused ones; the others are closed after their use."""
        free, self._free = self._free, []
        for connection in free:
            connection.close()


class _Lent:
    """One loan. A generator would do, and take a twentieth of the time of an exact hit."""

    __slots__ = ("_connection", "_free", "_pool")

    def __init__(self, pool: Connections) -> None:
        self._pool, self._free = pool, pool._free

    def __enter__(self) -> Any:
        try:
            self._connection = self._free.pop()
        except IndexError:
            self._connection = self._pool._connect()
        return self._connection

    def __exit__(self, kind: object, *_: object) -> None:
        pool, free = self._pool, self._free
        # another list: closed meanwhile
        if kind is None and free is pool._free and len(free) < pool._most:
            free.append(self._connection)
        else:
            self._connection.close()


FORK_WAIT_SECONDS = 10.0


class ForkGate:
    """Entered by every operation on a ledger; a fork shuts it and waits for those inside.

    A child forked in the middle of an operation would inherit SQLite's mutexes and file locks, held
    by a thread that it does not have.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # entered by itself: a Condition's own way is in Python
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._lock:
            while self._shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._shut and not self._inside:
                self._changed.notify_all()

    def shut(self) -> bool:
        """Let no operation in; returns whether all inside left within FORK_WAIT_SECONDS."""
        with self._lock:
            self._shut = True
            return self._changed.wait_for(lambda: not self._inside, FORK_WAIT_SECONDS)

    def open(self) -> None:
        with self._lock:
            self._shut = False
            self._changed.notify_all()


_URLS = "write sqlite:////absolute/file.sqlite3 or postgresql+psycopg://user@host/database"


def parsed_url(url: str) -> sa.URL:
    """`ledger_url` as a URL; LedgerError, without a password in it, for an invalid one."""
    try:
        parsed = sa.make_url(url)
        parsed.render_as_string()  # a URL that cannot be shown is none
        return parsed
    except (sa.exc.ArgumentError, ValueError):
        _, at, after = url.rpartition("@")  # before it there may be a password
        raise LedgerError(
            f"ledger_url {'***@' if at else ''}{after[:60]!a} is not an SQLAlchemy URL; {_URLS}"
        ) from None


def unsupported(url: sa.URL) -> LedgerError:
    """The error for a database that a ledger cannot be in."""
    return LedgerError(
        f"ledger_url begins with {url.drivername}://, which is not supported; {_URLS}"
    )

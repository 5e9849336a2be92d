"""What a ledger needs of a database, whichever it is."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import sqlalchemy as sa

from semcache_core.errors import LedgerError

BUSY_SECONDS = 5
"""How long a write waits for those of other processes."""


class Database(Protocol):
    """Connections to the tables of one ledger. Every method raises LedgerError when it fails.

    `name` says which it is, without a password; `file` is None where it is not a file. `shared`:
    other hosts may have it open. `displaced`: it was found that what was opened is not there any
    more. `turn` is entered around the shortest read.
    """

    @property
    def name(self) -> str: ...

    @property
    def file(self) -> Path | None: ...

    @property
    def shared(self) -> bool: ...

    @property
    def displaced(self) -> bool: ...

    @property
    def turn(self) -> AbstractContextManager[object, bool | None]: ...

    def read(self, query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        """The rows of one statement, in SQLAlchemy's types."""
        ...

    def read_fast(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
        """The same by the driver's own cursor, for the queries of a lookup: what SQLAlchemy does
        around each of them took three times as long as SQLite. Rows are the driver's: text of
        type AnyText comes as bytes.
        """
        ...

    def write(self) -> AbstractContextManager[sa.Connection]:
        """One transaction, alone in the ledger from its first statement until all can see what it
        wrote, and durable when the block ends; an error undoes all of it.
        """
        ...

    def is_displaced(self) -> bool:
        """Whether another file, or none, is now where this one was opened."""
        ...

    def bytes_used(self) -> int:
        """Of the ledger and the index beside it; 0 in memory."""
        ...

    def shrink(self) -> bool:
        """Give a little of the room that nothing needs back to the disk; whether there is more."""
        ...

    def close(self) -> None: ...

    def before_fork(self) -> None:
        """Leave nothing open in a child, until `after_fork` in the parent."""
        ...

    def after_fork(self) -> None: ...


@dataclass(frozen=True)
class CompiledQuery:
    """A query in the driver's own words; `defaults` are the values that are part of the query."""

    sql: str
    names: tuple[str, ...]
    defaults: dict[str, Any]

    @classmethod
    def of(cls, query: "sa.Select[Any]", dialect: sa.Dialect) -> "CompiledQuery":
        compiled: Any = query.compile(dialect=dialect)
        return cls(compiled.string, tuple(compiled.positiontup or ()), compiled.params)

    def row(self, parameters: dict[str, Any]) -> list[Any]:
        """The values in the order of their marks, for a driver that takes them by position."""
        values = {**self.defaults, **parameters}
        return [values[name] for name in self.names]


class CompiledQueries(dict["sa.Select[Any]", CompiledQuery]):
    """Each query in the words of one dialect, compiled when it is first asked for."""

    def __init__(self, dialect: sa.Dialect) -> None:
        super().__init__()
        self._dialect = dialect

    def __missing__(self, query: "sa.Select[Any]") -> CompiledQuery:
        bare = self[query] = CompiledQuery.of(query, self._dialect)
        return bare


@contextmanager
def in_turn(lock: threading.Lock, late: Callable[[], Exception]) -> Iterator[None]:
    """Hold `lock`, for which other threads are waited for no longer than other processes are."""
    if not lock.acquire(timeout=BUSY_SECONDS):
        raise late()
    try:
        yield
    finally:
        lock.release()


def parsed_url(url: str) -> sa.URL:
    """Of `ledger_url`; LedgerError, and no password in it, where that is no URL."""
    try:
        parsed = sa.make_url(url)
        parsed.render_as_string()  # a URL that cannot be shown is none
        return parsed
    except (sa.exc.ArgumentError, ValueError):
        _, at, after = url.rpartition("@")  # before it there may be a password
        raise LedgerError(
            f"ledger_url {'***@' if at else ''}{after[:60]!a} is not an SQLAlchemy URL; write "
            "sqlite:////absolute/file.sqlite3 or postgresql+psycopg://user@host/database"
        ) from None


def unsupported(url: sa.URL) -> LedgerError:
    """The error for a database that no ledger is kept in."""
    return LedgerError(
        f"ledger_url begins with {url.drivername}://, which is not supported; write "
        "sqlite:////absolute/file.sqlite3 or postgresql+psycopg://user@host/database"
    )


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Connections(Generic[C]):
    """As many as are in use at the same time, of which up to `most` are kept.

    One that an error was met on is closed. No lock: to take from a list and to append are atomic.
    """

    def __init__(self, connect: Callable[[], C], most: int) -> None:
        self._connect = connect
        self._most = most
        self._free: list[C] = []

    @contextmanager
    def one(self) -> Iterator[C]:
        free = self._free
        try:
            connection = free.pop()
        except IndexError:
            connection = self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if free is self._free and len(free) < self._most:
            free.append(connection)
        else:  # closed meanwhile
            connection.close()

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they are given back."""
        free, self._free = self._free, []
        for connection in free:
            connection.close()


PATIENCE_SECONDS = 10.0


class ForkGate:
    """Entered by every operation on a ledger; a fork shuts it, and waits for those inside.

    A child made in the middle of an operation inherits SQLite's mutexes and its record of file
    locks as they are at that moment, held for ever by a thread that the child does not have.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def shut(self) -> bool:
        """Let nobody in any more; whether everybody left in time (a fork must not hang)."""
        with self._changed:
            self._shut = True
            return self._changed.wait_for(lambda: not self._inside, PATIENCE_SECONDS)

    def open(self) -> None:
        with self._changed:
            self._shut = False
            self._changed.notify_all()

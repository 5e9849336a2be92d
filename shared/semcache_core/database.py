"""What a ledger needs of a database, whichever it is."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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

    def read_bare(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
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

    def close(self) -> None: ...

    def before_fork(self) -> None:
        """Leave nothing open in a child, until `after_fork` in the parent."""
        ...

    def after_fork(self) -> None: ...


@dataclass(frozen=True)
class Bare:
    """A query in the driver's own words; `defaults` are the values that are part of the query."""

    sql: str
    names: tuple[str, ...]
    defaults: dict[str, Any]

    @classmethod
    def of(cls, query: "sa.Select[Any]", dialect: sa.Dialect) -> "Bare":
        compiled: Any = query.compile(dialect=dialect)
        return cls(compiled.string, tuple(compiled.positiontup or ()), compiled.params)

    def row(self, parameters: dict[str, Any]) -> list[Any]:
        """The values in the order of their marks, for a driver that takes them by position."""
        values = {**self.defaults, **parameters}
        return [values[name] for name in self.names]


class Bares(dict["sa.Select[Any]", Bare]):
    """Each query in the words of one dialect, compiled when it is first asked for."""

    def __init__(self, dialect: sa.Dialect) -> None:
        super().__init__()
        self._dialect = dialect

    def __missing__(self, query: "sa.Select[Any]") -> Bare:
        bare = self[query] = Bare.of(query, self._dialect)
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

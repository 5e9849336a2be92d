"""A ledger in an SQLite file, or in memory."""

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa

from semcache_core.errors import LedgerError
from semcache_core.storage import database
from semcache_core.storage.database import CompiledQueries, Connections, ForkGate
from semcache_core.storage.schema import refuse_unusable

_POOL_SIZE = 8


class SqliteDatabase:
    """See `Database`. Reads need no transaction (each is one statement); writes are durable against
    a killed process when the method returns (WAL, synchronous NORMAL).
    """

    shared = False

    def __init__(self, url: sa.URL, file: Path | None) -> None:
        self.file = file
        self.name = "memory" if file is None else str(file)
        self.displaced = False
        self._identity: tuple[int, int] | None = None
        # One at a time: SQLite takes 6 us for it, in which it lets go of the interpreter's lock.
        # 32 threads that overlapped there found 7,000 a second, taking turns 17,000 (one: 28,000).
        self.turn = threading.Lock()
        self._write_lock = threading.Lock()
        self._fork_gate = ForkGate()
        with _as_ledger_error(file):
            if file is not None:
                _make_private(file)
                refuse_unusable(file)
            self._engine = _engine(url)
            # SQLite would make a file that is not there, and a reader find no tables in it
            sa.event.listen(self._engine, "do_connect", lambda *_: self._check_place())
            self._compiled = CompiledQueries(self._engine.dialect)
            # Not out of SQLAlchemy's pool: to take one from there and give it back takes .015 ms, a
            # query with one of these .003 to .006, and a lookup makes half a dozen.
            self._readers = Connections(self._detached, _POOL_SIZE)
            # held open for the ledger's life: a memory database dies with its last connection
            self._anchor: sa.Connection | None = self._engine.connect()
            if file is not None:
                self._identity = _identity(file)

    @classmethod
    def at(cls, file: Path) -> "SqliteDatabase":
        return cls(sa.URL.create("sqlite", database=str(file)), file)

    @classmethod
    def at_url(cls, url: sa.URL) -> "SqliteDatabase":
        if url.database in (None, "", ":memory:"):
            return cls.in_memory()
        return cls(url, Path(str(url.database)))

    @classmethod
    def in_memory(cls) -> "SqliteDatabase":
        # SQLite's memdb lets several connections share one memory database with file-like locks
        name = f"file:/semcache-{uuid.uuid4().hex}"
        return cls(sa.make_url(f"sqlite:///{name}?vfs=memdb&uri=true"), None)

    def read(self, query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        with (
            _as_ledger_error(self.file),
            self._fork_gate,
            self._engine.connect() as connection,
        ):
            return connection.execute(query, parameters).all()

    def read_fast(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
        bare = self._compiled[query]
        row = bare.row(parameters)
        with _as_ledger_error(self.file), self._fork_gate, self._readers.one() as connection:
            rows: Sequence[Any] = connection.execute(bare.sql, row).fetchall()
            return rows

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        # threads queue here: SQLite's own busy wait sleeps up to 100 ms between tries
        with (
            _as_ledger_error(self.file),
            self._fork_gate,
            self._turn_to_write(),
            self._engine.connect() as connection,
        ):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """No longer than SQLite would wait: behind a lock of another process, each of ten threads
        would else wait for those before it as well.
        """
        with database.in_turn(
            self._write_lock, lambda: sqlite3.OperationalError("database is locked")
        ):
            self._check_place()
            yield

    def _check_place(self) -> None:
        """LedgerError once the file is no longer the one that was opened: what is written to a
        deleted file is gone with the process.
        """
        if self.is_displaced():
            raise LedgerError(
                f"the ledger {self.file} was deleted or replaced while it was open; it is opened "
                "anew, and what the other one held is not served any more"
            )

    def is_displaced(self) -> bool:
        if self.file is not None and self._identity is not None and not self.displaced:
            self.displaced = _identity(self.file) != self._identity
        return self.displaced

    def _detached(self) -> sqlite3.Connection:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        return connection  # type: ignore[no-any-return]

    def bytes_used(self) -> int:
        if self.file is None:
            return 0
        folder, taken = self.file.parent, 0
        for file in (*folder.glob(f"{self.file.name}*"), *folder.glob("chroma/**/*")):
            with suppress(FileNotFoundError):  # SQLite's side files come and go
                taken += file.stat().st_size if file.is_file() else 0
        return taken

    def shrink(self) -> bool:
        """Only where the file was made for it (see `vacuum`)."""
        if self.file is None or wasted(self.read) == 0:
            return False
        with self.write() as connection:
            return step(connection)

    def close(self) -> None:
        if self._anchor is not None:
            self._anchor.close()
        self._readers.close()
        self._engine.dispose()

    def before_fork(self) -> None:
        """A child's connections would count on file locks that only its parent holds: when the
        parent then closes the ledger, SQLite finds itself alone and deletes the log that the child
        writes.
        """
        if self._fork_gate.shut() and self.file is not None:
            self.close()
            self._anchor = None

    def after_fork(self) -> None:
        if self._anchor is None:
            # whoever reads or writes next meets the same error, and reports it
            with suppress(sa.exc.SQLAlchemyError):
                self._anchor = self._engine.connect()
        self._fork_gate.open()


def _engine(url: sa.URL) -> sa.Engine:
    # isolation_level None: the driver begins nothing by itself, so a read is one bare statement
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=_POOL_SIZE,
        max_overflow=-1,
        pool_use_lifo=True,
        connect_args={
            "timeout": database.BUSY_SECONDS,
            "check_same_thread": False,
            "isolation_level": None,
        },
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        allow(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def _make_private(file: Path) -> None:
    """Directory 0700 and file 0600 when they are new: answers are nobody else's to read."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # An existing file must not even be opened: closing any descriptor of a file drops all POSIX
    # locks that this process has on it, also those of another cache's SQLite connections.
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not file.stat().st_size:  # SQLite made it, when the one before was deleted
            file.chmod(0o600)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file it is; None where there is none, or it was emptied: SQLite would wait for locks at
    every statement.
    """
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None


@contextmanager
def _as_ledger_error(file: Path | None) -> Iterator[None]:
    where = "the ledger in memory" if file is None else f"the ledger {file}"
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"{where} cannot be opened: {error.strerror or error}; "
            "pass a path that this user can write, or path=None to keep everything in memory"
        ) from error
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        cause = getattr(error, "orig", None) or error
        raise LedgerError(f"{where} failed: {cause}; {_fix(str(cause))}") from error


def _fix(cause: str) -> str:
    if "not a database" in cause or "malformed" in cause:
        return "move the file away to start anew, or restore it from a backup"
    if "locked" in cause:
        return f"another process held it for over {database.BUSY_SECONDS} s"
    return "see that the directory can be written and the disk is not full"


KEPT_SHARE = 0.25
KEPT_PAGES = 1024
STEP_PAGES = 256
"""A megabyte of pages."""

Read: TypeAlias = Callable[[Any, dict[str, Any]], Sequence[Any]]

_INCREMENTAL = 2


def allow(connection: sqlite3.Connection) -> None:
    """Make an empty file one that can be cut; before anything else is done to it, as even a change
    of `journal_mode` writes to it. Another file stays as it is.
    """
    ((mode,),) = connection.execute("PRAGMA auto_vacuum").fetchall()
    if mode != _INCREMENTAL:  # to say it again would write, each time
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")


def wasted(read: Read) -> int:
    """Free pages beyond those worth keeping for what is stored next; 0 where none can go.

    A quarter of the file is kept, and 4 MiB: a ledger at its limit frees pages and fills them all
    the time.
    """
    ((mode,),) = read(sa.text("PRAGMA auto_vacuum"), {})
    ((free,),) = read(sa.text("PRAGMA freelist_count"), {})
    if mode != _INCREMENTAL or free <= KEPT_PAGES:
        return 0
    ((pages,),) = read(sa.text("PRAGMA page_count"), {})
    return max(0, int(free - max(KEPT_PAGES, KEPT_SHARE * pages)))


def step(connection: sa.Connection) -> bool:
    """Cut STEP_PAGES off the file, at the next checkpoint; whether more can go."""

    def read(query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        return connection.execute(query, parameters).all()

    cursor = connection.connection.cursor()
    for _ in range(min(wasted(read), STEP_PAGES)):
        # One page each: the driver takes one step of a statement that has no columns, and so frees
        # one page of as many as are asked for. Its `executescript` takes all, but commits before.
        cursor.execute("PRAGMA incremental_vacuum(1)")
    cursor.close()
    return wasted(read) > 0

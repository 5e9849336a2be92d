"""A ledger in an SQLite file, or in memory."""

import os
import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa

from semcache_core.errors import LedgerError
from semcache_core.storage import database
from semcache_core.storage.database import CompiledQueries, Connections, Database
from semcache_core.storage.schema import refuse_unusable

KEPT_SHARE = 0.25
KEPT_PAGES = 1024
"""So many free pages, or that share of the file, stay in the file for what is stored next."""
STEP_PAGES = 256
"""A megabyte of pages."""

_POOL_SIZE = 8
_INCREMENTAL = 2

Read: TypeAlias = Callable[[Any, dict[str, Any]], Sequence[Any]]


class SqliteDatabase(Database):
    """A `Database` in a file, or in memory (`file` None).

    A write survives a killed process once the method has returned (WAL, synchronous NORMAL).
    """

    _errors = (OSError, sa.exc.SQLAlchemyError, sqlite3.Error)

    def __init__(self, url: sa.URL, file: Path | None) -> None:
        in_memory = file is None
        super().__init__(
            "memory" if in_memory else str(file),
            "the ledger in memory" if in_memory else f"the ledger {file}",
        )
        self.file = file
        self._identity: tuple[int, int] | None = None
        # One at a time: SQLite takes 6 us and releases the interpreter's lock. 32 threads that
        # overlap there find 7,000 a second, one after the other 17,000 (one thread: 28,000).
        self.read_lock = threading.Lock()
        with self._as_ledger_error():
            if file is not None:
                _make_private(file)
                refuse_unusable(file)
            self._engine = _engine(url)
            # SQLite would create a missing file, and a reader find no tables in it
            sa.event.listen(self._engine, "do_connect", lambda *_: self._check_place())
            self._compiled = CompiledQueries(self._engine.dialect)
            # not from SQLAlchemy's pool, which takes .015 ms each time, a query .003 to .006
            self._readers = Connections(self._detached, _POOL_SIZE)
            # held open for the ledger's life: a memory database dies with its last connection
            self._anchor: sa.Connection | None = self._engine.connect()
            if file is not None:
                self._identity = identity_of(file)

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

    def is_displaced(self) -> bool:
        if self.file is not None and self._identity is not None and not self.displaced:
            self.displaced = identity_of(self.file) != self._identity
        return self.displaced

    def bytes_used(self) -> int:
        if self.file is None:
            return 0
        folder, taken = self.file.parent, 0
        for file in (*folder.glob(f"{self.file.name}*"), *folder.glob("chroma/**/*")):
            with suppress(FileNotFoundError):  # SQLite's side files come and go
                taken += file.stat().st_size if file.is_file() else 0
        return taken

    def shrink(self) -> bool:
        """Cut STEP_PAGES off the file, at the next checkpoint; returns whether more can go.

        Only where the file was created for it (see `_allow_shrinking`).
        """
        if self.file is None or _unneeded_pages(self.read) == 0:
            return False
        with self.write() as connection:

            def read(query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
                return connection.execute(query, parameters).all()

            cursor = connection.connection.cursor()
            for _ in range(min(_unneeded_pages(read), STEP_PAGES)):
                # One page each: the driver steps once, which frees one page however many are asked
                # for. Its `executescript` frees all, but commits before.
                cursor.execute("PRAGMA incremental_vacuum(1)")
            cursor.close()
            return _unneeded_pages(read) > 0

    def close(self) -> None:
        if self._anchor is not None:
            self._anchor.close()
        super().close()

    def before_fork(self) -> None:
        """Close everything: a child's connections would rely on file locks that only its parent
        holds, and SQLite would delete the log that the child writes.
        """
        if self._fork_gate.shut() and self.file is not None:
            self.close()
            self._anchor = None

    def after_fork(self) -> None:
        if self._anchor is None:
            # the next read or write meets the same error, and reports it
            with suppress(sa.exc.SQLAlchemyError):
                self._anchor = self._engine.connect()
        super().after_fork()

    def _begin(self) -> sa.Connection:
        self._check_place()
        connection = self._engine.connect()
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_place(self) -> None:
        """LedgerError if the file was replaced: writes to a deleted file would be lost."""
        if self.is_displaced():
            raise LedgerError(
                f"the ledger {self.file} was deleted or replaced while it was open; it is opened "
                "anew, and what the other one held is not served any more"
            )

    def _detached(self) -> sqlite3.Connection:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        return connection  # type: ignore[no-any-return]

    def _ledger_error(self, error: Exception) -> LedgerError:
        if isinstance(error, OSError):
            return LedgerError(
                f"{self._where} cannot be opened: {error.strerror or error}; pass a path that this "
                "user can write, or path=None to keep everything in memory"
            )
        cause = str(getattr(error, "orig", None) or error)
        return LedgerError(f"{self._where} failed: {cause}; {_fix(cause)}")


def _engine(url: sa.URL) -> sa.Engine:
    # isolation_level None: the driver begins no transaction by itself, so a read is one statement
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
        _allow_shrinking(connection)
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def _use_wal(connection: Any) -> None:
    """Switch the file to write-ahead logging.

    Retries, as SQLite does not wait here when several connections open a new file at once.
    """
    deadline = time.monotonic() + database.BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))  # not in step with the others


def _make_private(file: Path) -> None:
    """Create a missing directory with mode 0700 and a missing file with 0600."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # An existing file is not opened: closing a descriptor drops all POSIX locks of this process on
    # it, also those of another cache's SQLite connections.
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not file.stat().st_size:  # SQLite made it, when the one before was deleted
            file.chmod(0o600)


def identity_of(file: Path) -> tuple[int, int] | None:
    """The file's device and inode; None for a missing or an empty file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None


def _fix(cause: str) -> str:
    if "not a database" in cause or "malformed" in cause:
        return "move the file away to start anew, or restore it from a backup"
    if "locked" in cause:
        return f"another process held it for over {database.BUSY_SECONDS} s"
    return "see that the directory can be written and the disk is not full"


def _allow_shrinking(connection: sqlite3.Connection) -> None:
    """Prepare a new file for `shrink`, before anything is written to it."""
    ((mode,),) = connection.execute("PRAGMA auto_vacuum").fetchall()
    if mode != _INCREMENTAL:  # to set it again would write, each time
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")


def _unneeded_pages(read: Read) -> int:
    """Free pages beyond a quarter of the file and 4 MiB: a ledger at its limit reuses pages."""
    ((mode,),) = read(sa.text("PRAGMA auto_vacuum"), {})
    ((free,),) = read(sa.text("PRAGMA freelist_count"), {})
    if mode != _INCREMENTAL or free <= KEPT_PAGES:
        return 0
    ((pages,),) = read(sa.text("PRAGMA page_count"), {})
    return max(0, int(free - max(KEPT_PAGES, KEPT_SHARE * pages)))

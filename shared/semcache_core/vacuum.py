"""Room that a ledger's file no longer needs, back to the disk in small steps.

SQLite keeps the pages of what was deleted, and fills them again. A file made with incremental
auto-vacuum can be cut by so many pages at a time, each time a short write transaction, which no
reader waits for. VACUUM would do it to any file, but writes all of it anew while nobody else can
write. https://www.sqlite.org/pragma.html#pragma_incremental_vacuum
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa

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

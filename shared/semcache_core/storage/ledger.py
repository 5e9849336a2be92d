"""Opens the ledger, the SQL store of all cache entries, and counts what is in it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from semcache_core.costs import Saved
from semcache_core.errors import LedgerError
from semcache_core.storage import eviction
from semcache_core.storage.database import Database, parsed_url, unsupported
from semcache_core.storage.entries import USAGE, Entries, finite
from semcache_core.storage.eviction import Space
from semcache_core.storage.index_state import IndexState
from semcache_core.storage.lookups import Lookups
from semcache_core.storage.schema import (
    SCHEMA_VERSION,
    TRAFFIC,
    Traffic,
    create_or_migrate,
    entries,
    is_current,
    is_live,
    meta,
    traffic_from,
)
from semcache_core.storage.sqlite import SqliteDatabase

FILE_NAME = "ledger.sqlite3"


class Ledger:
    """The SQL store of all cache entries. Every method raises LedgerError when its database fails.

    `lookups` reads entries, `entries` writes them. A read is one statement; a write is one
    transaction, durable when the method returns. For what its database does alone, see `Database`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name, self.file, self.shared = database.name, database.file, database.shared
        self.is_displaced, self.shrink = database.is_displaced, database.shrink
        self.bytes_on_disk = database.bytes_used
        self.before_fork, self.after_fork = database.before_fork, database.after_fork
        self.lookups = Lookups(database)
        self.entries = Entries(database)
        try:
            if not self._is_current():  # else opening would wait for whoever writes
                with self.write() as connection:
                    create_or_migrate(connection)
            self.id = int(self.read(_LEDGER_ID, {})[0][0])
        except BaseException:
            self.close()  # the last one to close removes SQLite's side files again
            raise

    @classmethod
    def open(cls, directory: Path | None, url: str | None) -> "Ledger":
        """The ledger at `url`, else the file under `directory`, else one in memory."""
        if url is None:
            in_file = directory and SqliteDatabase.at(directory / FILE_NAME)
            return cls(in_file or SqliteDatabase.in_memory())
        parsed = parsed_url(url)
        if (backend := parsed.get_backend_name()) == "postgresql":
            # an extra, and its import takes a while
            from semcache_core.storage.postgres import PostgresDatabase

            return cls(PostgresDatabase(parsed))
        if backend != "sqlite":
            raise unsupported(parsed)
        return cls(SqliteDatabase.at_url(parsed))

    @property
    def displaced(self) -> bool:
        """Whether `is_displaced` ever returned true: then it has to be opened again."""
        return self._database.displaced

    def count(self, namespace: str | None = None, now: float | None = None) -> int:
        """Entries, of one namespace or all; only the live ones when `now` is given."""
        query = sa.select(sa.func.count()).select_from(entries)
        if namespace is not None:
            query = query.where(entries.c.namespace == namespace)
        if now is not None:
            query = query.where(is_live(now))
        return int(self.read(query, {})[0][0])

    def space(self) -> Space:
        """Totals of all entries, live or not."""
        return Space(*self.read(eviction.SPACE, {})[0])

    def hits_ever(self) -> int:
        """Hits of the entries that still exist."""
        query = sa.select(sa.func.coalesce(sa.func.sum(entries.c.hits), 0))
        return int(self.read(query, {})[0][0])

    def traffic(self) -> Traffic:
        """The lookups of all processes since the ledger was made."""
        return traffic_from(self.read(TRAFFIC, {}))

    def saved(self) -> Saved:
        """What the hits of the entries that still exist saved."""
        ((tokens_in, tokens_out, cost, seconds),) = self.read(_SAVED, {})
        return Saved(_whole(tokens_in), _whole(tokens_out), finite(cost), seconds)

    def namespaces(self) -> int:
        query = sa.select(sa.func.count(sa.distinct(entries.c.namespace)))
        return int(self.read(query, {})[0][0])

    def index_state(self, fingerprint: str) -> IndexState:
        return IndexState(self._database, fingerprint)

    def read(self, query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        """The rows of one statement, in SQLAlchemy's types."""
        return self._database.read(query, parameters)

    def read_fast(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
        """The same in the driver's types, faster; see `Database`."""
        return self._database.read_fast(query, parameters)

    def write(self) -> AbstractContextManager[sa.Connection]:
        """One exclusive transaction, durable when the block ends; an error undoes it."""
        return self._database.write()

    def close(self) -> None:
        self._database.close()

    def _is_current(self) -> bool:
        try:
            rows = self.read(SCHEMA_VERSION, {})
        except LedgerError:
            return False  # it is new; or fails again in a moment, and is reported
        return bool(rows) and is_current(rows[0][0])


_SAVED = sa.select(
    # as floats: a `sum` of whole numbers fails where it outgrows them; NULL where none is known
    *(sa.func.sum(sa.cast(entries.c.hits, sa.Float) * column) for column in USAGE)
)
_LEDGER_ID = sa.select(meta.c.value).where(meta.c.name == "ledger_id")


def _whole(total: float | None) -> int | None:
    return None if total is None else int(total)

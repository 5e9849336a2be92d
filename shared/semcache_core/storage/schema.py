"""Tables of the ledger and their versions, and the counts of lookups in one of them."""

import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from semcache_core.errors import LedgerError

metadata = sa.MetaData()


class AnyText(sa.types.TypeDecorator[str]):
    """Text kept as bytes: lone surrogates and NUL survive, which no database's text type allows."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:
        return None if value is None else value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: bytes | None, dialect: Any) -> str | None:
        if value is None:
            return None
        try:
            return text_from(value)
        except ValueError as error:
            raise LedgerError(
                f"a text of the ledger is not as it was written ({error}); forget its entry, and "
                "see who writes to the file"
            ) from None


class joined_hex(sa.sql.functions.GenericFunction[str]):
    """All values of a column of bytes, in hex with commas between; NULL where there are none."""

    inherit_cache = True


@compiles(joined_hex, "sqlite")
def _in_sqlite(element: joined_hex, compiler: Any, **options: Any) -> str:
    return f"group_concat(hex({compiler.process(element.clauses, **options)}))"


@compiles(joined_hex, "postgresql")
def _in_postgres(element: joined_hex, compiler: Any, **options: Any) -> str:
    return f"string_agg(encode({compiler.process(element.clauses, **options)}, 'hex'), ',')"


ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite gives out new ids only of this type, which has 64 bits there."""


def text_from(stored: bytes) -> str:
    """What AnyText stored; ValueError for anything else."""
    if not isinstance(stored, bytes | memoryview):  # of a number, `bytes` would make as many zeros
        raise ValueError(f"it is a {type(stored).__name__} and no text")
    return bytes(stored).decode("utf-8", "surrogatepass")


meta = sa.Table(
    "semcache_meta",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

entries = sa.Table(
    "semcache_entries",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("exact", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("partition", sa.LargeBinary(32), nullable=False),
    sa.Column("namespace", AnyText, nullable=False, index=True),
    sa.Column("scope", AnyText, nullable=False),
    sa.Column("exact_only", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, index=True),
    sa.Column("used", sa.Float, nullable=False, index=True),
    sa.Column("hits", sa.Integer, nullable=False),
    sa.Column("cost", sa.Float),
    sa.Column("question", AnyText, nullable=False),
    sa.Column("response", AnyText, nullable=False),
    # the first entry of this partition with the same answer; NULL: this one stands for itself
    sa.Column("answer", ID, index=True),
    # of the answer's words: equal ones are the same answer whatever the response is wrapped in
    sa.Column("answer_digest", sa.LargeBinary(32)),
    # the beginning of these words, where the response is not itself the text
    sa.Column("answer_text", AnyText),
    # log-odds taken off the entry's probability, from what was judged of it
    sa.Column("doubt", sa.Float, nullable=False, server_default=sa.text("0")),
    sa.Column("writer", AnyText),
    # when it was found to be near to too many questions, and is since served only exactly
    sa.Column("exact_only_since", sa.Float),
    # what the model took to make the answer, where that is known: what a hit saves
    sa.Column("tokens_in", sa.BigInteger),
    sa.Column("tokens_out", sa.BigInteger),
    sa.Column("seconds", sa.Float),
    # what it takes, see `eviction.size_of`
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    # what one use of it counts for, and its place among those that may be evicted
    sa.Column("worth", sa.Float, nullable=False, server_default=sa.text("0")),
    sa.Column("priority", sa.Float, nullable=False, server_default=sa.text("0")),
    # JSON, name -> short digest: what the scope is made of, for `explain`
    sa.Column("parts", AnyText),
    # and `bytes`, so that their sum is read from here: it lies behind the response in its row
    sa.Index("semcache_entries_priority", "priority", "used", "id", "bytes"),
    sqlite_autoincrement=True,
)

# One row: how much all entries are and take, and how they are ranked.
space = sa.Table(
    "semcache_space",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("level", sa.Float, nullable=False),
    sa.Column("ranked_by", sa.String, nullable=False),
)

# What an answer takes to make: of how many it is known, and the sum.
means = sa.Table(
    "semcache_means",
    metadata,
    sa.Column("measure", sa.String, primary_key=True),
    sa.Column("answers", sa.BigInteger, nullable=False),
    sa.Column("total", sa.Float, nullable=False),
)

ENTRY_BYTES = 1024
"""What an entry takes beside its texts and its vector: keys, numbers, and its place in indexes."""

# Apart from the entries, so that counting a hit does not rewrite a vector, and a scan of vectors
# does not read past responses.
vectors = sa.Table(
    "semcache_vectors",
    metadata,
    sa.Column("entry_id", ID, primary_key=True, autoincrement=False),
    sa.Column("partition", sa.LargeBinary(32), nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Index("semcache_vectors_partition", "partition", "fingerprint", "entry_id"),
)

tags = sa.Table(
    "semcache_tags",
    metadata,
    sa.Column("entry_id", ID, primary_key=True, autoincrement=False),
    sa.Column("tag", AnyText, primary_key=True, index=True),
)

# What the vector index holds: see `Generation` ...
indexed = sa.Table(
    "semcache_indexed",
    metadata,
    sa.Column("partition", sa.LargeBinary(32), primary_key=True),
    sa.Column("fingerprint", sa.String, primary_key=True),
    sa.Column("through", ID, nullable=False),
    sa.Column("collection", sa.String, nullable=False, server_default=""),
    sa.Column("generation", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("added", sa.BigInteger, nullable=False, server_default=sa.text("0")),
)

# ... and of these the ones deleted since, for the index's owner to remove.
removed = sa.Table(
    "semcache_removed",
    metadata,
    sa.Column("entry_id", ID, primary_key=True, autoincrement=False),
    sa.Column("partition", sa.LargeBinary(32), nullable=False),
)

# The log of answers served by meaning; `asked_key` is the exact key of the request.
served = sa.Table(
    "semcache_served",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("entry_id", ID, nullable=False, index=True),
    sa.Column("asked", AnyText, nullable=False),
    sa.Column("asked_key", sa.LargeBinary(32), nullable=False, index=True),
    sa.Column("similarity", sa.Float, nullable=False),
    sa.Column("probability", sa.Float, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)

# Labelled pairs for training: they outlive their entry, but not the clearing of their namespace.
judged = sa.Table(
    "semcache_judged",
    metadata,
    sa.Column("id", ID, primary_key=True),
    sa.Column("namespace", AnyText, nullable=False, index=True),
    sa.Column("entry_id", ID, nullable=False, index=True),
    sa.Column("asked", AnyText, nullable=False),
    sa.Column("stored", AnyText, nullable=False),
    sa.Column("similarity", sa.Float, nullable=False),
    sa.Column("probability", sa.Float, nullable=False),
    sa.Column("correct", sa.Boolean, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sqlite_autoincrement=True,
)

# Entries that never answer a request again, because they once answered it wrongly.
quarantined = sa.Table(
    "semcache_quarantined",
    metadata,
    sa.Column("asked_key", sa.LargeBinary(32), primary_key=True),
    sa.Column("entry_id", ID, primary_key=True, autoincrement=False, index=True),
)


NOW: sa.BindParameter[float] = sa.bindparam("now", type_=sa.Float)
IN_PARTITION = sa.and_(
    indexed.c.partition == vectors.c.partition, indexed.c.fingerprint == vectors.c.fingerprint
)
"""Joins a vector with what the index holds of its partition."""


def is_live(now: Any = NOW) -> sa.ColumnElement[bool]:
    """Of an entry, at `now`."""
    return sa.or_(entries.c.expires.is_(None), entries.c.expires > now)


FIRST_VERSION = 5
"""The version of the schema in the first release; older ones were never released."""

Migrations: TypeAlias = Sequence[Callable[[sa.Connection], None]]


def _add_parts(connection: sa.Connection) -> None:
    column = sa.schema.CreateColumn(entries.c.parts).compile(dialect=connection.dialect)
    connection.execute(sa.text(f"ALTER TABLE {entries.name} ADD COLUMN {column}"))


MIGRATIONS: Migrations = (_add_parts,)
"""Number n takes an existing ledger from version FIRST_VERSION + n to the next. All that a ledger
needs run in one transaction. A new ledger is created at the newest version and needs none.
"""

SCHEMA_VERSION = sa.select(meta.c.value).where(meta.c.name == "schema_version")


def is_current(version: int, migrations: Migrations = MIGRATIONS) -> bool:
    """Whether there is nothing to migrate: then opening need not wait for writers."""
    return version == FIRST_VERSION + len(migrations)


def create_or_migrate(connection: sa.Connection, migrations: Migrations = MIGRATIONS) -> None:
    """Create the tables of a new ledger, or bring an existing one to the newest version.

    Raises LedgerError for a ledger that is newer than this program, or older than FIRST_VERSION.
    """
    newest = FIRST_VERSION + len(migrations)
    if not sa.inspect(connection).has_table(meta.name):
        _create(connection, newest)
        return
    version = int(connection.execute(SCHEMA_VERSION).scalar() or 0)
    if version > newest:
        raise LedgerError(
            f"the ledger has schema version {version}, this program knows up to {newest}; "
            "upgrade semcache-core, or use another path"
        )
    if version < FIRST_VERSION:
        raise LedgerError(
            f"the ledger has schema version {version}, which was never released, and this program "
            f"reads versions from {FIRST_VERSION} on; export the entries with the program that "
            "wrote it, or delete the ledger to start anew"
        )
    for step in migrations[version - FIRST_VERSION :]:
        step(connection)
    at_version = sa.update(meta).where(meta.c.name == "schema_version")
    connection.execute(at_version.values(value=newest))


def _create(connection: sa.Connection, version: int) -> None:
    """Create all tables, with the rows that every ledger has."""
    metadata.create_all(connection, checkfirst=False)  # looking for each takes as long again
    # The id names this ledger's collections: two ledgers that share a Chroma server count their
    # entries from 1 each, and must never mistake each other's vectors for their own.
    facts = {"ledger_id": secrets.randbits(63), "schema_version": version}
    connection.execute(sa.insert(meta), [{"name": n, "value": v} for n, v in facts.items()])
    totals = {"id": 1, "entries": 0, "bytes": 0, "level": 0.0, "ranked_by": "lru"}
    connection.execute(sa.insert(space), totals)
    zeros = [{"measure": m, "answers": 0, "total": 0.0} for m in ("cost", "seconds", "tokens")]
    connection.execute(sa.insert(means), zeros)


@dataclass(frozen=True)
class Traffic:
    """How lookups ended, and the `max_error_rate` that they were made with, None if unknown."""

    exact_hits: int = 0
    semantic_hits: int = 0
    misses: int = 0
    max_error_rate: float | None = None

    @property
    def lookups(self) -> int:
        return self.exact_hits + self.semantic_hits + self.misses

    @property
    def hit_rate(self) -> float | None:
        """Share of lookups that were hits; None before the first."""
        return 1 - self.misses / self.lookups if self.lookups else None


NO_TRAFFIC = Traffic()
_COUNTS = ("exact_hits", "semantic_hits", "misses")
_BOUND = "max_error_rate"
_BOUND_UNIT = 1e-12  # the table holds whole numbers
_MOST = 1 << 62
TRAFFIC = sa.select(meta.c.name, meta.c.value).where(meta.c.name.in_((*_COUNTS, _BOUND)))


def traffic_from(rows: Iterable[Any]) -> Traffic:
    """The rows of TRAFFIC; a value that no program of ours wrote counts as none."""
    found = {name: n for name, n in rows if type(n) is int and 0 < n < _MOST}
    counts = {name: found.get(name, 0) for name in _COUNTS}
    bound = round(found.get(_BOUND, 0) * _BOUND_UNIT, 12)
    return Traffic(**counts, max_error_rate=bound if 0 < bound < 1 else None)


def add_traffic(connection: sa.Connection, new: Traffic) -> None:
    """Add the counts to those of the ledger.

    The bound is kept of the app that last served by meaning: another one, such as a store of
    embeddings on the same path, may have any. Until one has served, it is that of the first app.
    """
    before = traffic_from(connection.execute(TRAFFIC))
    after = {name: getattr(before, name) + getattr(new, name) for name in _COUNTS}
    if new.max_error_rate and (new.semantic_hits or before.max_error_rate is None):
        after[_BOUND] = round(new.max_error_rate / _BOUND_UNIT)
    connection.execute(sa.delete(meta).where(meta.c.name.in_(after)))
    connection.execute(sa.insert(meta), [{"name": n, "value": v} for n, v in after.items()])


def refuse_unusable(file: Path) -> None:
    """LedgerError for a file that is not ours, before anything is written to it.

    An empty file is a new ledger. Checked before switching to WAL, which would change the file.
    (Not opened read-only: after a crash SQLite must recover the WAL before it can read.)
    """
    if not file.exists() or (size := file.stat().st_size) == 0:
        return
    if size < 512:  # less than a page: SQLite would take it for an empty database and overwrite it
        raise LedgerError(f"{file} is not a ledger; move it away to start anew")
    try:
        uri = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.OperationalError:  # nothing is wrong with the file: it is locked, or read-only
        raise
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"{file} is not a usable ledger ({error}); move it away to start anew, "
            "or restore it from a backup"
        ) from None
    if names and meta.name not in names:
        raise LedgerError(
            f"{file} is a database of another program (it has {', '.join(sorted(names)[:3])}); "
            "pass another path"
        )

"""The truth: every answer, its vector, expiry and use, in SQLite through SQLAlchemy Core."""

import functools
import math
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from semcache_core.errors import LedgerError
from semcache_core.fork_gate import ForkGate
from semcache_core.prices import Saved
from semcache_core.schema import (
    entries,
    indexed,
    judged,
    meta,
    migrate,
    quarantined,
    refuse_unusable,
    removed,
    served,
    tags,
    text_from,
    vectors,
)
from semcache_core.types import Entry, Matrix, Vector

FILE_NAME = "ledger.sqlite3"
BUSY_SECONDS = 5
_POOL_SIZE = 8
ID_CHUNK = 500
"""Ids in one statement: below SQLite's limit on bound parameters, 999 before 3.32."""


@dataclass(frozen=True)
class NewEntry:
    """What `Ledger.insert` writes. Without a `vector` the entry only matches exactly.

    `answer` is the id of the first entry of this partition with the same answer, None when this
    one is the first; `answer_digest` and `answer_text` (None where the response is that text) are
    what it is told by; `writer` names who stored it. `doubt` and `exact_only_since`: see `Stored`.
    `cost` and the last three fields are what it took to make: see `Usage`.
    """

    exact: bytes
    partition: bytes
    namespace: str
    scope: str
    exact_only: bool
    question: str
    response: str
    created: float
    expires: float | None
    cost: float | None
    tags: tuple[str, ...]
    fingerprint: str
    vector: Vector | None
    writer: str | None = None
    answer: int | None = None
    answer_digest: bytes | None = None
    answer_text: str | None = None
    doubt: float = 0.0
    exact_only_since: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Arrival(NewEntry):
    """An entry from elsewhere, with what was learnt of it there.

    `wrong_for` holds the exact keys of requests that it answered wrongly; `same_as` is the exact
    key and the answer digest of an entry whose answer is the same. Where it is not `dated` nobody
    knows how old its answer is.
    """

    wrong_for: tuple[bytes, ...] = ()
    same_as: tuple[bytes, bytes] | None = None
    dated: bool = True


@dataclass(frozen=True)
class Stored:
    """A live entry as a lookup weighs it. Equal `answer`s are the same answer.

    `doubt` is log-odds taken off its probability, `exact_only` says that it is no longer served by
    meaning, `writer` is who stored it. `known_wrong`: it once answered this very request wrongly.
    """

    id: int
    vector: Vector
    question: str
    answer: int
    answer_digest: bytes | None
    doubt: float
    exact_only: bool
    writer: str | None
    known_wrong: bool


@dataclass(frozen=True)
class _Bare:
    """A query in the driver's own words; `defaults` are the values that are part of the query."""

    sql: str
    names: tuple[str, ...]
    defaults: dict[str, Any]

    @classmethod
    def of(cls, query: "sa.Select[Any]", dialect: sa.Dialect) -> "_Bare":
        compiled: Any = query.compile(dialect=dialect)
        return cls(compiled.string, tuple(compiled.positiontup), compiled.params)

    def row(self, parameters: dict[str, Any]) -> list[Any]:
        values = {**self.defaults, **parameters}
        return [values[name] for name in self.names]


class _Readers:
    """Connections of the driver for the queries of a lookup, as many as read at the same time.

    Not out of SQLAlchemy's pool: to take one from there and give it back takes .015 ms, a query
    with one of these .003 to .006, and a lookup makes half a dozen.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._free: list[sqlite3.Connection] = []

    @contextmanager
    def one(self) -> Iterator[sqlite3.Connection]:
        free = self._free
        try:
            connection = free.pop()  # atomic, as append is: no lock
        except IndexError:
            connection = self._opened()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if free is self._free and len(free) < _POOL_SIZE:
            free.append(connection)
        else:  # closed meanwhile
            connection.close()

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they are given back."""
        free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _opened(self) -> sqlite3.Connection:
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        return connection  # type: ignore[no-any-return]


class Ledger:
    """All reads and writes of one ledger. Every method raises LedgerError when SQLite fails.

    Reads need no transaction (each is one statement); writes are one immediate transaction each,
    durable against a killed process when the method returns (WAL, synchronous NORMAL).
    """

    def __init__(self, url: sa.URL, file: Path | None) -> None:
        self.file = file
        self._find_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._fork_gate = ForkGate()
        self._compiled: dict[sa.Select[Any], _Bare] = {}
        with _as_ledger_error(file):
            if file is not None:
                _make_private(file)
                refuse_unusable(file)
            self._engine = _engine(url)
            self._readers = _Readers(self._engine)
            # held open for the ledger's life: a memory database dies with its last connection
            self._anchor: sa.Connection | None = self._engine.connect()
            try:
                with self.write() as connection:
                    migrate(connection)
                self.id = int(self.read(_LEDGER_ID, {})[0][0])
            except BaseException:
                self.close()  # the last one to close removes SQLite's side files again
                raise

    @classmethod
    def open(cls, directory: Path | None, url: str | None) -> "Ledger":
        """The ledger at `url`, else the file under `directory`, else one in memory."""
        if url is not None:
            parsed, file = _checked_url(url)
            if file is not None:
                return cls(parsed, file)
        elif directory is not None:
            file = directory / FILE_NAME
            return cls(sa.URL.create("sqlite", database=str(file)), file)
        # SQLite's memdb lets several connections share one memory database with file-like locks
        name = f"file:/semcache-{uuid.uuid4().hex}"
        return cls(sa.make_url(f"sqlite:///{name}?vfs=memdb&uri=true"), None)

    # -- reading -------------------------------------------------------------------------------

    def find(self, exact: bytes, now: float) -> Entry | None:
        """The live entry with this exact key."""
        # One at a time: SQLite takes 6 us for it, in which it lets go of the interpreter's lock.
        # 32 threads that overlapped there found 7,000 a second, taking turns 17,000 (one: 28,000).
        with self._find_lock:
            rows = self.read_bare(_FIND, {"exact": exact, "now": now})
        return _entry(rows[0]) if rows else None

    def has_vectors(self, partition: bytes, fingerprint: str, now: float) -> bool:
        """Whether any live entry of this partition can be matched by meaning."""
        found = {"partition": partition, "fingerprint": fingerprint, "now": now}
        return bool(self.read_bare(_HAS_VECTORS, found))

    def vectors_after(
        self, partition: bytes, fingerprint: str, after: int, limit: int = -1
    ) -> tuple[NDArray[np.int64], Matrix]:
        """Ids (ascending) and vectors [n, d] written after entry id `after`, live or not."""
        rows = self.read_bare(
            _VECTORS_AFTER,
            {"partition": partition, "fingerprint": fingerprint, "after": after, "limit": limit},
        )
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.float32)
        return ids, matrix.reshape(len(rows), -1) if rows else matrix.reshape(0, 0)

    def get(self, entry_id: int, partition: bytes, now: float) -> Entry | None:
        """The entry with this id, if it is live and of this partition."""
        rows = self.read_bare(_GET, {"id": entry_id, "partition": partition, "now": now})
        return _entry(rows[0]) if rows else None

    def entries_of(self, namespace: str, partition: bytes, now: float) -> list[Entry]:
        """The live entries of one partition, in the order they were stored."""
        found = {"namespace": namespace, "partition": partition, "now": now}
        return [Entry(*row) for row in self.read(_ENTRIES_OF, found)]

    def live(
        self, ids: Sequence[int], partition: bytes, fingerprint: str, now: float, asked: bytes = b""
    ) -> list[Stored]:
        """The live ones among `ids`; never one of another partition.

        `asked` is the exact key of the request that they may answer.
        """
        found: list[Stored] = []
        of = {"partition": partition, "fingerprint": fingerprint, "now": now, "asked": asked}
        for start in range(0, len(ids), ID_CHUNK):
            chunk = {f"id{n}": int(i) for n, i in enumerate(ids[start : start + ID_CHUNK])}
            for row in self.read_bare(_live(len(chunk)), {**chunk, **of}):
                found.append(_stored(row))
        return found

    def answer_text(self, entry_id: int) -> str | None:
        """The words of the entry's answer, or their beginning; None when it is gone."""
        rows = self.read(_ANSWER_TEXT, {"id": entry_id})
        return rows[0][0] if rows else None

    def writers(self, answers: Sequence[int], partition: bytes) -> dict[int, int]:
        """Answer -> by how many different writers it was stored in this partition."""
        query = (
            sa.select(_ANSWER, sa.func.count(sa.distinct(entries.c.writer)))
            .where(sa.or_(entries.c.answer.in_(answers), entries.c.id.in_(answers)))
            .where(entries.c.partition == partition)
            .group_by(_ANSWER)
        )
        return {int(answer): int(count) for answer, count in self.read(query, {})}

    def count(self, namespace: str | None = None, now: float | None = None) -> int:
        """Entries, of one namespace or all; only the live ones when `now` is given."""
        query = sa.select(sa.func.count()).select_from(entries)
        if namespace is not None:
            query = query.where(entries.c.namespace == namespace)
        if now is not None:
            query = query.where(_is_live(now))
        return int(self.read(query, {})[0][0])

    def hits_ever(self) -> int:
        """Hits written so far, of the entries still here."""
        query = sa.select(sa.func.coalesce(sa.func.sum(entries.c.hits), 0))
        return int(self.read(query, {})[0][0])

    def saved(self) -> Saved:
        """What the hits written so far saved, of the entries still here."""
        ((tokens_in, tokens_out, cost, seconds),) = self.read(_SAVED, {})
        return Saved(_whole(tokens_in), _whole(tokens_out), _finite(cost), seconds)

    def not_indexed(self, fingerprint: str, above: int) -> int:
        """Vectors that the index lacks, of the partitions due for it: those with more than `above`
        vectors, and those that it holds already.
        """
        behind = vectors.c.entry_id > sa.func.coalesce(indexed.c.through, 0)
        counted = (
            sa.select(sa.func.sum(sa.case((behind, 1), else_=0)))
            .select_from(vectors)
            .outerjoin(
                indexed,
                sa.and_(
                    indexed.c.partition == vectors.c.partition,
                    indexed.c.fingerprint == vectors.c.fingerprint,
                ),
            )
            .where(vectors.c.fingerprint == fingerprint)
            .group_by(vectors.c.partition)
            .having(sa.or_(sa.func.count() > above, sa.func.max(indexed.c.through) > 0))
        )
        return sum(int(row[0]) for row in self.read(counted, {}))

    def bytes_on_disk(self) -> int:
        """Of the ledger's files and those of the index beside it; 0 in memory."""
        if self.file is None:
            return 0
        folder, taken = self.file.parent, 0
        for file in (*folder.glob(f"{self.file.name}*"), *folder.glob("chroma/**/*")):
            with suppress(FileNotFoundError):  # SQLite's side files come and go
                taken += file.stat().st_size if file.is_file() else 0
        return taken

    def namespaces(self) -> int:
        query = sa.select(sa.func.count(sa.distinct(entries.c.namespace)))
        return int(self.read(query, {})[0][0])

    def large_partitions(self, fingerprint: str, above: int) -> list[bytes]:
        """Partitions with more than `above` vectors."""
        query = (
            sa.select(vectors.c.partition)
            .where(vectors.c.fingerprint == fingerprint)
            .group_by(vectors.c.partition)
            .having(sa.func.count() > above)
        )
        return [row[0] for row in self.read(query, {})]

    def unembedded(self, fingerprint: str, after: int, limit: int) -> list[tuple[int, str]]:
        """Up to `limit` (id, question) whose vector is missing or of another model."""
        query = (
            sa.select(entries.c.id, entries.c.question)
            .outerjoin(vectors, vectors.c.entry_id == entries.c.id)
            .where(entries.c.id > after, ~entries.c.exact_only)
            .where(vectors.c.fingerprint.is_distinct_from(fingerprint))
            .order_by(entries.c.id)
            .limit(limit)
        )
        return [(row.id, row.question) for row in self.read(query, {})]

    def awaited(self, arrivals: Sequence[Arrival], now: float) -> list[bool]:
        """Of each, whether `insert_newer` would store it if it came by itself."""
        return [
            _is_newer(arrival, self.read_bare(_CREATED, {"exact": arrival.exact, "now": now}))
            for arrival in arrivals
        ]

    # -- writing -------------------------------------------------------------------------------

    def insert(self, new: NewEntry, max_entries: int | None = None) -> int:
        """Store an entry in place of an older one with its exact key; returns its new id.

        Ids only ever grow and are never used twice, so "everything after id n" is complete.
        With `max_entries`, the least recently used entries beyond it are evicted.
        """
        with self.write() as connection:
            if connection.execute(_SAME, {"exact": new.exact}).first() is not None:
                _delete(connection, entries.c.exact == new.exact)
            entry_id = _insert(connection, new)
            if max_entries is not None:
                _evict(connection, max_entries, spare=entry_id)
        return entry_id

    def insert_newer(
        self, arrivals: Sequence[Arrival], now: float, max_entries: int | None = None
    ) -> int:
        """Store all in one transaction, but for those whose request has a live entry as new or
        newer; returns how many. Older ones are replaced.
        """
        stored = 0
        with self.write() as connection:
            for arrival in arrivals:
                same = {"exact": arrival.exact, "now": now}
                if not _is_newer(arrival, connection.execute(_CREATED, same).all()):
                    continue
                if connection.execute(_SAME, same).first() is not None:
                    _delete(connection, entries.c.exact == arrival.exact)
                _insert_arrival(connection, arrival)
                stored += 1
            if max_entries is not None:
                _evict(connection, max_entries)
        return stored

    def replace_vectors(self, rows: Sequence[tuple[int, str, Vector]]) -> None:
        """Give entries (id, fingerprint, vector) a new vector; entries gone since are skipped."""
        with self.write() as connection:
            for entry_id, fingerprint, vector in rows:
                connection.execute(sa.delete(vectors).where(vectors.c.entry_id == entry_id))
                connection.execute(
                    sa.insert(vectors).from_select(
                        ["entry_id", "partition", "fingerprint", "vector"],
                        sa.select(
                            entries.c.id,
                            entries.c.partition,
                            sa.literal(fingerprint),
                            sa.literal(vector.tobytes()),
                        ).where(entries.c.id == entry_id),
                    )
                )
            _forget_indexed(connection, [entry_id for entry_id, _, _ in rows])

    def touch(self, used: dict[int, tuple[int, float]]) -> Saved:
        """Add hits: entry id -> (how many, when last); returns what these saved."""
        if not used:
            return Saved()
        rows = [{"entry": i, "more": n, "at": at} for i, (n, at) in used.items()]
        with self.write() as connection:
            connection.execute(_TOUCH, rows)
            return _saved_by(connection, {i: n for i, (n, _) in used.items()})

    def serve_only_exactly(self, entry_id: int, now: float) -> None:
        """From now on this entry is found by its own question alone."""
        query = sa.update(entries).where(entries.c.id == entry_id).values(exact_only_since=now)
        with self.write() as connection:
            connection.execute(query)

    def delete(self, entry_id: int) -> int:
        """Delete one entry; returns how many went."""
        return self._delete_where(entries.c.id == entry_id)

    def delete_exact(self, exact: bytes, now: float) -> int:
        """Delete the live entry with this exact key; returns how many went, 0 or 1."""
        return self._delete_where(sa.and_(entries.c.exact == exact, _is_live(now)))

    def delete_expired(self, now: float) -> int:
        return self._delete_where(entries.c.expires <= now)

    def clear(self, namespace: str | None = None) -> int:
        """Delete one namespace, or everything; returns how many entries went.

        What was judged goes too: it outlives its entry, but holds what a tenant asked.
        """

        def chosen(column: sa.Column[str]) -> sa.ColumnElement[bool]:
            return sa.true() if namespace is None else column == namespace

        with self.write() as connection:
            connection.execute(sa.delete(judged).where(chosen(judged.c.namespace)))
            return _delete(connection, chosen(entries.c.namespace))

    def invalidate(
        self,
        any_tag: Sequence[str] | None,
        namespace: str | None,
        created_before: float | None,
    ) -> int:
        """Delete the entries that meet every condition given; returns how many went."""
        conditions: list[sa.ColumnElement[bool]] = []
        if namespace is not None:
            conditions.append(entries.c.namespace == namespace)
        if created_before is not None:
            conditions.append(entries.c.created < created_before)
        every = sa.and_(sa.true(), *conditions)
        if any_tag is None:
            return self._delete_where(every)
        with self.write() as connection:  # one transaction, however many tags
            return sum(
                _delete(connection, sa.and_(every, _has_any(any_tag[start : start + ID_CHUNK])))
                for start in range(0, len(any_tag), ID_CHUNK)
            )

    # -- what the index has --------------------------------------------------------------------

    def count_vectors(self, partition: bytes, fingerprint: str, through: int) -> int:
        query = sa.select(sa.func.count()).where(
            vectors.c.partition == partition,
            vectors.c.fingerprint == fingerprint,
            vectors.c.entry_id <= through,
        )
        return int(self.read(query, {})[0][0])

    def take_removed(self, limit: int = 300) -> dict[bytes, list[int]]:
        """Take up to `limit` deleted entries off the list of those still in the index."""
        query = sa.select(removed.c.partition, removed.c.entry_id).limit(limit)
        if not (rows := self.read(query, {})):
            return {}
        with self.write() as connection:
            taken = [row.entry_id for row in rows]
            connection.execute(sa.delete(removed).where(removed.c.entry_id.in_(taken)))
        by_partition: dict[bytes, list[int]] = {}
        for row in rows:
            by_partition.setdefault(row.partition, []).append(row.entry_id)
        return by_partition

    def close(self) -> None:
        if self._anchor is not None:
            self._anchor.close()
        self._readers.close()
        self._engine.dispose()

    def before_fork(self) -> None:
        """Leave nothing of SQLite open in a child, until `after_fork` in the parent.

        A child's connections would count on file locks that only its parent holds: when the parent
        then closes the ledger, SQLite finds itself alone and deletes the log that the child writes.
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

    # -- the two ways in -----------------------------------------------------------------------

    def read(self, query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        """The rows of one statement, in SQLAlchemy's types."""
        with (
            _as_ledger_error(self.file),
            self._fork_gate,
            self._engine.connect() as connection,
        ):
            return connection.execute(query, parameters).all()

    def read_bare(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
        """The same by the driver's own cursor, for the queries of a lookup: what SQLAlchemy does
        around each of them took three times as long as SQLite. Rows are the driver's: text of
        type AnyText comes as bytes.
        """
        bare = self._compiled.get(query)
        if bare is None:
            bare = self._compiled[query] = _Bare.of(query, self._engine.dialect)
        row = bare.row(parameters)
        with _as_ledger_error(self.file), self._fork_gate, self._readers.one() as connection:
            rows: Sequence[Any] = connection.execute(bare.sql, row).fetchall()
            return rows

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One immediate transaction, durable when the block ends; an error undoes all of it."""
        # threads queue here: SQLite's own busy wait sleeps up to 100 ms between tries
        with (
            _as_ledger_error(self.file),
            self._fork_gate,
            self._write_lock,
            self._engine.connect() as connection,
        ):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            connection.commit()

    def _delete_where(self, condition: sa.ColumnElement[bool]) -> int:
        with self.write() as connection:
            return _delete(connection, condition)


def _has_any(some: Sequence[str]) -> sa.ColumnElement[bool]:
    return entries.c.id.in_(sa.select(tags.c.entry_id).where(tags.c.tag.in_(list(some))))


def _is_live(now: Any) -> sa.ColumnElement[bool]:
    return sa.or_(entries.c.expires.is_(None), entries.c.expires > now)


# Built once: SQLAlchemy then finds their compiled form in its cache by identity.
_NOW: sa.BindParameter[float] = sa.bindparam("now", type_=sa.Float)
_ENTRY = (
    entries.c.id,
    entries.c.question,
    entries.c.response,
    entries.c.created,
    entries.c.expires,
)
_USAGE = (entries.c.tokens_in, entries.c.tokens_out, entries.c.cost, entries.c.seconds)
_SAVED = sa.select(
    # `total` is a float: a `sum` of whole numbers fails where it outgrows them
    *(
        sa.case((sa.func.count(column) > 0, sa.func.total(entries.c.hits * column)))
        for column in _USAGE
    )
)
_ANSWER = sa.func.coalesce(entries.c.answer, entries.c.id).label("answer")
_ANSWER_TEXT = sa.select(sa.func.coalesce(entries.c.answer_text, entries.c.response)).where(
    entries.c.id == sa.bindparam("id")
)
_LEDGER_ID = sa.select(meta.c.value).where(meta.c.name == "ledger_id")
_FIND = sa.select(*_ENTRY).where(entries.c.exact == sa.bindparam("exact"), _is_live(_NOW))
_OF_PARTITION = sa.and_(
    vectors.c.partition == sa.bindparam("partition"),
    vectors.c.fingerprint == sa.bindparam("fingerprint"),
)
_SAME = sa.select(entries.c.id).where(entries.c.exact == sa.bindparam("exact"))
_CREATED = sa.select(entries.c.created).where(
    entries.c.exact == sa.bindparam("exact"), _is_live(_NOW)
)
_WITH_ANSWER = sa.select(_ANSWER).where(
    entries.c.exact == sa.bindparam("exact"),
    entries.c.partition == sa.bindparam("partition"),
    entries.c.answer_digest == sa.bindparam("digest"),
)
_GET = sa.select(*_ENTRY).where(
    entries.c.id == sa.bindparam("id"),
    entries.c.partition == sa.bindparam("partition"),
    _is_live(_NOW),
)
# by namespace too, which has an index
_ENTRIES_OF = (
    sa.select(*_ENTRY)
    .where(
        entries.c.namespace == sa.bindparam("namespace"),
        entries.c.partition == sa.bindparam("partition"),
        _is_live(_NOW),
    )
    .order_by(entries.c.id)
)
_HAS_VECTORS = (
    sa.select(sa.literal(1))
    .select_from(vectors.join(entries, entries.c.id == vectors.c.entry_id))
    .where(_OF_PARTITION, _is_live(_NOW))
    .limit(1)
)
_VECTORS_AFTER = (
    sa.select(vectors.c.entry_id, vectors.c.vector)
    .where(_OF_PARTITION, vectors.c.entry_id > sa.bindparam("after"))
    .order_by(vectors.c.entry_id)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_TOUCH = (
    sa.update(entries)
    .where(entries.c.id == sa.bindparam("entry"))
    .values(
        hits=entries.c.hits + sa.bindparam("more"),
        # max: two processes flush in any order, and a clock may be set back
        used=sa.func.max(entries.c.used, sa.bindparam("at")),
    )
)


_KNOWN_WRONG = sa.exists().where(
    quarantined.c.asked_key == sa.bindparam("asked", type_=sa.LargeBinary),
    quarantined.c.entry_id == entries.c.id,
)


@functools.cache
def _live(n: int) -> "sa.Select[Any]":
    """The live ones among n entries; at most ID_CHUNK different statements."""
    return (
        sa.select(
            vectors.c.entry_id,
            vectors.c.vector,
            entries.c.question,
            _ANSWER,
            entries.c.answer_digest,
            entries.c.doubt,
            entries.c.exact_only_since,
            entries.c.writer,
            _KNOWN_WRONG,
        )
        .join(entries, vectors.c.entry_id == entries.c.id)
        .where(entries.c.id.in_([sa.bindparam(f"id{i}") for i in range(n)]))
        .where(_OF_PARTITION, _is_live(_NOW))
    )


def _stored(row: Any) -> Stored:
    entry_id, vector, question, answer, answer_digest, doubt, exact_only_since, writer, wrong = row
    return Stored(
        id=int(entry_id),
        vector=np.frombuffer(vector, dtype=np.float32),
        question=text_from(question),
        answer=int(answer),
        answer_digest=answer_digest,
        doubt=doubt,
        exact_only=exact_only_since is not None,
        writer=None if writer is None else text_from(writer),
        known_wrong=bool(wrong),
    )


def _entry(row: Any) -> Entry:
    entry_id, question, response, created, expires = row
    return Entry(entry_id, text_from(question), text_from(response), created, expires)


def _whole(total: float | None) -> int | None:
    return None if total is None else int(total)


def _finite(total: float | None) -> float | None:
    """Costs were not checked always."""
    return total if total is not None and math.isfinite(total) else None


def _saved_by(connection: sa.Connection, hits: dict[int, int]) -> Saved:
    saved, ids = Saved(), list(hits)
    for start in range(0, len(ids), ID_CHUNK):
        known = sa.or_(*(column.isnot(None) for column in _USAGE))
        query = sa.select(entries.c.id, *_USAGE).where(
            entries.c.id.in_(ids[start : start + ID_CHUNK]), known
        )
        for entry_id, tokens_in, tokens_out, cost, seconds in connection.execute(query):
            one = Saved(tokens_in, tokens_out, _finite(cost), seconds)
            saved = saved.plus(one.times(hits[entry_id]))
    return saved


def _insert(connection: sa.Connection, new: NewEntry) -> int:
    row = {
        "exact": new.exact,
        "partition": new.partition,
        "namespace": new.namespace,
        "scope": new.scope,
        "exact_only": new.exact_only,
        "created": new.created,
        "expires": new.expires,
        "used": new.created,
        "hits": 0,
        "cost": new.cost,
        "question": new.question,
        "response": new.response,
        "answer": new.answer,
        "answer_digest": new.answer_digest,
        "answer_text": new.answer_text,
        "writer": new.writer,
        "doubt": new.doubt,
        "exact_only_since": new.exact_only_since,
        "tokens_in": new.tokens_in,
        "tokens_out": new.tokens_out,
        "seconds": new.seconds,
    }
    key: Any = connection.execute(sa.insert(entries), row).inserted_primary_key
    entry_id = int(key[0])
    if new.vector is not None:
        connection.execute(
            sa.insert(vectors),
            {
                "entry_id": entry_id,
                "partition": new.partition,
                "fingerprint": new.fingerprint,
                "vector": new.vector.astype(np.float32).tobytes(),
            },
        )
    if new.tags:
        rows = [{"entry_id": entry_id, "tag": tag} for tag in dict.fromkeys(new.tags)]
        connection.execute(sa.insert(tags), rows)
    return entry_id


def _is_newer(arrival: Arrival, live: Sequence[Any]) -> bool:
    """Than the live entry with its key, a row of its time of creation, if there is one."""
    return not live or (arrival.dated and arrival.created > live[0][0])


def _insert_arrival(connection: sa.Connection, arrival: Arrival) -> None:
    if arrival.same_as is not None:
        exact, digest = arrival.same_as
        # by its digest too: another answer may be stored there by now
        same = {"exact": exact, "partition": arrival.partition, "digest": digest}
        answer = connection.execute(_WITH_ANSWER, same).scalar()
        arrival = replace(arrival, answer=answer)
    entry_id = _insert(connection, arrival)
    if wrong_for := set(arrival.wrong_for):
        rows = [{"asked_key": key, "entry_id": entry_id} for key in wrong_for]
        connection.execute(sa.insert(quarantined), rows)


def _delete(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> int:
    """Delete entries with all that belongs to them, noting which the index still holds."""
    # Listed once: a condition on tags would find nothing any more once the tags are deleted.
    doomed = connection.execute(sa.select(entries.c.id).where(condition)).scalars().all()
    for start in range(0, len(doomed), ID_CHUNK):
        _delete_ids(connection, doomed[start : start + ID_CHUNK])
    return len(doomed)


def _delete_ids(connection: sa.Connection, doomed: Sequence[int]) -> None:
    in_index = (
        sa.select(vectors.c.partition, vectors.c.entry_id)
        .join(
            indexed,
            sa.and_(
                indexed.c.partition == vectors.c.partition,
                indexed.c.fingerprint == vectors.c.fingerprint,
                indexed.c.through >= vectors.c.entry_id,
            ),
        )
        .where(vectors.c.entry_id.in_(doomed))
    )
    connection.execute(sa.insert(removed).from_select(["partition", "entry_id"], in_index))
    for table in (vectors, tags, served, quarantined):
        connection.execute(sa.delete(table).where(table.c.entry_id.in_(doomed)))
    connection.execute(sa.delete(entries).where(entries.c.id.in_(doomed)))


def _evict(connection: sa.Connection, max_entries: int, spare: int = 0) -> None:
    surplus = connection.execute(sa.select(sa.func.count()).select_from(entries)).scalar_one()
    if (surplus := surplus - max_entries) > 0:
        # the new one is spared: after the clock was set back it looks like the oldest
        oldest = sa.select(entries.c.id).where(entries.c.id != spare)
        oldest = oldest.order_by(entries.c.used, entries.c.id).limit(surplus)
        _delete(connection, entries.c.id.in_(oldest))


def _forget_indexed(connection: sa.Connection, entry_ids: Sequence[int]) -> None:
    """Vectors are new under ids that the index passed already: it begins anew in their partitions.

    In the same transaction, as a crash in between would hide these entries for good.
    """
    for start in range(0, len(entry_ids), ID_CHUNK):
        some = sa.select(vectors.c.partition, vectors.c.fingerprint).where(
            vectors.c.entry_id.in_(entry_ids[start : start + ID_CHUNK])
        )
        connection.execute(
            sa.update(indexed)
            .where(sa.tuple_(indexed.c.partition, indexed.c.fingerprint).in_(some))
            .values(generation=indexed.c.generation + 1, through=0, added=0)
        )


def _engine(url: sa.URL) -> sa.Engine:
    # isolation_level None: the driver begins nothing by itself, so a read is one bare statement
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=_POOL_SIZE,
        max_overflow=-1,
        pool_use_lifo=True,
        connect_args={
            "timeout": BUSY_SECONDS,
            "check_same_thread": False,
            "isolation_level": None,
        },
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def _checked_url(url: str) -> tuple[sa.URL, Path | None]:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise LedgerError(
            f"ledger_url {url!r} is not an SQLAlchemy URL; write sqlite:////absolute/file.sqlite3"
        ) from None
    if parsed.get_backend_name() != "sqlite":
        shown = parsed.render_as_string(hide_password=True)
        raise LedgerError(f"ledger_url {shown} is not SQLite, the one database supported so far")
    in_memory = parsed.database in (None, "", ":memory:")
    return parsed, None if in_memory else Path(str(parsed.database))


def _make_private(file: Path) -> None:
    """Directory 0700 and file 0600 when they are new: answers are nobody else's to read."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # An existing file must not even be opened: closing any descriptor of a file drops all POSIX
    # locks that this process has on it, also those of another cache's SQLite connections.
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


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
        return f"another process held it for over {BUSY_SECONDS} s"
    return "see that the directory can be written and the disk is not full"

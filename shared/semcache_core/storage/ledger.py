"""The truth: every answer, its vector, expiry and use, through SQLAlchemy Core."""

import functools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from semcache_core.costs import Saved
from semcache_core.errors import LedgerError
from semcache_core.storage import eviction
from semcache_core.storage.database import Database, parsed_url, unsupported
from semcache_core.storage.eviction import AT_ONCE, UNLIMITED, Limits, Policy, Space
from semcache_core.storage.index_state import IndexState, reset
from semcache_core.storage.lookups import UNREADABLE, number_from, vector_from, vectors_from
from semcache_core.storage.schema import (
    VERSION,
    entries,
    indexed,
    is_current,
    is_live,
    judged,
    meta,
    migrate,
    quarantined,
    removed,
    served,
    space,
    tags,
    text_from,
    vectors,
)
from semcache_core.storage.sqlite import SqliteDatabase
from semcache_core.types import Entry, Matrix, Reason, Vector

log = logging.getLogger("semcache")

FILE_NAME = "ledger.sqlite3"
ALL = 1 << 62
"""More rows than there are: PostgreSQL refuses a negative limit."""
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
class ImportedEntry(NewEntry):
    """An entry from elsewhere, with what was learnt of it there.

    `wrong_for` holds the exact keys of requests that it answered wrongly; `same_as` is the exact
    key and the answer digest of an entry whose answer is the same. Where it is not `dated` nobody
    knows how old its answer is.
    """

    wrong_for: tuple[bytes, ...] = ()
    same_as: tuple[bytes, bytes] | None = None
    dated: bool = True


@dataclass(frozen=True)
class StoredEntry:
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


class Ledger:
    """All reads and writes of one ledger. Every method raises LedgerError when its database fails.

    Reads are one statement each; writes are one transaction each, durable when the method returns.
    What the database does for that, and how it is opened: see `Database`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._told_unreadable = False
        try:
            if not self._is_current():  # else opening would wait for whoever writes
                with self.write() as connection:
                    migrate(connection)
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
    def name(self) -> str:
        """Which ledger this is: its file or server, without a password."""
        return self._database.name

    @property
    def file(self) -> Path | None:
        """None where it is not a file."""
        return self._database.file

    @property
    def shared(self) -> bool:
        """Whether other hosts may have it open."""
        return self._database.shared

    @property
    def displaced(self) -> bool:
        """Whether it was found displaced: then it has to be opened anew."""
        return self._database.displaced

    def is_displaced(self) -> bool:
        """Whether another file, or none, is now where this ledger was opened."""
        return self._database.is_displaced()

    # -- reading -------------------------------------------------------------------------------

    def find(self, exact: bytes, now: float) -> Entry | None:
        """The live entry with this exact key."""
        with self._database.turn:
            rows = self.read_fast(_FIND, {"exact": exact, "now": now})
        return _entry(rows[0]) if rows else None

    def has_vectors(self, partition: bytes, fingerprint: str, now: float) -> bool:
        """Whether any live entry of this partition can be matched by meaning."""
        found = {"partition": partition, "fingerprint": fingerprint, "now": now}
        return bool(self.read_fast(_HAS_VECTORS, found))

    def vectors_after(
        self,
        partition: bytes,
        fingerprint: str,
        after: int,
        limit: int = ALL,
        dimension: int | None = None,
    ) -> tuple[NDArray[np.int64], Matrix]:
        """Ids (ascending) and vectors [n, d] written after entry id `after`, live or not.

        Zeros stand for what is no unit vector of `dimension` numbers (None: as many as the first).
        """
        rows = self.read_fast(
            _VECTORS_AFTER,
            {"partition": partition, "fingerprint": fingerprint, "after": after, "limit": limit},
        )
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        return ids, vectors_from([row[1] for row in rows], dimension)

    def has_more_vectors(
        self, partition: bytes, fingerprint: str, than: int, after: int = 0
    ) -> bool:
        """Whether this partition has more than so many vectors after entry id `after`, live or
        not.
        """
        found = {"partition": partition, "fingerprint": fingerprint, "than": than, "after": after}
        return bool(self.read_fast(_HAS_MORE_VECTORS, found))

    def get(self, entry_id: int, partition: bytes, now: float) -> Entry | None:
        """The entry with this id, if it is live and of this partition."""
        rows = self.read_fast(_GET, {"id": entry_id, "partition": partition, "now": now})
        return _entry(rows[0]) if rows else None

    def entries_of(self, namespace: str, partition: bytes, now: float) -> list[Entry]:
        """The live entries of one partition, in the order they were stored."""
        found = {"namespace": namespace, "partition": partition, "now": now}
        return [Entry(*row) for row in self.read(_ENTRIES_OF, found)]

    def live(
        self, ids: Sequence[int], partition: bytes, fingerprint: str, now: float, asked: bytes = b""
    ) -> list[StoredEntry]:
        """The live ones among `ids`; never one of another partition, nor one that is not as
        semcache wrote it.

        `asked` is the exact key of the request that they may answer.
        """
        found: list[StoredEntry] = []
        of = {"partition": partition, "fingerprint": fingerprint, "now": now, "asked": asked}
        for start in range(0, len(ids), ID_CHUNK):
            chunk = {f"id{n}": int(i) for n, i in enumerate(ids[start : start + ID_CHUNK])}
            for row in self.read_fast(_live(len(chunk)), {**chunk, **of}):
                try:
                    found.append(_stored(row))
                except UNREADABLE as error:
                    self._pass_over(row[0], error)
        return found

    def _pass_over(self, entry_id: object, error: Exception) -> None:
        if not self._told_unreadable:
            self._told_unreadable = True
            log.warning(
                "semcache: entry %s of the ledger is not as it was written (%s); it is passed "
                "over; forget it, and see who writes to the file",
                entry_id,
                error,
            )

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
            query = query.where(is_live(now))
        return int(self.read(query, {})[0][0])

    def space(self) -> Space:
        """What all entries are and take, of every namespace, live or not."""
        return Space(*self.read(eviction.SPACE, {})[0])

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
        """Of the ledger and the index beside it; 0 in memory."""
        return self._database.bytes_used()

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

    def awaited(self, arrivals: Sequence[ImportedEntry], now: float) -> list[bool]:
        """Of each, whether `insert_newer` would store it if it came by itself."""
        return [
            _is_newer(arrival, self.read_fast(_CREATED, {"exact": arrival.exact, "now": now}))
            for arrival in arrivals
        ]

    # -- writing -------------------------------------------------------------------------------

    def insert(self, new: NewEntry, limits: Limits = UNLIMITED) -> int:
        """Store an entry in place of an older one with its exact key; returns its new id.

        Ids only ever grow and are never used twice, so "everything after id n" is complete.
        Others are evicted for it where the limits ask for that.
        """
        with self.write() as connection:
            _delete_same(connection, new.exact)
            entry_id = _insert(connection, new)
            # the new one is spared: after the clock was set back it looks like the oldest
            gone = _make_room(connection, limits, new.created, entry_id)
        _tell(limits, gone)
        return entry_id

    def insert_newer(
        self, arrivals: Sequence[ImportedEntry], now: float, limits: Limits = UNLIMITED
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
                _delete_same(connection, arrival.exact)
                _insert_arrival(connection, arrival)
                stored += 1
            gone = _make_room(connection, limits, now)
        _tell(limits, gone)
        return stored

    def make_room(self, limits: Limits, now: float) -> int:
        """Evict what is beyond the limits, about AT_ONCE entries at most; returns how many went."""
        if not any(eviction.over(self.space(), limits)):  # then nobody has to wait for a turn
            return 0
        with self.write() as connection:
            gone = _make_room(connection, limits, now)
        _tell(limits, gone)
        return gone.total()

    def recount(self) -> int:
        """Put the totals right, which older versions do not keep; returns of how many entries it
        is not known what they take.
        """
        ((entries_more, bytes_more, unmeasured),) = self.read(eviction.DRIFT, {})
        if entries_more or bytes_more:
            with self.write() as connection:
                eviction.add_totals(connection, int(entries_more), int(bytes_more))
        return int(unmeasured)

    def measure(self, after: int) -> int | None:
        """Note what ID_CHUNK entries after id `after` take of which that is not known; returns the
        last of them, None when it is known of all.
        """
        ids = [row[0] for row in self.read(eviction.UNMEASURED, {"after": after, "most": ID_CHUNK})]
        if ids:
            with self.write() as connection:
                eviction.measure(connection, ids)
        return int(ids[-1]) if len(ids) == ID_CHUNK else None

    def shrink(self) -> bool:
        """Give a little of the room that nothing needs back to the disk; whether there is more."""
        return self._database.shrink()

    def rank(self, policy: Policy, after: int = 0) -> int | None:
        """Rank so many entries after id `after` by a policy new to this ledger; returns the last of
        them, None when all are ranked. "lru" needs no ranks, and leaves those of others alone.
        """
        if policy in ("lru", self.space().ranked_by):
            return None
        with self.write() as connection:
            return eviction.rank(connection, policy, after)

    def replace_vectors(self, rows: Sequence[tuple[int, str, Vector]]) -> None:
        """Give entries (id, fingerprint, vector) a new vector; entries gone since are skipped."""
        with self.write() as connection:
            for entry_id, fingerprint, vector in rows:
                eviction.resized(connection, entry_id, vector.nbytes)
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
            ids = [entry_id for entry_id, _, _ in rows]
            for start in range(0, len(ids), ID_CHUNK):
                reset(connection, ids[start : start + ID_CHUNK])

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
        return self._delete_where(sa.and_(entries.c.exact == exact, is_live(now)))

    def delete_expired(self, now: float) -> int:
        """Delete what has expired, 10 times AT_ONCE at most; returns how many went."""
        return self._delete_where(entries.c.expires <= now, most=10 * AT_ONCE)

    def clear(self, namespace: str | None = None) -> int:
        """Delete one namespace, or everything; returns how many entries went.

        What was judged goes too: it outlives its entry, but holds what a tenant asked.
        """

        def chosen(column: sa.Column[str]) -> sa.ColumnElement[bool]:
            return sa.true() if namespace is None else column == namespace

        with self.write() as connection:
            connection.execute(sa.delete(judged).where(chosen(judged.c.namespace)))
        return self._delete_where(chosen(entries.c.namespace))

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
        return self._delete_where(
            *(
                sa.and_(every, _has_any(any_tag[start : start + ID_CHUNK]))
                for start in range(0, len(any_tag), ID_CHUNK)
            )
        )

    # -- what the index has --------------------------------------------------------------------

    def generations(self, fingerprint: str) -> IndexState:
        """What the index holds of one model's vectors."""
        return IndexState(self._database, fingerprint)

    def count_vectors(self, partition: bytes, fingerprint: str, through: int) -> int:
        query = sa.select(sa.func.count()).where(
            vectors.c.partition == partition,
            vectors.c.fingerprint == fingerprint,
            vectors.c.entry_id <= through,
        )
        return int(self.read(query, {})[0][0])

    def take_removed(self, limit: int = 300) -> dict[bytes, list[int]]:
        """Take up to `limit` deleted entries off the list of those still in the index."""
        query = sa.select(removed.c.partition, removed.c.entry_id)
        query = query.order_by(removed.c.entry_id).limit(limit)
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
        self._database.close()

    def before_fork(self) -> None:
        """Leave nothing open in a child, until `after_fork` in the parent."""
        self._database.before_fork()

    def after_fork(self) -> None:
        self._database.after_fork()

    # -- the two ways in -----------------------------------------------------------------------

    def read(self, query: Any, parameters: dict[str, Any]) -> Sequence[Any]:
        """The rows of one statement, in SQLAlchemy's types."""
        return self._database.read(query, parameters)

    def read_fast(self, query: "sa.Select[Any]", parameters: dict[str, Any]) -> Sequence[Any]:
        """The same for the queries of a lookup, in the driver's types; see `Database`."""
        return self._database.read_fast(query, parameters)

    def write(self) -> AbstractContextManager[sa.Connection]:
        """One transaction, alone in the ledger, durable when the block ends; an error undoes it."""
        return self._database.write()

    def _is_current(self) -> bool:
        """Whether there is nothing to migrate."""
        try:
            rows = self.read(VERSION, {})
        except LedgerError:
            return False  # it is new; or fails again in a moment, and is reported
        return bool(rows) and is_current(rows[0][0])

    def _delete_where(self, *any_of: sa.ColumnElement[bool], most: int = ALL) -> int:
        """Delete what there is now that meets one of the conditions, `most` for each, in as many
        transactions as it takes: one for 100,000 entries would keep other processes from writing
        for many seconds.
        """
        found = [row[0] for each in any_of for row in self.read(_IDS.where(each).limit(most), {})]
        doomed, gone = list(dict.fromkeys(found)), 0
        for start in range(0, len(doomed), AT_ONCE):
            with self.write() as connection:
                for begin in range(start, min(start + AT_ONCE, len(doomed)), ID_CHUNK):
                    gone += _delete_ids(connection, doomed[begin : begin + ID_CHUNK])
        return gone


def _has_any(some: Sequence[str]) -> sa.ColumnElement[bool]:
    return entries.c.id.in_(sa.select(tags.c.entry_id).where(tags.c.tag.in_(list(some))))


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
    # as floats: a `sum` of whole numbers fails where it outgrows them; NULL where none is known
    *(sa.func.sum(sa.cast(entries.c.hits, sa.Float) * column) for column in _USAGE)
)
_ANSWER = sa.func.coalesce(entries.c.answer, entries.c.id).label("answer")
_ANSWER_TEXT = sa.select(sa.func.coalesce(entries.c.answer_text, entries.c.response)).where(
    entries.c.id == sa.bindparam("id")
)
_LEDGER_ID = sa.select(meta.c.value).where(meta.c.name == "ledger_id")
_FIND = sa.select(*_ENTRY).where(entries.c.exact == sa.bindparam("exact"), is_live(_NOW))
_OF_PARTITION = sa.and_(
    vectors.c.partition == sa.bindparam("partition"),
    vectors.c.fingerprint == sa.bindparam("fingerprint"),
)
_IDS = sa.select(entries.c.id)
_SAME = sa.select(entries.c.id).where(entries.c.exact == sa.bindparam("exact"))
_CREATED = sa.select(entries.c.created).where(
    entries.c.exact == sa.bindparam("exact"), is_live(_NOW)
)
_WITH_ANSWER = sa.select(_ANSWER).where(
    entries.c.exact == sa.bindparam("exact"),
    entries.c.partition == sa.bindparam("partition"),
    entries.c.answer_digest == sa.bindparam("digest"),
)
_GET = sa.select(*_ENTRY).where(
    entries.c.id == sa.bindparam("id"),
    entries.c.partition == sa.bindparam("partition"),
    is_live(_NOW),
)
# by namespace too, which has an index
_ENTRIES_OF = (
    sa.select(*_ENTRY)
    .where(
        entries.c.namespace == sa.bindparam("namespace"),
        entries.c.partition == sa.bindparam("partition"),
        is_live(_NOW),
    )
    .order_by(entries.c.id)
)
_HAS_VECTORS = (
    sa.select(sa.literal(1))
    .select_from(vectors.join(entries, entries.c.id == vectors.c.entry_id))
    .where(_OF_PARTITION, is_live(_NOW))
    .limit(1)
)
_VECTORS_AFTER = (
    sa.select(vectors.c.entry_id, vectors.c.vector)
    .where(_OF_PARTITION, vectors.c.entry_id > sa.bindparam("after"))
    .order_by(vectors.c.entry_id)
    .limit(sa.bindparam("limit", type_=sa.BigInteger))
)
# of the index alone, without reading a row: 2 ms for 170,000
_HAS_MORE_VECTORS = (
    sa.select(vectors.c.entry_id)
    .where(_OF_PARTITION, vectors.c.entry_id > sa.bindparam("after"))
    .order_by(vectors.c.entry_id)
    .limit(1)
    .offset(sa.bindparam("than", type_=sa.BigInteger))
)
_AT: sa.BindParameter[float] = sa.bindparam("at", type_=sa.Float)
_TOUCH = (
    sa.update(entries)
    .where(entries.c.id == sa.bindparam("entry"))
    .values(
        hits=entries.c.hits + sa.bindparam("more"),
        # the later one: two processes flush in any order, and a clock may be set back
        used=sa.case((entries.c.used < _AT, _AT), else_=entries.c.used),
        priority=sa.select(space.c.level).scalar_subquery()
        + (entries.c.hits + sa.bindparam("more") + 1) * entries.c.worth,
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
        .where(vectors.c.entry_id.in_([sa.bindparam(f"id{i}") for i in range(n)]))
        # By the entries' partition: a vector that lies in another's would be weighed, and never
        # found. And by that alone, which no index has: by that of the vectors PostgreSQL would read
        # all of the partition until it knows how many rows there are, 20 ms for 10,000.
        .where(entries.c.partition == sa.bindparam("partition"))
        .where(vectors.c.fingerprint == sa.bindparam("fingerprint"), is_live(_NOW))
    )


def _stored(row: Any) -> StoredEntry:
    entry_id, vector, question, answer, answer_digest, doubt, exact_only_since, writer, wrong = row
    return StoredEntry(
        id=int(entry_id),
        vector=vector_from(vector),
        question=text_from(question),
        answer=int(answer),
        answer_digest=answer_digest,
        # 0 or more as it was written: less would make up for what the vector lacks
        doubt=max(0.0, number_from(doubt)),
        exact_only=exact_only_since is not None,
        writer=None if writer is None else text_from(writer),
        known_wrong=bool(wrong),
    )


def _entry(row: Any) -> Entry:
    entry_id, question, response, created, expires = row
    try:
        ends = None if expires is None else number_from(expires)
        return Entry(entry_id, text_from(question), text_from(response), number_from(created), ends)
    except UNREADABLE as error:
        raise LedgerError(
            f"entry {entry_id} of the ledger is not as it was written ({error}); forget it, and "
            "see who writes to the file"
        ) from None


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


def size_of(new: NewEntry) -> int:
    """What the entry will take, in bytes: what `max_bytes` counts."""
    texts = (new.question, new.response, new.answer_text, new.scope, new.namespace, new.writer)
    vector = 0 if new.vector is None else new.vector.size * np.dtype(np.float32).itemsize
    return eviction.size_of((*texts, *dict.fromkeys(new.tags)), vector)


def _insert(connection: sa.Connection, new: NewEntry) -> int:
    size, present = size_of(new), eviction.space_of(connection)
    tokens = eviction.tokens_of(new.tokens_in, new.tokens_out)
    worth = eviction.worth(connection, present.ranked_by, size, new.cost, new.seconds, tokens)
    eviction.add_totals(connection, 1, size)
    row = {
        "bytes": size,
        "worth": worth,
        "priority": present.level + worth,
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


def _is_newer(arrival: ImportedEntry, live: Sequence[Any]) -> bool:
    """Than the live entry with its key, a row of its time of creation, if there is one."""
    return not live or (arrival.dated and arrival.created > live[0][0])


def _insert_arrival(connection: sa.Connection, arrival: ImportedEntry) -> None:
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


def _delete_same(connection: sa.Connection, exact: bytes) -> None:
    """Delete the entry with this exact key, if there is one."""
    if (entry_id := connection.execute(_SAME, {"exact": exact}).scalar()) is not None:
        _delete_ids(connection, [entry_id])


def _delete_ids(connection: sa.Connection, doomed: Sequence[int]) -> int:
    """Delete entries with all that belongs to them, noting which the index still holds; returns how
    many of them there were. At most ID_CHUNK.
    """
    chosen = {"doomed": list(doomed)}
    gone = eviction.subtract_totals(connection, doomed)
    connection.execute(_NOTE_REMOVED, chosen)
    for statement in _DELETE_DOOMED:
        connection.execute(statement, chosen)
    return gone


# Built once, as an update at its limit deletes each time: building them took longer than SQLite.
_DOOMED: sa.BindParameter[Sequence[int]] = sa.bindparam("doomed", expanding=True)
_NOTE_REMOVED = sa.insert(removed).from_select(
    ["partition", "entry_id"],
    sa.select(vectors.c.partition, vectors.c.entry_id)
    .join(
        indexed,
        sa.and_(
            indexed.c.partition == vectors.c.partition,
            indexed.c.fingerprint == vectors.c.fingerprint,
            indexed.c.through >= vectors.c.entry_id,
        ),
    )
    .where(vectors.c.entry_id.in_(_DOOMED)),
)
_DELETE_DOOMED = (
    *(
        sa.delete(table).where(table.c.entry_id.in_(_DOOMED))
        for table in (vectors, tags, served, quarantined)
    ),
    sa.delete(entries).where(entries.c.id.in_(_DOOMED)),
)


def _make_room(
    connection: sa.Connection, limits: Limits, now: float, spare: int = 0
) -> Counter[Reason]:
    return eviction.make_room(connection, limits, now, _delete_ids, spare)


def _tell(limits: Limits, gone: Counter[Reason]) -> None:
    for reason, count in gone.items():
        limits.tell(reason, count)

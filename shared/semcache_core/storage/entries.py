"""Inserts, updates and deletes entries, each in one transaction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import sqlalchemy as sa

from semcache_core.costs import Saved
from semcache_core.storage import eviction
from semcache_core.storage.database import Database
from semcache_core.storage.eviction import AT_ONCE, UNLIMITED, Limits, Policy
from semcache_core.storage.index_state import reset
from semcache_core.storage.lookups import ALL, ANSWER, ID_CHUNK
from semcache_core.storage.schema import (
    IN_PARTITION,
    NO_TRAFFIC,
    Traffic,
    add_traffic,
    entries,
    indexed,
    is_live,
    judged,
    quarantined,
    removed,
    served,
    space,
    tags,
    vectors,
)
from semcache_core.types import Vector

Kind: TypeAlias = Literal["by meaning", "exact only", "hub"]
"""How an entry is found. A hub was near to too many questions, and is since found exactly."""


@dataclass(frozen=True, kw_only=True)
class EntryRecord:
    """What is stored of an entry. Times are seconds since the epoch.

    `cost`, `tokens_in`, `tokens_out` and `seconds` are what the answer took to make, see `Usage`.
    `answer_text` is None where the response is the text of the answer. `writer` names who stored
    it. `doubt` is log-odds taken off its probability. `exact_only_since` is when it was found near
    to too many questions. `fingerprint` names the model of the `vector`; without a vector the entry
    only matches exactly.
    """

    namespace: str
    scope: str
    question: str
    response: str
    created: float
    exact_only: bool = False
    expires: float | None = None
    cost: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None
    tags: tuple[str, ...] = ()
    writer: str | None = None
    answer_text: str | None = None
    doubt: float = 0.0
    exact_only_since: float | None = None
    fingerprint: str | None = None
    vector: Vector | None = None


@dataclass(frozen=True, kw_only=True)
class NewEntry(EntryRecord):
    """An entry to insert.

    `answer` is the id of the first entry of the partition with the same answer, None where this one
    is the first; `answer_digest` is what equal answers have in common. `parts` is JSON, the short
    digests of the parts of the scope.
    """

    exact: bytes
    partition: bytes
    answer: int | None = None
    answer_digest: bytes | None = None
    parts: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImportedEntry(NewEntry):
    """An entry from elsewhere, with what was learnt of it there.

    `wrong_for` holds the exact keys of requests that it answered wrongly; `same_as` is the exact
    key and the answer digest of an entry with the same answer. Where it is not `dated` the age of
    its answer is unknown.
    """

    wrong_for: tuple[bytes, ...] = ()
    same_as: tuple[bytes, bytes] | None = None
    dated: bool = True


@dataclass(frozen=True, kw_only=True)
class ListedEntry(EntryRecord):
    """A live entry as it is listed and exported.

    `wrong_for` and `same_as` as in `ImportedEntry`; `same_as` is None where this entry is the first
    with its answer. `fingerprint` is None where it has no vector; the vector itself is read only
    for an export.
    """

    id: int
    hits: int
    wrong_for: tuple[bytes, ...] = ()
    same_as: tuple[bytes, bytes] | None = None

    @property
    def kind(self) -> Kind:
        if self.exact_only_since is not None:
            return "hub"
        return "exact only" if self.exact_only or self.fingerprint is None else "by meaning"


class Entries:
    """Writes the entries of one ledger. Every method raises LedgerError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, new: NewEntry, limits: Limits = UNLIMITED) -> int:
        """Store an entry in place of one with the same exact key; returns its new id.

        Ids only grow and are never used twice. Evicts others where the limits ask for it.
        """
        with self._database.write() as connection:
            _delete_same(connection, new.exact)
            entry_id = _insert(connection, new)
            # the new one stays: after the clock was set back it looks like the oldest
            gone = eviction.make_room(connection, limits, new.created, _delete_ids, entry_id)
        limits.report(gone)
        return entry_id

    def insert_newer(
        self, arrivals: Sequence[ImportedEntry], now: float, limits: Limits = UNLIMITED
    ) -> int:
        """Store those that are newer than the live entry of their request, or have none, in one
        transaction; returns how many.
        """
        stored = 0
        with self._database.write() as connection:
            for arrival in arrivals:
                same = {"exact": arrival.exact, "now": now}
                if not _is_newer(arrival, connection.execute(_CREATED, same).all()):
                    continue
                _delete_same(connection, arrival.exact)
                _insert_arrival(connection, arrival)
                stored += 1
            gone = eviction.make_room(connection, limits, now, _delete_ids)
        limits.report(gone)
        return stored

    def awaited(self, arrivals: Sequence[ImportedEntry], now: float) -> list[bool]:
        """For each, whether `insert_newer` would store it alone."""
        return [
            _is_newer(
                arrival, self._database.read_fast(_CREATED, {"exact": arrival.exact, "now": now})
            )
            for arrival in arrivals
        ]

    def make_room(self, limits: Limits, now: float) -> int:
        """Evict what is beyond the limits, about AT_ONCE entries; returns how many went."""
        if not any(eviction.over(self._space(), limits)):  # without a write transaction
            return 0
        with self._database.write() as connection:
            gone = eviction.make_room(connection, limits, now, _delete_ids)
        limits.report(gone)
        return gone.total()

    def rank(self, policy: Policy, after: int = 0) -> int | None:
        """Rank AT_ONCE entries after id `after` by a new policy; returns the last id, None when all
        are ranked. "lru" needs no ranks.
        """
        if policy in ("lru", self._space().ranked_by):
            return None
        with self._database.write() as connection:
            return eviction.rank(connection, policy, after)

    def replace_vectors(self, rows: Sequence[tuple[int, str, Vector]]) -> None:
        """Replace vectors, given as (id, fingerprint, vector); skips deleted entries."""
        with self._database.write() as connection:
            for entry_id, fingerprint, vector in rows:
                eviction.resized(connection, entry_id, vector.nbytes)
                connection.execute(sa.delete(vectors).where(vectors.c.entry_id == entry_id))
                partition = connection.execute(_PARTITION, {"entry": entry_id}).scalar()
                if partition is not None:
                    _insert_vector(connection, entry_id, partition, fingerprint, vector)
            ids = [entry_id for entry_id, _, _ in rows]
            for start in range(0, len(ids), ID_CHUNK):
                reset(connection, ids[start : start + ID_CHUNK])

    def touch(self, used: dict[int, tuple[int, float]], traffic: Traffic = NO_TRAFFIC) -> Saved:
        """Add hits, entry id -> (how many, time of the last), and counts of lookups; returns what
        the hits saved.
        """
        if not used and not traffic.lookups:
            return Saved()
        rows = [{"entry": i, "more": n, "at": at} for i, (n, at) in used.items()]
        with self._database.write() as connection:
            if traffic.lookups:
                add_traffic(connection, traffic)
            if not used:
                return Saved()
            connection.execute(_TOUCH, rows)
            return _saved_by(connection, {i: n for i, (n, _) in used.items()})

    def serve_only_exactly(self, entry_id: int, now: float) -> None:
        """Let this entry match only its own question from now on."""
        query = sa.update(entries).where(entries.c.id == entry_id).values(exact_only_since=now)
        with self._database.write() as connection:
            connection.execute(query)

    def delete(self, entry_id: int) -> int:
        return self._delete_where(entries.c.id == entry_id)

    def delete_exact(self, exact: bytes, now: float) -> int:
        return self._delete_where(sa.and_(entries.c.exact == exact, is_live(now)))

    def delete_expired(self, now: float) -> int:
        """Delete expired entries, at most 10 times AT_ONCE; returns how many."""
        return self._delete_where(entries.c.expires <= now, most=10 * AT_ONCE)

    def clear(self, namespace: str | None = None) -> int:
        """Delete one namespace, or everything; returns how many entries.

        Verdicts go too: they outlive their entry, but hold what a tenant asked.
        """

        def chosen(column: sa.Column[str]) -> sa.ColumnElement[bool]:
            return sa.true() if namespace is None else column == namespace

        with self._database.write() as connection:
            connection.execute(sa.delete(judged).where(chosen(judged.c.namespace)))
        return self._delete_where(chosen(entries.c.namespace))

    def invalidate(
        self,
        any_tag: Sequence[str] | None,
        namespace: str | None,
        created_before: float | None,
    ) -> int:
        """Delete the entries that meet every given condition; returns how many."""
        every: sa.ColumnElement[bool] = sa.true()
        if namespace is not None:
            every = sa.and_(every, entries.c.namespace == namespace)
        if created_before is not None:
            every = sa.and_(every, entries.c.created < created_before)
        if any_tag is None:
            return self._delete_where(every)
        return self._delete_where(
            *(
                sa.and_(every, _has_any(any_tag[start : start + ID_CHUNK]))
                for start in range(0, len(any_tag), ID_CHUNK)
            )
        )

    def _delete_where(self, *any_of: sa.ColumnElement[bool], most: int = ALL) -> int:
        """Delete entries that meet one of the conditions, `most` for each; returns how many.

        In several transactions: one for 100,000 entries would block other writers for seconds.
        """
        found = [
            row[0]
            for each in any_of
            for row in self._database.read(_IDS.where(each).limit(most), {})
        ]
        doomed, gone = list(dict.fromkeys(found)), 0
        for start in range(0, len(doomed), AT_ONCE):
            with self._database.write() as connection:
                for begin in range(start, min(start + AT_ONCE, len(doomed)), ID_CHUNK):
                    gone += _delete_ids(connection, doomed[begin : begin + ID_CHUNK])
        return gone

    def _space(self) -> eviction.Space:
        return eviction.Space(*self._database.read(eviction.SPACE, {})[0])


def _has_any(some: Sequence[str]) -> sa.ColumnElement[bool]:
    return entries.c.id.in_(sa.select(tags.c.entry_id).where(tags.c.tag.in_(list(some))))


# Built once: SQLAlchemy then finds their compiled form in its cache by identity.
USAGE = (entries.c.tokens_in, entries.c.tokens_out, entries.c.cost, entries.c.seconds)
_COLUMNS = [field.name for field in fields(NewEntry) if field.name in entries.c]
_IDS = sa.select(entries.c.id)
_SAME = _IDS.where(entries.c.exact == sa.bindparam("exact"))
_PARTITION = sa.select(entries.c.partition).where(entries.c.id == sa.bindparam("entry"))
_CREATED = sa.select(entries.c.created).where(entries.c.exact == sa.bindparam("exact"), is_live())
_WITH_ANSWER = sa.select(ANSWER).where(
    entries.c.exact == sa.bindparam("exact"),
    entries.c.partition == sa.bindparam("partition"),
    entries.c.answer_digest == sa.bindparam("digest"),
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


def finite(total: float | None) -> float | None:
    return total if total is not None and math.isfinite(total) else None


def _saved_by(connection: sa.Connection, hits: dict[int, int]) -> Saved:
    saved, ids = Saved(), list(hits)
    for start in range(0, len(ids), ID_CHUNK):
        known = sa.or_(*(column.isnot(None) for column in USAGE))
        query = sa.select(entries.c.id, *USAGE).where(
            entries.c.id.in_(ids[start : start + ID_CHUNK]), known
        )
        for entry_id, tokens_in, tokens_out, cost, seconds in connection.execute(query):
            one = Saved(tokens_in, tokens_out, finite(cost), seconds)
            saved = saved.plus(one.times(hits[entry_id]))
    return saved


def size_of(new: NewEntry) -> int:
    """Bytes that the entry will take, as `max_bytes` counts them."""
    texts = (new.question, new.response, new.answer_text, new.scope, new.namespace, new.parts)
    vector = 0 if new.vector is None else new.vector.size * np.dtype(np.float32).itemsize
    return eviction.size_of((*texts, new.writer, *dict.fromkeys(new.tags)), vector)


def _insert(connection: sa.Connection, new: NewEntry) -> int:
    size, present = size_of(new), eviction.space_of(connection)
    tokens = eviction.tokens_of(new.tokens_in, new.tokens_out)
    worth = eviction.worth(connection, present.ranked_by, size, new.cost, new.seconds, tokens)
    eviction.add_totals(connection, 1, size)
    row = {name: getattr(new, name) for name in _COLUMNS}
    row |= {"bytes": size, "worth": worth, "priority": present.level + worth}
    row |= {"used": new.created, "hits": 0}
    key: Any = connection.execute(sa.insert(entries), row).inserted_primary_key
    entry_id = int(key[0])
    if new.vector is not None:
        _insert_vector(connection, entry_id, new.partition, new.fingerprint, new.vector)
    if new.tags:
        rows = [{"entry_id": entry_id, "tag": tag} for tag in dict.fromkeys(new.tags)]
        connection.execute(sa.insert(tags), rows)
    return entry_id


def _insert_vector(
    connection: sa.Connection,
    entry_id: int,
    partition: bytes,
    fingerprint: str | None,
    vector: Vector,
) -> None:
    row = {"entry_id": entry_id, "partition": partition, "fingerprint": fingerprint}
    connection.execute(sa.insert(vectors), {**row, "vector": vector.astype(np.float32).tobytes()})


def _is_newer(arrival: ImportedEntry, live: Sequence[Any]) -> bool:
    """Whether it is newer than the live entry with its key, given by rows of its creation time."""
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
    if (entry_id := connection.execute(_SAME, {"exact": exact}).scalar()) is not None:
        _delete_ids(connection, [entry_id])


def _delete_ids(connection: sa.Connection, doomed: Sequence[int]) -> int:
    """Delete up to ID_CHUNK entries and note which the index still holds; returns how many."""
    chosen = {"doomed": list(doomed)}
    gone = eviction.subtract_totals(connection, doomed)
    connection.execute(_NOTE_REMOVED, chosen)
    for statement in _DELETE_DOOMED:
        connection.execute(statement, chosen)
    return gone


# Built once: an update at its limit deletes each time, and building took longer than SQLite.
_DOOMED: sa.BindParameter[Sequence[int]] = sa.bindparam("doomed", expanding=True)
_NOTE_REMOVED = sa.insert(removed).from_select(
    ["partition", "entry_id"],
    sa.select(vectors.c.partition, vectors.c.entry_id)
    .join(indexed, sa.and_(IN_PARTITION, indexed.c.through >= vectors.c.entry_id))
    .where(vectors.c.entry_id.in_(_DOOMED)),
)
_DELETE_DOOMED = (
    *(
        sa.delete(table).where(table.c.entry_id.in_(_DOOMED))
        for table in (vectors, tags, served, quarantined)
    ),
    sa.delete(entries).where(entries.c.id.in_(_DOOMED)),
)

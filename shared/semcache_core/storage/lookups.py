"""Reads entries for lookups and validates them, as the file may have been tampered with."""

import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from semcache_core.errors import LedgerError
from semcache_core.storage.database import Database
from semcache_core.storage.schema import entries, is_live, quarantined, text_from, vectors
from semcache_core.types import Entry, Matrix, Vector

log = logging.getLogger("semcache")

ALL = 1 << 62
"""Stands for no limit: PostgreSQL refuses a negative one."""
ID_CHUNK = 500
"""Ids in one statement: below SQLite's limit on bound parameters, 999 before 3.32."""
UNREADABLE = (TypeError, ValueError, OverflowError)
"""The errors of reading a row that semcache did not write."""

_LENGTH_TOLERANCE = 2e-3  # of the square of a float32 unit vector's length


@dataclass(frozen=True)
class StoredEntry:
    """A live entry as a candidate. Equal `answer`s are the same answer.

    `doubt` is log-odds taken off its probability, `exact_only` whether it became a hub (see
    `Kind`), `known_wrong` whether it once answered this very request wrongly.
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
class RecentEntry:
    """A live entry of any scope of a namespace, for `explain`.

    `vector` is None where it has none of the model asked for, `parts` where those of its scope are
    not known.
    """

    partition: bytes
    scope: str
    question: str
    exact_only: bool
    parts: dict[str, str] | None
    vector: Vector | None


class Lookups:
    """Reads the entries of one ledger. Every method raises LedgerError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._warned_unreadable = False

    def find(self, exact: bytes, now: float) -> Entry | None:
        """The live entry with this exact key."""
        with self._database.read_lock:
            rows = self._database.read_fast(_FIND, {"exact": exact, "now": now})
        return _entry(rows[0]) if rows else None

    def has_vectors(self, partition: bytes, fingerprint: str, now: float) -> bool:
        """Whether any live entry of this partition has a vector of this model."""
        found = {"partition": partition, "fingerprint": fingerprint, "now": now}
        return bool(self._database.read_fast(_HAS_VECTORS, found))

    def vectors_after(
        self,
        partition: bytes,
        fingerprint: str,
        after: int,
        limit: int = ALL,
        dimension: int | None = None,
    ) -> tuple[NDArray[np.int64], Matrix]:
        """Ids (ascending) and vectors [n, d] after id `after`, live or not; see `vectors_from`."""
        rows = self._database.read_fast(
            _VECTORS_AFTER,
            {"partition": partition, "fingerprint": fingerprint, "after": after, "limit": limit},
        )
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        return ids, vectors_from([row[1] for row in rows], dimension)

    def has_more_vectors(
        self, partition: bytes, fingerprint: str, than: int, after: int = 0
    ) -> bool:
        """Whether this partition has more than `than` vectors after id `after`, live or not."""
        found = {"partition": partition, "fingerprint": fingerprint, "than": than, "after": after}
        return bool(self._database.read_fast(_HAS_MORE_VECTORS, found))

    def get(self, entry_id: int, partition: bytes, now: float) -> Entry | None:
        rows = self._database.read_fast(_GET, {"id": entry_id, "partition": partition, "now": now})
        return _entry(rows[0]) if rows else None

    def entries_of(self, namespace: str, partition: bytes, now: float) -> list[Entry]:
        """The live entries of one partition, in the order they were stored."""
        found = {"namespace": namespace, "partition": partition, "now": now}
        return [Entry(*row) for row in self._database.read(_ENTRIES_OF, found)]

    def recent(self, namespace: str, fingerprint: str, limit: int, now: float) -> list[RecentEntry]:
        """The last `limit` live entries of a namespace, newest first, that can be read."""
        of = {"namespace": namespace, "fingerprint": fingerprint, "limit": limit, "now": now}
        found = []
        for row in self._database.read(_RECENT, of):
            try:
                found.append(_recent(row))
            except (*UNREADABLE, RecursionError) as error:
                self._pass_over(row[0], error)
        return found

    def has_expired(self, exact: bytes) -> bool:
        """Whether the entry with this exact key is there; asked where it is not live."""
        return bool(self._database.read(_IS_THERE, {"exact": exact}))

    def live(
        self, ids: Sequence[int], partition: bytes, fingerprint: str, now: float, asked: bytes = b""
    ) -> list[StoredEntry]:
        """The live entries of this partition among `ids`, without those that cannot be read.

        `asked` is the exact key of the request that they may answer.
        """
        found: list[StoredEntry] = []
        of = {"partition": partition, "fingerprint": fingerprint, "now": now, "asked": asked}
        for start in range(0, len(ids), ID_CHUNK):
            chunk = {f"id{n}": int(i) for n, i in enumerate(ids[start : start + ID_CHUNK])}
            rows = self._database.read_fast(_live(len(chunk)), {**chunk, **of})
            for row, vector in zip(rows, _units([row[1] for row in rows]), strict=True):
                try:
                    found.append(_stored(row, vector))
                except UNREADABLE as error:
                    self._pass_over(row[0], error)
        return found

    def _pass_over(self, entry_id: object, error: Exception) -> None:
        if not self._warned_unreadable:
            self._warned_unreadable = True
            log.warning(
                "semcache: entry %s of the ledger is not as it was written (%s); it is passed "
                "over; forget it, and see who writes to the file",
                entry_id,
                error,
            )

    def answer_text(self, entry_id: int) -> str | None:
        """The text of the entry's answer, or its beginning; None for a deleted entry."""
        rows = self._database.read(_ANSWER_TEXT, {"id": entry_id})
        return rows[0][0] if rows else None

    def writers(self, answers: Sequence[int], partition: bytes) -> dict[int, int]:
        """How many different writers stored each answer in this partition."""
        query = (
            sa.select(ANSWER, sa.func.count(sa.distinct(entries.c.writer)))
            .where(sa.or_(entries.c.answer.in_(answers), entries.c.id.in_(answers)))
            .where(entries.c.partition == partition)
            .group_by(ANSWER)
        )
        return {int(answer): int(count) for answer, count in self._database.read(query, {})}

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
        return [(row.id, row.question) for row in self._database.read(query, {})]


# Built once: SQLAlchemy then finds their compiled form in its cache by identity.
_ENTRY = [entries.c[field.name] for field in fields(Entry)]
ANSWER = sa.func.coalesce(entries.c.answer, entries.c.id).label("answer")
_ANSWER_TEXT = sa.select(sa.func.coalesce(entries.c.answer_text, entries.c.response)).where(
    entries.c.id == sa.bindparam("id")
)
_FIND = sa.select(*_ENTRY).where(entries.c.exact == sa.bindparam("exact"), is_live())
_OF_PARTITION = sa.and_(
    vectors.c.partition == sa.bindparam("partition"),
    vectors.c.fingerprint == sa.bindparam("fingerprint"),
)
_GET = sa.select(*_ENTRY).where(
    entries.c.id == sa.bindparam("id"),
    entries.c.partition == sa.bindparam("partition"),
    is_live(),
)
# by namespace too, which has an index
_ENTRIES_OF = (
    sa.select(*_ENTRY)
    .where(
        entries.c.namespace == sa.bindparam("namespace"),
        entries.c.partition == sa.bindparam("partition"),
        is_live(),
    )
    .order_by(entries.c.id)
)
_RAW = sa.LargeBinary  # not AnyText, which would fail for all rows where one cannot be read
_RECENT = (
    sa.select(
        entries.c.id,
        entries.c.partition,
        sa.type_coerce(entries.c.scope, _RAW),
        sa.type_coerce(entries.c.question, _RAW),
        entries.c.exact_only,
        sa.type_coerce(entries.c.parts, _RAW),
        vectors.c.vector,
    )
    .outerjoin(
        vectors,
        sa.and_(
            vectors.c.entry_id == entries.c.id,
            vectors.c.fingerprint == sa.bindparam("fingerprint"),
        ),
    )
    .where(entries.c.namespace == sa.bindparam("namespace"), is_live())
    .order_by(entries.c.id.desc())
    .limit(sa.bindparam("limit", type_=sa.BigInteger))
)
_IS_THERE = sa.select(entries.c.id).where(entries.c.exact == sa.bindparam("exact"))
_HAS_VECTORS = (
    sa.select(sa.literal(1))
    .select_from(vectors.join(entries, entries.c.id == vectors.c.entry_id))
    .where(_OF_PARTITION, is_live())
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
_KNOWN_WRONG = sa.exists().where(
    quarantined.c.asked_key == sa.bindparam("asked", type_=sa.LargeBinary),
    quarantined.c.entry_id == entries.c.id,
)


@functools.cache
def _live(n: int) -> "sa.Select[Any]":
    """The live ones among n ids. At most ID_CHUNK statements are cached."""
    return (
        sa.select(
            vectors.c.entry_id,
            vectors.c.vector,
            entries.c.question,
            ANSWER,
            entries.c.answer_digest,
            entries.c.doubt,
            entries.c.exact_only_since,
            entries.c.writer,
            _KNOWN_WRONG,
        )
        .join(entries, vectors.c.entry_id == entries.c.id)
        .where(vectors.c.entry_id.in_([sa.bindparam(f"id{i}") for i in range(n)]))
        # By the partition of the entry, which has no index: by that of the vector PostgreSQL reads
        # the whole partition until it has statistics, 20 ms for 10,000.
        .where(entries.c.partition == sa.bindparam("partition"))
        .where(vectors.c.fingerprint == sa.bindparam("fingerprint"), is_live())
    )


def _stored(row: Any, vector: Vector | None) -> StoredEntry:
    entry_id, blob, question, answer, answer_digest, doubt, exact_only_since, writer, wrong = row
    return StoredEntry(
        id=int(entry_id),
        vector=vector_from(blob) if vector is None else vector,
        question=text_from(question),
        answer=int(answer),
        answer_digest=answer_digest,
        # 0 or more as it was written: less would make up for what the vector lacks
        doubt=max(0.0, number_from(doubt)),
        exact_only=exact_only_since is not None,
        writer=None if writer is None else text_from(writer),
        known_wrong=bool(wrong),
    )


def _recent(row: Any) -> RecentEntry:
    _, partition, scope, question, exact_only, parts, vector = row
    read = None if parts is None else dict(json.loads(text_from(parts)))
    return RecentEntry(
        partition=partition,
        scope=text_from(scope),
        question=text_from(question),
        exact_only=bool(exact_only),
        parts=None if read is None else {str(name): str(part) for name, part in read.items()},
        vector=None if vector is None else vector_from(vector),
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


def vector_from(blob: object) -> Vector:
    """A unit vector; ValueError for any other bytes: a longer one would be near to everything."""
    if type(blob) is not bytes or len(blob) % 4:
        raise ValueError("its vector is no row of float32 numbers")
    vector = np.frombuffer(blob, np.float32)
    if not _are_units(vector[None, :])[0]:
        raise ValueError("its vector has not the length 1")
    return vector


def _units(blobs: Sequence[object]) -> list[Vector | None]:
    """The unit vectors among `blobs`, None for any other. Checked together, they take a tenth of
    the time of `vector_from`, which says what is wrong with one.
    """
    sizes = {len(blob) if type(blob) is bytes else -1 for blob in blobs}
    if len(sizes) != 1 or (size := sizes.pop()) <= 0 or size % 4:
        return [None] * len(blobs)
    matrix = np.frombuffer(b"".join(blobs), np.float32).reshape(len(blobs), -1)  # type: ignore[arg-type]
    return [v if is_unit else None for v, is_unit in zip(matrix, _are_units(matrix), strict=True)]


def vectors_from(blobs: Sequence[object], dimension: int | None) -> Matrix:
    """Unit rows [n, dimension], with zeros, which are similar to nothing, for invalid vectors.

    These are not left out, as callers count rows. `dimension` None takes that of the first.
    """
    if dimension is None:
        dimension = len(first) // 4 if blobs and type(first := blobs[0]) is bytes else 0
    size = 4 * dimension
    whole = [blob if type(blob) is bytes and len(blob) == size else bytes(size) for blob in blobs]
    matrix: Matrix = np.frombuffer(b"".join(whole), np.float32).reshape(len(blobs), dimension)
    units = _are_units(matrix)
    return matrix if units.all() else np.where(units[:, None], matrix, np.float32(0))


def number_from(value: object) -> float:
    """A finite number; ValueError or TypeError for anything else."""
    if type(value) not in (int, float) or not -np.inf < value < np.inf:  # type: ignore[operator]
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)  # type: ignore[arg-type]


def _are_units(matrix: Matrix) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):  # NaN, or beyond what a float32 holds
        units: NDArray[np.bool_] = np.abs(np.vecdot(matrix, matrix) - 1) <= _LENGTH_TOLERANCE
    return units

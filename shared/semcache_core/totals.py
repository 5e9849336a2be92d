"""What entries take, and what all of them take together.

Totals are columns of one row, moved by whatever inserts or deletes, in its own transaction. Not
triggers, which each database writes otherwise; not a sum, which reads the whole table. They are
counted anew when a cache is opened, in one pass over an index: a process of a version that keeps no
totals may have written in between.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from semcache_core.schema import ENTRY_BYTES, entries, space, tags, vectors


@dataclass(frozen=True)
class Space:
    """How many entries there are, and what they take in bytes; the level of the ranks (see above),
    and the policy these are by.
    """

    entries: int
    bytes: int
    level: float
    ranked_by: str


def size_of(texts: Iterable[str | None], vector_bytes: int) -> int:
    """What an entry with these texts takes: their UTF-8, its vector, and a fixed share of what
    lies around them.
    """
    return ENTRY_BYTES + vector_bytes + sum(text_bytes(text) for text in texts if text)


def text_bytes(text: str) -> int:
    # asked first, as Python knows it already: an answer in ASCII is not encoded to be measured
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def space_of(connection: sa.Connection) -> Space:
    return Space(*connection.execute(SPACE).one())


def took(connection: sa.Connection, more_entries: int, more_bytes: int) -> None:
    """Say that there are so many more, or fewer."""
    connection.execute(_TOOK, {"more_entries": more_entries, "more_bytes": more_bytes})


def took_away(connection: sa.Connection, doomed: Sequence[int]) -> int:
    """Say that these entries are about to be deleted; returns how many of them there are."""
    count, size = connection.execute(_TAKEN, {"ids": list(doomed)}).one()
    took(connection, -count, -int(size))
    return int(count)


def resized(connection: sa.Connection, entry_id: int, vector_bytes: int) -> None:
    """Say that this entry is about to get a vector of that size in place of what it has."""
    more = vector_bytes - int(connection.execute(_OLD_VECTOR, {"entry": entry_id}).scalar() or 0)
    grown = connection.execute(_GROWN, {"entry": entry_id, "more": more})
    if more and grown.rowcount:
        took(connection, 0, more)


def measure(connection: sa.Connection, unmeasured: Sequence[int]) -> None:
    """Note what these entries take, which a version wrote that does not say."""
    chosen = {"ids": list(unmeasured)}
    _, before = connection.execute(_TAKEN, chosen).one()
    connection.execute(_MEASURE, chosen)
    _, after = connection.execute(_TAKEN, chosen).one()
    took(connection, 0, int(after) - int(before))


def _taken() -> sa.ColumnElement[int]:
    """What `size_of` says of an entry that is stored."""
    e, length = entries.c, sa.func.length
    texts = (e.question, e.response, e.answer_text, e.scope, e.namespace, e.writer)
    size: sa.ColumnElement[int] = sa.literal(ENTRY_BYTES, sa.BigInteger)
    for text in texts:
        size = size + sa.func.coalesce(length(text, type_=sa.BigInteger), 0)
    for part, owner in ((vectors.c.vector, vectors), (tags.c.tag, tags)):
        of_entry = sa.select(sa.func.coalesce(sa.func.sum(length(part)), 0))
        size = size + of_entry.where(owner.c.entry_id == e.id).correlate(entries).scalar_subquery()
    return size


# Built once: SQLAlchemy then finds their compiled form in its cache by identity.
SPACE = sa.select(space.c.entries, space.c.bytes, space.c.level, space.c.ranked_by)
_TOOK = sa.update(space).values(
    entries=space.c.entries + sa.bindparam("more_entries", type_=sa.BigInteger),
    bytes=space.c.bytes + sa.bindparam("more_bytes", type_=sa.BigInteger),
)
_TAKEN = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(entries.c.bytes), 0)).where(
    entries.c.id.in_(sa.bindparam("ids", expanding=True))
)
_OLD_VECTOR = sa.select(sa.func.length(vectors.c.vector)).where(
    vectors.c.entry_id == sa.bindparam("entry")
)
_GROWN = (
    sa.update(entries)
    .where(entries.c.id == sa.bindparam("entry"))
    .values(bytes=entries.c.bytes + sa.bindparam("more", type_=sa.BigInteger))
)
_MEASURE = (
    sa.update(entries)
    .where(entries.c.id.in_(sa.bindparam("ids", expanding=True)), entries.c.bytes == 0)
    .values(bytes=_taken())
)
UNMEASURED = (
    sa.select(entries.c.id)
    .where(entries.c.id > sa.bindparam("after"), entries.c.bytes == 0)
    .order_by(entries.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_COUNTED = sa.select(
    sa.func.count().label("entries"),
    sa.func.coalesce(sa.func.sum(entries.c.bytes), 0).label("bytes"),
    sa.func.coalesce(sa.func.sum(sa.case((entries.c.bytes == 0, 1), else_=0)), 0).label("unknown"),
).subquery()
# One statement, so that nobody writes between the count and what it is compared with: what differs
# can be added later, whatever others add meanwhile.
DRIFT = sa.select(
    _COUNTED.c.entries - space.c.entries, _COUNTED.c.bytes - space.c.bytes, _COUNTED.c.unknown
).select_from(space.join(_COUNTED, sa.true()))

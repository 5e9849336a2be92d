"""Counts the space that entries take, and evicts entries when a limit is reached.

The totals are one row, updated in the transaction of every insert and delete: the SQL of triggers
differs between databases, and a sum reads the whole table.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from semcache_core.storage.schema import ENTRY_BYTES, entries, means, space, vectors
from semcache_core.types import Reason, is_amount


@dataclass(frozen=True)
class Space:
    """How many entries there are, their bytes, the level of the ranks and the policy of these."""

    entries: int
    bytes: int
    level: float
    ranked_by: str


def size_of(texts: Iterable[str | None], vector_bytes: int) -> int:
    """Bytes of an entry: its texts in UTF-8, its vector, and a fixed share of everything else."""
    return ENTRY_BYTES + vector_bytes + sum(text_bytes(text) for text in texts if text)


def text_bytes(text: str) -> int:
    # `isascii` is known to Python already, without encoding the text
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def space_of(connection: sa.Connection) -> Space:
    return Space(*connection.execute(SPACE).one())


def add_totals(connection: sa.Connection, more_entries: int, more_bytes: int) -> None:
    connection.execute(_TOOK, {"more_entries": more_entries, "more_bytes": more_bytes})


def subtract_totals(connection: sa.Connection, doomed: Sequence[int]) -> int:
    """Subtract entries that are about to be deleted; returns how many of them exist."""
    count, size = connection.execute(_TAKEN, {"ids": list(doomed)}).one()
    add_totals(connection, -count, -int(size))
    return int(count)


def resized(connection: sa.Connection, entry_id: int, vector_bytes: int) -> None:
    """Count the new size of an entry's vector, before it replaces the old one."""
    more = vector_bytes - int(connection.execute(_OLD_VECTOR, {"entry": entry_id}).scalar() or 0)
    grown = connection.execute(_GROWN, {"entry": entry_id, "more": more})
    if more and grown.rowcount:
        add_totals(connection, 0, more)


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

Policy: TypeAlias = Literal["lru", "lfu", "cost"]

AT_ONCE = 1000
"""Entries evicted or ranked in one transaction, about: others write in between."""

BEFOREHAND = 64
"""Entries evicted beyond those that must go, at most 1 % of a limit: the next updates then evict
nothing (one by one cost .9 ms each time)."""

_CHUNK = 500


def ignore_evicted(reason: Reason, count: int) -> None:
    """The default of `Limits.on_evicted`."""


@dataclass(frozen=True)
class Limits:
    """Limits, None for no limit, and the policy by which entries are evicted beyond them.

    `max_bytes` limits what `size_of` counts. `on_evicted` is called after an eviction.
    """

    max_entries: int | None = None
    max_bytes: int | None = None
    policy: Policy = "lru"
    on_evicted: Callable[[Reason, int], None] = ignore_evicted

    @property
    def bounded(self) -> bool:
        return self.max_entries is not None or self.max_bytes is not None

    def report(self, gone: Counter[Reason]) -> None:
        for reason, count in gone.items():
            self.on_evicted(reason, count)


UNLIMITED = Limits()


def make_room(
    connection: sa.Connection,
    limits: Limits,
    now: float,
    delete: Callable[[sa.Connection, Sequence[int]], int],
    spare: int = 0,
) -> Counter[Reason]:
    """Evict while a limit is exceeded, and BEFOREHAND more, at most about AT_ONCE entries; returns
    how many, by reason. Expired entries go first; the entry `spare` stays.
    """
    gone: Counter[Reason] = Counter()
    if not limits.bounded or not any(over(present := space_of(connection), limits)):
        return gone
    within = _a_little_below(limits, present)
    while gone.total() < AT_ONCE:
        reason, doomed = _next_to_go(connection, within, now, spare)
        if not doomed:
            break
        gone[reason] += delete(connection, doomed)
    return gone


def _next_to_go(
    connection: sa.Connection, limits: Limits, now: float, spare: int
) -> tuple[Reason, list[int]]:
    present = space_of(connection)
    beyond = over(present, limits)
    if not any(beyond):
        return "space", []
    # an estimate by the mean size: if it is too low, the next round reads more
    mean = max(present.bytes // max(present.entries, 1), 1)
    found = {"spare": spare, "now": now, "most": min(max(beyond[0], beyond[1] // mean + 2), _CHUNK)}
    if expired := _enough(connection.execute(_EXPIRED, found).all(), *beyond):
        return "expired", [row.id for row in expired]
    # ranks of another policy, or incomplete ones, are not used
    ranked = limits.policy != "lru" and limits.policy == present.ranked_by
    query = _LOWEST if ranked else _LEAST_RECENT
    rows = _enough(connection.execute(query, found).all(), *beyond)
    if ranked and rows and rows[-1].priority > present.level:
        connection.execute(_RAISE, {"to": rows[-1].priority})
    return "space", [row.id for row in rows]


def over(present: Space, limits: Limits) -> tuple[int, int]:
    """Entries and bytes beyond the limits."""
    there = (present.entries, limits.max_entries), (present.bytes, limits.max_bytes)
    count, size = (0 if most is None else max(has - most, 0) for has, most in there)
    return count, size


def _a_little_below(limits: Limits, present: Space) -> Limits:
    def below(most: int | None, each: int) -> int | None:
        return None if most is None else most - min(most // 100, BEFOREHAND * each)

    mean = present.bytes // max(present.entries, 1)
    return replace(
        limits, max_entries=below(limits.max_entries, 1), max_bytes=below(limits.max_bytes, mean)
    )


def _enough(rows: Sequence[Any], count: int, size: int) -> list[Any]:
    """The first `rows` that are `count` entries and `size` bytes together."""
    taken: list[Any] = []
    for row in rows:
        if count <= 0 and size <= 0:
            break
        taken.append(row)
        count, size = count - 1, size - row.bytes
    return taken


def worth(
    connection: sa.Connection,
    policy: str,
    size: int,
    cost: float | None,
    seconds: float | None,
    tokens: int | None,
) -> float:
    """What one use of a new entry counts for in its rank.

    For "cost" it is what a use saves, per byte: the cost relative to the mean of all known costs,
    else the seconds, else the tokens, else 1, so that different units compare.
    """
    if policy == "lru":
        return 0.0
    if policy == "lfu":
        return 1.0
    for measure, amount in (("cost", cost), ("seconds", seconds), ("tokens", tokens)):
        if is_amount(amount):
            return _relative(connection, measure, float(amount)) / size  # type: ignore[arg-type]
    return 1.0 / size


def _relative(connection: sa.Connection, measure: str, amount: float) -> float:
    connection.execute(_COUNT_IN, {"known": measure, "amount": amount})
    answers, total = connection.execute(_MEAN, {"known": measure}).one()
    return amount * answers / total if total else 1.0


def rank(connection: sa.Connection, policy: Policy, after: int) -> int | None:
    """Rank AT_ONCE entries after id `after` by a new policy; returns the last id, None when all are
    ranked. Starts with 0, also after a crash.
    """
    if after == 0:
        connection.execute(sa.update(means).values(answers=0, total=0.0))
        connection.execute(sa.update(space).values(level=0.0))
    rows = connection.execute(_UNRANKED, {"after": after}).all()
    ranked = []
    for row in rows:
        tokens = tokens_of(row.tokens_in, row.tokens_out)
        counts = worth(connection, policy, max(row.bytes, 1), row.cost, row.seconds, tokens)
        ranked.append({"entry": row.id, "each": counts, "priority_now": (row.hits + 1) * counts})
    if ranked:
        connection.execute(_SET_RANK, ranked)
    if len(rows) == AT_ONCE:
        return int(rows[-1].id)
    connection.execute(sa.update(space).values(ranked_by=policy))
    return None


def tokens_of(tokens_in: int | None, tokens_out: int | None) -> int | None:
    known = [count for count in (tokens_in, tokens_out) if count is not None]
    return sum(known) if known else None


# Built once: SQLAlchemy then finds their compiled form in its cache by identity.
_RAISE = sa.update(space).values(level=sa.bindparam("to", type_=sa.Float))
_CANDIDATES = (
    sa.select(entries.c.id, entries.c.bytes, entries.c.priority)
    .where(entries.c.id != sa.bindparam("spare"))
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_EXPIRED = _CANDIDATES.where(entries.c.expires <= sa.bindparam("now", type_=sa.Float)).order_by(
    entries.c.expires, entries.c.id
)
_LEAST_RECENT = _CANDIDATES.order_by(entries.c.used, entries.c.id)
_LOWEST = _CANDIDATES.order_by(entries.c.priority, entries.c.used, entries.c.id)
_COUNT_IN = (
    sa.update(means)
    .where(means.c.measure == sa.bindparam("known"))
    .values(
        answers=means.c.answers + 1,
        total=means.c.total + sa.bindparam("amount", type_=sa.Float),
    )
)
_MEAN = sa.select(means.c.answers, means.c.total).where(means.c.measure == sa.bindparam("known"))
_UNRANKED = (
    sa.select(
        entries.c.id,
        entries.c.bytes,
        entries.c.hits,
        entries.c.cost,
        entries.c.seconds,
        entries.c.tokens_in,
        entries.c.tokens_out,
    )
    .where(entries.c.id > sa.bindparam("after"))
    .order_by(entries.c.id)
    .limit(AT_ONCE)
)
_SET_RANK = (
    sa.update(entries)
    .where(entries.c.id == sa.bindparam("entry"))
    .values(
        worth=sa.bindparam("each", type_=sa.Float),
        priority=sa.bindparam("priority_now", type_=sa.Float),
    )
)

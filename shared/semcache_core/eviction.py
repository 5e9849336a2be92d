"""What the hits of entries are worth, and which entries go where there is no room.

The ranks are those of the GreedyDual family: an entry's priority is a level, plus how often it was
used times what a use is worth; the lowest goes, and its priority is the level from then on. So what
was used much long ago is overtaken without anything being decayed, and the next to go is the first
of an index. "lfu" counts every use alike (LFU with dynamic ageing, as in the proxy Squid: Dilley,
Arlitt, Perret, HP Laboratories report HPL-1999-69); "cost" by what it saves for each byte
(GreedyDual-Size-Frequency: Cherkasova, HP Laboratories report HPL-98-69R1). Not hits per hour: that
ranking changes by itself, so that each eviction would have to compute it of every entry.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa

from semcache_core.schema import entries, means, space
from semcache_core.totals import Space, space_of
from semcache_core.types import is_amount

Policy: TypeAlias = Literal["lru", "lfu", "cost"]
Reason: TypeAlias = Literal["expired", "space"]

AT_ONCE = 1000
"""About so many entries are evicted, or ranked, in one transaction: others write in between."""

BEFOREHAND = 64
"""Beyond those that must go, up to so many entries go with them, and at most a hundredth of what a
limit allows: the next updates then evict nothing, and one pays for all. (One by one cost .9 ms
each time; many more at once would be felt.)"""

_CHUNK = 500


def untold(reason: Reason, count: int) -> None:
    """For evictions that nobody is to hear of."""


@dataclass(frozen=True)
class Limits:
    """How much there may be, None for no limit, and which entries go beyond it.

    `max_bytes` is of what `size_of` counts. `tell` hears how many entries went, and why, once they
    are gone.
    """

    max_entries: int | None = None
    max_bytes: int | None = None
    policy: Policy = "lru"
    tell: Callable[[Reason, int], None] = untold

    @property
    def bounded(self) -> bool:
        return self.max_entries is not None or self.max_bytes is not None


UNLIMITED = Limits()


# -- what goes -----------------------------------------------------------------------------------


def make_room(
    connection: sa.Connection,
    limits: Limits,
    now: float,
    delete: Callable[[sa.Connection, Sequence[int]], int],
    spare: int = 0,
) -> Counter[Reason]:
    """Where a limit does not hold, evict until there is some room again (see BEFOREHAND), or about
    AT_ONCE entries went; how many, by reason.

    What has expired goes first. The entry `spare` stays.
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
    # of the mean size, so many: read too many and they are passed over, too few and more are asked
    mean = max(present.bytes // max(present.entries, 1), 1)
    found = {"spare": spare, "now": now, "most": min(max(beyond[0], beyond[1] // mean + 2), _CHUNK)}
    if expired := _enough(connection.execute(_EXPIRED, found).all(), *beyond):
        return "expired", [row.id for row in expired]
    # a ledger that is ranked by another policy, or not ranked to the end yet, is no guide
    ranked = limits.policy != "lru" and limits.policy == present.ranked_by
    query = _LOWEST if ranked else _LEAST_RECENT
    rows = _enough(connection.execute(query, found).all(), *beyond)
    if ranked and rows and rows[-1].priority > present.level:
        connection.execute(_RAISE, {"to": rows[-1].priority})
    return "space", [row.id for row in rows]


def over(present: Space, limits: Limits) -> tuple[int, int]:
    """How many entries, and how many bytes, are too much."""
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
    """The first of `rows` that are so many, and take so much, together."""
    taken: list[Any] = []
    for row in rows:
        if count <= 0 and size <= 0:
            break
        taken.append(row)
        count, size = count - 1, size - row.bytes
    return taken


# -- what is worth how much ----------------------------------------------------------------------


def worth(
    connection: sa.Connection,
    policy: str,
    size: int,
    cost: float | None,
    seconds: float | None,
    tokens: int | None,
) -> float:
    """What one use of a new entry counts for in its rank.

    By "cost" that is what it saves, for each byte: its cost relative to the mean of all answers so
    far whose cost is known; else so of the seconds, else of the tokens. So amounts of different
    units compare, and one of which nothing is known is as good as the mean.
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
    """Rank AT_ONCE entries after id `after` by a policy that the ledger is not ranked by; returns
    the last of them, None when all are ranked. To be begun with 0, again after a crash.
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

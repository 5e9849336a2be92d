"""Lists the entries of a ledger, for `inspect` and for an export."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from semcache_core.storage.entries import ListedEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.lookups import ANSWER, UNREADABLE, vector_from
from semcache_core.storage.schema import (
    entries,
    is_live,
    joined_hex,
    quarantined,
    tags,
    text_from,
    vectors,
)
from semcache_core.types import is_amount

PAGE = 200
"""Entries per statement: that many responses are in memory."""


@dataclass(frozen=True)
class Model:
    """The model of some vectors of a ledger: its fingerprint, their length and how many."""

    fingerprint: str
    dimension: int
    vectors: int


class Listing:
    """The entries of one ledger. Every method raises LedgerError when the ledger fails.

    A page of entries is one statement, so that each is consistent. Between two pages others may
    write; an entry that exists throughout is listed once.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, entry_id: int, now: float) -> ListedEntry | None:
        rows = self._ledger.read(_ONE, {"id": entry_id, "now": now})
        return _listed(rows[0]) if rows else None

    def oldest_first(self, now: float, namespace: str | None = None) -> Iterator[ListedEntry]:
        """The live entries of a namespace, or of all, with their vectors, by ascending id.

        Entries stored meanwhile are listed too: an answer that is replaced never goes missing.
        """
        after = 0
        while rows := self._page(_FORWARD, now, namespace, after):
            yield from map(_listed, rows)
            after = rows[-1].id

    def newest_first(
        self, now: float, namespace: str | None = None, scope: str | None = None
    ) -> Iterator[ListedEntry]:
        """The live entries of a namespace and scope, or of all, by descending id."""
        before = _LAST_ID
        while rows := self._page(_BACKWARD, now, namespace, before, scope):
            yield from map(_listed, rows)
            before = rows[-1].id

    def models(self) -> list[Model]:
        """The models of the vectors, the most frequent first."""
        rows = self._ledger.read(_MODELS, {})
        return [Model(name, size // 4, count) for name, size, count in rows]

    def _page(
        self,
        query: "sa.Select[Any]",
        now: float,
        namespace: str | None,
        start: int,
        scope: str | None = None,
    ) -> Any:
        if namespace is not None:
            query = query.where(entries.c.namespace == namespace)
        if scope is not None:
            query = query.where(entries.c.scope == scope)
        return self._ledger.read(query, {"now": now, "start": start})


_LAST_ID = (1 << 63) - 1
_START = sa.bindparam("start", type_=sa.BigInteger)
_same = entries.alias("same")
_first = entries.alias("first")


def _lowest(condition: "sa.ColumnElement[bool]") -> "sa.ScalarSelect[Any]":
    lowest = sa.select(sa.func.min(_same.c.id)).where(condition)
    return lowest.correlate(entries).scalar_subquery()


# The entry whose id names the answer, else the first that refers to it. Not the lowest of both:
# for that SQLite reads all of them, for each entry of an answer stored thousands of times.
_FIRST_ID = sa.func.coalesce(_lowest(_same.c.id == ANSWER), _lowest(_same.c.answer == ANSWER))


def _joined(column: "sa.Column[Any]", table: sa.Table) -> "sa.ScalarSelect[Any]":
    """All values of a column as one text, in the same statement as their entry."""
    return (
        sa.select(joined_hex(column))
        .where(table.c.entry_id == entries.c.id)
        .correlate(entries)
        .scalar_subquery()
    )


def _query(vector: "sa.ColumnElement[Any]") -> "sa.Select[Any]":
    return (
        sa.select(
            *(entries.c[name] for name in ListedEntry.__dataclass_fields__ if name in entries.c),
            _joined(tags.c.tag, tags).label("tags"),
            _joined(quarantined.c.asked_key, quarantined).label("wrong_for"),
            _first.c.id.label("first_id"),
            _first.c.exact.label("first_exact"),
            _first.c.answer_digest.label("first_digest"),
            vectors.c.fingerprint,
            vector.label("vector"),
        )
        .select_from(entries)
        .join(_first, _first.c.id == _FIRST_ID)  # the entry itself, if no other
        .outerjoin(vectors, vectors.c.entry_id == entries.c.id)
        .where(is_live())
    )


_ONE = _query(sa.null()).where(entries.c.id == sa.bindparam("id"))
_FORWARD = _query(vectors.c.vector).where(entries.c.id > _START).order_by(entries.c.id).limit(PAGE)
_BACKWARD = _query(sa.null()).where(entries.c.id < _START).order_by(entries.c.id.desc()).limit(PAGE)
_MODELS = (
    sa.select(
        vectors.c.fingerprint,
        sa.func.max(sa.func.length(vectors.c.vector)),
        sa.func.count(),
    )
    .group_by(vectors.c.fingerprint)
    .order_by(sa.func.count().desc(), vectors.c.fingerprint)
)


def _listed(row: Any) -> ListedEntry:
    fields = {name: value for name, value in row._mapping.items() if not name.startswith("first_")}
    fields["expires"] = None if row.expires == math.inf else row.expires
    # a ledger from before this was looked at may hold anything
    fields["cost"] = row.cost if is_amount(row.cost) else None
    fields["tags"] = tuple(sorted(map(text_from, _parted(row.tags))))
    fields["wrong_for"] = tuple(sorted(_parted(row.wrong_for)))
    of_another = row.first_id != row.id and row.first_digest is not None
    fields["same_as"] = (row.first_exact, row.first_digest) if of_another else None
    if row.vector is not None:
        try:
            fields["vector"] = vector_from(row.vector)
        except UNREADABLE:  # planted: as if it had none, so whoever takes it in embeds its question
            fields["vector"] = fields["fingerprint"] = None
    return ListedEntry(**fields)


def _parted(joined: str | None) -> list[bytes]:
    return [] if joined is None else [bytes.fromhex(part) for part in joined.split(",")]

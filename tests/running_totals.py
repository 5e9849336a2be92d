"""Whatever is done to a ledger, its totals are those of a recount: over every database."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fakes import WORDS, WordEmbedder
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from semcache_core import Request
from semcache_core.request import key_of
from semcache_core.storage.entries import ImportedEntry, NewEntry
from semcache_core.storage.eviction import Limits, Policy
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import ENTRY_BYTES, entries, tags, vectors
from state_machines import run_machine

FINGERPRINT = WordEmbedder.fingerprint
VECTOR = (np.ones(WORDS) / np.sqrt(WORDS)).astype(np.float32)


def new(question: str, kind: type[NewEntry] = NewEntry, **changes: Any) -> Any:
    key = key_of(Request(question), "default")
    fields: dict[str, Any] = {
        "exact": key.exact,
        "partition": key.partition,
        "namespace": "default",
        "scope": "",
        "exact_only": False,
        "question": question,
        "response": "answer",
        "created": 100.0,
        "expires": None,
        "cost": None,
        "tags": (),
        "fingerprint": FINGERPRINT,
        "vector": VECTOR,
    }
    return kind(**{**fields, **changes})


def questions(ledger: Ledger) -> list[str]:
    return sorted(row[0] for row in ledger.read(sa.select(entries.c.question), {}))


def counted_anew(ledger: Ledger) -> tuple[int, int]:
    """Entries and what they take, from what is stored and not from any running total."""
    total = 0
    columns = ("question", "response", "answer_text", "scope", "namespace", "writer")
    rows = ledger.read(sa.select(entries.c.id, *(entries.c[name] for name in columns)), {})
    for entry_id, *texts in rows:
        own = ledger.read(sa.select(vectors.c.vector).where(vectors.c.entry_id == entry_id), {})
        labels = ledger.read(sa.select(tags.c.tag).where(tags.c.entry_id == entry_id), {})
        encoded = [
            t.encode("utf-8", "surrogatepass") for t in (*texts, *(r[0] for r in labels)) if t
        ]
        total += ENTRY_BYTES + sum(map(len, encoded)) + sum(len(row[0]) for row in own)
    return len(rows), total


NUMBERS = st.integers(0, 7)
TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
POLICIES = st.sampled_from(["lru", "lfu", "cost"])
LIMITS = st.builds(
    Limits,
    st.none() | st.integers(1, 6),
    st.none() | st.integers(ENTRY_BYTES * 2, ENTRY_BYTES * 8),
    POLICIES,
)


class RunningTotals(RuleBasedStateMachine):
    """Whatever is done to a ledger, in whatever order, its totals are those of a recount."""

    def open(self) -> Ledger:
        """The same ledger each time, an empty one at first."""
        return Ledger.open(Path(self.directory.name), None)

    def stored(self, nth: int) -> int:
        """The id of one that is there, else of none: ids drawn at will hardly ever met one."""
        ids = [row[0] for row in self.ledger.read(sa.select(entries.c.id), {})]
        return ids[nth] if nth < len(ids) else 10**9

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.ledger = self.open()
        self.now = 100.0

    @rule(
        n=NUMBERS,
        response=TEXTS,
        answer=st.none() | TEXTS,
        labels=st.lists(st.sampled_from(["a", "ä", "a"]), max_size=3),
        vector=st.sampled_from([VECTOR, None]),
        ttl=st.none() | st.just(3.0),
        cost=st.none() | st.just(2.5),
        limits=LIMITS,
    )
    def insert(
        self,
        n: int,
        response: str,
        answer: str | None,
        labels: list[str],
        vector: Any,
        ttl: float | None,
        cost: float | None,
        limits: Limits,
    ) -> None:
        self.now += 1
        entry = new(
            f"q{n}",
            response=response,
            answer_text=answer,
            tags=tuple(labels),
            vector=vector,
            created=self.now,
            expires=None if ttl is None else self.now + ttl,
            cost=cost,
        )
        entry_id = self.ledger.entries.insert(entry, limits)
        assert self.ledger.lookups.get(entry_id, entry.partition, self.now) is not None
        space = self.ledger.space()
        assert limits.max_entries is None or space.entries <= limits.max_entries
        assert limits.max_bytes is None or space.bytes <= limits.max_bytes or space.entries == 1

    @rule(some=st.lists(st.tuples(NUMBERS, TEXTS), max_size=4), limits=LIMITS)
    def insert_newer(self, some: list[tuple[int, str]], limits: Limits) -> None:
        self.now += 1
        comes = [new(f"q{n}", ImportedEntry, response=r, created=self.now) for n, r in some]
        self.ledger.entries.insert_newer(comes, self.now, limits)

    @rule(n=NUMBERS)
    def delete_exact(self, n: int) -> None:
        self.ledger.entries.delete_exact(new(f"q{n}").exact, self.now)

    @rule(nth=NUMBERS)
    def delete(self, nth: int) -> None:
        self.ledger.entries.delete(self.stored(nth))

    @rule(nths=st.lists(NUMBERS, min_size=1, max_size=3), longer=st.booleans())
    def replace_vectors(self, nths: list[int], longer: bool) -> None:
        vector = np.tile(VECTOR, 1 + longer)
        self.ledger.entries.replace_vectors([(self.stored(nth), "f" * 64, vector) for nth in nths])

    @rule(nth=NUMBERS, hits=st.integers(1, 5))
    def touch(self, nth: int, hits: int) -> None:
        self.ledger.entries.touch({self.stored(nth): (hits, self.now)})

    @rule()
    def expire(self) -> None:
        self.now += 2
        self.ledger.entries.delete_expired(self.now)

    @rule(tag=st.sampled_from(["a", "ä"]))
    def invalidate(self, tag: str) -> None:
        self.ledger.entries.invalidate([tag], None, None)

    @rule(limits=LIMITS)
    def make_room(self, limits: Limits) -> None:
        self.ledger.entries.make_room(limits, self.now)

    @rule(policy=POLICIES)
    def rank(self, policy: Policy) -> None:
        assert self.ledger.entries.rank(policy) is None

    @rule()
    def clear(self) -> None:
        self.ledger.entries.clear("default")

    @rule()
    def fail_half_way(self) -> None:
        with pytest.raises(ZeroDivisionError), self.ledger.write() as connection:
            connection.execute(sa.text("UPDATE semcache_space SET bytes = 1, entries = 1"))
            raise ZeroDivisionError

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = self.open()

    @invariant()
    def totals_are_those_of_a_recount(self) -> None:
        if hasattr(self, "ledger"):
            space = self.ledger.space()
            assert (space.entries, space.bytes) == counted_anew(self.ledger)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.directory.cleanup()


def check_totals(machine: type[RunningTotals], examples: int) -> None:
    run_machine(machine, examples, 25)

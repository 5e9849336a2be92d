"""Room: what entries take, which go where there is too little, and that the totals stay right."""

import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Bench
from fakes import WORDS, WordEmbedder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from semcache_core import Request, SemanticCache, Usage
from semcache_core.eviction import AT_ONCE, Limits, Policy, Reason, size_of
from semcache_core.ledger import FILE_NAME, Arrival, Ledger, NewEntry
from semcache_core.ledger import size_of as size_of_entry
from semcache_core.request import key_of
from semcache_core.schema import ENTRY_BYTES, entries, tags, vectors
from semcache_core.vacuum import KEPT_PAGES

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


@pytest.fixture
def ledger() -> Any:
    with closing(Ledger.open(None, None)) as ledger:
        yield ledger


class Gone(Counter[Reason]):
    """How many went, by reason."""

    def tell(self, reason: Reason, count: int) -> None:
        self[reason] += count


# -- the running totals --------------------------------------------------------------------------

numbers = st.integers(0, 7)
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
policies = st.sampled_from(["lru", "lfu", "cost"])
limits = st.builds(
    Limits,
    st.none() | st.integers(1, 6),
    st.none() | st.integers(ENTRY_BYTES * 2, ENTRY_BYTES * 8),
    policies,
)


class RunningTotals(RuleBasedStateMachine):
    """Whatever is done to a ledger, in whatever order, its totals are those of a recount."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.ledger = Ledger.open(Path(self.directory.name), None)
        self.now = 100.0

    @rule(
        n=numbers,
        response=texts,
        answer=st.none() | texts,
        labels=st.lists(st.sampled_from(["a", "ä", "a"]), max_size=3),
        vector=st.sampled_from([VECTOR, None]),
        ttl=st.none() | st.just(3.0),
        cost=st.none() | st.just(2.5),
        limits=limits,
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
        entry_id = self.ledger.insert(entry, limits)
        assert self.ledger.get(entry_id, entry.partition, self.now) is not None
        space = self.ledger.space()
        assert limits.max_entries is None or space.entries <= limits.max_entries
        assert limits.max_bytes is None or space.bytes <= limits.max_bytes or space.entries == 1

    @rule(some=st.lists(st.tuples(numbers, texts), max_size=4), limits=limits)
    def insert_newer(self, some: list[tuple[int, str]], limits: Limits) -> None:
        self.now += 1
        comes = [new(f"q{n}", Arrival, response=r, created=self.now) for n, r in some]
        self.ledger.insert_newer(comes, self.now, limits)

    @rule(n=numbers)
    def delete_exact(self, n: int) -> None:
        self.ledger.delete_exact(new(f"q{n}").exact, self.now)

    @rule(entry_id=st.integers(1, 30))
    def delete(self, entry_id: int) -> None:
        self.ledger.delete(entry_id)

    @rule(entry_ids=st.lists(st.integers(1, 30), max_size=3), longer=st.booleans())
    def replace_vectors(self, entry_ids: list[int], longer: bool) -> None:
        vector = np.tile(VECTOR, 1 + longer)
        self.ledger.replace_vectors([(i, "f" * 64, vector) for i in entry_ids])

    @rule(entry_id=st.integers(1, 30), hits=st.integers(1, 5))
    def touch(self, entry_id: int, hits: int) -> None:
        self.ledger.touch({entry_id: (hits, self.now)})

    @rule()
    def expire(self) -> None:
        self.now += 2
        self.ledger.delete_expired(self.now)

    @rule(tag=st.sampled_from(["a", "ä"]))
    def invalidate(self, tag: str) -> None:
        self.ledger.invalidate([tag], None, None)

    @rule(limits=limits)
    def make_room(self, limits: Limits) -> None:
        self.ledger.make_room(limits, self.now)

    @rule(policy=policies)
    def rank(self, policy: Policy) -> None:
        assert self.ledger.rank(policy) is None

    @rule()
    def clear(self) -> None:
        self.ledger.clear("default")

    @rule()
    def fail_half_way(self) -> None:
        with pytest.raises(ZeroDivisionError), self.ledger.write() as connection:
            connection.execute(sa.text("UPDATE semcache_space SET bytes = 1, entries = 1"))
            raise ZeroDivisionError

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(Path(self.directory.name), None)

    @invariant()
    def totals_are_those_of_a_recount(self) -> None:
        if hasattr(self, "ledger"):
            space = self.ledger.space()
            assert (space.entries, space.bytes) == counted_anew(self.ledger)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.directory.cleanup()


def test_the_totals_are_those_of_a_recount_whatever_is_done() -> None:
    run_state_machine_as_test(
        RunningTotals,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@given(texts)
def test_a_text_takes_what_its_bytes_take(text: str) -> None:
    taken = len(text.encode("utf-8", "surrogatepass"))
    assert size_of([text, None], vector_bytes=8) == ENTRY_BYTES + 8 + taken


# -- which go ------------------------------------------------------------------------------------


def test_the_least_recently_used_go_until_the_bytes_are_within_the_limit(ledger: Ledger) -> None:
    for i in range(6):
        ledger.insert(new(f"q{i}", created=100.0 + i))
    each = size_of_entry(new("q0"))
    large = new("large", response="x" * 2 * each, created=200.0)
    ledger.insert(large, Limits(max_bytes=6 * each))
    assert questions(ledger) == ["large", "q3", "q4", "q5"]
    assert ledger.space().bytes <= 6 * each


def test_a_limit_that_holds_to_the_byte_evicts_nothing(ledger: Ledger) -> None:
    first, second = new("one"), new("two")
    most = size_of_entry(first) + size_of_entry(second)
    ledger.insert(first)
    ledger.insert(second, Limits(max_bytes=most))
    assert questions(ledger) == ["one", "two"]
    ledger.clear()
    ledger.insert(first)
    ledger.insert(second, Limits(max_bytes=most - 1))
    assert questions(ledger) == ["two"]


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost"])
def test_what_has_expired_goes_first_and_is_told_apart(policy: Policy, ledger: Ledger) -> None:
    ledger.rank(policy)
    gone = Gone()
    ledger.insert(new("used", created=100.0, expires=150.0))
    ledger.touch({1: (9, 149.0)})
    ledger.insert(new("unused", created=101.0))
    ledger.insert(new("third", created=160.0), Limits(2, None, policy, gone.tell))
    assert (questions(ledger), gone) == (["third", "unused"], {"expired": 1})
    ledger.insert(new("fourth", created=161.0), Limits(2, None, policy, gone.tell))
    assert (questions(ledger), gone) == (["fourth", "third"], {"expired": 1, "space": 1})


def test_by_lfu_what_was_used_least_goes_however_lately_it_came(ledger: Ledger) -> None:
    limits = Limits(3, policy="lfu")
    ledger.rank("lfu")
    ids = [ledger.insert(new(f"q{i}", created=100.0 + i), limits) for i in range(3)]
    ledger.touch({ids[0]: (3, 103.0), ids[1]: (1, 104.0)})
    ledger.insert(new("q3", created=105.0), limits)
    assert questions(ledger) == ["q0", "q1", "q3"]


def test_by_lfu_what_was_used_much_long_ago_goes_in_the_end(ledger: Ledger) -> None:
    limits = Limits(3, policy="lfu")
    ledger.rank("lfu")
    old = ledger.insert(new("old"), limits)
    ledger.touch({old: (4, 100.0)})
    for i in range(30):  # each is used once after it came, and never again
        ledger.touch({ledger.insert(new(f"q{i}", created=101.0 + i), limits): (1, 101.5 + i)})
        if i == 2:
            assert "old" in questions(ledger)
    assert "old" not in questions(ledger)


@pytest.mark.parametrize("measure", ["cost", "seconds", "tokens_out"])
def test_by_cost_what_saves_least_for_its_room_goes(measure: str, ledger: Ledger) -> None:
    limits = Limits(3, policy="cost")
    ledger.rank("cost")
    ledger.insert(new("dear", **{measure: 10}), limits)
    ledger.insert(new("cheap", **{measure: 1}), limits)
    ledger.insert(new("dear and large", response="x" * 100_000, **{measure: 20}), limits)
    ledger.insert(new("next", **{measure: 10}), limits)
    assert questions(ledger) == ["cheap", "dear", "next"]
    ledger.insert(new("last", **{measure: 10}), limits)
    assert questions(ledger) == ["dear", "last", "next"]


def test_by_cost_amounts_of_different_units_compare_by_their_means(ledger: Ledger) -> None:
    limits = Limits(5, policy="cost")
    ledger.rank("cost")
    ledger.insert(new("cents 1", cost=0.001), limits)
    ledger.insert(new("cents 2", cost=0.003), limits)
    ledger.insert(new("tokens 1", tokens_in=100, tokens_out=900), limits)
    ledger.insert(new("tokens 2", tokens_out=400), limits)
    ledger.insert(new("nothing known"), limits)
    ledger.insert(new("cents 3", cost=0.002), limits)
    assert "tokens 2" not in questions(ledger)  # its mean is 700, and it is .57 of that


def test_ties_go_by_last_use_and_then_by_age(ledger: Ledger) -> None:
    ledger.rank("lfu")
    for question, used in (("a", 103.0), ("b", 102.0), ("c", 102.0)):
        ledger.insert(new(question, created=used))
    for left in (["a", "c"], ["a"]):
        ledger.make_room(Limits(len(left), policy="lfu"), 110.0)
        assert questions(ledger) == left


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost"])
@pytest.mark.parametrize("limited", [{"max_entries": 2}, {"max_bytes": 4 * ENTRY_BYTES}])
def test_a_new_entry_is_never_evicted_for_itself(
    policy: Policy, limited: dict[str, int], ledger: Ledger
) -> None:
    ledger.rank(policy)
    limits = Limits(**limited, policy=policy)
    for i in range(3):
        ledger.touch({ledger.insert(new(f"q{i}", created=1000.0, cost=9), limits): (9, 1000.0)})
    ledger.insert(new("late", created=1.0, cost=0.0), limits)
    assert "late" in questions(ledger)


def test_a_cost_of_nothing_is_no_error_and_ranks_lowest(ledger: Ledger) -> None:
    limits = Limits(2, policy="cost")
    ledger.rank("cost")
    ledger.insert(new("free", cost=0.0), limits)
    ledger.insert(new("dear", cost=2.0), limits)
    ledger.insert(new("free too", cost=0.0), limits)
    ledger.insert(new("dear too", cost=2.0), limits)
    assert questions(ledger) == ["dear", "dear too"]


@pytest.mark.parametrize("cost", [float("inf"), float("nan"), -1.0])
def test_a_cost_that_is_no_amount_counts_as_unknown(cost: float, ledger: Ledger) -> None:
    ledger.rank("cost")
    ledger.insert(new("strange", cost=cost, seconds=4.0))
    ledger.insert(new("plain", seconds=4.0))
    worth = [row[0] for row in ledger.read(sa.select(entries.c.worth), {})]
    assert worth == pytest.approx(
        [1 / size_of_entry(new("strange")), 1 / size_of_entry(new("plain"))]
    )


# -- another policy than before ------------------------------------------------------------------


def test_a_policy_new_to_a_ledger_ranks_what_is_there(ledger: Ledger) -> None:
    ids = [ledger.insert(new(f"q{i}", created=100.0 + i)) for i in range(3)]
    ledger.touch({ids[0]: (5, 101.0)})
    assert ledger.rank("lfu") is None
    ledger.make_room(Limits(1, policy="lfu"), 110.0)
    assert questions(ledger) == ["q0"]


def test_a_cache_with_another_policy_ranks_the_rest_in_its_upkeep(
    bench: Bench, still: None
) -> None:
    with closing(Ledger.open(bench.path, None)) as ledger:
        many = [new(f"q{i}", Arrival, vector=None) for i in range(AT_ONCE + 5)]
        ledger.insert_newer(many, 100.0)
    cache = bench.open(eviction="lfu")
    ledger = cache._use().ledger
    assert ledger.space().ranked_by == "lru"
    cache._use().upkeep.round()
    assert ledger.space().ranked_by == "lfu"
    with_rank = sa.select(sa.func.count()).where(entries.c.priority == 1.0)
    assert ledger.read(with_rank, {})[0][0] == AT_ONCE + 5


def test_until_all_are_ranked_the_least_recently_used_go(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [new(f"q{i:04}", Arrival, created=100.0 + i, vector=None) for i in range(AT_ONCE + 1)]
    ledger.insert_newer(many, 100.0)
    ledger.touch({AT_ONCE + 1: (1, 2.0)})
    through = ledger.rank("lfu")
    assert through == AT_ONCE
    ledger.make_room(Limits(AT_ONCE, policy="lfu"), 110.0)
    assert "q0000" not in questions(ledger)
    assert ledger.rank("lfu", through) is None
    assert ledger.space().ranked_by == "lfu"
    ledger.make_room(Limits(1, policy="lfu"), 110.0)
    assert questions(ledger) == [f"q{AT_ONCE:04}"]


def test_lru_leaves_the_ranks_of_another_policy_alone_and_right(ledger: Ledger) -> None:
    ledger.rank("lfu")
    ids = [ledger.insert(new(f"q{i}", created=100.0 + i), Limits(3)) for i in range(3)]
    assert ledger.rank("lru") is None
    ledger.touch({ids[0]: (2, 100.5)})
    assert ledger.space().ranked_by == "lfu"
    ledger.make_room(Limits(1, policy="lfu"), 110.0)
    assert questions(ledger) == ["q0"]


# -- how much at once ----------------------------------------------------------------------------


def test_one_transaction_evicts_so_many_and_upkeep_the_rest(bench: Bench, still: None) -> None:
    gone = Gone()
    with closing(Ledger.open(bench.path, None)) as ledger:
        many = [new(f"q{i}", Arrival, vector=None) for i in range(2 * AT_ONCE + 5)]
        ledger.insert_newer(many, 100.0)
        ledger.insert(new("another"), Limits(3, tell=gone.tell))
        assert ledger.count() == AT_ONCE + 6
    assert gone == {"space": AT_ONCE}
    cache = bench.open(max_entries=3)
    cache._use().upkeep.round()
    assert cache._use().ledger.count() == 3


# -- in a cache ----------------------------------------------------------------------------------


def test_an_answer_beyond_the_limit_is_refused_and_said_once(
    bench: Bench, warnings_of: Any
) -> None:
    cache = bench.open(max_response_bytes=10)
    assert cache.update(Request("at the limit"), "x" * 10) is not None
    assert cache.update(Request("q"), "ä" * 6) is None
    assert cache.update(Request("p"), "x" * 11) is None
    assert cache.lookup(Request("q")) is None
    assert cache.stats().refused == 2
    assert len(warnings_of("larger than")) == 0
    (line,) = warnings_of("max_response_bytes")
    assert "12 bytes" in line and "10" in line and "ä" not in line


def test_ten_megabytes_are_refused_unless_they_are_allowed(bench: Bench) -> None:
    answer = "x" * 10_000_000
    assert bench.open().update(Request("q"), answer) is None
    cache = bench.open(max_response_bytes=None)
    assert cache.update(Request("q"), answer) is not None
    hit = bench.open().lookup(Request("q"))
    assert hit is not None and hit.response == answer


def test_an_entry_larger_than_all_the_room_is_refused_and_evicts_nothing(bench: Bench) -> None:
    cache = bench.open(max_bytes=10_000)
    cache.update(Request("small"), "a")
    assert cache.update(Request("large"), "x" * 10_000) is None
    assert cache.lookup(Request("small")) is not None
    assert cache.stats().refused == 1


def test_an_older_answer_is_not_served_in_place_of_one_too_large(bench: Bench) -> None:
    cache = bench.open(max_response_bytes=10)
    cache.update(Request("q"), "old")
    cache.update(Request("other"), "stays")
    assert cache.update(Request("q"), "x" * 11) is None
    assert cache.lookup(Request("q")) is None
    assert cache.lookup(Request("other")) is not None


def test_get_or_create_gives_an_answer_too_large_to_keep(bench: Bench) -> None:
    cache = bench.open(max_response_bytes=10)
    assert cache.get_or_create(Request("q"), lambda: "x" * 11) == "x" * 11
    assert cache.stats().failures == {}


def test_a_cache_holds_its_bytes_and_tells_them(bench: Bench, still: None) -> None:
    cache = bench.open(max_bytes=20_000)
    for i in range(40):
        cache.update(Request(f"question {i}"), "x" * 1000)
    stats = cache.stats()
    assert stats.max_bytes == 20_000
    assert stats.bytes is not None and 15_000 < stats.bytes <= 20_000
    assert stats.bytes == counted_anew(cache._use().ledger)[1]


def test_a_hit_not_yet_written_counts_for_its_rank(bench: Bench, still: None) -> None:
    cache = bench.open(max_entries=2, eviction="lfu")
    for question in ("one", "two"):
        cache.update(Request(question), "a")
    cache.lookup(Request("one"))
    cache.update(Request("three"), "a")
    assert cache.lookup(Request("one")) is not None
    assert cache.lookup(Request("two")) is None


def test_by_cost_a_cache_goes_by_what_its_answers_took(bench: Bench, still: None) -> None:
    cache = bench.open(max_entries=2, eviction="cost")
    cache.update(Request("dear"), "a", usage=Usage(seconds=9))
    cache.update(Request("cheap"), "a", usage=Usage(seconds=1))
    cache.update(Request("next"), "a", usage=Usage(seconds=5))
    assert cache.lookup(Request("dear")) is not None
    assert cache.lookup(Request("cheap")) is None


def test_an_import_evicts_and_refuses_too(bench: Bench) -> None:
    file = bench.directory / "entries.jsonl"
    with bench.open() as cache:
        for i in range(5):
            cache.update(Request(f"q{i}"), "x" * (10 + i))
        cache.export_entries(file)
    there = bench.open(path=None, max_entries=3, max_response_bytes=13)
    done = there.import_entries(file)
    assert (done.stored, done.refused) == (4, 1)
    assert there.stats().entries == 3


def _stored(cache: SemanticCache, count: int) -> None:
    for i in range(count):
        cache.update(Request(f"question {i}", exact_only=True), "x" * 8000)


def test_the_file_shrinks_when_most_of_it_is_cleared(bench: Bench, still: None) -> None:
    cache = bench.open(scan_limit=10**6)
    _stored(cache, 1500)
    ledger, file = cache._use().ledger, bench.path / FILE_NAME
    ledger.read(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"), {})
    before = file.stat().st_size
    cache.clear()
    steps = 0
    while ledger.shrink():
        steps += 1
    ledger.read(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"), {})
    assert steps > 3  # in small ones
    assert file.stat().st_size < before / 2
    _stored(cache, 5)
    assert cache.lookup(Request("question 3")) is not None


def _free_pages(cache: SemanticCache) -> int:
    return int(cache._use().ledger.read(sa.text("PRAGMA freelist_count"), {})[0][0])


def test_upkeep_gives_room_back_while_more_is_free_than_is_kept(bench: Bench, still: None) -> None:
    cache = bench.open()
    _stored(cache, 1000)
    cache.clear()
    before = _free_pages(cache)
    for _ in range(3):
        cache._use().upkeep.round()
    assert _free_pages(cache) == KEPT_PAGES < before


def test_a_file_that_was_not_made_for_it_stays_as_it_is(bench: Bench, still: None) -> None:
    bench.path.mkdir()
    with closing(sqlite3.connect(bench.path / FILE_NAME)) as connection:
        connection.execute("CREATE TABLE semcache_meta (name VARCHAR PRIMARY KEY, value BIGINT)")
    cache = bench.open()
    _stored(cache, 1000)
    cache.clear()
    assert cache._use().ledger.shrink() is False


def test_limits_without_a_number_change_nothing(ledger: Ledger) -> None:
    limits = replace(Limits(1), max_entries=None)
    for i in range(3):
        ledger.insert(new(f"q{i}"), limits)
    assert not limits.bounded and ledger.count() == 3

"""Room: what entries take, which go where there is too little, and that the totals stay right."""

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import Bench
from hypothesis import given
from running_totals import TEXTS, RunningTotals, check_totals, counted_anew, new, questions
from semcache_core import Request, SemanticCache, Usage
from semcache_core.pipeline.background import PolicyChange
from semcache_core.storage import eviction
from semcache_core.storage.entries import Entries, ImportedEntry
from semcache_core.storage.entries import size_of as size_of_entry
from semcache_core.storage.eviction import AT_ONCE, BEFOREHAND, Limits, Policy, Reason, size_of
from semcache_core.storage.ledger import FILE_NAME, Ledger
from semcache_core.storage.schema import ENTRY_BYTES, entries
from semcache_core.storage.sqlite import KEPT_PAGES
from semcache_core.testing import engine_of, run_background_round


@pytest.fixture
def ledger() -> Any:
    with closing(Ledger.open(None, None)) as ledger:
        yield ledger


class Gone(Counter[Reason]):
    """How many went, by reason."""

    def tell(self, reason: Reason, count: int) -> None:
        self[reason] += count


# -- the running totals --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_totals_are_those_of_a_recount_whatever_is_done() -> None:
    check_totals(RunningTotals, examples=40)


@given(TEXTS)
def test_a_text_takes_what_its_bytes_take(text: str) -> None:
    taken = len(text.encode("utf-8", "surrogatepass"))
    assert size_of([text, None], vector_bytes=8) == ENTRY_BYTES + 8 + taken


# -- which go ------------------------------------------------------------------------------------


def test_the_least_recently_used_go_until_the_bytes_are_within_the_limit(ledger: Ledger) -> None:
    for i in range(6):
        ledger.entries.insert(new(f"q{i}", created=100.0 + i))
    each = size_of_entry(new("q0"))
    large = new("large", response="x" * 2 * each, created=200.0)
    ledger.entries.insert(large, Limits(max_bytes=13 * each // 2))
    assert questions(ledger) == ["large", "q3", "q4", "q5"]
    assert ledger.space().bytes <= 13 * each // 2


def test_a_limit_that_holds_to_the_byte_evicts_nothing(ledger: Ledger) -> None:
    first, second = new("one"), new("two")
    most = size_of_entry(first) + size_of_entry(second)
    ledger.entries.insert(first)
    ledger.entries.insert(second, Limits(max_bytes=most))
    assert questions(ledger) == ["one", "two"]
    ledger.entries.clear()
    ledger.entries.insert(first)
    ledger.entries.insert(second, Limits(max_bytes=most - 1))
    assert questions(ledger) == ["two"]


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost"])
def test_what_has_expired_goes_first_and_is_told_apart(policy: Policy, ledger: Ledger) -> None:
    ledger.entries.rank(policy)
    gone = Gone()
    ledger.entries.insert(new("used", created=100.0, expires=150.0))
    ledger.entries.touch({1: (9, 149.0)})
    ledger.entries.insert(new("unused", created=101.0))
    ledger.entries.insert(new("third", created=160.0), Limits(2, None, policy, gone.tell))
    assert (questions(ledger), gone) == (["third", "unused"], {"expired": 1})
    ledger.entries.insert(new("fourth", created=161.0), Limits(2, None, policy, gone.tell))
    assert (questions(ledger), gone) == (["fourth", "third"], {"expired": 1, "space": 1})


def test_by_lfu_what_was_used_least_goes_however_lately_it_came(ledger: Ledger) -> None:
    limits = Limits(3, policy="lfu")
    ledger.entries.rank("lfu")
    ids = [ledger.entries.insert(new(f"q{i}", created=100.0 + i), limits) for i in range(3)]
    ledger.entries.touch({ids[0]: (3, 103.0), ids[1]: (1, 104.0)})
    ledger.entries.insert(new("q3", created=105.0), limits)
    assert questions(ledger) == ["q0", "q1", "q3"]


def test_by_lfu_what_was_used_much_long_ago_goes_in_the_end(ledger: Ledger) -> None:
    limits = Limits(3, policy="lfu")
    ledger.entries.rank("lfu")
    old = ledger.entries.insert(new("old"), limits)
    ledger.entries.touch({old: (4, 100.0)})
    for i in range(30):  # each is used once after it came, and never again
        ledger.entries.touch(
            {ledger.entries.insert(new(f"q{i}", created=101.0 + i), limits): (1, 101.5 + i)}
        )
        if i == 2:
            assert "old" in questions(ledger)
    assert "old" not in questions(ledger)


@pytest.mark.parametrize("measure", ["cost", "seconds", "tokens_out"])
def test_by_cost_what_saves_least_for_its_room_goes(measure: str, ledger: Ledger) -> None:
    limits = Limits(3, policy="cost")
    ledger.entries.rank("cost")
    ledger.entries.insert(new("dear", **{measure: 10}), limits)
    ledger.entries.insert(new("cheap", **{measure: 1}), limits)
    ledger.entries.insert(new("dear and large", response="x" * 100_000, **{measure: 20}), limits)
    ledger.entries.insert(new("next", **{measure: 10}), limits)
    assert questions(ledger) == ["cheap", "dear", "next"]
    ledger.entries.insert(new("last", **{measure: 10}), limits)
    assert questions(ledger) == ["dear", "last", "next"]


def test_by_cost_amounts_of_different_units_compare_by_their_means(ledger: Ledger) -> None:
    limits = Limits(5, policy="cost")
    ledger.entries.rank("cost")
    ledger.entries.insert(new("cents 1", cost=0.001), limits)
    ledger.entries.insert(new("cents 2", cost=0.003), limits)
    ledger.entries.insert(new("tokens 1", tokens_in=100, tokens_out=900), limits)
    ledger.entries.insert(new("tokens 2", tokens_out=400), limits)
    ledger.entries.insert(new("nothing known"), limits)
    ledger.entries.insert(new("cents 3", cost=0.002), limits)
    assert "tokens 2" not in questions(ledger)  # its mean is 700, and it is .57 of that


def test_ties_go_by_last_use_and_then_by_age(ledger: Ledger) -> None:
    ledger.entries.rank("lfu")
    for question, used in (("a", 103.0), ("b", 102.0), ("c", 102.0)):
        ledger.entries.insert(new(question, created=used))
    for left in (["a", "c"], ["a"]):
        ledger.entries.make_room(Limits(len(left), policy="lfu"), 110.0)
        assert questions(ledger) == left


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost"])
@pytest.mark.parametrize("limited", [{"max_entries": 2}, {"max_bytes": 4 * ENTRY_BYTES}])
def test_a_new_entry_is_never_evicted_for_itself(
    policy: Policy, limited: dict[str, int], ledger: Ledger
) -> None:
    ledger.entries.rank(policy)
    limits = Limits(**limited, policy=policy)
    for i in range(3):
        ledger.entries.touch(
            {ledger.entries.insert(new(f"q{i}", created=1000.0, cost=9), limits): (9, 1000.0)}
        )
    ledger.entries.insert(new("late", created=1.0, cost=0.0), limits)
    assert "late" in questions(ledger)


def test_a_cost_of_nothing_is_no_error_and_ranks_lowest(ledger: Ledger) -> None:
    limits = Limits(2, policy="cost")
    ledger.entries.rank("cost")
    ledger.entries.insert(new("free", cost=0.0), limits)
    ledger.entries.insert(new("dear", cost=2.0), limits)
    ledger.entries.insert(new("free too", cost=0.0), limits)
    ledger.entries.insert(new("dear too", cost=2.0), limits)
    assert questions(ledger) == ["dear", "dear too"]


@pytest.mark.parametrize("cost", [float("inf"), float("nan"), -1.0])
def test_a_cost_that_is_no_amount_counts_as_unknown(cost: float, ledger: Ledger) -> None:
    ledger.entries.rank("cost")
    ledger.entries.insert(new("strange", cost=cost, seconds=4.0))
    ledger.entries.insert(new("plain", seconds=4.0))
    worth = [row[0] for row in ledger.read(sa.select(entries.c.worth), {})]
    assert worth == pytest.approx(
        [1 / size_of_entry(new("strange")), 1 / size_of_entry(new("plain"))]
    )


# -- another policy than before ------------------------------------------------------------------


def test_a_policy_new_to_a_ledger_ranks_what_is_there(ledger: Ledger) -> None:
    ids = [ledger.entries.insert(new(f"q{i}", created=100.0 + i)) for i in range(3)]
    ledger.entries.touch({ids[0]: (5, 101.0)})
    assert ledger.entries.rank("lfu") is None
    ledger.entries.make_room(Limits(1, policy="lfu"), 110.0)
    assert questions(ledger) == ["q0"]


def test_a_cache_with_another_policy_ranks_the_rest_in_its_upkeep(
    bench: Bench, still: None
) -> None:
    with closing(Ledger.open(bench.path, None)) as ledger:
        many = [new(f"q{i}", ImportedEntry, vector=None) for i in range(AT_ONCE + 5)]
        ledger.entries.insert_newer(many, 100.0)
    cache = bench.open(eviction="lfu")
    ledger = engine_of(cache).ledger
    assert ledger.space().ranked_by == "lru"
    run_background_round(cache)
    assert ledger.space().ranked_by == "lfu"
    with_rank = sa.select(sa.func.count()).where(entries.c.priority == 1.0)
    assert ledger.read(with_rank, {})[0][0] == AT_ONCE + 5


def test_until_all_are_ranked_the_least_recently_used_go(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [
        new(f"q{i:04}", ImportedEntry, created=100.0 + i, vector=None) for i in range(AT_ONCE + 1)
    ]
    ledger.entries.insert_newer(many, 100.0)
    ledger.entries.touch({AT_ONCE + 1: (1, 2.0)})
    through = ledger.entries.rank("lfu")
    assert through == AT_ONCE
    ledger.entries.make_room(Limits(AT_ONCE, policy="lfu"), 110.0)
    assert "q0000" not in questions(ledger)
    assert ledger.entries.rank("lfu", through) is None
    assert ledger.space().ranked_by == "lfu"
    ledger.entries.make_room(Limits(1, policy="lfu"), 110.0)
    assert questions(ledger) == [f"q{AT_ONCE:04}"]


def test_lru_leaves_the_ranks_of_another_policy_alone_and_right(ledger: Ledger) -> None:
    ledger.entries.rank("lfu")
    ids = [ledger.entries.insert(new(f"q{i}", created=100.0 + i), Limits(3)) for i in range(3)]
    assert ledger.entries.rank("lru") is None
    ledger.entries.touch({ids[0]: (2, 100.5)})
    assert ledger.space().ranked_by == "lfu"
    ledger.entries.make_room(Limits(1, policy="lfu"), 110.0)
    assert questions(ledger) == ["q0"]


def test_a_step_of_ranking_that_fails_is_tried_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [new(f"q{i}", ImportedEntry, vector=None) for i in range(AT_ONCE + 1)]
    ledger.entries.insert_newer(many, 100.0)
    change = PolicyChange(ledger, "lfu")
    with monkeypatch.context() as patched:
        patched.setattr(Entries, "rank", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            change.step()
    assert [change.step(), change.step(), change.step()] == [True, False, False]
    assert ledger.space().ranked_by == "lfu"


def test_few_entries_are_ranked_by_another_policy_at_opening(bench: Bench, still: None) -> None:
    with bench.open() as cache:
        cache.update(Request("q"), "a")
    assert engine_of(bench.open(eviction="cost")).ledger.space().ranked_by == "cost"


# -- how much at once ----------------------------------------------------------------------------


def test_one_transaction_evicts_so_many_and_upkeep_the_rest(bench: Bench, still: None) -> None:
    gone = Gone()
    with closing(Ledger.open(bench.path, None)) as ledger:
        many = [new(f"q{i}", ImportedEntry, vector=None) for i in range(2 * AT_ONCE + 5)]
        ledger.entries.insert_newer(many, 100.0)
        ledger.entries.insert(new("another"), Limits(3, on_evicted=gone.tell))
        assert ledger.count() == AT_ONCE + 6
    assert gone == {"space": AT_ONCE}
    cache = bench.open(max_entries=3)
    run_background_round(cache)
    assert engine_of(cache).ledger.count() == 3


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
    assert stats.bytes == counted_anew(engine_of(cache).ledger)[1]


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
    ledger, file = engine_of(cache).ledger, bench.path / FILE_NAME
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
    return int(engine_of(cache).ledger.read(sa.text("PRAGMA freelist_count"), {})[0][0])


def test_upkeep_gives_room_back_while_more_is_free_than_is_kept(bench: Bench, still: None) -> None:
    cache = bench.open()
    _stored(cache, 1000)
    cache.clear()
    before = _free_pages(cache)
    for _ in range(3):
        run_background_round(cache)
    assert _free_pages(cache) == KEPT_PAGES < before


def test_a_file_that_was_not_made_for_it_stays_as_it_is(bench: Bench, still: None) -> None:
    bench.path.mkdir()
    with closing(sqlite3.connect(bench.path / FILE_NAME)) as connection:
        connection.execute("CREATE TABLE x (y)")  # so that SQLite fixes the file's layout
        connection.execute("DROP TABLE x")
    cache = bench.open()
    _stored(cache, 1000)
    cache.clear()
    assert engine_of(cache).ledger.shrink() is False


def test_limits_without_a_number_change_nothing(ledger: Ledger) -> None:
    limits = replace(Limits(1), max_entries=None)
    for i in range(3):
        ledger.entries.insert(new(f"q{i}"), limits)
    assert not limits.bounded and ledger.count() == 3


# -- one eviction for many updates ---------------------------------------------------------------


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost"])
def test_an_update_beyond_a_limit_makes_room_for_those_that_follow(
    policy: Policy, ledger: Ledger
) -> None:
    ledger.entries.rank(policy)
    limits = Limits(300, policy=policy)
    counts = []
    for i in range(310):
        ledger.entries.insert(new(f"q{i}", created=100.0 + i, vector=None), limits)
        counts.append(ledger.space().entries)
    # 301 are one too many: that one goes, and three, a hundredth, with it
    assert counts[297:] == [298, 299, 300, 297, 298, 299, 300, 297, 298, 299, 300, 297, 298]


def test_room_in_bytes_is_made_beforehand_too_but_not_for_more_than_so_many(
    ledger: Ledger,
) -> None:
    each = size_of_entry(new("q00000", vector=None))
    many = [new(f"q{i:05}", ImportedEntry, created=100.0 + i, vector=None) for i in range(7001)]
    ledger.entries.insert_newer(many, 100.0)
    gone = Gone()
    ledger.entries.make_room(Limits(None, 7000 * each, on_evicted=gone.tell), 100.0)
    assert gone == {"space": BEFOREHAND + 1}


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (eviction._LEAST_RECENT, "ix_semcache_entries_used"),
        (eviction._LOWEST, "COVERING INDEX semcache_entries_priority"),
        (eviction._EXPIRED, "ix_semcache_entries_expires"),
    ],
    ids=["lru", "lfu and cost", "expired"],
)
def test_what_goes_next_is_read_from_an_index(query: Any, index: str, ledger: Ledger) -> None:
    given = query.params(spare=0, now=1.0, most=3)
    sql = given.compile(compile_kwargs={"literal_binds": True})
    steps = [row[3] for row in ledger.read(sa.text(f"EXPLAIN QUERY PLAN {sql}"), {})]
    assert any(index in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps

"""What answers cost by a price table, and what their hits save."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import Async, Sync
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Prices, Request, Saved, SemanticCache, SemcacheError, Usage
from semcache_core.storage.entries import Entries
from semcache_core.storage.ledger import Ledger
from semcache_core.testing import engine_of
from semcache_core.types import MOST_TOKENS

PRICES = Prices({"small-*": (1.0, 4.0), "*": (10.0, 40.0)})
KNOWN = Usage("small-2", tokens_in=1_000, tokens_out=500, seconds=2.5)


def test_the_first_pattern_that_fits_counts() -> None:
    assert PRICES.cost(KNOWN) == pytest.approx(0.003)
    assert PRICES.cost(Usage("large", 1_000, 500)) == pytest.approx(0.03)
    assert Prices({"*": (10, 40), "small-*": (1, 4)}).cost(KNOWN) == pytest.approx(0.03)


def test_capitals_do_not_matter() -> None:
    assert Prices({"Small-*": (1, 4)}).cost(Usage("SMALL-2", 1_000, 500)) == pytest.approx(0.003)


@pytest.mark.parametrize(
    "usage", [Usage(), Usage("small-2", 1), Usage("small-2", None, 1), Usage(None, 1, 1)]
)
def test_half_a_bill_is_none(usage: Usage) -> None:
    assert PRICES.cost(usage) is None


def test_a_model_without_a_price_has_no_cost() -> None:
    assert Prices().cost(KNOWN) is None
    assert Prices({"other": (1, 4)}).cost(KNOWN) is None


def test_free_is_a_price() -> None:
    assert Prices({"*": (0, 0)}).cost(KNOWN) == 0


def test_a_table_that_changes_later_changes_no_price() -> None:
    table = {"small-*": (1.0, 4.0)}
    prices = Prices(table)
    table["small-*"] = (100.0, 100.0)
    assert prices.cost(KNOWN) == pytest.approx(0.003)


@pytest.mark.parametrize(
    "table",
    [
        {"m": 1.0},
        {"m": (1.0,)},
        {"m": (1.0, 2.0, 3.0)},
        {"m": (1.0, -2.0)},
        {"m": (1.0, float("nan"))},
        {"m": (1.0, float("inf"))},
        {"m": ("1", "2")},
        {"m": (True, 1.0)},
        {"m": "12"},
        {5: (1.0, 2.0)},
        [("m", 1.0, 2.0)],
        None,
    ],
)
def test_an_unusable_price_is_refused_with_its_value_and_an_example(table: Any) -> None:
    with pytest.raises(SemcacheError) as raised:
        Prices(table)
    shown = table.get("m", 5) if isinstance(table, dict) else table
    assert repr(shown) in str(raised.value) and 'Prices({"my-model*"' in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 5),
        ("tokens_in", -1),
        ("tokens_in", 1.5),
        ("tokens_in", True),
        ("tokens_out", MOST_TOKENS + 1),
        ("tokens_out", "5"),
        ("seconds", -0.1),
        ("seconds", float("nan")),
        ("seconds", float("inf")),
        ("seconds", "1"),
        ("seconds", False),
    ],
)
def test_an_unusable_usage_is_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(SemcacheError) as raised:
        Usage(**{name: value})
    assert name in str(raised.value) and repr(value) in str(raised.value)


amounts = st.none() | st.integers(0, MOST_TOKENS)
savings = st.builds(Saved, amounts, amounts, amounts, amounts)


@given(savings, savings, savings)
def test_savings_add_up_in_any_order(a: Saved, b: Saved, c: Saved) -> None:
    assert a.plus(b) == b.plus(a)
    assert a.plus(b).plus(c) == a.plus(b.plus(c))
    assert a.plus(Saved()) == a
    assert a.times(3) == a.plus(a).plus(a)


# -- what a cache makes of them --------------------------------------------------------------------


def saved_by(cache: SemanticCache) -> Saved:
    return cache.stats().saved


def test_a_hit_saves_what_its_answer_took(bench: Bench) -> None:
    cache = bench.open(prices=PRICES)
    cache.update(Request("one two three"), "a", usage=KNOWN)
    cache.lookup(Request("else"))
    assert saved_by(cache) == Saved()
    for question in ("one two three", "three two one", "one two three"):
        assert cache.lookup(Request(question)) is not None
    assert saved_by(cache) == Saved(3_000, 1_500, pytest.approx(0.009), 7.5)
    assert saved_by(cache) == Saved(3_000, 1_500, pytest.approx(0.009), 7.5)  # and counts it once


def test_what_is_not_known_is_none_and_not_zero(bench: Bench) -> None:
    cache = bench.open(prices=PRICES)
    cache.update(Request("one"), "a")
    cache.update(Request("two"), "a", usage=Usage(seconds=2.0))
    cache.lookup(Request("one"))
    assert saved_by(cache) == Saved()
    cache.lookup(Request("two"))
    assert saved_by(cache) == Saved(seconds=2.0)


def test_a_cost_that_is_given_wins_over_the_price_table(bench: Bench) -> None:
    cache = bench.open(prices=PRICES)
    for question, cost in (("one", 5.0), ("two", 0.0)):
        cache.update(Request(question), "a", usage=KNOWN, cost=cost)
        cache.lookup(Request(question))
    assert saved_by(cache).cost == 5.0


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), "1", True])
def test_an_unusable_cost_is_refused_and_nothing_stored(cost: Any, bench: Bench) -> None:
    cache = bench.open()
    with pytest.raises(SemcacheError, match="cost must be a number from 0 on"):
        cache.update(Request("one"), "a", cost=cost)
    assert cache.stats().entries == 0


def test_a_usage_that_is_none_is_refused(bench: Bench) -> None:
    with pytest.raises(SemcacheError, match=r"usage must be a Usage, got \{'seconds': 1\}"):
        bench.open().update(Request("one"), "a", usage={"seconds": 1})  # type: ignore[arg-type]


def test_an_answer_that_is_replaced_saves_what_the_new_one_took(bench: Bench) -> None:
    cache = bench.open()
    cache.update(Request("one"), "a", cost=5.0)
    cache.update(Request("one"), "b", cost=7.0)
    cache.lookup(Request("one"))
    assert saved_by(cache).cost == 7.0


@pytest.mark.parametrize("form", [Sync, Async])
async def test_get_or_create_notes_how_long_the_answer_took(
    form: type[Sync], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    cache = bench.open()
    asked = form(cache)
    for _ in range(2):
        assert await asked.get_or_create(Request("one"), "a") == "a"
    assert saved_by(cache) == Saved(seconds=1.0)  # one tick from before the call to after it


def test_a_ledger_knows_what_was_saved_by_all_processes(bench: Bench) -> None:
    for _ in range(2):
        with bench.open(prices=PRICES) as cache:
            if cache.lookup(Request("one")) is None:
                cache.update(Request("one"), "a", usage=KNOWN)
                cache.lookup(Request("one"))
    ledger = Ledger.open(bench.path, None)
    assert ledger.saved() == Saved(2_000, 1_000, pytest.approx(0.006), 5.0)
    ledger.close()


def test_an_empty_ledger_has_saved_nothing_that_is_known(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, None)
    assert ledger.saved() == Saved()
    ledger.close()


def test_sums_beyond_a_databases_integers_can_be_read(bench: Bench) -> None:
    cache = bench.open()
    entry_id = cache.update(Request("one"), "a", usage=Usage(tokens_in=MOST_TOKENS))
    assert entry_id is not None
    engine_of(cache).ledger.entries.touch({entry_id: (10**8, 0.0)})
    cache.update(Request("two"), "a", usage=Usage(tokens_in=MOST_TOKENS))
    assert engine_of(cache).ledger.saved().tokens_in == MOST_TOKENS * 10**8


def test_what_hits_saved_is_counted_though_the_ledger_failed_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, still: None
) -> None:
    from semcache_core.errors import LedgerError

    cache = bench.open()
    cache.update(Request("one"), "a", cost=5.0)
    cache.lookup(Request("one"))

    def broken(*_: object) -> Saved:
        raise LedgerError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Entries, "touch", broken)
        assert (cache.stats().entries, saved_by(cache)) == (1, Saved())
    assert saved_by(cache).cost == 5.0

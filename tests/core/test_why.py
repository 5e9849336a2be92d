"""Why a lookup ended as it did: `last_lookup()` after a call, and `explain` of a request."""

import asyncio
import gc
import json
import sqlite3
import weakref
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from conftest import Bench
from fakes import MARGINS, PlacedEmbedder, WordEmbedder, calibrated
from semcache_core import (
    Request,
    SemanticCache,
    SemcacheError,
    bypassing,
    last_hit,
    last_lookup,
    refreshing,
)
from semcache_core.request import PART_DIGITS, part_digests, why_whole
from semcache_core.testing import run_background_round

STORED = "please tell me as soon as you can where my parcel with the order number 1234 is today"
NEAR = "please tell me as soon as you can where a letter with the order number 1234 was"
LEDGER = "ledger.sqlite3"


@pytest.fixture
def cache(bench: Bench) -> SemanticCache:
    return bench.open()


def decided(cache: SemanticCache, request: Request | str) -> str:
    """The code of a lookup; `explain` of the same request must agree."""
    cache.lookup(request)
    found = last_lookup()
    assert found is not None
    return found.code


# -- what decided ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (Request(STORED), "exact", "the same"),
        (Request(STORED.replace("please ", "")), "semantic", "near enough"),
        (Request("how warm is it"), "below_threshold", "not near enough"),
        (Request(STORED.replace("1234", "1235")), "deciding_word", "other numbers: 1235, 1234"),
        (Request("x", exact_only=True), "exact_only", "exact_only is set"),
        (Request(" "), "exact_only", "empty question"),
        (Request("w " * 50), "unreadable", "longer than"),
        (Request(STORED, "elsewhere"), "empty_scope", "nothing is stored"),
    ],
)
def test_a_lookup_says_what_decided_it(
    asked: Request, code: str, words: str, cache: SemanticCache
) -> None:
    cache.update(Request(STORED), "in Basel")
    hit = cache.lookup(asked)
    found = last_lookup()
    assert found is not None and found.hit is hit is last_hit()
    assert (found.code, words in found.reason) == (code, True)
    assert str(found).startswith(f"{hit.kind} hit: " if hit else "miss: ")
    assert cache.explain(asked).code == code


def test_a_miss_says_from_which_bound_on_the_nearest_would_be_served(cache: SemanticCache) -> None:
    cache.update(Request(STORED), "in Basel")
    assert decided(cache, NEAR) == "below_threshold"
    found, explained = last_lookup(), cache.explain(NEAR)
    assert found is not None
    nearest = explained.candidates[0]
    assert found.probability == nearest.probability < (found.threshold or 0) == explained.threshold
    assert found.served_from == explained.served_from == 0.1
    assert "served from max_error_rate=0.1 on" in str(found)
    assert "the nearest would be served from max_error_rate=0.1 on" in str(explained)


def test_the_bound_it_names_serves_it(bench: Bench) -> None:
    bench.open().update(Request(STORED), "in Basel")
    assert bench.open(max_error_rate=0.1).lookup(NEAR) is not None


def test_a_miss_that_no_bound_would_serve_says_so(cache: SemanticCache) -> None:
    cache.update(Request(STORED), "in Basel")
    explained = cache.explain("how warm is it")
    assert explained.served_from is None
    assert "no max_error_rate of the calibration would serve the nearest" in str(explained)
    assert "no max_error_rate" not in str(cache.explain(STORED))


def test_a_number_is_not_blamed_where_the_question_is_far_away_anyway(cache: SemanticCache) -> None:
    cache.update(Request("what is the weather like in 3 days"), "warm")
    assert decided(cache, "what is the weather like in Lisbon") == "below_threshold"


def test_a_rival_answer_is_named(bench: Bench) -> None:
    calibrated(bench.artefact, weights=MARGINS)
    cache = bench.open(embedder=PlacedEmbedder({"left": 0.0, "right": 12.0, "middle": 6.0}))
    cache.update(Request("left"), "one")
    cache.update(Request("right"), "two")
    assert decided(cache, "middle") == "rival_answer"


def test_an_answer_that_was_reported_wrong_is_named(cache: SemanticCache) -> None:
    cache.update(Request(STORED), "in Basel")
    asked = STORED.replace("please ", "")
    hit = cache.lookup(asked)
    assert hit is not None
    cache.feedback(hit.entry_id)
    assert decided(cache, asked) == "reported_wrong"


@pytest.mark.parametrize("option", [{"shadow": True}, {"audit_rate": 1.0}])
def test_a_hit_that_is_withheld_is_a_miss_that_says_so(bench: Bench, option: Any) -> None:
    cache = bench.open(**option)
    cache.update(Request(STORED), "in Basel")
    assert cache.lookup(STORED.replace("please ", "")) is None
    assert last_lookup().code == "withheld"  # type: ignore[union-attr]


def test_an_entry_that_nobody_has_confirmed_yet_is_named(bench: Bench) -> None:
    cache = bench.open(confirmations=1)
    cache.update(Request(STORED, writer="ada"), "in Basel")
    assert decided(cache, Request(STORED.replace("please ", ""), writer="bob")) == "not_confirmed"


def test_a_bound_that_no_threshold_keeps_is_named(bench: Bench) -> None:
    cache = bench.open(max_error_rate=0.001)
    assert decided(cache, "how warm is it") == "no_threshold"


def test_calls_past_the_cache_say_so(cache: SemanticCache) -> None:
    cache.update(Request(STORED), "in Basel")
    for block, code in ((refreshing(), "refresh"), (bypassing(), "bypass")):
        with block:
            assert decided(cache, STORED) == code
            assert cache.explain(STORED).code == code
            assert cache.explain(STORED).hit is None


def test_a_cache_that_fails_says_so(cache: SemanticCache) -> None:
    cache.update(Request(STORED), "in Basel")
    cache.lookup(STORED)
    cache.close()
    with pytest.raises(SemcacheError):
        cache.lookup(STORED)
    assert last_lookup().code == "failed"  # type: ignore[union-attr]


async def test_async_lookups_say_it_in_the_own_task(cache: SemanticCache) -> None:
    await cache.aupdate(Request(STORED), "in Basel")

    async def ask(question: str) -> str:
        await cache.alookup(question)
        return last_lookup().code  # type: ignore[union-attr]

    assert await asyncio.gather(ask(STORED), ask("how warm is it")) == ["exact", "below_threshold"]
    assert last_lookup() is None
    assert await ask(STORED) == "exact"
    cache.close()
    with pytest.raises(SemcacheError):
        await ask(STORED)
    assert last_lookup().code == "failed"  # type: ignore[union-attr]


def test_get_or_create_says_why_it_computed(cache: SemanticCache) -> None:
    for code in ("empty_scope", "exact"):
        assert cache.get_or_create(STORED, lambda: "in Basel") == "in Basel"
        assert last_lookup().code == code  # type: ignore[union-attr]
    assert last_hit() is not None


async def test_aget_or_create_says_why_it_computed(cache: SemanticCache) -> None:
    async def compute() -> str:
        return "in Basel"

    for code in ("empty_scope", "exact"):
        await cache.aget_or_create(STORED, compute)
        assert last_lookup().code == code  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Basel is a city.\nWhere is it?", "several lines"),
        ("Question: one? Question: two?", "2 marks"),
        ("Some facts.\nQuestion:", "followed by no question"),
        ("Context: Basel is a city", "brings facts"),
        ("Given that Basel is a city, where is it?", "brings facts"),
        ("where is Basel?", ""),
    ],
)
def test_a_text_that_is_only_matched_whole_says_why(
    text: str, words: str, cache: SemanticCache
) -> None:
    assert words in why_whole(text) and bool(words) == bool(why_whole(text))
    if words:
        assert words in cache.explain(Request(text, exact_only=True)).reason


@pytest.mark.parametrize("asked", [STORED.replace("1234", "1235"), "how warm is it", "one\ntwo"])
def test_a_reason_that_the_app_keeps_does_not_keep_the_cache_open(asked: str) -> None:
    cache = SemanticCache(path=None)
    alive = weakref.ref(cache)
    request = Request(asked, exact_only="\n" in asked, parts=partial(dict, cache=cache))
    cache.update(STORED, "in Basel")
    cache.lookup(request)
    del cache, request
    gc.collect()
    assert alive() is None
    assert last_lookup().reason  # type: ignore[union-attr]


# -- the parts of a scope --------------------------------------------------------------------------


def asked_with(question: str = STORED, namespace: str | None = None, **parts: Any) -> Request:
    parts = {"system prompt": "be brief", "model": "large", "temperature": 0} | parts
    scope = json.dumps(parts, sort_keys=True)
    return Request(question, scope, namespace, parts=lambda: parts)


def test_the_parts_that_differ_are_named(cache: SemanticCache) -> None:
    cache.update(asked_with(), "in Basel")
    for question in (STORED, STORED.replace("please ", "")):
        for change in ({"temperature": 1}, {"temperature": 1, "model": "small"}, {"tools": ["a"]}):
            explained = cache.explain(asked_with(question, **change))
            assert explained.elsewhere is not None
            assert set(explained.elsewhere.differs) == set(change)
            assert explained.elsewhere.question == STORED
            assert f"stored with another {', '.join(explained.elsewhere.differs)}" in str(explained)


def test_the_nearest_request_is_the_one_that_differs_in_the_fewest_parts(
    cache: SemanticCache,
) -> None:
    for change in (
        {"model": "tiny", "temperature": 1},
        {"model": "small"},
        {"tools": ["a"], "n": 2},
    ):
        cache.update(asked_with(**change), "in Basel")
    elsewhere = cache.explain(asked_with()).elsewhere
    assert elsewhere is not None and elsewhere.differs == ("model",)


def test_a_question_of_the_own_scope_that_is_far_off_does_not_hide_the_one_elsewhere(
    cache: SemanticCache,
) -> None:
    cache.update(asked_with(), "in Basel")
    cache.update(asked_with("how warm is it", temperature=1), "10 degrees")
    explained = cache.explain(asked_with(temperature=1))
    assert explained.code == "below_threshold"
    assert explained.elsewhere is not None and explained.elsewhere.differs == ("temperature",)


def test_another_question_of_another_scope_is_not_named(cache: SemanticCache) -> None:
    cache.update(asked_with(), "in Basel")
    for question in ("how warm is it", STORED.replace("1234", "1235")):
        assert cache.explain(asked_with(question, temperature=1)).elsewhere is None


def test_what_another_tenant_stored_is_never_named(cache: SemanticCache) -> None:
    cache.update(asked_with(namespace="ada"), "in Basel")
    explained = cache.explain(asked_with(namespace="bob"))
    assert explained.elsewhere is None
    assert "nothing is stored for the namespace 'bob' yet" in explained.reason


def test_without_parts_the_scope_is_named(cache: SemanticCache) -> None:
    cache.update(Request(STORED, "one"), "in Basel")
    for request in (Request(STORED, "other"), asked_with()):
        elsewhere = cache.explain(request).elsewhere
        assert elsewhere is not None and elsewhere.differs == ("scope",)


def test_the_same_lines_in_another_order_are_named(cache: SemanticCache) -> None:
    one, other = "Basel is a city.\nBern is a city.\n", "Bern is a city.\nBasel is a city.\n"
    cache.update(Request(one, exact_only=True), "yes")
    explained = cache.explain(Request(other, exact_only=True))
    assert explained.elsewhere is not None
    assert explained.elsewhere.differs == ("order of the text",)
    assert cache.explain(Request("Basel.\nBern.", exact_only=True)).elsewhere is None


def test_parts_that_fail_cost_no_answer(cache: SemanticCache) -> None:
    def broken() -> dict[str, object]:
        raise ValueError("no parts")

    cache.update(Request(STORED, parts=broken), "in Basel")
    assert cache.lookup(STORED) is not None
    assert cache.stats().failures == {"parts": 1}


def test_a_lookup_does_not_read_the_parts(cache: SemanticCache) -> None:
    called: list[str] = []

    def parts() -> dict[str, object]:
        called.append("parts")
        return {}

    request = Request(STORED, parts=parts)
    cache.lookup(request)
    assert called == []
    cache.update(request, "in Basel")
    assert called == ["parts"]


def test_parts_must_be_a_function() -> None:
    with pytest.raises(SemcacheError, match="parts must be a function"):
        Request("q", parts={"model": "large"})  # type: ignore[arg-type]


def test_of_a_part_only_a_short_digest_is_kept(bench: Bench) -> None:
    with bench.open() as cache:
        cache.update(asked_with(**{"system prompt": "SENTINEL"}), "in Basel")
    with closing(sqlite3.connect(bench.path / LEDGER)) as connection:
        [(stored,)] = connection.execute("SELECT parts FROM semcache_entries")
    kept = json.loads(stored)
    assert set(kept) == {"system prompt", "model", "temperature"}
    assert all(len(digest) == PART_DIGITS == 4 for digest in kept.values())
    assert kept == part_digests({"system prompt": "SENTINEL", "model": "large", "temperature": 0})


@pytest.mark.parametrize(
    "planted", [b"", b"\xff", b"[", b"5", b"[1]", b"null", b'{"a": []}', 7, "text", b"[" * 9999]
)
def test_parts_that_somebody_wrote_into_the_file_are_passed_over(
    bench: Bench, planted: object
) -> None:
    with bench.open() as cache:
        cache.update(asked_with(), "in Basel")
    with closing(sqlite3.connect(bench.path / LEDGER)) as connection:
        connection.execute("UPDATE semcache_entries SET parts = ?", (planted,))
        connection.commit()
    cache = bench.open()
    assert cache.lookup(asked_with()) is not None
    assert cache.explain(asked_with(temperature=1)).hit is None


def test_a_ledger_from_before_the_parts_goes_on(bench: Bench) -> None:
    with bench.open() as cache:
        cache.update(asked_with(), "in Basel")
    with closing(sqlite3.connect(bench.path / LEDGER)) as connection:
        connection.execute("ALTER TABLE semcache_entries DROP COLUMN parts")
        connection.execute("UPDATE semcache_meta SET value = 5 WHERE name = 'schema_version'")
        connection.commit()
    cache = bench.open()
    hit = cache.lookup(asked_with())
    assert hit is not None and hit.response == "in Basel"
    elsewhere = cache.explain(asked_with(temperature=1)).elsewhere
    assert elsewhere is not None and elsewhere.differs == ("scope",)
    cache.update(asked_with(), "in Bern")
    elsewhere = cache.explain(asked_with(temperature=1)).elsewhere
    assert elsewhere is not None and elsewhere.differs == ("temperature",)


# -- what a lookup leaves to explain ---------------------------------------------------------------


def test_an_answer_that_has_expired_is_said_to_be(bench: Bench, still: None) -> None:
    cache = bench.open()
    cache.update(Request(STORED), "in Basel", ttl=10)
    bench.clock.now += 10
    explained = cache.explain(STORED)
    assert (explained.code, "has expired" in explained.reason) == ("expired", True)
    run_background_round(cache)
    assert cache.explain(STORED).code == "empty_scope"


def test_answers_that_are_only_served_exactly_are_said_to_be(cache: SemanticCache) -> None:
    cache.update(Request(STORED, exact_only=True), "in Basel")
    explained = cache.explain(STORED.replace("please ", ""))
    assert explained.code == "only_exact_entries" and "call tools" in explained.reason


def test_answers_without_a_vector_of_this_model_are_said_to_be(bench: Bench) -> None:
    class Other(WordEmbedder):
        fingerprint = "another model"

    bench.open(embedder=Other(), artefact=None).update(Request(STORED), "in Basel")
    explained = bench.open().explain(STORED.replace("please ", ""))
    assert explained.code == "only_exact_entries" and "rebuild()" in explained.reason

"""Calls past the cache, and calls that replace what is stored; a text in place of a Request."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from semcache_core import Request, SemanticCache, SemcacheError, bypassing, refreshing
from semcache_core.testing import open_word_cache

QUESTION, REWORDED = "how do I cancel my order", "my order how do I cancel"


@pytest.fixture
def cache() -> Iterator[SemanticCache]:
    with open_word_cache() as cache:
        cache.update(Request(QUESTION), "old")
        yield cache


@pytest.mark.parametrize("past", [refreshing, bypassing])
@pytest.mark.parametrize("text", [QUESTION, REWORDED])
def test_nothing_stored_is_read_past_the_cache(
    cache: SemanticCache, past: Callable[[], Any], text: str
) -> None:
    with past():
        assert cache.lookup(Request(text)) is None
        assert asyncio.run(cache.alookup(Request(text))) is None
    assert cache.lookup(Request(text)) is not None
    assert cache.stats().lookups == 1


def test_a_refreshed_answer_takes_the_place_of_the_older_one(cache: SemanticCache) -> None:
    with refreshing():
        assert cache.get_or_create(Request(QUESTION), lambda: "new") == "new"
    hit = cache.lookup(Request(REWORDED))
    assert hit is not None and hit.response == "new"
    assert cache.stats().entries == 1


def test_a_bypassing_call_stores_nothing(cache: SemanticCache) -> None:
    with bypassing():
        assert cache.get_or_create(Request(QUESTION), lambda: "other") == "other"
        assert cache.update(Request("another question"), "1") is None
    hit = cache.lookup(Request(QUESTION))
    assert hit is not None and hit.response == "old"
    assert cache.stats().entries == 1


async def test_the_mode_is_that_of_the_task_alone(cache: SemanticCache) -> None:
    async def ask() -> str:
        async def answer() -> str:
            return "new"

        return await cache.aget_or_create(Request(QUESTION), answer)

    with bypassing():
        inside = asyncio.create_task(ask())
    outside = asyncio.create_task(ask())
    assert [await inside, await outside] == ["new", "old"]


def test_a_request_may_carry_its_mode(cache: SemanticCache) -> None:
    assert cache.lookup(Request(QUESTION, mode="refresh")) is None
    assert cache.update(Request(QUESTION, mode="bypass"), "1") is None
    with pytest.raises(SemcacheError, match="mode must be one of"):
        Request(QUESTION, mode="never")  # type: ignore[arg-type]


# -- a text in place of a Request ------------------------------------------------------------------


def test_a_text_is_a_request_of_that_question(cache: SemanticCache) -> None:
    assert cache.update("where are you", "Basel") is not None
    hit = cache.lookup("you are where")
    assert hit is not None and hit.response == "Basel"
    assert cache.get_or_create("where are you", lambda: "Bern") == "Basel"
    assert cache.explain("where are you").hit is not None
    cache.audited("where are you", "Basel")
    cache.feedback(hit.entry_id, correct=True, request="you are where")
    assert cache.forget("where are you")


async def test_a_text_is_a_request_in_async_code_too(cache: SemanticCache) -> None:
    async def answer() -> str:
        return "Bern"

    assert await cache.aget_or_create("where are you", answer) == "Bern"
    assert await cache.alookup("where are you") is not None


@pytest.mark.parametrize("wrong", [None, 7, b"text", ["text"], {"question": "text"}])
def test_anything_else_is_an_error_that_says_what_was_expected(
    cache: SemanticCache, wrong: Any
) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: cache.lookup(wrong),
        lambda: cache.update(wrong, "a"),
        lambda: cache.get_or_create(wrong, lambda: "a"),
        lambda: asyncio.run(cache.aget_or_create(wrong, lambda: asyncio.sleep(0, "a"))),
        lambda: cache.explain(wrong),
        lambda: cache.forget(wrong),
        lambda: cache.audited(wrong, "a"),
    ]
    for call in calls:
        with pytest.raises(SemcacheError, match="expected a Request or a text, got"):
            call()

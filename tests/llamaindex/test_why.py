"""What an app is told when a call of LlamaIndex was not answered by the cache."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole
from pydantic import BaseModel
from scripted_llms import ScriptedCallingLLM, ScriptedLLM, calling, user
from semcache_core import SemcacheError, bypassing, refreshing

from llamaindex_semcache import CachedLLM, last_hit, last_lookup

ASK = "hi there"
DOCUMENTS = "Context: Basel is a city. Bern is a city.\n\nQuestion: "


@pytest.fixture
def llm(bench: Bench) -> CachedLLM:
    return CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())


def code() -> str | None:
    found = last_lookup()
    return None if found is None else found.code


# -- which part of the scope differs ---------------------------------------------------------------


def conversation(
    system: str = "be brief", earlier: str = "hello", question: str = ASK
) -> list[ChatMessage]:
    return [
        ChatMessage(role=MessageRole.SYSTEM, content=system),
        ChatMessage(role=MessageRole.USER, content=earlier),
        ChatMessage(role=MessageRole.ASSISTANT, content="yes?"),
        ChatMessage(role=MessageRole.USER, content=question),
    ]


@pytest.mark.parametrize(
    ("change", "arguments", "differs"),
    [
        ({"system": "be polite"}, {}, {"system prompt"}),
        ({"earlier": "good morning"}, {}, {"history"}),
        ({}, {"stop": ["."]}, {"stop"}),
        ({}, {"tools": [{"name": "weather"}], "temperature": 1.0}, {"tools", "temperature"}),
    ],
)
def test_the_parts_of_a_call_that_differ_are_named(
    llm: CachedLLM, change: dict[str, str], arguments: dict[str, Any], differs: set[str]
) -> None:
    llm.chat(conversation())
    for question in (ASK, "there hi"):
        explained = llm.explain(conversation(question=question, **change), **arguments)
        assert explained.hit is None
        assert explained.elsewhere is not None and set(explained.elsewhere.differs) == differs


class Tuned(ScriptedLLM):
    model: str = "large"
    temperature: float = 0.0


@pytest.mark.parametrize(
    ("change", "differs"),
    [({"temperature": 1.0}, ("temperature",)), ({"model": "small"}, ("model",))],
)
def test_another_model_or_parameter_is_named(
    bench: Bench, change: dict[str, Any], differs: tuple[str, ...]
) -> None:
    cache = bench.open()
    CachedLLM(llm=Tuned("hello"), cache=cache).chat(user(ASK))
    inner = Tuned("hello")
    for name, value in change.items():
        setattr(inner, name, value)
    explained = CachedLLM(llm=inner, cache=cache).explain(user("there hi"))
    assert explained.elsewhere is not None and explained.elsewhere.differs == differs


@pytest.mark.parametrize(
    ("documents", "differs"),
    [
        ("Bern is a city.", "documents"),
        ("Bern is a city. Basel is a city.", "order of the documents"),
    ],
)
def test_other_documents_are_told_from_another_order_of_the_same(
    llm: CachedLLM, documents: str, differs: str
) -> None:
    llm.complete(DOCUMENTS + ASK)
    asked = DOCUMENTS.replace("Basel is a city. Bern is a city.", documents) + "there hi"
    explained = llm.explain(asked)
    assert explained.elsewhere is not None and explained.elsewhere.differs == (differs,)


def test_a_chat_is_told_from_a_completion(llm: CachedLLM) -> None:
    llm.complete(ASK)
    elsewhere = llm.explain(user(ASK)).elsewhere
    assert elsewhere is not None and "kind of call" in elsewhere.differs


def test_another_tenant_s_answers_are_never_named(bench: Bench) -> None:
    cache = bench.open()
    CachedLLM(llm=ScriptedLLM("hello"), cache=cache, namespace="ada").chat(user(ASK))
    explained = CachedLLM(llm=ScriptedLLM(), cache=cache, namespace="bob").explain(user(ASK))
    assert explained.elsewhere is None and "'bob'" in explained.reason


def test_the_hint_at_a_date_is_not_given_where_the_system_prompt_is_the_same(
    llm: CachedLLM,
) -> None:
    asked = conversation(system="Today is 2026-11-25.")
    llm.chat(asked)
    assert llm.explain(asked, stop=["."]).hint == ""
    assert "2026-11-26" in llm.explain(conversation(system="Today is 2026-11-26.")).hint


# -- why it is matched exactly only ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (user("Basel is a city.\nIs it?"), "several lines"),
        (user("Context: Basel is a city."), "brings facts"),
        ([ChatMessage(role="user", blocks=[ImageBlock(url="http://a/1.png")])], "has no text"),
        ([*user(ASK), ChatMessage(role="tool", content="warm")], "the result of a tool"),
    ],
)
def test_a_call_that_is_only_matched_exactly_says_why(
    llm: CachedLLM, asked: list[ChatMessage], words: str
) -> None:
    explained = llm.explain(asked)
    assert explained.code == "exact_only" and words in explained.reason
    llm.chat(asked)
    found = last_lookup()
    assert found is not None and found.code == "exact_only" and words in found.reason


def test_an_answer_that_calls_tools_is_said_to_be_served_exactly_only(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedCallingLLM(calling("weather")), cache=bench.open())
    llm.chat(user(ASK))
    assert llm.explain(user("there hi")).code == "only_exact_entries"


# -- the last lookup -------------------------------------------------------------------------------


def test_the_last_lookup_is_of_the_last_call(llm: CachedLLM) -> None:
    for asked, expected in (
        (ASK, "empty_scope"),
        (ASK, "exact"),
        ("there hi", "semantic"),
        ("another question", "below_threshold"),
        ("one\ntwo", "exact_only"),
    ):
        llm.chat(user(asked))
        found = last_lookup()
        assert found is not None and found.code == expected and found.hit is last_hit()


class City(BaseModel):
    name: str


async def test_every_way_to_ask_says_it(llm: CachedLLM) -> None:
    async def astreamed(asked: str) -> None:
        async for _ in await llm.astream_chat(user(asked)):
            pass

    def streamed(asked: str) -> None:
        list(llm.stream_chat(user(asked)))

    llm.chat(user("one two three"))
    for ask in (streamed, lambda asked: llm.chat(user(asked))):
        ask("another question " + str(ask))
        assert code() == "below_threshold"
        ask("three two one")
        assert code() == "semantic"
    for aask in (astreamed, lambda asked: llm.achat(user(asked))):
        await aask("another question " + str(aask))
        assert code() == "below_threshold"
        await aask("three two one")
        assert code() == "semantic"

    async def ask_in_task(asked: str) -> str | None:
        await llm.achat(user(asked))
        return code()

    tasks = [ask_in_task("three two one"), ask_in_task("a third question")]
    assert await asyncio.gather(*tasks) == ["semantic", "below_threshold"]
    assert code() is None  # the last of two tasks is not known


def test_a_call_past_the_cache_or_one_it_cannot_read_says_so(llm: CachedLLM) -> None:
    llm.chat(user(ASK))
    for block, expected in ((refreshing(), "refresh"), (bypassing(), "bypass")):
        with block:
            llm.chat(user(ASK))
            assert code() == expected
    llm.chat(user(ASK), thing=object())
    assert code() == "not_cached"
    with pytest.raises(SemcacheError, match="not cached"):
        llm.explain(user(ASK), thing=object())


def test_a_cache_that_fails_says_so(llm: CachedLLM) -> None:
    llm.chat(user(ASK))
    llm.semantic_cache.close()
    llm.chat(user(ASK))
    assert code() == "failed"


def test_an_answer_that_cannot_be_read_is_a_failure(bench: Bench, llm: CachedLLM) -> None:
    llm.chat(user(ASK))
    with closing(sqlite3.connect(bench.path / "ledger.sqlite3")) as connection:
        connection.execute("UPDATE semcache_entries SET response = x'7b'")
        connection.commit()
    llm.chat(user(ASK))
    assert code() == "failed" and last_hit() is None


def test_a_model_that_fails_leaves_the_reason_of_the_miss(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM(error=ConnectionError()), cache=bench.open())
    with pytest.raises(ConnectionError):
        llm.chat(user(ASK))
    assert code() == "empty_scope"

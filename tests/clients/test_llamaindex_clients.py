"""LlamaIndex's real clients inside `CachedLLM`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest
from fake_provider import Provider, Reply
from llama_index.core import QueryBundle
from llama_index.core.llms import ChatMessage
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.selectors import LLMSingleSelector, PydanticSingleSelector
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.llms.openai import OpenAIResponses
from real_clients import (
    LLAMAINDEX,
    PART,
    WHOLE,
    assert_fails_alike,
    assert_only_the_whole_answer_is_kept,
)
from semcache_core import SemanticCache, bypassing, refreshing

from llamaindex_semcache import CachedLLM

QUESTION = "how do I cancel my order today"
REWORDED = "how today do I cancel my order"


def said(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def joined(items: Iterable[Any]) -> str:
    return "".join(item.delta or "" for item in items)


async def astreamed(items: Awaitable[AsyncIterator[Any]]) -> str:
    return joined([item async for item in await items])


WAYS: dict[str, Callable[..., Any]] = {
    "chat": lambda llm, text: llm.chat(said(text)).message.content,
    "achat": lambda llm, text: asyncio.run(llm.achat(said(text))).message.content,
    "stream_chat": lambda llm, text: joined(llm.stream_chat(said(text))),
    "astream_chat": lambda llm, text: asyncio.run(astreamed(llm.astream_chat(said(text)))),
    "complete": lambda llm, text: llm.complete(text).text,
    "acomplete": lambda llm, text: asyncio.run(llm.acomplete(text)).text,
    "stream_complete": lambda llm, text: joined(llm.stream_complete(text)),
    "astream_complete": lambda llm, text: asyncio.run(astreamed(llm.astream_complete(text))),
}
STREAMS = [way for way in WAYS if "stream" in way]
every_way = pytest.mark.parametrize("way", WAYS)
every_client = pytest.mark.parametrize("client", LLAMAINDEX)


def order_status(number: str) -> str:
    """How far an order has come."""
    return number


@every_client
@every_way
def test_question_repeat_and_rewording_are_one_call(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says("Press the red button.")
    llm = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    for text in (QUESTION, QUESTION, REWORDED):
        assert WAYS[way](llm, text).strip() == "Press the red button."
    assert provider.calls == 1


@every_client
@every_way
@pytest.mark.parametrize("status", [401, 500])
def test_an_error_reaches_the_app_unchanged_and_nothing_is_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str, status: int
) -> None:
    provider.says(Reply(status=status))
    plain = LLAMAINDEX[client](provider)
    llm = CachedLLM(llm=plain, cache=cache)
    assert_fails_alike(lambda: WAYS[way](plain, QUESTION), lambda: WAYS[way](llm, QUESTION), cache)
    provider.says("It works again.")
    assert WAYS[way](llm, QUESTION).strip() == "It works again."


@every_client
def test_a_tool_call_is_replayed_for_the_same_conversation_alone(
    provider: Provider, cache: SemanticCache, client: str
) -> None:
    provider.says(Reply(tools=(("order_status", {"number": "1234"}),)), "I cannot say.")
    llm: Any = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    tools = [FunctionTool.from_defaults(order_status)]
    for _ in range(2):
        answer = llm.chat_with_tools(tools, user_msg=QUESTION)
        (call,) = llm.get_tool_calls_from_response(answer)
        assert (call.tool_name, call.tool_kwargs) == ("order_status", {"number": "1234"})
    assert provider.calls == 1
    assert llm.chat_with_tools(tools, user_msg=REWORDED).message.content == "I cannot say."


@every_client
def test_a_text_in_place_of_a_forced_tool_call_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str
) -> None:
    provider.says("I would rather not.", Reply(tools=(("order_status", {"number": "1"}),)))
    llm: Any = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    tools, called = [FunctionTool.from_defaults(order_status)], []
    for _ in range(3):
        answer = llm.chat_with_tools(tools, user_msg=QUESTION, tool_required=True)
        called.append(bool(llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)))
    assert called == [False, True, True]
    assert provider.calls == 2


CHOICES = [ToolMetadata(name=name, description=f"all about {name}") for name in ("rivers", "lakes")]
SUB_QUESTION = '{"sub_question": "which lakes", "tool_name": "lakes"}'
PARSED: dict[str, tuple[Callable[[CachedLLM], Callable[..., Any]], Reply]] = {
    "LLMSingleSelector": (
        lambda llm: LLMSingleSelector.from_defaults(llm=llm).select,
        Reply('[{"choice": 2, "reason": "it asks for lakes"}]'),
    ),
    "LLMSingleSelector, async": (
        lambda llm: (
            lambda *asked: asyncio.run(LLMSingleSelector.from_defaults(llm=llm).aselect(*asked))
        ),
        Reply('[{"choice": 2, "reason": "it asks for lakes"}]'),
    ),
    "PydanticSingleSelector": (
        lambda llm: PydanticSingleSelector.from_defaults(llm=llm).select,
        Reply(tools=(("SingleSelection", {"index": 2, "reason": "it asks for lakes"}),)),
    ),
    "LLMQuestionGenerator": (
        lambda llm: LLMQuestionGenerator.from_defaults(llm=llm).generate,
        Reply(f'```json\n{{"items": [{SUB_QUESTION}]}}\n```'),
    ),
}


@pytest.mark.parametrize("asker", PARSED)
def test_an_answer_that_the_app_cannot_parse_is_not_stored(
    provider: Provider, cache: SemanticCache, asker: str
) -> None:
    make, fit = PARSED[asker]
    provider.says("I would take the second one.", fit)
    ask = make(CachedLLM(llm=LLAMAINDEX["OpenAI"](provider), cache=cache))
    with pytest.raises(ValueError):
        ask(CHOICES, QueryBundle(QUESTION))
    assert ask(CHOICES, QueryBundle(QUESTION)) == ask(CHOICES, QueryBundle(QUESTION))
    assert provider.calls == 2
    assert cache.stats().failures == {}


@every_client
@pytest.mark.parametrize("way", STREAMS)
def test_a_stream_that_ends_without_a_finish_reason_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(Reply(PART, cut="end"), WHOLE)
    llm = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    assert_only_the_whole_answer_is_kept(provider, lambda: WAYS[way](llm, QUESTION))


@every_client
@every_way
@pytest.mark.parametrize("finish", [None, "length"])
def test_an_answer_that_is_not_whole_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str, finish: str | None
) -> None:
    provider.says(Reply(PART, finish=finish), WHOLE)
    llm = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    assert_only_the_whole_answer_is_kept(provider, lambda: WAYS[way](llm, QUESTION))


@every_way
def test_calls_past_the_cache_ask_the_model(
    provider: Provider, cache: SemanticCache, way: str
) -> None:
    provider.says("It is green.", "It is red.", "It is blue.")
    llm = CachedLLM(llm=LLAMAINDEX["OpenAI"](provider), cache=cache)
    texts = [WAYS[way](llm, QUESTION).strip()]
    for past in (refreshing, bypassing):
        with past():
            texts.append(WAYS[way](llm, QUESTION).strip())
        texts.append(WAYS[way](llm, QUESTION).strip())
    assert texts == ["It is green.", "It is red.", "It is red.", "It is blue.", "It is red."]


def test_a_conversation_that_the_provider_keeps_is_not_cached(
    provider: Provider, cache: SemanticCache
) -> None:
    at: Any = {"api_base": f"{provider.url}/v1", "api_key": "sk-of-a-test", "max_retries": 0}
    inner = OpenAIResponses(model="gpt-4.1-mini", track_previous_responses=True, **at)
    llm = CachedLLM(llm=inner, cache=cache)
    for _ in range(2):
        llm.chat(said(QUESTION))
    assert [body.get("previous_response_id") for body in provider.bodies] == [None, "resp_1"]
    assert cache.stats().entries == 0

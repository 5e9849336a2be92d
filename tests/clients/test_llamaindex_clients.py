"""LlamaIndex's real clients inside `CachedLLM`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
from fake_provider import Provider, Reply
from llama_index.core import PromptTemplate, QueryBundle
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.selectors import LLMSingleSelector, PydanticSingleSelector
from llama_index.core.tools import FunctionTool, ToolMetadata
from pydantic import BaseModel
from real_clients import (
    LLAMAINDEX,
    OTHER_PNG,
    PART,
    PNG,
    WHOLE,
    assert_fails_alike,
    assert_only_the_whole_answer_is_kept,
    filling,
)
from semcache_core import SemanticCache, bypassing, refreshing

from llamaindex_semcache import CachedLLM

QUESTION = "how do I cancel my order today"
REWORDED = "how today do I cancel my order"


def said(asked: str | list[ChatMessage]) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=asked)] if isinstance(asked, str) else asked


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
    inner = LLAMAINDEX["OpenAIResponses"](provider, track_previous_responses=True)
    llm = CachedLLM(llm=inner, cache=cache)
    for _ in range(2):
        llm.chat(said(QUESTION))
    assert [body.get("previous_response_id") for body in provider.bodies] == [None, "resp_1"]
    assert cache.stats().entries == 0


# -- images, structured output, and connections that break -----------------------------------------


@every_client
@pytest.mark.parametrize("way", ["chat", "astream_chat"])
def test_a_question_about_another_image_is_another_question(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    llm = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    texts = []
    for data in (PNG, PNG, OTHER_PNG):
        blocks = [TextBlock(text=QUESTION), ImageBlock(image=data, image_mimetype="image/png")]
        texts.append(WAYS[way](llm, [ChatMessage(role="user", blocks=blocks)]).strip())
    assert texts == ["answer 1", "answer 1", "answer 2"]


@every_client
@pytest.mark.parametrize("status", [400, 429])
def test_a_refused_request_raises_the_same_with_its_status(
    provider: Provider, cache: SemanticCache, client: str, status: int
) -> None:
    provider.says(Reply(status=status))
    plain = LLAMAINDEX[client](provider)
    llm = CachedLLM(llm=plain, cache=cache)
    raised = assert_fails_alike(
        lambda: plain.chat(said(QUESTION)), lambda: llm.chat(said(QUESTION)), cache
    )
    assert getattr(raised, "status_code", None) == status


@every_client
@pytest.mark.parametrize("way", ["stream_chat", "astream_chat", "astream_complete"])
def test_a_stream_whose_connection_breaks_raises_the_same_and_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(Reply(PART, cut="reset"))
    plain = LLAMAINDEX[client](provider)
    llm = CachedLLM(llm=plain, cache=cache)
    assert_fails_alike(lambda: WAYS[way](plain, QUESTION), lambda: WAYS[way](llm, QUESTION), cache)
    provider.says(WHOLE)
    assert WAYS[way](llm, QUESTION).strip() == WHOLE


class Status(BaseModel):
    """Where an order is."""

    place: str
    days: int


PROMPT = PromptTemplate("{question}")


def last(items: Iterable[Any]) -> Any:
    *_, item = items
    return item


async def alast(items: Awaitable[AsyncIterator[Any]]) -> Any:
    return last([item async for item in await items])


PREDICTIONS: dict[str, Callable[..., Any]] = {
    "structured_predict": lambda llm, text: llm.structured_predict(Status, PROMPT, question=text),
    "astructured_predict": lambda llm, text: asyncio.run(
        llm.astructured_predict(Status, PROMPT, question=text)
    ),
    "stream_structured_predict": lambda llm, text: last(
        llm.stream_structured_predict(Status, PROMPT, question=text)
    ),
    "astream_structured_predict": lambda llm, text: asyncio.run(
        alast(llm.astream_structured_predict(Status, PROMPT, question=text))
    ),
    "as_structured_llm": lambda llm, text: llm.as_structured_llm(Status).chat(said(text)).raw,
}
# LlamaIndex finds no object in a stream of responses
every_prediction = pytest.mark.parametrize(
    ("client", "way"),
    [(c, w) for c in LLAMAINDEX for w in PREDICTIONS if "stream" not in w or "Resp" not in c],
)
FIT = {"place": "Basel", "days": 2}


@every_prediction
def test_only_an_object_of_the_class_is_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.answer = filling({"place": "Basel"}, FIT)
    llm = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    with suppress(ValueError):  # a stream gives what it has instead
        assert PREDICTIONS[way](llm, QUESTION) != Status(**FIT)
    for text in (QUESTION, QUESTION, REWORDED):
        assert PREDICTIONS[way](llm, text) == Status(**FIT)
    assert provider.calls == 2
    assert cache.stats().failures == {}


@pytest.mark.parametrize("client", ["OpenAI", "Anthropic"])
@pytest.mark.parametrize("way", PREDICTIONS)
def test_a_prediction_that_is_refused_raises_the_same_and_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(Reply(status=429))
    plain = LLAMAINDEX[client](provider)
    llm = CachedLLM(llm=plain, cache=cache)
    ask = PREDICTIONS[way]
    assert_fails_alike(lambda: ask(plain, QUESTION), lambda: ask(llm, QUESTION), cache)


@pytest.mark.parametrize("client", [c for c in LLAMAINDEX if c != "Anthropic"])
def test_in_json_mode_only_json_is_stored(
    provider: Provider, cache: SemanticCache, client: str
) -> None:
    provider.says("Certainly! Here it is:", '{"a": 1}')
    llm = CachedLLM(llm=LLAMAINDEX[client](provider), cache=cache)
    wanted: dict[str, Any] = {"type": "json_object"}
    mode = {"text": {"format": wanted}} if client == "OpenAIResponses" else {}
    mode = mode or {"response_format": wanted}
    texts = [llm.chat(said(QUESTION), **mode).message.content for _ in range(3)]
    assert texts == ["Certainly! Here it is:", '{"a": 1}', '{"a": 1}']
    assert provider.calls == 2


# -- the provider's ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["chat", "achat", "stream_chat", "astream_chat"])
def test_a_hit_names_nothing_that_the_provider_keeps(
    provider: Provider, cache: SemanticCache, way: str
) -> None:
    provider.says(Reply(WHOLE, reasoning="They want the button."))
    llm = CachedLLM(llm=LLAMAINDEX["OpenAIResponses"](provider, store=True), cache=cache)
    WAYS[way](llm, QUESTION)
    hit = llm.chat(said(REWORDED))
    assert provider.calls == 1
    llm.chat([*said(REWORDED), hit.message, *said("and then what")])
    assert provider.calls == 2
    sent = str(provider.bodies[-1])
    assert not any(name in sent for name in ("rs_1", "msg_1", "resp_1"))

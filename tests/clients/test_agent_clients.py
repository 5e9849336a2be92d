"""LangChain's real clients in agents with `SemanticCacheMiddleware`."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from fake_provider import Provider, Reply
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputError, ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel
from real_clients import (
    LANGCHAIN,
    PART,
    WHOLE,
    assert_fails_alike,
    assert_only_the_whole_answer_is_kept,
    filling,
)
from semcache_core import SemanticCache, bypassing, refreshing

from langchain_semcache import SemanticCacheMiddleware

QUESTION = "how do I cancel my order today"
REWORDED = "how today do I cancel my order"


def order_status(number: str) -> str:
    """How far an order has come."""
    return f"order {number} is in Basel"


class Overriding(AgentMiddleware[Any, Any, Any]):
    """Changes the first model call of each run, and no later one."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self._changes = changes

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        first = len(request.messages) == 1
        return handler(request.override(**self._changes) if first else request)


def agent(model: Any, cache: SemanticCache, *before: Any, **options: Any) -> Any:
    middleware = [*before, SemanticCacheMiddleware(cache=cache)]
    return create_agent(model, middleware=middleware, **options)


def asked(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def streamed(agent: Any, text: str, config: Any = None) -> dict[str, Any]:
    *_, (_, state) = agent.stream(asked(text), config, stream_mode=["messages", "values"])
    return dict(state)


async def astreamed(agent: Any, text: str, config: Any = None) -> dict[str, Any]:
    items = agent.astream(asked(text), config, stream_mode=["messages", "values"])
    *_, (_, state) = [item async for item in items]
    return dict(state)


WAYS: dict[str, Callable[..., dict[str, Any]]] = {
    "invoke": lambda agent, text, config=None: agent.invoke(asked(text), config),
    "ainvoke": lambda agent, text, config=None: asyncio.run(agent.ainvoke(asked(text), config)),
    "stream": streamed,
    "astream": lambda agent, text, config=None: asyncio.run(astreamed(agent, text, config)),
}


def said(state: dict[str, Any]) -> str:
    return str(state["messages"][-1].text).strip()


every_client = pytest.mark.parametrize("client", LANGCHAIN)
# LiteLLM itself says "stop" where the provider says nothing
exact_client = pytest.mark.parametrize("client", [c for c in LANGCHAIN if c != "ChatLiteLLM"])
every_way = pytest.mark.parametrize("way", WAYS)


@every_client
@every_way
def test_question_repeat_and_rewording_are_one_call(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(WHOLE)
    model = agent(LANGCHAIN[client](provider), cache)
    assert [said(WAYS[way](model, text)) for text in (QUESTION, QUESTION, REWORDED)] == [WHOLE] * 3
    assert provider.calls == 1


@every_client
@pytest.mark.parametrize(("way", "status"), [("invoke", 400), ("ainvoke", 429), ("astream", 500)])
def test_an_error_reaches_the_app_unchanged_and_nothing_is_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str, status: int
) -> None:
    provider.says(Reply(status=status))
    model = LANGCHAIN[client](provider)
    plain, cached = create_agent(model), agent(model, cache)
    assert_fails_alike(
        lambda: WAYS[way](plain, QUESTION), lambda: WAYS[way](cached, QUESTION), cache
    )
    provider.says(WHOLE)
    assert said(WAYS[way](cached, QUESTION)) == WHOLE


@exact_client
@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_ends_without_a_finish_reason_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(Reply(PART, cut="end"), WHOLE)
    model = agent(LANGCHAIN[client](provider), cache)
    assert_only_the_whole_answer_is_kept(provider, lambda: said(WAYS[way](model, QUESTION)))


@every_client
def test_a_text_in_place_of_a_forced_tool_call_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str
) -> None:
    """The call of the tool and what follows it then come from the cache."""
    call = Reply(tools=(("order_status", {"number": "1"}),))
    provider.says("I would rather not.", call, "It is in Basel.", "not asked for")
    forced = Overriding(tool_choice="order_status")
    model = agent(LANGCHAIN[client](provider), cache, forced, tools=[order_status])
    assert [said(model.invoke(asked(QUESTION))) for _ in range(3)] == [
        "I would rather not.",
        "It is in Basel.",
        "It is in Basel.",
    ]
    assert provider.calls == 3


@pytest.mark.parametrize("client", ["ChatOpenAI", "ChatOpenAI, responses", "ChatLiteLLM"])
def test_in_json_mode_only_json_is_stored(
    provider: Provider, cache: SemanticCache, client: str
) -> None:
    provider.says("Certainly! Here it is:", '{"a": 1}')
    json_mode = Overriding(model_settings={"response_format": {"type": "json_object"}})
    model = agent(LANGCHAIN[client](provider), cache, json_mode)
    texts = [said(model.invoke(asked(QUESTION))) for _ in range(3)]
    assert texts == ["Certainly! Here it is:", '{"a": 1}', '{"a": 1}']
    assert provider.calls == 2


class Status(BaseModel):
    """Where an order is."""

    place: str
    days: int


FIT = {"place": "Basel", "days": 2}


@every_client
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_text_that_is_no_object_of_the_class_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.answer = filling({"place": "Basel"}, FIT)
    structured = ProviderStrategy(Status)
    model = agent(LANGCHAIN[client](provider), cache, response_format=structured)
    with pytest.raises(StructuredOutputError):
        WAYS[way](model, QUESTION)
    for text in (QUESTION, QUESTION, REWORDED):
        assert WAYS[way](model, text)["structured_response"] == Status(**FIT)
    assert provider.calls == 2


@every_client
def test_arguments_that_are_no_object_of_the_class_are_not_stored(
    provider: Provider, cache: SemanticCache, client: str
) -> None:
    provider.answer = filling({"place": "Basel"}, FIT)
    model = agent(LANGCHAIN[client](provider), cache, response_format=ToolStrategy(Status))
    for calls in (2, 3, 3):  # first the agent itself asks again; then the question is asked anew
        assert model.invoke(asked(QUESTION))["structured_response"] == Status(**FIT)
        assert provider.calls == calls


@every_client
@every_way
def test_a_refreshing_call_replaces_the_answer_and_a_bypassing_one_leaves_it(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says("It is green.", "It is red.", "It is blue.", "It is pink.", "It is grey.")
    model = agent(LANGCHAIN[client](provider), cache)

    def ask(mode: str = "normal", around: Any = nullcontext) -> str:
        with around():
            return said(WAYS[way](model, QUESTION, {"configurable": {"semcache": mode}}))

    assert [ask(), ask("refresh"), ask()] == ["It is green.", "It is red.", "It is red."]
    assert [ask("bypass"), ask()] == ["It is blue.", "It is red."]
    assert [ask(around=refreshing), ask()] == ["It is pink."] * 2
    assert [ask(around=bypassing), ask()] == ["It is grey.", "It is pink."]


@pytest.mark.parametrize(
    ("client", "way"),
    [
        ("ChatOpenAI", "invoke"),
        ("ChatOpenAI, responses", "invoke"),
        ("ChatOpenAI, responses", "astream"),
        ("ChatAnthropic", "invoke"),
    ],
)
def test_a_hit_names_nothing_that_the_provider_keeps(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(Reply(WHOLE, reasoning="They want the button."))
    model = agent(LANGCHAIN[client](provider), cache)
    WAYS[way](model, QUESTION)
    hit: AIMessage = WAYS[way](model, REWORDED)["messages"][-1]
    assert provider.calls == 1
    kept = ("resp_1", "msg_1", "rs_1", "chatcmpl-1")
    assert not any(name in str(hit.model_dump()) for name in kept)

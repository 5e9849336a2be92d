"""LangChain's real clients, through the wrapper and through LangChain's own cache hook."""

from collections.abc import Callable
from typing import Any

import pytest
from asking import WAYS
from fake_provider import Provider, Reply
from langchain.agents import create_agent
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from pydantic import BaseModel, ValidationError
from real_clients import (
    LANGCHAIN,
    OTHER_PNG,
    PART,
    PNG,
    WHOLE,
    assert_fails_alike,
    assert_only_the_whole_answer_is_kept,
)
from semcache_core import SemanticCache, bypassing

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache

Wrap = Callable[[BaseChatModel, SemanticCache], BaseChatModel]


def wrapped(model: BaseChatModel, cache: SemanticCache) -> BaseChatModel:
    return CachedChatModel(model, cache=cache)


def through_global_cache(model: BaseChatModel, cache: SemanticCache) -> BaseChatModel:
    set_llm_cache(SemanticLLMCache(cache=cache))
    return model


SIMPLE = ("invoke", "ainvoke", "batch", "abatch")
CASES = [
    *((wrapped, way) for way in (*SIMPLE, "stream", "astream", "astream_events")),
    *((through_global_cache, way) for way in SIMPLE),  # a stream asks no cache of LangChain's
]
every_case = pytest.mark.parametrize(
    ("wrap", "way"), CASES, ids=[f"{wrap.__name__} {way}" for wrap, way in CASES]
)
every_wrap = pytest.mark.parametrize("wrap", [wrapped, through_global_cache])
every_client = pytest.mark.parametrize("client", LANGCHAIN)
# LiteLLM itself says "stop" where the provider says nothing, and raises where a stream breaks off
exact_client = pytest.mark.parametrize("client", [c for c in LANGCHAIN if c != "ChatLiteLLM"])

QUESTION = "how do I cancel my order today"
REWORDED = "how today do I cancel my order"


@every_client
@every_case
def test_question_repeat_and_rewording_are_one_call(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap, way: str
) -> None:
    provider.says("Press the red button.")
    model = wrap(LANGCHAIN[client](provider), cache)
    for text in (QUESTION, QUESTION, REWORDED):
        assert WAYS[way](model, text).text.strip() == "Press the red button."
    assert provider.calls == 1


@every_client
@every_case
@pytest.mark.parametrize("status", [401, 500])
def test_an_error_reaches_the_app_unchanged_and_nothing_is_stored(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap, way: str, status: int
) -> None:
    provider.says(Reply(status=status))
    plain = LANGCHAIN[client](provider)
    assert_fails_alike(
        lambda: WAYS[way](plain, QUESTION),
        lambda: WAYS[way](wrap(plain, cache), QUESTION),
        cache,
    )
    provider.says("It works again.")
    assert WAYS[way](wrap(plain, cache), QUESTION).text.strip() == "It works again."


@every_client
@every_case
def test_a_tool_call_is_replayed_for_the_same_conversation_alone(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap, way: str
) -> None:
    provider.says(Reply(tools=(("order_status", {"number": "1234"}),)), Reply("I cannot say."))
    model: Any = wrap(LANGCHAIN[client](provider), cache)
    if wrap is wrapped:
        model = model.bind_tools([order_status])
    else:
        model = LANGCHAIN[client](provider).bind_tools([order_status])
    first, again = (WAYS[way](model, QUESTION) for _ in range(2))
    assert [call["name"] for call in again.tool_calls] == ["order_status"]
    assert again.tool_calls[0]["args"] == {"number": "1234"}
    assert again.tool_calls[0]["id"] != first.tool_calls[0]["id"]
    assert provider.calls == 1
    assert WAYS[way](model, REWORDED).text.strip() == "I cannot say."


# -- answers that the app cannot use ---------------------------------------------------------------


def order_status(number: str) -> str:
    """How far an order has come."""
    return number


@every_client
@every_wrap
def test_a_text_in_place_of_a_forced_tool_call_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap
) -> None:
    provider.says("I would rather not.", Reply(tools=(("order_status", {"number": "1"}),)))
    model = wrap(LANGCHAIN[client](provider), cache)
    forced = model.bind_tools([order_status], tool_choice="order_status")
    assert forced.invoke(QUESTION).tool_calls == []
    for _ in range(2):
        assert [call["name"] for call in forced.invoke(QUESTION).tool_calls] == ["order_status"]
    assert provider.calls == 2


class Status(BaseModel):
    """Where an order is."""

    place: str
    days: int


@pytest.mark.parametrize("client", ["ChatOpenAI", "ChatOpenAI, responses", "ChatLiteLLM"])
@every_wrap
@pytest.mark.parametrize("unfit", ["Basel, I think", '{"place": "Basel"}', "[]"])
def test_a_text_that_is_not_the_json_asked_for_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap, unfit: str
) -> None:
    provider.says(unfit, '{"place": "Basel", "days": 2}')
    model = wrap(LANGCHAIN[client](provider), cache)
    asked = model.with_structured_output(Status, method="json_schema", include_raw=True)
    answers: list[Any] = []
    for _ in range(3):
        try:
            answers.append(asked.invoke(QUESTION)["parsed"])
        except ValidationError:  # OpenAI's own client reads the answer too
            answers.append(None)
    assert answers == [None, Status(place="Basel", days=2), Status(place="Basel", days=2)]
    assert provider.calls == 2


@pytest.mark.parametrize("client", ["ChatOpenAI", "ChatLiteLLM"])
@every_wrap
def test_in_json_mode_only_json_is_stored(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap
) -> None:
    provider.says("Certainly! Here it is:", '{"a": 1}')
    model = wrap(LANGCHAIN[client](provider), cache)
    json_mode = model.bind(response_format={"type": "json_object"})
    texts = [json_mode.invoke(QUESTION).text for _ in range(3)]
    assert texts == ["Certainly! Here it is:", '{"a": 1}', '{"a": 1}']
    assert provider.calls == 2


# -- answers that were cut short -------------------------------------------------------------------


@exact_client
@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_ends_without_a_finish_reason_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(Reply(PART, cut="end"), WHOLE)
    model = wrapped(LANGCHAIN[client](provider), cache)
    assert_only_the_whole_answer_is_kept(provider, lambda: WAYS[way](model, QUESTION).text)


@exact_client
@every_case
@pytest.mark.parametrize("finish", [None, "length"])
def test_an_answer_that_is_not_whole_is_not_stored(
    provider: Provider,
    cache: SemanticCache,
    client: str,
    wrap: Wrap,
    way: str,
    finish: str | None,
) -> None:
    provider.says(Reply(PART, finish=finish), WHOLE)
    model = wrap(LANGCHAIN[client](provider), cache)
    assert_only_the_whole_answer_is_kept(provider, lambda: WAYS[way](model, QUESTION).text)


# -- the provider's ids ----------------------------------------------------------------------------


@every_client
@every_case
def test_a_hit_names_nothing_that_the_provider_keeps(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap, way: str
) -> None:
    provider.says("Press the red button.")
    model = wrap(LANGCHAIN[client](provider), cache)
    WAYS[way](model, QUESTION)
    hit = WAYS[way](model, REWORDED)
    assert provider.calls == 1
    assert not any(name in str(hit.model_dump()) for name in ("resp_1", "msg_1", "chatcmpl-1"))


@every_wrap
def test_after_a_hit_no_other_conversation_is_continued_at_the_provider(
    provider: Provider, cache: SemanticCache, wrap: Wrap
) -> None:
    provider.says("Press the red button.")
    model = wrap(LANGCHAIN["ChatOpenAI, responses"](provider, use_previous_response_id=True), cache)
    model.invoke(QUESTION)
    hit = model.invoke(REWORDED)
    model.invoke([HumanMessage(REWORDED), hit, HumanMessage("and then what")])
    assert provider.calls == 2
    last = provider.bodies[-1]
    assert last.get("previous_response_id") is None
    assert len(last["input"]) == 3


@every_wrap
def test_requests_that_continue_other_conversations_share_no_answer(
    provider: Provider, cache: SemanticCache, wrap: Wrap
) -> None:
    model = wrap(LANGCHAIN["ChatOpenAI, responses"](provider), cache)
    for response_id in ("resp_a", "resp_b", "resp_a"):
        model.invoke("and then what", previous_response_id=response_id)
    for conversation in ("conv_a", "conv_b", "conv_a"):
        model.invoke("and then what", conversation={"id": conversation})
    assert provider.calls == 4


# -- calls past the cache --------------------------------------------------------------------------


@every_case
def test_a_refreshing_call_replaces_the_answer(
    provider: Provider, cache: SemanticCache, wrap: Wrap, way: str
) -> None:
    provider.says("It is green.", "It is red.")
    model = wrap(LANGCHAIN["ChatOpenAI"](provider), cache)
    refresh: Any = {"configurable": {"semcache": "refresh"}}
    texts = [WAYS[way](model, QUESTION, config=config).text for config in (None, refresh, None)]
    assert [text.strip() for text in texts] == ["It is green.", "It is red.", "It is red."]


@every_case
def test_a_bypassing_call_leaves_the_answer(
    provider: Provider, cache: SemanticCache, wrap: Wrap, way: str
) -> None:
    provider.says("It is green.", "It is red.")
    model = wrap(LANGCHAIN["ChatOpenAI"](provider), cache)
    texts = [WAYS[way](model, QUESTION).text.strip()]
    with bypassing():
        texts.append(WAYS[way](model, QUESTION).text.strip())
    texts.append(WAYS[way](model, QUESTION).text.strip())
    assert texts == ["It is green.", "It is red.", "It is green."]


@every_wrap
def test_an_unknown_mode_is_neither_served_nor_stored(
    provider: Provider, cache: SemanticCache, wrap: Wrap
) -> None:
    model = wrap(LANGCHAIN["ChatOpenAI"](provider), cache)
    config: Any = {"configurable": {"semcache": "sometimes"}}
    for _ in range(2):
        model.invoke(QUESTION, config=config)
    assert provider.calls == 2
    assert cache.stats().entries == 0


# -- images, agents, and connections that break ----------------------------------------------------


@every_client
@every_wrap
def test_a_question_about_another_image_is_another_question(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap
) -> None:
    model = wrap(LANGCHAIN[client](provider), cache)
    texts = []
    for data in (PNG, PNG, OTHER_PNG):
        url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        asked = [HumanMessage([{"type": "text", "text": QUESTION}, url])]
        texts.append(model.invoke(asked).text)
    assert texts == ["answer 1", "answer 1", "answer 2"]


@exact_client
@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_whose_connection_breaks_raises_the_same_and_is_not_stored(
    provider: Provider, cache: SemanticCache, client: str, way: str
) -> None:
    provider.says(Reply("Press the red", cut="reset"))
    plain = LANGCHAIN[client](provider)
    with pytest.raises(Exception) as expected:
        WAYS[way](plain, QUESTION)
    with pytest.raises(type(expected.value)):
        WAYS[way](wrapped(plain, cache), QUESTION)
    assert cache.stats().entries == 0


@every_client
def test_an_agent_asks_once_and_its_unusable_answers_are_not_stored(
    provider: Provider, cache: SemanticCache, client: str
) -> None:
    provider.says(Reply("Press the red", finish="length"), "Press the red button.")
    middleware = [SemanticCacheMiddleware(cache=cache)]
    agent: Any = create_agent(LANGCHAIN[client](provider), middleware=middleware)
    texts = [
        agent.invoke({"messages": [HumanMessage(text)]})["messages"][-1].text
        for text in (QUESTION, QUESTION, QUESTION, REWORDED)
    ]
    assert texts == ["Press the red", *["Press the red button."] * 3]
    assert provider.calls == 2


@every_client
@every_wrap
@pytest.mark.parametrize("status", [400, 429])
def test_a_refused_request_raises_the_same_with_its_status(
    provider: Provider, cache: SemanticCache, client: str, wrap: Wrap, status: int
) -> None:
    provider.says(Reply(status=status))
    plain = LANGCHAIN[client](provider)
    raised = assert_fails_alike(
        lambda: plain.invoke(QUESTION), lambda: wrap(plain, cache).invoke(QUESTION), cache
    )
    assert getattr(raised, "status_code", None) == status

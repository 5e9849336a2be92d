"""A hit of SemanticLLMCache is streamed to the handlers of a run, as the model's answer is."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig, RunnableLambda
from scripted_models import Streaming

from langchain_semcache import SemanticLLMCache, last_hit


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.sent: list[str] = []

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.sent.append(token)


class Raises(BaseCallbackHandler):
    raise_error = True

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        raise RuntimeError("no tokens here")


def chain(model: BaseChatModel, way: str) -> Any:
    """A step that asks by `invoke`: LangChain streams the answer to handlers that want chunks."""
    if way == "sync":
        return RunnableLambda(lambda text, config: model.invoke(text, config))

    async def ask(text: str, config: RunnableConfig) -> Any:
        return await model.ainvoke(text, config)

    return RunnableLambda(ask)


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_hit_sends_the_chunks_of_its_message(cache: SemanticLLMCache, way: str) -> None:
    set_llm_cache(cache)
    model = Streaming().answering("hello my friend")
    for question in ("hi there", "hi there", "there hi"):
        events = [e async for e in chain(model, way).astream_events(question, version="v2")]
        chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
        [end] = [e["data"]["output"] for e in events if e["event"] == "on_chat_model_end"]
        assert len(chunks) > 2
        assert "".join(chunk.text for chunk in chunks) == end.text == "hello my friend"
        assert {chunk.id for chunk in chunks} == {end.id}
    assert model.asked == 1 and cache.stats().failures == {}


async def test_an_agent_streams_a_hit_once(cache: SemanticLLMCache) -> None:
    model = Streaming(cache=cache).answering("hello my friend")
    agent = create_agent(model, [])
    given: dict[str, Any] = {"messages": [("user", "hi there")]}
    for _ in range(2):
        parts = [part async for part, _ in agent.astream(given, stream_mode="messages")]
        assert "".join(part.text for part in parts) == "hello my friend" and len(parts) > 2
        assert len({part.id for part in parts}) == 1
    assert model.asked == 1


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_without_such_a_handler_no_token_is_sent(cache: SemanticLLMCache, way: str) -> None:
    model = Streaming(cache=cache)
    for _ in range(2):
        handler = Tokens()
        await chain(model, way).ainvoke("hi there", {"callbacks": [handler]})
    assert handler.sent == [] and model.asked == 1


async def test_a_handler_that_raises_does_not_lose_the_hit(cache: SemanticLLMCache) -> None:
    model = Streaming(cache=cache).answering("hello")
    model.invoke("hi there", stream=True)
    given = {"callbacks": [Raises()]}
    assert model.invoke("hi there", given, stream=True).text == "hello"
    assert last_hit() is not None and cache.stats().failures == {"announce": 1}

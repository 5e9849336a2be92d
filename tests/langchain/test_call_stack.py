"""What LangChain's two texts leave out is found on the stack: call arguments, config, tenant."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langchain_core.language_models import LLM
from langchain_core.messages import HumanMessage
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableConfig
from pydantic import PrivateAttr
from scripted_models import Chat, Streaming

from langchain_semcache import SemanticLLMCache
from langchain_semcache.call_stack import caller
from langchain_semcache.request import CONFIG_KEY


class Text(LLM):
    """A text model that says how often it was asked, and with which options."""

    model_name: str = "text-1"
    _asked: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return "text"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        self._asked += 1
        return f"{self._asked} {kwargs}"


def config_of(tenant: str) -> RunnableConfig:
    return {"configurable": {CONFIG_KEY: tenant}}


async def invoke(llm: Any, text: str, **more: Any) -> Any:
    return llm.invoke(text, **more)


async def ainvoke(llm: Any, text: str, **more: Any) -> Any:
    return await llm.ainvoke(text, **more)


async def in_a_task(llm: Any, text: str, **more: Any) -> Any:
    return await asyncio.create_task(llm.ainvoke(text, **more))


async def among_others(llm: Any, text: str, **more: Any) -> Any:
    return (await asyncio.gather(llm.ainvoke(text, **more), asyncio.sleep(0)))[0]


async def in_a_thread(llm: Any, text: str, **more: Any) -> Any:
    return await asyncio.to_thread(llm.invoke, text, **more)


async def batch(llm: Any, text: str, **more: Any) -> Any:
    return llm.batch([text], **more)[0]


async def abatch(llm: Any, text: str, **more: Any) -> Any:
    return (await llm.abatch([text], **more))[0]


async def stream(llm: Any, text: str, **more: Any) -> Any:
    return next(iter(llm.stream(text, **more)))


async def astream(llm: Any, text: str, **more: Any) -> Any:
    return await anext(llm.astream(text, **more))


async def through_generators(llm: Any, text: str, **more: Any) -> Any:
    async def answers() -> AsyncIterator[Any]:
        yield await llm.ainvoke(text, **more)

    async def relayed() -> AsyncIterator[Any]:
        async for answer in answers():
            yield answer

    return await anext(relayed())


WAYS = [
    *(invoke, ainvoke, in_a_task, among_others, in_a_thread, batch, abatch, stream, astream),
    through_generators,
]
every_way = pytest.mark.parametrize("ask", WAYS)
Ask = Callable[..., Any]


# -- call arguments of a text model ----------------------------------------------------------------


@every_way
async def test_a_text_model_with_other_options_is_asked_anew(
    cache: SemanticLLMCache, ask: Ask
) -> None:
    model = Text(cache=cache)
    cold = await ask(model, "tell me a joke", temperature=0)
    for options in ({"temperature": 1.5}, {"model": "other"}, {"temperature": 0, "top_p": 0.5}):
        for text in ("tell me a joke", "a joke tell me"):
            assert await ask(model, text, **options) != cold
    assert await ask(model, "tell me a joke", temperature=0) == cold
    assert await ask(model, "a joke tell me", temperature=0) == cold


async def test_bound_options_are_those_of_the_call(cache: SemanticLLMCache) -> None:
    model = Text(cache=cache)
    warm, cold = model.bind(temperature=1.5), model.bind(temperature=0)
    assert warm.invoke("tell me a joke") != cold.invoke("tell me a joke")
    assert await warm.ainvoke("tell me a joke") == warm.invoke("a joke tell me")
    assert model.generate(["tell me a joke"], temperature=0).generations[0][0].text == (
        cold.invoke("tell me a joke")
    )


def test_a_text_model_with_an_unclear_option_is_not_cached(cache: SemanticLLMCache) -> None:
    model = Text(cache=cache)
    answers = {model.invoke("tell me a joke", hook=object()) for _ in range(3)}
    assert len(answers) == 3
    assert cache.stats().entries == 0


# -- the tenant in the config of a plain call ------------------------------------------------------


@every_way
async def test_the_config_of_a_plain_call_names_the_tenant(
    cache: SemanticLLMCache, ask: Ask
) -> None:
    model = Chat(cache=cache, disable_streaming=True).answering("ada's", "bob's")
    for text in ("what is my balance", "my balance is what"):
        for tenant in ("ada", "bob"):
            answer = await ask(model, text, config=config_of(tenant))
            assert answer.content == f"{tenant}'s"


@every_way
async def test_the_config_of_a_text_model_names_the_tenant(
    cache: SemanticLLMCache, ask: Ask
) -> None:
    model = Text(cache=cache)
    of_ada, of_bob = [await ask(model, "my balance", config=config_of(t)) for t in ("ada", "bob")]
    assert of_ada != of_bob
    assert await ask(model, "my balance", config=config_of("ada")) == of_ada


@every_way
async def test_a_config_that_is_bound_names_the_tenant(cache: SemanticLLMCache, ask: Ask) -> None:
    model = Chat(cache=cache, disable_streaming=True).answering("ada's", "bob's")
    for tenant in ("ada", "bob", "ada"):
        answer = await ask(model.with_config(config_of(tenant)), "what is my balance")
        assert answer.content == f"{tenant}'s"


async def test_each_prompt_of_a_batch_of_chats_has_its_tenant(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering("ada's")
    await model.ainvoke("what is my balance", config_of("ada"))
    configs = [config_of(tenant) for tenant in ("bob", "ada", "bob")]
    first = await model.abatch(["what is my balance"] * 3, configs)
    second = model.batch(["what is my balance"] * 3, configs)
    assert [first[1].content, second[1].content] == ["ada's"] * 2
    assert all("ada" not in answer.text for answer in (first[0], first[2], second[0], second[2]))


@pytest.mark.parametrize("way", [batch, abatch])
async def test_a_batch_of_a_text_model_for_several_tenants_is_not_cached(
    cache: SemanticLLMCache, way: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    model, configs = Text(cache=cache), [config_of("ada"), config_of("bob")]
    for _ in range(2):
        if way is batch:
            model.batch(["my balance"] * 2, configs)
        else:
            await model.abatch(["my balance"] * 2, configs)
    assert model._asked == 4
    assert cache.stats().entries == 0
    assert "ask for one tenant at a time" in caplog.text


async def test_a_task_that_nothing_known_awaits_is_not_cached(
    cache: SemanticLLMCache, caplog: pytest.LogCaptureFixture
) -> None:
    model = Chat(cache=cache)
    for _ in range(2):  # the task of one prompt, without LangChain's `gather` around it
        await asyncio.create_task(model._agenerate_with_cache([HumanMessage("my balance")]))
    assert model.asked == 2
    assert cache.stats().entries == 0
    assert "which tenant a call is for cannot be found out" in caplog.text


async def test_a_call_without_a_config_is_of_the_caches_own_tenant(
    cache: SemanticLLMCache,
) -> None:
    model = Chat(cache=cache)
    await model.agenerate([[HumanMessage("what is my balance")]])
    model.generate([[HumanMessage("what is my balance")]])
    await model.ainvoke("what is my balance")
    assert model.asked == 1
    assert cache.cache.clear(namespace="default") == 1


async def test_a_chain_and_a_plain_call_of_one_tenant_share(cache: SemanticLLMCache) -> None:
    model = Streaming(cache=cache)
    chain = PromptTemplate.from_template("{text}") | model
    config = config_of("ada")
    assert chain.invoke({"text": "what is my balance"}, config).content == "answer 1"
    assert (await model.ainvoke("what is my balance", config)).content == "answer 1"
    assert (await chain.ainvoke({"text": "my balance is what"}, config)).content == "answer 1"


def test_the_search_ends_on_a_deep_stack() -> None:
    def deep(levels: int) -> Iterator[Any]:
        return deep(levels - 1) if levels else caller()  # type: ignore[return-value]

    found: Any = deep(min(500, sys.getrecursionlimit() // 2))
    assert (found.model, found.configs, found.known) == (None, (), True)

"""Tenants: fixed, told by the config of the run, or asked for; a wrong one shares nothing. Writers:
who of the tenant asks.
"""

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from scripted_models import Chat, Streaming
from semcache_core import Request, SemanticCache, SemcacheError

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache
from langchain_semcache.request import CONFIG_KEY

OpenCache = Callable[..., SemanticLLMCache]


def ask(model: Chat, tenant: Any = ..., question: str = "what is my balance") -> str:
    """In a chain: that is where LangChain shows a cache the config."""
    configurable = {} if tenant is ... else {CONFIG_KEY: tenant}
    chain = RunnableLambda(lambda text: model.invoke(text))
    return chain.invoke(question, {"configurable": configurable}).text


def test_the_config_of_the_run_names_the_tenant(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering("5", "7", "9")
    assert [ask(model, "ada"), ask(model, "bob"), ask(model)] == ["5", "7", "9"]
    paraphrase = "my balance is what"
    assert [ask(model, t, paraphrase) for t in ("ada", "bob", ...)] == ["5", "7", "9"]
    assert model.asked == 3


async def test_the_config_of_an_async_run_names_the_tenant(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering("5", "7")

    async def aask(text: str) -> str:
        return (await model.ainvoke(text)).text

    for tenant, answer in (("ada", "5"), ("bob", "7"), ("ada", "5"), ("bob", "7")):
        config: Any = {"configurable": {CONFIG_KEY: tenant}}
        assert await RunnableLambda(aask).ainvoke("what is my balance", config) == answer


@pytest.mark.parametrize("wrong", [None, "", 7, b"ada", ["ada"]])
def test_a_wrong_tenant_in_the_config_is_neither_served_nor_stored(
    cache: SemanticLLMCache, wrong: Any
) -> None:
    model = Chat(cache=cache).answering("5", "7", "9")
    assert [ask(model), ask(model, wrong), ask(model, wrong)] == ["5", "7", "9"]
    assert cache.stats().entries == 1
    assert cache.stats().failures == {"lookup": 2, "update": 2}


def test_a_tenant_given_to_the_cache_wins_over_the_config(cache: SemanticLLMCache) -> None:
    """A config may come from a request: it must not lead out of a cache made for one tenant."""
    of_ada = SemanticLLMCache(cache=cache.cache, namespace="ada")
    assert ask(Chat(cache=of_ada).answering("5")) == "5"
    assert ask(Chat(cache=of_ada).answering("7"), "bob") == "5"


def test_a_callable_gives_the_tenant_of_each_call(cache: SemanticLLMCache) -> None:
    tenant: ContextVar[Any] = ContextVar("tenant")
    model = Chat(cache=SemanticLLMCache(cache=cache.cache, namespace=tenant.get))
    model.answering("5", "7", "9")
    answers = []
    for name in ("ada", "bob", "ada", None):
        tenant.set(name)
        answers.append(model.invoke("what is my balance").text)
    assert answers == ["5", "7", "5", "9"]
    assert cache.stats().failures == {"lookup": 1, "update": 1}
    assert {cache.cache.clear(namespace=name) for name in ("ada", "bob")} == {1}


def test_clear_forgets_the_present_tenant(cache: SemanticLLMCache) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="ada")
    of_each = SemanticLLMCache(cache=cache.cache, namespace=tenant.get)
    for name in ("ada", "bob"):
        cache.cache.update(Request("hi", namespace=name), "hello")
    of_each.clear()
    assert cache.cache.lookup(Request("hi", namespace="ada")) is None
    assert cache.cache.lookup(Request("hi", namespace="bob")) is not None


# -- writers ---------------------------------------------------------------------------------------


def with_langchains_cache(model: Chat, cache: SemanticCache, writer: Any) -> Callable[[str], str]:
    asked = model.model_copy(update={"cache": SemanticLLMCache(cache=cache, writer=writer)})
    return lambda question: str(asked.invoke(question).text)


def in_a_cached_model(model: Chat, cache: SemanticCache, writer: Any) -> Callable[[str], str]:
    asked = CachedChatModel(model, cache=cache, writer=writer)
    return lambda question: str(asked.invoke(question).text)


def in_an_agent(model: Chat, cache: SemanticCache, writer: Any) -> Callable[[str], str]:
    middleware = SemanticCacheMiddleware(cache=cache, writer=writer)
    agent = create_agent(model, [], middleware=[middleware])
    return lambda text: str(agent.invoke({"messages": [("user", text)]})["messages"][-1].text)


ADAPTERS = [with_langchains_cache, in_a_cached_model, in_an_agent]
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)


@every_adapter
def test_a_writer_is_served_what_it_stored_itself_others_once_it_is_confirmed(
    open_cache: OpenCache, adapter: Any
) -> None:
    cache, model = open_cache(confirmations=1).cache, Chat().answering("warm", "cold", "warm")
    as_ada, as_bob = adapter(model, cache, "ada"), adapter(model, cache, "bob")
    assert as_ada("how warm is it") == "warm"
    assert as_ada("is it how warm") == "warm"
    assert as_bob("warm is it how") == "cold"  # the model's
    assert model.asked == 2


@every_adapter
def test_a_callable_gives_the_writer_of_each_call(open_cache: OpenCache, adapter: Any) -> None:
    cache, model = open_cache(confirmations=1).cache, Chat()
    user: ContextVar[str | None] = ContextVar("user")
    asked = adapter(model, cache, user.get)
    answers = []
    for name, question in (
        ("ada", "how warm is it"),
        ("ada", "is it how warm"),
        ("bob", "warm is it how"),
        (None, "it is how warm"),
    ):
        user.set(name)
        answers.append(asked(question))
    assert answers == ["answer 1", "answer 1", "answer 2", "answer 3"]
    assert cache.stats().failures == {}


@every_adapter
def test_without_a_writer_nobody_in_particular_asks(open_cache: OpenCache, adapter: Any) -> None:
    cache, model = open_cache().cache, Chat()
    requests: list[Request] = []
    lookup = cache.lookup

    def noticed(request: Request, **told: Any) -> Any:
        requests.append(request)
        return lookup(request, **told)

    cache.lookup = noticed  # type: ignore[method-assign]
    for writer in (None, "ada"):
        adapter(model, cache, writer)("how warm is it")
    assert [request.writer for request in requests] == [None, "ada"]
    assert requests[0].scope == requests[1].scope and model.asked == 1


@every_adapter
def test_a_writer_of_a_wrong_type_is_refused_or_makes_the_call_uncached(
    cache: SemanticLLMCache, adapter: Any
) -> None:
    with pytest.raises(SemcacheError, match="writer must be a str or a function that gives one"):
        adapter(Chat(), cache.cache, 7)
    assert adapter(Chat().answering("warm"), cache.cache, lambda: 7)("how warm is it") == "warm"
    assert cache.stats().entries == 0
    assert cache.stats().failures["lookup"] == 1


# -- streams, which are often read where the context of the request is gone ----------------------

TENANT = ContextVar("tenant", default="public")


def as_tenant(tenant: str, call: Callable[[], Any]) -> Any:
    """`call()` in a context that ends with it, as a web server's endpoint does."""

    def endpoint() -> Any:
        TENANT.set(tenant)
        return call()

    return copy_context().run(endpoint)


def test_a_stream_is_of_the_tenant_who_asked_for_it(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("5", "7")
    cached = CachedChatModel(model, cache=cache.cache, namespace=TENANT.get)

    def read(stream: Any) -> str:
        return "".join(chunk.text for chunk in stream)

    for _ in range(2):
        assert read(as_tenant("ada", lambda: cached.stream("what is my balance"))) == "5"
        assert read(cached.stream("what is my balance")) == "7"
    assert model.asked == 2


async def test_an_async_stream_is_of_the_tenant_who_asked_for_it(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("5", "7")
    cached = CachedChatModel(model, cache=cache.cache, namespace=TENANT.get)

    async def read(stream: Any) -> str:
        return "".join([chunk.text async for chunk in stream])

    for _ in range(2):
        assert await read(as_tenant("ada", lambda: cached.astream("what is my balance"))) == "5"
        assert await read(cached.astream("what is my balance")) == "7"
    assert model.asked == 2

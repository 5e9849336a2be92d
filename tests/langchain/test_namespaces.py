"""Tenants: fixed, told by the config of the run, or asked for; a wrong one shares nothing."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from scripted_models import Chat
from semcache_core import Request

from langchain_semcache import SemanticLLMCache
from langchain_semcache.namespaces import CONFIG_KEY

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

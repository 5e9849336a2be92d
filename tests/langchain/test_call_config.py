"""The config of a call is seen, in whatever way the model is asked."""

from contextvars import ContextVar
from typing import Any

import pytest
from asking import WAYS, every_way
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import ensure_config
from scripted_models import Streaming

from langchain_semcache import CachedChatModel, SemanticLLMCache
from langchain_semcache.request import CONFIG_KEY

pytestmark = pytest.mark.filterwarnings("ignore:The method .* is in beta")


def cached(model: BaseChatModel, cache: SemanticLLMCache, **options: Any) -> CachedChatModel:
    return CachedChatModel(model, cache=cache.cache, **options)


# -- tenants ---------------------------------------------------------------------------------------


@every_way
def test_the_config_of_the_call_names_the_tenant(cache: SemanticLLMCache, way: str) -> None:
    model = Streaming().answering("5", "7", "9")
    ours = cached(model, cache)
    for tenant, answer in (("ada", "5"), ("bob", "7"), (None, "9"), ("ada", "5"), ("bob", "7")):
        configurable = {} if tenant is None else {CONFIG_KEY: tenant}
        asked = WAYS[way](ours, "hi there", config={"configurable": configurable})
        assert asked.text == answer


@every_way
def test_a_tenant_of_a_wrong_type_is_neither_served_nor_stored(
    cache: SemanticLLMCache, way: str
) -> None:
    model = Streaming().answering("5", "7", "9")
    ours = cached(model, cache)
    config: Any = {"configurable": {CONFIG_KEY: None}}
    assert WAYS[way](ours, "hi there").text == "5"
    assert [WAYS[way](ours, "hi there", config=config).text for _ in range(2)] == ["7", "9"]
    assert cache.stats().entries == 1
    assert cache.stats().failures == {"lookup": 2}


@every_way
def test_a_callable_sees_the_config_of_the_call(cache: SemanticLLMCache, way: str) -> None:
    def tenant() -> str:
        return str(ensure_config()["metadata"]["user"])

    ours = cached(Streaming().answering("5", "7"), cache, namespace=tenant)
    for user, answer in (("ada", "5"), ("bob", "7"), ("ada", "5")):
        assert WAYS[way](ours, "hi there", config={"metadata": {"user": user}}).text == answer


def test_the_config_of_a_chain_names_the_tenant(cache: SemanticLLMCache) -> None:
    ours = cached(Streaming().answering("5", "7"), cache)

    def ask(text: str) -> str:
        return ours.generate([[HumanMessage(text)]]).generations[0][0].text

    chain = RunnableLambda(ask)
    for tenant, answer in (("ada", "5"), ("bob", "7"), ("ada", "5")):
        assert chain.invoke("hi there", {"configurable": {CONFIG_KEY: tenant}}) == answer


def test_a_tenant_given_to_the_model_wins(cache: SemanticLLMCache) -> None:
    current: ContextVar[str] = ContextVar("current", default="ada")
    model = Streaming().answering("5", "7")
    of_ada = cached(model, cache, namespace="ada")
    config: Any = {"configurable": {CONFIG_KEY: "bob"}}
    assert of_ada.invoke("hi there", config).text == "5"
    assert cached(model, cache, namespace=current.get).invoke("hi there").text == "5"
    assert of_ada.model_copy(update={"namespace": "bob"}).invoke("hi there").text == "7"
    of_ada.namespace = "bob"
    assert of_ada.invoke("hi there").text == "7"

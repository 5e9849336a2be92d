"""A model inside CachedChatModel that the config of a call chooses."""

from typing import Any

import pytest
from asking import WAYS, every_way
from langchain.chat_models import init_chat_model
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from scripted_models import Chat, OllamaLike, Streaming
from semcache_core import SemcacheError

from langchain_semcache import CachedChatModel, SemanticLLMCache


def at(**configurable: Any) -> Any:
    return {"configurable": configurable}


def kind(answer: Any) -> Any:
    return answer.response_metadata.get("semcache", {}).get("kind")


def by_fields(**options: Any) -> Any:
    return Streaming(**options).configurable_fields(temperature=ConfigurableField(id="heat"))


def test_a_configured_field_is_part_of_the_request(cache: SemanticLLMCache) -> None:
    model = CachedChatModel(by_fields(), cache=cache.cache)
    kinds = [kind(model.invoke("hi there", at(heat=heat))) for heat in (0.0, 1.0, 0.0, 1.0)]
    assert kinds == [None, None, "exact", "exact"]
    assert kind(model.invoke("there hi", at(heat=1.0))) == "semantic"
    assert kind(model.with_config(at(heat=1.0)).invoke("hi there")) == "exact"
    assert kind(model.with_config(at(heat=2.0)).invoke("hi there")) is None


@every_way
def test_every_way_asks_the_chosen_model(cache: SemanticLLMCache, way: str) -> None:
    first, second = Streaming().answering("one"), Streaming(model_name="b").answering("two")
    either = first.configurable_alternatives(ConfigurableField(id="which"), second=second)
    model = CachedChatModel(either, cache=cache.cache).with_config(at(which="second"))
    for _ in range(2):
        assert WAYS[way](model, "hi there").text == "two"
    assert (first.asked, second.asked) == (0, 1)


def test_explain_reads_the_config(cache: SemanticLLMCache) -> None:
    model = CachedChatModel(by_fields(), cache=cache.cache)
    model.invoke("hi there", at(heat=1.0))
    assert model.explain("hi there", at(heat=1.0)).hit is not None
    assert model.explain("hi there", at(heat=0.5)).hit is None


def test_tools_of_another_class_are_refused(cache: SemanticLLMCache) -> None:
    @tool
    def clock() -> str:
        """The time."""
        return "12:00"

    either = Chat().configurable_alternatives(ConfigurableField(id="which"), other=OllamaLike())
    bound = CachedChatModel(either, cache=cache.cache).bind_tools([clock])
    assert bound.invoke("hi there").text == "answer 1"
    with pytest.raises(SemcacheError, match="chooses a OllamaLike, and the tools"):
        bound.invoke("hi there", at(which="other"))


def test_init_chat_model_gets_the_config_without_our_own_keys(cache: SemanticLLMCache) -> None:
    inner = init_chat_model(
        "gpt-4o", model_provider="openai", configurable_fields="any", api_key="none"
    )
    model = CachedChatModel(inner, cache=cache.cache)
    chosen = model._for(at(temperature=0.5, semcache_namespace="a", semcache="refresh"), {})
    assert (chosen.model.temperature, chosen.model.model_name) == (0.5, "gpt-4o")
    assert chosen.model.model_kwargs == {} and chosen.semantic_cache is cache.cache


def test_what_chooses_no_chat_model_is_named(cache: SemanticLLMCache) -> None:
    bound = Chat().bind(stop=["x"]).configurable_alternatives(ConfigurableField(id="which"))
    with pytest.raises(SemcacheError, match=r"got a .*Binding; wrap the model itself"):
        CachedChatModel(bound, cache=cache.cache)

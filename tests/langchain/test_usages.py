"""What an answer took: as its model tells, however it is asked, and what its hits save."""

from typing import Any

import pytest
from conftest import Bench
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from scripted_models import Chat
from semcache_core import Prices, Saved, SemanticCache, Usage

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache
from langchain_semcache.serialization import usage_of

USED = {"input_tokens": 30, "output_tokens": 4, "total_tokens": 34}
ASK, PARAPHRASE = "how warm is it", "is it how warm"


def generation(usage: Any = USED, **told: Any) -> ChatGeneration:
    # as a provider's integration may build it, which checks nothing
    message = AIMessage("warm", response_metadata=told)
    message.usage_metadata = usage
    return ChatGeneration(message=message)


def test_tokens_and_the_models_name_are_read_from_the_message() -> None:
    assert usage_of([generation(model_name="m-1")]) == Usage("m-1", 30, 4)


@pytest.mark.parametrize("field", ["model_name", "model", "model_id"])
def test_the_name_is_found_where_integrations_put_it(field: str) -> None:
    assert usage_of([generation(**{field: "m-1"})]).model == "m-1"


def test_tokens_of_several_messages_add_up_where_each_tells() -> None:
    assert usage_of([generation(), generation()]) == Usage(None, 60, 8)
    assert usage_of([generation(), generation(usage=None)]) == Usage()


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": "30"}, {"input_tokens": -1}])
def test_what_is_not_told_or_no_count_is_not_known(usage: Any) -> None:
    assert usage_of([generation(usage=usage, model_name=["odd"])]) == Usage()


def test_a_text_models_answer_tells_nothing() -> None:
    assert usage_of([Generation(text="warm")]) == usage_of([]) == Usage()


@pytest.fixture
def cache(bench: Bench) -> SemanticCache:
    return bench.open(path=None, prices=Prices({"m-*": (1_000_000, 10_000_000)}))


def model() -> Chat:
    told = {"model_name": "m-1"}
    return Chat().answering(AIMessage("warm", usage_metadata=USED, response_metadata=told))


def counted(cache: SemanticCache) -> tuple[int | None, int | None, float | None]:
    saved = cache.stats().saved
    return saved.tokens_in, saved.tokens_out, saved.cost


def test_a_hit_of_the_global_cache_saves_tokens_and_money(cache: SemanticCache) -> None:
    cached = model().model_copy(update={"cache": SemanticLLMCache(cache=cache)})
    for question in (ASK, ASK, PARAPHRASE):
        assert cached.invoke(question).content == "warm"
    assert counted(cache) == (60, 8, 140.0)


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke", "astream"])
async def test_a_hit_of_a_cached_model_saves_time_too(cache: SemanticCache, how: str) -> None:
    cached = CachedChatModel(model=model(), cache=cache)
    for _ in range(2):
        if how == "ainvoke":
            await cached.ainvoke(ASK)
        elif how == "astream":
            _ = [chunk async for chunk in cached.astream(ASK)]
        else:
            _ = list(getattr(cached, how)(ASK))
    assert counted(cache) == (30, 4, 70.0)
    assert (cache.stats().saved.seconds or 0) > 0


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_hit_in_an_agent_saves_them_all(cache: SemanticCache, how: str) -> None:
    agent = create_agent(model(), [], middleware=[SemanticCacheMiddleware(cache=cache)])
    for question in (ASK, PARAPHRASE):
        asked: Any = {"messages": [("user", question)]}
        await agent.ainvoke(asked) if how == "ainvoke" else agent.invoke(asked)
    assert counted(cache) == (30, 4, 70.0)
    assert (cache.stats().saved.seconds or 0) > 0


def test_a_provider_that_tells_nonsense_keeps_no_answer_from_being_stored(
    cache: SemanticCache,
) -> None:
    odd = AIMessage("warm", usage_metadata=dict.fromkeys(USED, -1))
    cached = Chat(cache=SemanticLLMCache(cache=cache)).answering(odd)
    assert [cached.invoke(ASK).content for _ in range(2)] == ["warm", "warm"]
    assert cache.stats().saved == Saved()

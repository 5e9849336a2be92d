"""Text models of real clients: LangChain's `OpenAI`, LlamaIndex's `OpenAILike` for completions."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fake_provider import Provider, Reply
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseLLM
from real_clients import (
    PART,
    WHOLE,
    assert_fails_alike,
    assert_only_the_whole_answer_is_kept,
    llama_openai_like,
    text_openai,
)
from semcache_core import SemanticCache

from langchain_semcache import SemanticLLMCache
from llamaindex_semcache import CachedLLM

QUESTION = "how do I cancel my order today"
REWORDED = "how today do I cancel my order"

WAYS: dict[str, Callable[..., str]] = {
    "invoke": lambda llm, text, **more: llm.invoke(text, **more),
    "ainvoke": lambda llm, text, **more: asyncio.run(llm.ainvoke(text, **more)),
    "batch": lambda llm, text, **more: llm.batch([text], **more)[0],
    "abatch": lambda llm, text, **more: asyncio.run(llm.abatch([text], **more))[0],
    "bind": lambda llm, text, **more: llm.bind(**more).invoke(text),
}
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def model(provider: Provider, cache: SemanticCache) -> BaseLLM:
    set_llm_cache(SemanticLLMCache(cache=cache))
    return text_openai(provider)


@every_way
def test_question_repeat_and_rewording_are_one_call(
    provider: Provider, model: BaseLLM, way: str
) -> None:
    provider.says(WHOLE)
    assert [WAYS[way](model, text) for text in (QUESTION, QUESTION, REWORDED)] == [WHOLE] * 3
    assert provider.calls == 1


@every_way
@pytest.mark.parametrize(
    "options",
    [{"temperature": 1.5}, {"model": "other"}, {"stop": ["."]}, {"max_tokens": 9}],
    ids=str,
)
def test_a_call_with_other_options_is_another_call(
    provider: Provider, model: BaseLLM, way: str, options: dict[str, Any]
) -> None:
    asked = [{}, options, {}, options]
    assert [WAYS[way](model, QUESTION, **more) for more in asked] == ["answer 1", "answer 2"] * 2
    assert WAYS[way](model, REWORDED, **options) == "answer 2"
    assert WAYS[way](model, REWORDED) == "answer 1"


@every_way
@pytest.mark.parametrize("status", [400, 429])
def test_an_error_reaches_the_app_unchanged_and_nothing_is_stored(
    provider: Provider, cache: SemanticCache, model: BaseLLM, way: str, status: int
) -> None:
    provider.says(Reply(status=status))
    plain = text_openai(provider, cache=False)
    assert_fails_alike(
        lambda: WAYS[way](plain, QUESTION), lambda: WAYS[way](model, QUESTION), cache
    )
    provider.says(WHOLE)
    assert WAYS[way](model, QUESTION) == WHOLE


@every_way
@pytest.mark.parametrize("finish", [None, "length"])
def test_an_answer_that_is_not_whole_is_not_stored(
    provider: Provider, model: BaseLLM, way: str, finish: str | None
) -> None:
    provider.says(Reply(PART, finish=finish), WHOLE)
    assert_only_the_whole_answer_is_kept(provider, lambda: WAYS[way](model, QUESTION))


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_asks_only_what_is_not_stored(
    provider: Provider, model: BaseLLM, is_async: bool
) -> None:
    texts = [QUESTION, "where is the library"]
    model.invoke(QUESTION)
    answers = asyncio.run(model.abatch(texts)) if is_async else model.batch(texts)
    assert answers == ["answer 1", "answer 2"]
    assert provider.bodies[-1]["prompt"] == ["where is the library"]


@pytest.mark.parametrize("options", [{"temperature": 1.5}, {"model": "other"}], ids=str)
def test_options_of_a_completion_of_llamaindex_are_part_of_the_call(
    provider: Provider, cache: SemanticCache, options: dict[str, Any]
) -> None:
    llm = CachedLLM(llm=llama_openai_like(provider, is_chat_model=False), cache=cache)
    asked = [{}, options, {}, options]
    texts = [llm.complete(QUESTION, **more).text for more in asked]
    assert texts == ["answer 1", "answer 2"] * 2
    assert llm.complete(REWORDED, **options).text == "answer 2"


def test_a_completion_of_llamaindex_that_is_not_whole_is_not_stored(
    provider: Provider, cache: SemanticCache
) -> None:
    llm = CachedLLM(llm=llama_openai_like(provider, is_chat_model=False), cache=cache)
    provider.says(Reply(PART, cut="end"), WHOLE)
    assert_only_the_whole_answer_is_kept(
        provider, lambda: "".join(item.delta or "" for item in llm.stream_complete(QUESTION))
    )

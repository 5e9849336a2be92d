"""One SemanticCache under a LangChain chain and a LlamaIndex engine, at the same time."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cities import BASEL, Found
from conftest import Bench
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from scripted_llms import ScriptedLLM
from scripted_models import Streaming
from semcache_core import SemanticCache

from langchain_semcache import CachedChatModel, SemanticLLMCache
from langchain_semcache.namespaces import CONFIG_KEY
from llamaindex_semcache import CachedLLM, SourceNodes

QUESTIONS = ("where is Basel", "is Basel old", "what is near Basel")
REWORDED = ("is Basel where", "old is Basel", "near Basel is what")


def chain(cache: SemanticCache) -> tuple[Any, Streaming]:
    model = Streaming().answering(*["LangChain's"] * 100)
    return ChatPromptTemplate.from_template("{question}") | CachedChatModel(
        model, cache=cache
    ), model


def engine(cache: SemanticCache, **options: Any) -> tuple[RetrieverQueryEngine, ScriptedLLM]:
    inner = ScriptedLLM("LlamaIndex's")
    llm = CachedLLM(inner, cache=cache, **options)
    synthesizer = get_response_synthesizer(llm=llm)
    nodes = SourceNodes(llm=llm)
    return RetrieverQueryEngine(Found(BASEL), synthesizer, node_postprocessors=[nodes]), inner


def test_on_threads_neither_is_ever_given_the_answer_of_the_other(bench: Bench) -> None:
    cache = bench.open()
    chained, model = chain(cache)
    queried, inner = engine(cache)

    def ask(n: int) -> tuple[str, str]:
        question = (*QUESTIONS, *REWORDED)[n % 6]
        if n % 2:
            return str(queried.query(question)), chained.invoke({"question": question}).text
        said = chained.invoke({"question": question}).text
        return str(queried.query(question)), said

    for question in QUESTIONS:
        ask(QUESTIONS.index(question))
    with ThreadPoolExecutor(8) as threads:
        told = set(threads.map(ask, range(60)))
    assert told == {("LlamaIndex's", "LangChain's")}
    assert (model.asked, inner.calls) == (len(QUESTIONS), len(QUESTIONS))
    stats = cache.stats()
    assert (stats.entries, stats.failures) == (2 * len(QUESTIONS), {})


async def test_in_one_event_loop_neither_is_ever_given_the_answer_of_the_other(
    bench: Bench,
) -> None:
    cache = bench.open()
    chained, model = chain(cache)
    queried, inner = engine(cache)
    for questions in (QUESTIONS, REWORDED):
        chains = [chained.ainvoke({"question": question}) for question in questions]
        engines = [queried.aquery(question) for question in questions]
        told = await asyncio.gather(*chains, *engines)
        assert [one.text for one in told[:3]] == ["LangChain's"] * 3
        assert [str(one) for one in told[3:]] == ["LlamaIndex's"] * 3
    assert (model.asked, inner.calls) == (len(QUESTIONS), len(QUESTIONS))
    assert cache.stats().failures == {}


def test_a_tenant_of_one_framework_sees_no_other_in_either(bench: Bench) -> None:
    cache = bench.open()
    chained, model = chain(cache)
    for tenant in ("ada", "bob"):
        config: RunnableConfig = {"configurable": {CONFIG_KEY: tenant}}
        chained.invoke({"question": QUESTIONS[0]}, config)
        queried, inner = engine(cache, namespace=tenant)
        queried.query(QUESTIONS[0])
        assert inner.calls == 1
    assert model.asked == 2
    assert cache.sizes()["namespaces"] == 2
    # what one tenant forgets, it forgets in both, and the other in none
    assert cache.clear("ada") == 2
    assert cache.stats().entries == 2


def test_the_same_question_alone_is_not_shared_either(bench: Bench) -> None:
    """Their models are others: a scope is never equal by chance."""
    cache = bench.open()
    model = Streaming(cache=SemanticLLMCache(cache=cache)).answering("LangChain's")
    inner = ScriptedLLM("LlamaIndex's")
    assert model.invoke("where is Basel").text == "LangChain's"
    assert CachedLLM(inner, cache=cache).complete("where is Basel").text == "LlamaIndex's"

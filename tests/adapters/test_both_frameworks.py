"""A LangChain chain and a LlamaIndex engine on one cache, at the same time."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from itertools import count, product
from typing import Any

import pytest
from cities import BASEL, Found
from conftest import Bench
from langchain_core.prompts import ChatPromptTemplate
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.prompts import ChatPromptTemplate as ChatTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from scripted_llms import ScriptedLLM, said
from scripted_models import Chat
from semcache_core import SemanticCache

from langchain_semcache import CachedChatModel
from llamaindex_semcache import CachedLLM, SourceNodes, node_tag

tenant: ContextVar[str] = ContextVar("tenant")

SYSTEM, USER = "be brief", "{context_str}\n\nQuestion: {query_str}"
QUESTIONS = ("where is Basel", "how old is Basel")
SAME = {"where is Basel": "is Basel where", "how old is Basel": "is Basel how old"}
TENANTS = ("acme", "globex")


class Chain:
    """LangChain's way to ask about a document; the tenant is in the config."""

    def __init__(self, cache: SemanticCache) -> None:
        self.model = Chat().answering(*(f"chain {n}" for n in range(1, 100)))
        prompt = ChatPromptTemplate([("system", SYSTEM), ("human", USER)])
        self._chain = prompt | CachedChatModel(self.model, cache=cache)

    @property
    def calls(self) -> int:
        return self.model.asked

    def ask(self, question: str) -> str:
        return str(self._chain.invoke(*self._asked(question)).text)

    async def aask(self, question: str) -> str:
        return str((await self._chain.ainvoke(*self._asked(question))).text)

    def _asked(self, question: str) -> tuple[dict[str, str], Any]:
        config = {"configurable": {"semcache_namespace": tenant.get()}}
        return {"context_str": BASEL.text, "query_str": question}, config


class Engine:
    """LlamaIndex's way, with the same words; the tenant is in a context variable."""

    def __init__(self, cache: SemanticCache) -> None:
        numbers = count(1)

        def script(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
            return said(f"engine {next(numbers)}")

        self.model = ScriptedLLM(script=script)
        llm = CachedLLM(llm=self.model, cache=cache, namespace=tenant.get)
        template = ChatTemplate.from_messages([("system", SYSTEM), ("user", USER)])
        self._engine = RetrieverQueryEngine(
            Found(BASEL),
            get_response_synthesizer(llm=llm, text_qa_template=template),
            node_postprocessors=[SourceNodes(llm=llm)],
        )

    @property
    def calls(self) -> int:
        return self.model.calls

    def ask(self, question: str) -> str:
        return str(self._engine.query(question))

    async def aask(self, question: str) -> str:
        return str(await self._engine.aquery(question))


App = Chain | Engine
Key = tuple[App, str, str]


def _ask(app: App, name: str, question: str) -> str:
    tenant.set(name)
    return app.ask(question)


async def _aask(app: App, name: str, question: str) -> str:
    tenant.set(name)  # each task has a context of its own
    return await app.aask(question)


def _in_threads(keys: Sequence[Key]) -> list[str]:
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda key: copy_context().run(_ask, *key), keys))


def _in_tasks(keys: Sequence[Key]) -> list[str]:
    async def ask_all() -> list[str]:
        return list(await asyncio.gather(*(_aask(*key) for key in keys)))

    return asyncio.run(ask_all())


@pytest.mark.parametrize("ask_all", [_in_threads, _in_tasks], ids=["threads", "tasks"])
def test_at_the_same_time_each_gets_its_own_answers(
    bench: Bench, ask_all: Callable[[Sequence[Key]], list[str]]
) -> None:
    cache = bench.open()
    chain, engine = Chain(cache), Engine(cache)
    apps: tuple[App, ...] = (chain, engine)
    keys = list(product(apps, TENANTS, QUESTIONS)) * 4
    answers: dict[Key, set[str]] = {}
    for key, answer in zip(keys, ask_all(keys), strict=True):
        answers.setdefault(key, set()).add(answer)
    assert all(len(given) == 1 for given in answers.values())
    assert len(set.union(*answers.values())) == len(answers) == 8
    for (app, *_), [answer] in answers.items():
        assert answer.startswith("chain" if app is chain else "engine")
    in_other_words = [(app, name, SAME[question]) for app, name, question in answers]
    assert ask_all(in_other_words) == [answer for [answer] in answers.values()]
    assert chain.calls == engine.calls == 4
    stats = cache.stats()
    assert (stats.entries, stats.updates, stats.semantic_hits) == (8, 8, 8)
    assert stats.failures == {}


def test_the_counts_of_both_add_up(bench: Bench) -> None:
    cache = bench.open()
    apps: tuple[App, ...] = (Chain(cache), Engine(cache))
    for name, app in product(TENANTS, apps):
        for question in ("where is Basel", "where is Basel", "is Basel where"):
            _ask(app, name, question)
    stats = cache.stats()
    assert (stats.misses, stats.exact_hits, stats.semantic_hits) == (4, 4, 4)
    assert (stats.entries, stats.updates, stats.failures) == (4, 4, {})


def test_what_one_forgets_the_other_keeps(bench: Bench) -> None:
    cache = bench.open()
    chain, engine = Chain(cache), Engine(cache)
    for name, app in product(TENANTS, (chain, engine)):
        _ask(app, name, "where is Basel")
    assert cache.invalidate(tags=[node_tag("basel")], all_namespaces=True) == 2  # the engine's
    for name, app in product(TENANTS, (chain, engine)):
        _ask(app, name, "where is Basel")
    assert (chain.calls, engine.calls) == (2, 4)
    cache.clear("acme")
    for name, app in product(TENANTS, (chain, engine)):
        _ask(app, name, "where is Basel")
    assert (chain.calls, engine.calls) == (3, 5)


def test_the_very_same_text_is_another_call_in_the_other_framework(bench: Bench) -> None:
    cache = bench.open()
    llm = CachedLLM(llm=ScriptedLLM("of the LLM", model="gpt-1"), cache=cache)
    model = CachedChatModel(Chat(model_name="gpt-1").answering("of the model"), cache=cache)
    for _ in range(2):
        assert llm.chat([ChatMessage("hi there")]).message.content == "of the LLM"
        assert llm.complete("hi there").text == "of the LLM"
        assert model.invoke("hi there").text == "of the model"
        assert model.invoke("there hi").text == "of the model"
    assert cache.stats().entries == 3

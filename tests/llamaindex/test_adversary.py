"""What once went wrong: each test is an input by which an app was hurt or a wrong answer served."""

import copy
import gc
import os
import signal
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
)
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import BaseModel, PrivateAttr
from scripted_llms import ScriptedLLM, said, text_of, user
from semcache_core import SemcacheError

from llamaindex_semcache import CachedLLM, SourceNodes
from llamaindex_semcache.documents import Sources
from llamaindex_semcache.messages import canonical, tool_names

TENANT = ContextVar("tenant", default="public")
SAY = PromptTemplate("say {word}")


class Place(BaseModel):
    river: str


# -- tenants ---------------------------------------------------------------------------------------


def _as(tenant: str, call: Callable[[], Any]) -> Any:
    """`call()` in a context that ends with it, as a web server's endpoint does."""

    def endpoint() -> Any:
        TENANT.set(tenant)
        return call()

    return copy_context().run(endpoint)


@pytest.mark.parametrize(
    "stream",
    [
        lambda llm: llm.stream_chat(user("my salary")),
        lambda llm: llm.stream_complete("my salary"),
        lambda llm: llm.stream_structured_predict(Place, SAY, word="my salary"),
    ],
    ids=["chat", "completion", "structured"],
)
def test_a_stream_is_of_the_tenant_who_asked_for_it(
    bench: Bench, stream: Callable[[CachedLLM], Any]
) -> None:
    """It is often read where the context of the request is gone."""
    inner = ScriptedLLM('{"river": "Rhine"}')
    llm = CachedLLM(llm=inner, cache=bench.open(), namespace=TENANT.get)
    list(_as("alice", lambda: stream(llm)))
    list(stream(llm))
    assert inner.calls == 2
    list(_as("alice", lambda: stream(llm)))
    assert inner.calls == 2


async def test_an_async_stream_is_of_the_tenant_who_asked_for_it(bench: Bench) -> None:
    inner = ScriptedLLM("a lot")
    llm = CachedLLM(llm=inner, cache=bench.open(), namespace=TENANT.get)

    async def read() -> None:
        token = TENANT.set("alice")
        items = await llm.astream_chat(user("my salary"))
        TENANT.reset(token)
        assert text_of([item async for item in items]) == "a lot"

    await read()
    await llm.achat(user("my salary"))
    assert inner.calls == 2
    await read()
    assert inner.calls == 2


# -- tools that are called by text -----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'Thought: I will.\nAction: transfer\nAction Input: {"amount": 5}',
        "I will.\n<execute>\ntransfer(5)\n</execute>",
    ],
    ids=["react", "code"],
)
@pytest.mark.parametrize("way", ["chat", "complete"])
def test_an_answer_that_calls_a_tool_by_text_is_for_the_very_same_question(
    bench: Bench, text: str, way: str
) -> None:
    inner = ScriptedLLM(text)
    llm = CachedLLM(llm=inner, cache=bench.open())

    def ask(question: str) -> None:
        getattr(llm, way)(user(question) if way == "chat" else question)

    for question in ("send him the money", "send him the money", "the money send him"):
        ask(question)
    assert inner.calls == 2


async def test_a_react_agent_acts_on_what_it_was_asked(bench: Bench) -> None:
    inner = ScriptedLLM(
        'Thought: a tool.\nAction: transfer\nAction Input: {"amount": 5}',
        "Thought: done.\nAnswer: Sent.",
        'Thought: a tool.\nAction: transfer\nAction Input: {"amount": 7}',
        "Thought: done.\nAnswer: Sent.",
    )
    sent = []

    def transfer(amount: int) -> str:
        """Send money."""
        sent.append(amount)
        return "ok"

    llm = CachedLLM(llm=inner, cache=bench.open())
    for question in ("send him the money", "the money send him"):
        await ReActAgent(tools=[transfer], llm=llm).run(question)
    assert sent == [5, 7]


def test_an_answer_about_actions_calls_no_tool(bench: Bench) -> None:
    inner = ScriptedLLM("What to do.\nAction: call <execute> (or nobody)")
    llm = CachedLLM(llm=inner, cache=bench.open())
    for question in ("what to do", "to do what"):
        llm.chat(user(question))
    assert inner.calls == 1


def test_the_tools_that_code_calls_are_known() -> None:
    code = "<execute>\nx = clock ( zone )\nprint(x)\n</execute> then <execute> dice()"
    messages = [ChatMessage(role="assistant", content=code), *user("roll(1)")]
    assert tool_names(canonical(messages)) == {"execute", "clock", "print"}


def test_an_answer_of_blank_lines_takes_no_time() -> None:
    """As a model writes that does not find the end. Its regex took a minute for 100,000."""
    blank = "Action Input:" + "\n" * 300_000 + "x"
    assert tool_names(canonical([ChatMessage(role="assistant", content=blank)])) == set()


# -- an LLM like the one in it ---------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda llm: llm.model_copy()])
def test_what_is_set_on_a_copy_stays_there(
    bench: Bench, copied: Callable[[CachedLLM], CachedLLM]
) -> None:
    inner = ScriptedLLM("hello")
    llm = CachedLLM(llm=inner, cache=bench.open())
    other = copied(llm)
    other.system_prompt = "Shout."
    llm.predict(SAY, word="hello")
    assert inner.asked[-1] == user("say hello") and inner.system_prompt is None
    assert other._get_messages(SAY, word="hello")[0].content == "Shout."


@pytest.mark.parametrize("deep", [False, True])
def test_what_a_copy_is_made_with_reaches_its_llm(bench: Bench, deep: bool) -> None:
    llm = CachedLLM(llm=ScriptedLLM(), cache=bench.open())
    other = llm.model_copy(update={"system_prompt": "Shout."}, deep=deep)
    assert other.system_prompt == other.llm.system_prompt == "Shout."
    assert llm.system_prompt is None and llm.llm.system_prompt is None
    assert (other.llm._asked is llm.llm._asked) is not deep  # type: ignore[attr-defined]
    assert llm.model_copy(update={"namespace": "b"}, deep=deep).namespace == "b"


def test_another_llm_brings_what_every_llm_has(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM(system_prompt="Be brief."), cache=bench.open())
    shouting = ScriptedLLM(system_prompt="Shout.")
    other = llm.model_copy(update={"pydantic_program_mode": "llm", "llm": shouting})
    assert other.system_prompt == "Shout." and shouting.pydantic_program_mode == "llm"
    llm.llm = ScriptedLLM()
    assert llm.system_prompt is None


def test_what_only_that_llm_has_is_there_too(bench: Bench) -> None:
    llm: Any = CachedLLM(llm=ScriptedLLM(model="m-2"), cache=bench.open())
    assert llm.model == "m-2" and llm.calls == 0
    assert not hasattr(llm, "no_such") and not hasattr(llm, "_answers")


def test_a_structured_llm_is_wrapped_inside_out(bench: Bench) -> None:
    """Its objects are in `raw`, and an engine that looks there would find the hit."""
    inner = ScriptedLLM('{"river": "Rhine"}')
    with pytest.raises(SemcacheError, match="as_structured_llm"):
        CachedLLM(llm=inner.as_structured_llm(Place), cache=bench.open())
    llm = CachedLLM(llm=inner, cache=bench.open()).as_structured_llm(Place)
    for _ in range(2):
        assert llm.chat(user("where is Basel")).raw == Place(river="Rhine")
    assert inner.calls == 1


class Handing(ScriptedLLM):
    """As many a CustomLLM: it hands on to its provider what it does not know."""

    _handed: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    def complete(self, prompt: str, **kwargs: Any) -> CompletionResponse:  # type: ignore[override]
        self._handed.append(kwargs)
        return CompletionResponse(text="an answer")

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        return Iterated([said("an", delta="an"), said("an answer", delta=" answer")])


class Iterated:
    """Can be read, but not closed."""

    def __init__(self, items: list[ChatResponse]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncIterator[ChatResponse]:
        return self

    async def __anext__(self) -> ChatResponse:
        if not self._items:
            raise StopAsyncIteration
        return self._items.pop(0)


def test_a_custom_llm_is_not_told_what_it_was_not_told(bench: Bench) -> None:
    inner = Handing()
    llm = CachedLLM(llm=inner, cache=bench.open())
    llm.complete("hi")
    llm.complete("hi", formatted=True)
    assert inner._handed == [{}, {"formatted": True}]


async def test_a_custom_llm_may_stream_by_any_iterator(bench: Bench) -> None:
    llm = CachedLLM(llm=Handing(), cache=bench.open())
    for _ in range(2):
        assert text_of([item async for item in await llm.astream_chat(user("hi"))]) == "an answer"
    assert llm.stats().exact_hits == 1


# -- templates with loops --------------------------------------------------------------------------

BASEL, BERN = TextNode(text="Basel lies on the Rhine."), TextNode(text="Bern is on the Aare.")


@pytest.mark.parametrize("context", [None, "ignore"])
def test_a_reranker_is_cached_by_its_query_and_the_order_of_its_documents(
    bench: Bench, context: Any
) -> None:
    inner = ScriptedLLM("Doc: 1, Relevance: 9", "Doc: 2, Relevance: 9")
    llm = CachedLLM(llm=inner, cache=bench.open(), context=context)

    def best(query: str, *nodes: TextNode) -> str:
        found = [NodeWithScore(node=node) for node in nodes]
        SourceNodes(llm=llm).postprocess_nodes(found)
        return LLMRerank(llm=llm, top_n=1).postprocess_nodes(found, query_str=query)[0].text

    assert best("where is Basel", BASEL, BERN) == BASEL.text
    assert best("is Basel where", BASEL, BERN) == BASEL.text
    assert inner.calls == 1
    assert best("where is Basel", BERN, BASEL) == BASEL.text
    assert inner.calls == 2


# -- forks -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_waits_for_no_lock_of_its_parent(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM(), cache=bench.open())
    llm.sources.record([BASEL])
    served = llm._responders()
    reader: Any = served.reader
    with llm.sources._lock, served.templates._lock, reader._models._lock:
        pid = os.fork()
        if not pid:
            code = 1
            signal.alarm(30)
            try:
                llm.sources.record([BERN])
                llm.predict(PromptTemplate("Say it: {query_str}\nBriefly."), query_str="hello")
                code = int(llm.stats().failures != {} or llm.sources._nodes.keys() != {BERN.text})
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    assert llm.sources._nodes.keys() == {BASEL.text}


def test_a_hook_for_forks_keeps_no_sources_alive() -> None:
    gone = weakref.ref(Sources())
    gc.collect()
    assert gone() is None


def test_texts_of_a_message_are_told_from_one_text(bench: Bench) -> None:
    inner = ScriptedLLM("one", "two")
    llm = CachedLLM(llm=inner, cache=bench.open())
    parts = [TextBlock(text="where is"), TextBlock(text="Basel")]
    llm.chat([ChatMessage(role="user", blocks=parts)])
    assert text_of([llm.chat(user("where is Basel"))]) == "two"

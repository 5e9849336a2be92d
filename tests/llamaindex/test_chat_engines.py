"""Chat engines of LlamaIndex with a CachedLLM as they are: what was said before must be equal."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cities import BASEL, BERN, Found
from conftest import Bench
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.memory import Memory
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import TextNode
from scripted_llms import ScriptedLLM, said

from llamaindex_semcache import CachedLLM, SourceNodes


def _memory() -> Memory:
    return Memory.from_defaults(tokenizer_fn=str.split)


def _simple(llm: CachedLLM, *nodes: TextNode) -> BaseChatEngine:
    return SimpleChatEngine.from_defaults(llm=llm, memory=_memory(), system_prompt="be brief")


def _context(llm: CachedLLM, *nodes: TextNode) -> BaseChatEngine:
    return ContextChatEngine.from_defaults(
        Found(*nodes), llm=llm, memory=_memory(), node_postprocessors=[SourceNodes(llm=llm)]
    )


def _condense_plus(llm: CachedLLM, *nodes: TextNode) -> BaseChatEngine:
    return CondensePlusContextChatEngine.from_defaults(
        Found(*nodes), llm=llm, memory=_memory(), node_postprocessors=[SourceNodes(llm=llm)]
    )


def _condense(llm: CachedLLM, *nodes: TextNode) -> BaseChatEngine:
    engine = RetrieverQueryEngine(
        Found(*nodes),
        get_response_synthesizer(llm=llm),
        node_postprocessors=[SourceNodes(llm=llm)],
    )
    return CondenseQuestionChatEngine.from_defaults(engine, llm=llm, memory=_memory())


Open = Callable[..., BaseChatEngine]
WITH_DOCUMENTS = pytest.mark.parametrize("open_engine", [_context, _condense_plus, _condense])
ALL = pytest.mark.parametrize("open_engine", [_simple, _context, _condense_plus, _condense])


def _say_what_is_asked(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    """Each conversation has an answer of its own, as long as it is."""
    asked = str(messages[-1].content)
    condensing = "standalone question" in asked.lower()
    return said("where is Bern" if condensing else f"{sum(len(str(m)) for m in messages)} letters")


def _open(bench: Bench) -> tuple[CachedLLM, ScriptedLLM]:
    inner = ScriptedLLM(script=_say_what_is_asked)
    return CachedLLM(llm=inner, cache=bench.open()), inner


@ALL
def test_a_conversation_that_is_had_again_asks_no_llm(bench: Bench, open_engine: Open) -> None:
    llm, inner = _open(bench)
    told, calls = [], []
    for _ in range(2):
        engine = open_engine(llm, BASEL, BERN)
        told.append([str(engine.chat(text)) for text in ("where is Basel", "and where is Bern")])
        told[-1].append("".join(engine.stream_chat("thanks a lot").response_gen))
        calls.append(inner.calls)
    assert told[0] == told[1] and llm.stats().failures == {}
    assert calls[0] == calls[1]


@ALL
async def test_so_it_is_async(bench: Bench, open_engine: Open) -> None:
    llm, inner = _open(bench)
    told, calls = [], []
    for _ in range(2):
        engine = open_engine(llm, BASEL, BERN)
        told.append([str(await engine.achat("where is Basel"))])
        streamed = await engine.astream_chat("and where is Bern")
        told[-1].append("".join([piece async for piece in streamed.async_response_gen()]))
        calls.append(inner.calls)
    assert told[0] == told[1] and llm.stats().failures == {}
    assert calls[0] == calls[1]


@ALL
def test_the_first_question_may_be_asked_in_other_words(bench: Bench, open_engine: Open) -> None:
    llm, inner = _open(bench)
    answers = {str(open_engine(llm, BASEL).chat(q)) for q in ("where is Basel", "is Basel where")}
    assert len(answers) == 1 and inner.calls == 1
    assert llm.stats().semantic_hits == 1


@ALL
def test_a_later_question_may_be_too_after_the_same_conversation(
    bench: Bench, open_engine: Open
) -> None:
    llm, inner = _open(bench)
    answers, calls = set(), []
    for question in ("where is Bern then", "then where is Bern"):
        engine = open_engine(llm, BASEL)
        engine.chat("where is Basel")
        answers.add(str(engine.chat(question)))
        calls.append(inner.calls)
    assert len(answers) == 1 and calls[0] == calls[1]
    assert llm.stats().semantic_hits > 0


@pytest.mark.parametrize("open_engine", [_simple, _context, _condense_plus])
def test_after_another_conversation_the_llm_is_asked(bench: Bench, open_engine: Open) -> None:
    """Trap 2. The words of the paraphrase are in the history: what follows is a miss too."""
    llm, inner = _open(bench)
    for first in ("where is Basel", "is Basel where", "how old is Basel"):
        engine = open_engine(llm, BASEL)
        engine.chat(first)
        calls = inner.calls
        engine.chat("and where is Bern")
        assert inner.calls > calls


@WITH_DOCUMENTS
def test_other_documents_are_a_miss(bench: Bench, open_engine: Open) -> None:
    llm, inner = _open(bench)
    for nodes in ([BASEL], [BERN], [BASEL, BERN]):
        open_engine(llm, *nodes).chat("where is it")
    assert inner.calls == 3
    open_engine(llm, BERN, BASEL).chat("where is it")  # these were there, in another order
    assert inner.calls == 3

"""Query engines of LlamaIndex with a CachedLLM as they are."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cities import BASEL, BERN, Found
from conftest import Bench
from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.query_engine import (
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.schema import TextNode
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import QueryEngineTool
from pydantic import BaseModel
from scripted_llms import ScriptedLLM, said

from llamaindex_semcache import CachedLLM, SourceNodes, node_tag

NEWER = TextNode(id_="basel", text="Basel lies on the river Rhine.\nIt is new.")
MODES = ("compact", "refine", "tree_summarize", "simple_summarize")
# refine shows each node by itself, and simple_summarize a list as Python writes it
IN_ORDER = ("refine", "simple_summarize")


def _engine(llm: CachedLLM, *nodes: TextNode, **options: Any) -> RetrieverQueryEngine:
    mode = ResponseMode(options.pop("mode", "compact"))
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode, **options)
    return RetrieverQueryEngine(
        Found(*nodes), synthesizer, node_postprocessors=[SourceNodes(llm=llm)]
    )


@pytest.mark.parametrize("is_chat_model", [True, False], ids=["chat", "completion"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_query_in_other_words_with_the_same_documents_is_a_hit(
    bench: Bench, mode: str, is_chat_model: bool
) -> None:
    inner = ScriptedLLM("on the Rhine", is_chat_model=is_chat_model)
    llm = CachedLLM(llm=inner, cache=bench.open())
    _engine(llm, BASEL, BERN, mode=mode).query("where is Basel")
    calls = inner.calls
    if mode not in IN_ORDER:
        assert str(await _engine(llm, BERN, BASEL, mode=mode).aquery("where is Basel"))
    assert str(_engine(llm, BASEL, BERN, mode=mode).query("is Basel where")) == "on the Rhine"
    assert str(await _engine(llm, BASEL, BERN, mode=mode).aquery("Basel is where"))
    assert inner.calls == calls and llm.stats().failures == {}


@pytest.mark.parametrize("mode", MODES)
def test_other_documents_are_a_miss(bench: Bench, mode: str) -> None:
    """Trap 2: embedded with its documents, every query would be the same."""
    inner = ScriptedLLM("old", "new")
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert str(_engine(llm, BASEL, mode=mode).query("how old is Basel")) == "old"
    assert str(_engine(llm, NEWER, mode=mode).query("how old is Basel")) == "new"
    assert str(_engine(llm, BASEL, mode=mode).query("where is Bern")) == "new"
    assert inner.calls == 3


def test_each_node_that_is_asked_about_alone_has_its_own_answer(bench: Bench) -> None:
    inner = ScriptedLLM("old", "young")
    llm = CachedLLM(llm=inner, cache=bench.open())
    told = [
        str(_engine(llm, BASEL, BERN, mode="accumulate").query(question))
        for question in ("how old is it", "is it how old")
    ]
    assert told[0] == told[1] and "1: old" in told[0] and "2: young" in told[0]
    assert inner.calls == 2


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_goes_with_its_documents(bench: Bench, mode: str) -> None:
    llm = CachedLLM(llm=ScriptedLLM("old"), cache=bench.open())
    _engine(llm, BASEL, mode=mode).query("how old is Basel")
    assert llm.semantic_cache.invalidate(tags=[node_tag("bern")]) == 0
    assert llm.semantic_cache.invalidate(tags=[node_tag("basel")]) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_streaming_engines_stream_hits(bench: Bench, mode: str) -> None:
    inner = ScriptedLLM("on the wide Rhine")
    llm = CachedLLM(llm=inner, cache=bench.open())
    engine = _engine(llm, BASEL, streaming=True, mode=mode)
    for question in ("where is Basel", "is Basel where"):
        assert "".join(engine.query(question).response_gen) == "on the wide Rhine"
        streamed = await engine.aquery(question)
        pieces = [piece async for piece in streamed.async_response_gen()]
        assert len(pieces) > 1 and "".join(pieces) == "on the wide Rhine"
    assert inner.calls == 1 and llm.stats().failures == {}


class Place(BaseModel):
    river: str


def test_an_engine_that_gives_objects_is_cached(bench: Bench) -> None:
    inner = ScriptedLLM('{"river": "Rhine"}')
    llm = CachedLLM(llm=inner, cache=bench.open())
    engine = _engine(llm, BASEL, output_cls=Place)
    for question in ("where is Basel", "is Basel where"):
        assert engine.query(question).response == Place(river="Rhine")
    assert inner.calls == 1


# -- engines of engines ----------------------------------------------------------------------------


def _tools(llm: CachedLLM) -> list[QueryEngineTool]:
    """One engine for each city."""
    return [
        QueryEngineTool.from_defaults(_engine(llm, node), name=node.id_, description=node.id_)
        for node in (BASEL, BERN)
    ]


def _choose_or_answer(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    text = str(messages[-1].content)
    if "Some choices are given below" in text:
        return said(f'[{{"choice": {2 if "Bern" in text else 1}, "reason": "it fits"}}]')
    if "relevant sub-questions" in text:
        asked = '{{"sub_question": "where is {0}", "tool_name": "{0}"}}'
        items = ", ".join(asked.format(city) for city in ("basel", "bern"))
        return said(f'```json\n{{"items": [{items}]}}\n```')
    rivers = [river for river in ("Rhine", "Aare") if river in text]
    return said(" and ".join(rivers))


async def test_a_router_chooses_again_for_each_question_but_asks_only_once(bench: Bench) -> None:
    inner = ScriptedLLM(script=_choose_or_answer)
    llm = CachedLLM(llm=inner, cache=bench.open())
    router = RouterQueryEngine(
        LLMSingleSelector.from_defaults(llm=llm), _tools(llm), llm=llm, summarizer=None
    )
    for question, river in (("where is Basel", "Rhine"), ("where is Bern", "Aare")):
        calls = inner.calls
        assert str(router.query(question)) == str(await router.aquery(question)) == river
        assert inner.calls == calls + 2
    assert llm.stats().failures == {}


async def test_sub_questions_are_asked_once_and_follow_their_documents(bench: Bench) -> None:
    inner = ScriptedLLM(script=_choose_or_answer)
    llm = CachedLLM(llm=inner, cache=bench.open())
    engine = SubQuestionQueryEngine.from_defaults(
        _tools(llm),
        llm=llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
        verbose=False,
        use_async=False,
    )
    for question in ("which rivers are there", "there are which rivers"):
        assert str(engine.query(question)) == "Rhine and Aare"
        assert str(await engine.aquery(question)) == "Rhine and Aare"
    assert inner.calls == 4  # the sub-questions, two answers, and what is made of them
    assert llm.semantic_cache.invalidate(tags=[node_tag("bern")]) == 1
    assert str(engine.query("which rivers are there")) == "Rhine and Aare"
    assert inner.calls == 5


# -- token counts ----------------------------------------------------------------------------------


@pytest.fixture
def settings() -> Iterator[None]:
    """What the app sets is gone after the test."""
    llm, manager = Settings._llm, Settings._callback_manager
    yield
    Settings._llm, Settings._callback_manager = llm, manager


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
async def test_an_engines_tokens_are_counted_once_on_a_miss_and_not_on_a_hit(
    bench: Bench, settings: None, streaming: bool
) -> None:
    """Trap 21, with a callback manager that is set after the LLM."""
    counter = TokenCountingHandler(tokenizer=str.split)
    Settings.llm = CachedLLM(llm=ScriptedLLM("on the Rhine"), cache=bench.open())
    Settings.callback_manager = CallbackManager([counter])
    engine = _engine(Settings.llm, BASEL, streaming=streaming)  # type: ignore[arg-type]
    paid = []
    for question in ("where is Basel", "where is Basel", "is Basel where"):
        response = engine.query(question)
        assert "".join(response.response_gen if streaming else response.response) == "on the Rhine"
        paid.append(counter.total_llm_token_count)
    assert paid[0] == paid[1] == paid[2] > 0
    assert len(counter.llm_token_counts) == 1

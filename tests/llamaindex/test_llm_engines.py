"""Query and chat engines of LlamaIndex with a CachedLLM as they are."""

from collections.abc import Sequence
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.memory import Memory
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from pydantic import BaseModel
from scripted_llms import ScriptedLLM, said

from llamaindex_semcache import CachedLLM, SourceNodes, node_tag

BASEL = TextNode(id_="basel", text="Basel lies on the Rhine.\nIt is old.")
BERN = TextNode(id_="bern", text="Bern lies on the Aare.")
NEWER = TextNode(id_="basel", text="Basel lies on the Rhine.\nIt is new.")


class Found(BaseRetriever):
    """Finds the nodes that it is given."""

    def __init__(self, *nodes: TextNode) -> None:
        super().__init__()
        self.nodes = list(nodes)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=node) for node in self.nodes]


def _engine(llm: CachedLLM, *nodes: TextNode, **options: Any) -> RetrieverQueryEngine:
    mode = options.pop("mode", ResponseMode.COMPACT)
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode, **options)
    return RetrieverQueryEngine(
        Found(*nodes), synthesizer, node_postprocessors=[SourceNodes(llm=llm)]
    )


@pytest.mark.parametrize("is_chat_model", [True, False], ids=["chat", "completion"])
@pytest.mark.parametrize(
    "mode", [ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.TREE_SUMMARIZE]
)
async def test_a_query_in_other_words_with_the_same_documents_is_a_hit(
    bench: Bench, mode: ResponseMode, is_chat_model: bool
) -> None:
    inner = ScriptedLLM("on the Rhine", is_chat_model=is_chat_model)
    llm = CachedLLM(llm=inner, cache=bench.open())
    _engine(llm, BASEL, BERN, mode=mode).query("where is Basel")
    calls = inner.calls
    if mode is not ResponseMode.REFINE:  # there each node is shown by itself, in this order
        assert str(await _engine(llm, BERN, BASEL, mode=mode).aquery("where is Basel"))
    assert str(_engine(llm, BASEL, BERN, mode=mode).query("is Basel where")) == "on the Rhine"
    assert inner.calls == calls and llm.stats().failures == {}


def test_other_documents_are_a_miss(bench: Bench) -> None:
    """Trap 2: embedded with its documents, every query would be the same."""
    inner = ScriptedLLM("old", "new")
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert str(_engine(llm, BASEL).query("how old is Basel")) == "old"
    assert str(_engine(llm, NEWER).query("how old is Basel")) == "new"
    assert str(_engine(llm, BASEL).query("where is Bern")) == "new"
    assert inner.calls == 3


def test_an_answer_goes_with_its_documents(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM("old"), cache=bench.open())
    _engine(llm, BASEL).query("how old is Basel")
    assert llm.semantic_cache.invalidate(tags=[node_tag("bern")]) == 0
    assert llm.semantic_cache.invalidate(tags=[node_tag("basel")]) == 1


async def test_streaming_engines_stream_hits(bench: Bench) -> None:
    inner = ScriptedLLM("on the wide Rhine")
    llm = CachedLLM(llm=inner, cache=bench.open())
    engine = _engine(llm, BASEL, streaming=True)
    for question in ("where is Basel", "is Basel where"):
        assert "".join(engine.query(question).response_gen) == "on the wide Rhine"
    assert inner.calls == 1


class Place(BaseModel):
    river: str


def test_an_engine_that_gives_objects_is_cached(bench: Bench) -> None:
    inner = ScriptedLLM('{"river": "Rhine"}')
    llm = CachedLLM(llm=inner, cache=bench.open())
    engine = _engine(llm, BASEL, output_cls=Place)
    for question in ("where is Basel", "is Basel where"):
        assert engine.query(question).response == Place(river="Rhine")
    assert inner.calls == 1


def _say_what_is_asked(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    asked = str(messages[-1].content)
    return said("where is Bern" if "standalone question" in asked.lower() else f"{len(messages)}")


@pytest.mark.parametrize("kind", [ContextChatEngine, CondensePlusContextChatEngine])
def test_a_conversation_that_is_had_again_asks_no_llm(bench: Bench, kind: Any) -> None:
    inner = ScriptedLLM(script=_say_what_is_asked)
    llm = CachedLLM(llm=inner, cache=bench.open())
    told, calls = [], []
    for _ in range(2):
        engine = kind.from_defaults(
            retriever=Found(BASEL, BERN),
            llm=llm,
            memory=Memory.from_defaults(tokenizer_fn=str.split),
            node_postprocessors=[SourceNodes(llm=llm)],
        )
        told.append([str(engine.chat(text)) for text in ("where is Basel", "and where is Bern")])
        told[-1].append("".join(engine.stream_chat("thanks a lot").response_gen))
        calls.append(inner.calls)
    assert told[0] == told[1]
    assert calls[0] == calls[1] == llm.stats().exact_hits

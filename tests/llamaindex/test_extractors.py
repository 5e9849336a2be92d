"""LLMs in an ingestion pipeline: titles, keywords and summaries by a CachedLLM."""

from collections.abc import Sequence
from typing import Any

import pytest
from conftest import Bench
from llama_index.core import Document
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.extractors import KeywordExtractor, SummaryExtractor, TitleExtractor
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from scripted_llms import ScriptedLLM, said

from llamaindex_semcache import CachedLLM

KINDS = {
    "titles": (TitleExtractor, "document_title"),
    "keywords": (KeywordExtractor, "excerpt_keywords"),
    "summaries": (SummaryExtractor, "section_summary"),
}
# alike enough for a hit by meaning, were they questions
DOCUMENTS = [
    Document(text=f"Our shop repairs old {thing} for you", doc_id=thing)
    for thing in ("cups", "pans")
]


def _say_what_is_shown(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    text = str(messages[-1].content)
    return said(f"All our shop says about old {'cups' if 'cups' in text else 'pans'}")


@pytest.mark.parametrize("is_chat_model", [True, False], ids=["chat", "completion"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_extracted_is_of_the_very_document(
    bench: Bench, kind: str, is_chat_model: bool
) -> None:
    """A text on a single line would be a question, if its template had no place for documents."""
    extractor, field = KINDS[kind]
    inner = ScriptedLLM(script=_say_what_is_shown, is_chat_model=is_chat_model)
    llm = CachedLLM(llm=inner, cache=bench.open())
    told, calls = [], []
    for _ in range(2):
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(), extractor(llm=llm, show_progress=False)]
        )
        nodes = pipeline.run(documents=DOCUMENTS)
        told.append([node.metadata[field].split()[-1] for node in nodes])
        calls.append(inner.calls)
    assert told == [["cups", "pans"]] * 2
    assert calls[0] == calls[1] and llm.stats().semantic_hits == 0


def test_a_pipelines_own_cache_tells_llms_apart(bench: Bench) -> None:
    """Trap 22: one that is hashed without the LLM in it would give the other model's titles."""
    steps = IngestionCache()
    cache = bench.open()
    inner = [ScriptedLLM(name, model=name) for name in ("one", "two")]
    for llm in [*inner, *inner]:
        title = TitleExtractor(llm=CachedLLM(llm=llm, cache=cache), show_progress=False)
        pipeline = IngestionPipeline(transformations=[title], cache=steps)
        [node] = pipeline.run(documents=DOCUMENTS[:1])
        assert node.metadata["document_title"] == llm.model
    assert [llm.calls for llm in inner] == [2, 2]  # of the node, and of its document

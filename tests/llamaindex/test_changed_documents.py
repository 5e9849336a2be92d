"""Documents that change, from the pipeline to the answer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from conftest import Bench
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import (
    SimpleVectorStore,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from pydantic import PrivateAttr
from scripted_llms import ScriptedLLM, said

from llamaindex_semcache import CachedLLM, InvalidatingDocstore, SourceNodes, last_hit

CITIES = ("Basel", "Bern")


class ByCity(BaseEmbedding):
    """Finds the document about the same city."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(city in text) for city in CITIES]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class WithTexts(SimpleVectorStore):
    """Keeps the nodes beside their vectors, as most databases do."""

    stores_text: bool = True
    _nodes: dict[str, BaseNode] = PrivateAttr(default_factory=dict)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        self._nodes |= {node.node_id: node for node in nodes}
        return super().add(list(nodes), **kwargs)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        found = super().query(replace(query, node_ids=None), **kwargs)  # an index names none
        found.nodes = [self._nodes[node_id] for node_id in found.ids or []]
        return found


def _quote(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    lines = str(messages[-1].content).splitlines()
    return said(next(line for line in lines if line.startswith(CITIES)))


def _document(city: str, text: str) -> Document:
    return Document(text=f"{city} {text}", doc_id=city)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["run", "arun"])
@pytest.mark.parametrize("context", ["nodes", "text", "ignore"])
async def test_the_new_answer_is_given_and_all_others_are_kept(
    bench: Bench, context: Any, asynchronous: bool
) -> None:
    inner = ScriptedLLM(script=_quote)
    cache = bench.open()
    llm = CachedLLM(llm=inner, cache=cache, context=context)
    store = WithTexts()
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), ByCity()],
        docstore=InvalidatingDocstore(SimpleDocumentStore(), cache),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=store,
    )

    async def ingest(*documents: Document) -> None:
        if asynchronous:
            await pipeline.arun(documents=list(documents))
        else:
            pipeline.run(documents=list(documents))

    def ask(question: str) -> tuple[str, str | None]:
        index = VectorStoreIndex.from_vector_store(store, embed_model=ByCity())
        engine = index.as_query_engine(
            llm=llm, similarity_top_k=1, node_postprocessors=[SourceNodes(llm=llm)]
        )
        answer = str(engine.query(question))
        hit = last_hit()
        return answer, hit and hit.kind

    old, new, other = (
        _document("Basel", "is a town of 170000 people."),
        _document("Basel", "is a town of 180000 people."),
        _document("Bern", "is a town of 140000 people."),
    )
    await ingest(old, other)
    assert ask("how big is Basel") == (old.text, None)
    assert ask("is Basel how big") == (old.text, "semantic")
    assert ask("how big is Bern then") == (other.text, None)
    await ingest(old, other)  # nothing has changed
    assert ask("how big is Basel") == (old.text, "exact")
    await ingest(new, other)
    assert cache.stats().entries == 1
    assert ask("is Basel how big") == (new.text, None)
    assert ask("how big is Basel") == (new.text, "semantic")
    assert ask("Bern is how big then") == (other.text, "semantic")
    assert inner.calls == 3 and cache.stats().failures == {}

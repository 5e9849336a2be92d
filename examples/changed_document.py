"""A document changes: the answers made from it are forgotten, all others are kept.

Run it with `python examples/changed_document.py`; put your own models in for the two stand-ins.
"""

from typing import Any

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.storage.docstore import SimpleDocumentStore
from semcache_core import SemanticCache

from llamaindex_semcache import CachedLLM, InvalidatingDocstore, SourceNodes, last_hit

TOPICS = ("cancel", "parcel", "repair")


class ByTopic(BaseEmbedding):
    """Stands in for your embedding model: finds the document about the same topic."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(topic in text.lower()) for topic in TOPICS]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class Quoting(CustomLLM):
    """Stands in for your LLM: answers with the document that it was given."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="quoting")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        found = [line for line in prompt.splitlines() if any(t in line.lower() for t in TOPICS)]
        return CompletionResponse(text=found[0])

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        raise NotImplementedError


def main() -> None:
    cache = SemanticCache(path=None)
    # what is retrieved need not be equal for a hit, so no document may change unnoticed
    llm = CachedLLM(llm=Quoting(), cache=cache, context="ignore")
    docstore = InvalidatingDocstore(SimpleDocumentStore(), cache)
    index = VectorStoreIndex.from_documents(
        [
            Document(text="You may cancel an order within 2 days.", doc_id="cancelling"),
            Document(text="Parcels leave our store on Mondays.", doc_id="shipping"),
        ],
        storage_context=StorageContext.from_defaults(docstore=docstore),
        embed_model=ByTopic(),
    )

    def ask(question: str) -> None:
        # made anew, as LlamaIndex's retrievers only know the documents of when they were made
        engine = index.as_query_engine(
            llm=llm, similarity_top_k=1, node_postprocessors=[SourceNodes(llm=llm)]
        )
        answer = engine.query(question)
        hit = last_hit()
        print(f"{question}\n   {answer}   [{f'{hit.kind} hit' if hit else 'the model'}]")

    ask("How do I cancel my order?")
    ask("How can I cancel an order?")
    ask("When is my parcel sent?")
    changed = Document(text="You may cancel an order within 14 days.", doc_id="cancelling")
    index.refresh_ref_docs([changed])
    print(f"{changed.doc_id} has changed")
    ask("How can I cancel an order?")  # the old answer is gone
    ask("When is my parcel sent?")  # this one has nothing to do with it


if __name__ == "__main__":
    main()

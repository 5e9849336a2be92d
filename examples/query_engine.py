"""A query engine: an answer is reused for the same documents only, streamed as from the model.

Run it with `python examples/query_engine.py`; put your own retriever and model in for the two
stand-ins.
"""

from collections.abc import Sequence

from llama_index.core.base.response.schema import StreamingResponse
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llamaindex_semcache import CachedLLM, SourceNodes, last_hit


class ByWord(BaseRetriever):
    """Stands in for your retriever: the documents that share a long word with the question."""

    def __init__(self, documents: list[str]) -> None:
        super().__init__()
        self.documents = documents

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        words = {w.strip("?.").lower() for w in query_bundle.query_str.split() if len(w) > 4}
        found = [text for text in self.documents if words & {w.lower() for w in text.split()}]
        return [NodeWithScore(node=TextNode(text=text)) for text in found]


def quote(messages: Sequence[ChatMessage], **_: object) -> ChatMessage:
    """Stands in for your model: says the first line of the documents in its prompt."""
    documents = (messages[-1].content or "").split("---------------------")[1]
    return ChatMessage(role="assistant", content=documents.strip().split("\n")[0])


def main() -> None:
    llm = CachedLLM(
        llm=MockFunctionCallingLLM(response_generator=quote, is_chat_model=True), path=None
    )
    documents = ["You may cancel an order within 2 days.", "Parcels leave our store on Mondays."]
    engine = RetrieverQueryEngine.from_args(
        ByWord(documents),
        llm=llm,
        node_postprocessors=[SourceNodes(llm=llm)],
        streaming=True,
    )

    def ask(question: str) -> None:
        response = engine.query(question)
        assert isinstance(response, StreamingResponse)
        print(f"{question}\n   ", end="")
        for words in response.response_gen:
            print(words, end="", flush=True)
        hit = last_hit()
        print(f"   [{hit.kind} hit]" if hit else "   [the model]")

    ask("How do I cancel my order?")
    ask("How can I cancel an order?")  # the same documents: from the cache
    ask("When do parcels leave your store?")
    documents[0] = "You may cancel an order within 14 days."
    ask("How do I cancel my order?")  # word for word the same, but the old answer would be wrong
    ask("When do parcels leave your store?")  # its document is as it was


if __name__ == "__main__":
    main()

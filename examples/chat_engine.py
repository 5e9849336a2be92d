"""A chat engine over documents: what one customer has asked, another gets from the cache.

Run it with `python examples/chat_engine.py`; put your own retriever and model in for the two
stand-ins.
"""

from collections.abc import Sequence

from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llamaindex_semcache import CachedLLM, SourceNodes

CHATS = {
    "Ada": ["How do I reset my password?", "Where do I find that link?"],
    "Bob": ["How do I reset my password?", "Where can I find that link?"],
    "Cyd": ["How can I reset my password?", "Where do I find that link?"],
}


class Manual(BaseRetriever):
    """Stands in for your retriever: there is one document."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text="A link to reset a password comes by mail."))]


def reply(messages: Sequence[ChatMessage], **_: object) -> ChatMessage:
    """Stands in for your model: makes the question whole where it is asked to, else answers it."""
    asked = messages[-1].content or ""
    if "standalone question" in asked:
        return ChatMessage(role="assistant", content="Where is the link to reset my password?")
    return ChatMessage(role="assistant", content="In your mail." if "link" in asked else "By mail.")


def main() -> None:
    llm = CachedLLM(
        llm=MockFunctionCallingLLM(response_generator=reply, is_chat_model=True), path=None
    )

    def kinds() -> tuple[int, int, int]:
        """An engine streams in a thread of its own, so `last_hit()` does not see its calls."""
        stats = llm.stats()
        return stats.exact_hits, stats.semantic_hits, stats.misses

    for name, questions in CHATS.items():
        engine = CondensePlusContextChatEngine.from_defaults(
            retriever=Manual(), llm=llm, node_postprocessors=[SourceNodes(llm=llm)]
        )
        for question in questions:
            before = kinds()
            print(f"{name}: {question}\n   ", end="")
            for words in engine.stream_chat(question).response_gen:
                print(words, end="", flush=True)
            exact, by_meaning, misses = (n - b for n, b in zip(kinds(), before, strict=True))
            print(f"   [{exact} exact, {by_meaning} by meaning, {misses} by the model]")
    # A second question takes two calls: one makes it whole, one answers it. Cyd's is the same as
    # Ada's, but not what was said before it: the history is compared word for word.


if __name__ == "__main__":
    main()

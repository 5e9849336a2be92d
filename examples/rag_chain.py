"""A retrieval chain over a vector store: an answer is reused for the same documents only.

Run it with `python examples/rag_chain.py`; put your own embeddings and model in for the two
stand-ins.
"""

import re
import zlib

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_semcache import SemanticLLMCache

PROMPT = ChatPromptTemplate(
    [
        ("system", "Answer from these documents only:\n\n{documents}"),
        ("human", "{question}"),
    ]
)


class ByWords(Embeddings):
    """Stands in for your embeddings: counts the long words of a text."""

    def embed_query(self, text: str) -> list[float]:
        vector = [0.01] * 256  # never zero: a cosine is asked for
        for word in re.findall(r"\w{5,}", text.lower()):
            vector[zlib.crc32(word.encode()) % 256] += 1
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def joined(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def main(model: BaseChatModel) -> None:
    set_llm_cache(SemanticLLMCache(path=None))
    store = InMemoryVectorStore(ByWords())
    store.add_texts(
        ["You may cancel an order within 2 days.", "Parcels leave our store on Mondays."],
        ids=["cancelling", "shipping"],
    )
    retriever = store.as_retriever(search_kwargs={"k": 1})
    sources = {"documents": retriever | joined, "question": RunnablePassthrough()}
    chain = sources | PROMPT | model

    def ask(question: str) -> None:
        answer = chain.invoke(question)
        hit = answer.response_metadata.get("semcache")
        source = f"{hit['kind']} hit" if hit else "the model"
        print(f"{question}\n   {answer.text}   [{source}]")

    ask("How do I cancel my order?")
    ask("How can I cancel an order?")  # the same document: from the cache
    store.add_texts(["You may cancel an order within 14 days."], ids=["cancelling"])
    ask("How do I cancel my order?")  # word for word the same, but the old answer would be wrong
    store.add_texts(["We also repair bicycles."], ids=["repairs"])
    ask("How can I cancel an order?")  # a new document that is not found for it changes nothing


STAND_IN = FakeListChatModel(responses=["Within 2 days.", "Within 14 days."])
"""Answers from a list. Your own: `init_chat_model("openai:gpt-4.1-mini")`."""

if __name__ == "__main__":
    main(STAND_IN)

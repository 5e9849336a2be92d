"""A retrieval chain: an answer is reused for the same documents only.

Run it with `python examples/rag_chain.py`, after putting your own model into the last line.
"""

from langchain.chat_models import init_chat_model
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.prompts import ChatPromptTemplate

from langchain_semcache import SemanticLLMCache

PROMPT = ChatPromptTemplate(
    [
        ("system", "Answer from these documents only:\n\n{documents}"),
        ("human", "{question}"),
    ]
)


def find(documents: list[str], question: str) -> str:
    """Stands in for your retriever: the documents that share a long word with the question."""
    words = {word.strip("?.").lower() for word in question.split() if len(word) > 4}
    found = [text for text in documents if words & {word.lower() for word in text.split()}]
    return "\n".join(found)


def main(model: BaseChatModel) -> None:
    set_llm_cache(SemanticLLMCache(path=None))
    chain = PROMPT | model
    documents = ["You may cancel an order within 2 days.", "Parcels leave our store on Mondays."]

    def ask(question: str) -> None:
        answer = chain.invoke({"documents": find(documents, question), "question": question})
        hit = answer.response_metadata.get("semcache")
        source = f"{hit['kind']} hit" if hit else "the model"
        print(f"{question}\n   {answer.text}   [{source}]")

    ask("How do I cancel my order?")
    ask("How can I cancel an order?")  # the same documents: from the cache
    documents[0] = "You may cancel an order within 14 days."
    ask("How do I cancel my order?")  # word for word the same, but the old answer would be wrong
    documents.append("We also repair bicycles.")
    ask("How can I cancel an order?")  # a new document that was not found for it changes nothing


if __name__ == "__main__":
    main(init_chat_model("openai:gpt-4.1-mini"))

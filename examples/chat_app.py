"""A chat app that streams: what one customer has asked, another gets from the cache.

Run it with `python examples/chat_app.py`, after putting your own model into the last line.
"""

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from langchain_semcache import CachedChatModel

SYSTEM = SystemMessage("You are the help desk of a web shop. Answer in one sentence.")
CHATS = {
    "Ada": ["How do I reset my password?", "And where do I find that link?"],
    "Bob": ["How can I reset my password?", "And where do I find that link?"],
    "Cyd": ["How do I cancel my order?", "And where do I find that link?"],
}


def reply(chat_model: BaseChatModel, history: list[BaseMessage]) -> BaseMessage:
    """Prints the answer as it comes: in chunks, whether from the model or from the cache."""
    chunks = []
    for chunk in chat_model.stream(history):
        print(chunk.text, end="", flush=True)
        chunks.append(chunk)
    answer = sum(chunks[1:], start=chunks[0])
    hit = answer.response_metadata.get("semcache")
    print(f"   [{hit['kind']} hit]" if hit else "   [the model]")
    return answer


def main(model: BaseChatModel) -> None:
    chat_model = CachedChatModel(model=model, path=None)
    for name, questions in CHATS.items():
        history: list[BaseMessage] = [SYSTEM]
        for question in questions:
            print(f"{name}: {question}")
            history.append(HumanMessage(question))
            # Bob's second question is only the same as Ada's if all that was said before is
            history.append(reply(chat_model, history))


if __name__ == "__main__":
    main(init_chat_model("openai:gpt-4.1-mini"))

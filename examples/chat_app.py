"""A chat app that streams: what one customer has asked, another gets from the cache.

Run it with `python examples/chat_app.py`; put your own model in for the stand-in.
"""

from langchain_core.language_models import BaseChatModel, FakeListChatModel
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


STAND_IN = FakeListChatModel(
    responses=[
        "Choose Forgot password, and we mail you a link.",
        "In your inbox, within a minute.",
        "It may have gone to the spam folder.",
        "Open the order and press Cancel.",
        "At the top right of your orders.",
    ],
    sleep=0.01,
)
"""Answers from a list, streamed. Your own: `init_chat_model("openai:gpt-4.1-mini")`."""

if __name__ == "__main__":
    main(STAND_IN)

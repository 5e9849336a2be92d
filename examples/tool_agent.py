"""An agent with tools: its steps are replayed, its tools run each time.

Run it with `python examples/tool_agent.py`; put your own model in for the stand-in.
"""

from datetime import datetime
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_semcache import SemanticCacheMiddleware

ORDERS = {"1234": "packed"}


@tool
def order_status(number: str) -> str:
    """How far an order has come."""
    return ORDERS[number]


@tool
def clock() -> str:
    """The present time."""
    return f"{datetime.now():%H:%M}"


def main(model: BaseChatModel) -> None:
    cache = SemanticCacheMiddleware(path=None, uncached_tools=["clock"])
    agent = create_agent(
        model,
        [order_status, clock],
        system_prompt="You are the help desk of a web shop. Answer in one sentence.",
        middleware=[cache],  # last, when there are more
    )

    def ask(question: str) -> None:
        print(question)
        for message in agent.invoke({"messages": [("user", question)]})["messages"][1:]:
            said = message.text or [call["name"] for call in getattr(message, "tool_calls", [])]
            hit = message.response_metadata.get("semcache")
            print(f"   {message.type}: {said}" + (f"   [{hit['kind']} hit]" if hit else ""))

    ORDERS["1234"] = "packed"
    ask("How do I cancel my order?")
    ask("How can I cancel an order?")  # no tool needed: served by meaning, no model call
    ask("Where is order 1234?")
    ask("Where is order 1234?")  # the tool is asked again, and says the same: no model call
    ORDERS["1234"] = "sent"
    ask("Where is order 1234?")  # the tool says otherwise: the model is asked about that
    ask("What time is it?")
    ask("What time is it?")  # what follows the clock is never cached
    stats = cache.stats()
    print(f"{stats.exact_hits} exact and {stats.semantic_hits} semantic hits")


class StandIn(FakeMessagesListChatModel):
    """Answers from a list. Your own: `init_chat_model("openai:gpt-4.1-mini")`."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def calling(name: str, **arguments: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call_{name}"}])


STAND_IN = StandIn(
    responses=[
        AIMessage("Open the order and press Cancel."),
        calling("order_status", number="1234"),
        AIMessage("It is packed."),
        AIMessage("It is on its way."),
        calling("clock"),
        AIMessage("It is late."),
        AIMessage("It is later still."),
    ]
)

if __name__ == "__main__":
    main(STAND_IN)

"""An agent with tools: its steps are replayed, its tools run each time.

Run it with `python examples/tool_agent.py`, after putting your own model into the last line.
"""

from datetime import datetime

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
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


if __name__ == "__main__":
    main(init_chat_model("openai:gpt-4.1-mini"))

"""An agent of LlamaIndex with tools: its steps are replayed, its tools run each time.

Run it with `python examples/function_agent.py`; put your own model in for the stand-in.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from llama_index.core.agent.workflow import AgentOutput, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.llms.mock import MockFunctionCallingLLM

from llamaindex_semcache import CachedLLM

ORDERS = {"1234": "packed"}


def order_status(number: str) -> str:
    """How far an order has come."""
    return ORDERS[number]


def clock() -> str:
    """The present time."""
    return f"{datetime.now():%H:%M}"


def think(messages: Sequence[ChatMessage], **_: object) -> ChatMessage:
    """Stands in for your model."""
    said = messages[-1].content or ""
    if messages[-1].role == MessageRole.TOOL:
        return ChatMessage(role="assistant", content=f"It is {said}.")
    if "cancel" in said:
        return ChatMessage(role="assistant", content="Press cancel.")
    name, arguments = ("order_status", {"number": "1234"}) if "1234" in said else ("clock", {})
    call = ToolCallBlock(tool_call_id="call_1", tool_name=name, tool_kwargs=arguments)
    return ChatMessage(role="assistant", blocks=[call])


async def main() -> None:
    llm = CachedLLM(
        llm=MockFunctionCallingLLM(response_generator=think, is_chat_model=True),
        path=None,
        uncached_tools=["clock"],
    )
    agent = FunctionAgent(llm=llm, tools=[order_status, clock], system_prompt="Be brief.")

    async def ask(question: str) -> None:
        print(question)
        handler = agent.run(user_msg=question)
        async for event in handler.stream_events():
            if isinstance(event, AgentOutput):
                said = event.response.content or [call.tool_name for call in event.tool_calls]
                hit = (event.raw or {}).get("semcache")
                print(f"   {said}" + (f"   [{hit['kind']} hit]" if hit else "   [the model]"))
            elif isinstance(event, ToolCallResult):
                print(f"   {event.tool_name}: {event.tool_output.content}")
        await handler

    ORDERS["1234"] = "packed"
    await ask("How do I cancel my order?")
    await ask("How can I cancel an order?")  # no tool needed: served by meaning, no model call
    await ask("Where is order 1234?")
    await ask("Where is order 1234?")  # the tool is asked again, and says the same: no model call
    ORDERS["1234"] = "sent"
    await ask("Where is order 1234?")  # the tool says otherwise: the model is asked about that
    await ask("What time is it?")
    await ask("What time is it?")  # what follows the clock is never cached
    stats = llm.stats()
    print(f"{stats.exact_hits} exact and {stats.semantic_hits} semantic hits")


if __name__ == "__main__":
    asyncio.run(main())

"""An agent's tool in tests: a thermometer, and the messages that read it."""

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool


class Thermometer:
    """A tool whose answer a test can change."""

    def __init__(self, shows: str = "10 C") -> None:
        self.shows = shows
        self.read = 0

    def tool(self) -> Any:
        @tool
        def weather(place: str) -> str:
            """The weather in a place."""
            self.read += 1
            return self.shows

        return weather


def calling(call_id: str = "call_1", place: str = "Basel") -> AIMessage:
    call = {"name": "weather", "args": {"place": place}, "id": call_id, "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


def kinds(messages: list[BaseMessage]) -> list[str]:
    return [message.type for message in messages]

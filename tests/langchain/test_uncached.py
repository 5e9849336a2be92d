"""Which tools were called in a conversation, and where."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_semcache.agent_answers import tools_called_in, tools_run_inside

CLOCK = {"clock", "web_search"}


def calling(name: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": {}, "id": "call_1"}])


BLOCKS: list[dict[str, Any]] = [
    {"type": "web_search_call", "id": "ws_1"},
    {"type": "server_tool_use", "name": "web_search", "id": "srvtoolu_1"},
    {"type": "server_tool_call", "name": "web_search", "id": "1"},
]


@pytest.mark.parametrize(
    "message",
    [
        calling("clock"),
        ToolMessage("14:03", tool_call_id="call_1", name="clock"),
        AIMessage(
            "",
            invalid_tool_calls=[{"name": "clock", "args": "{", "id": "1", "error": None}],  # type: ignore[list-item]
        ),
        *(AIMessage([block]) for block in BLOCKS),
    ],
)
def test_a_call_counts_wherever_it_is_in_the_conversation(message: BaseMessage) -> None:
    later = [message, AIMessage("it is late"), HumanMessage("and in an hour")]
    assert CLOCK & tools_called_in([message])
    assert CLOCK & tools_called_in(later)


@pytest.mark.parametrize(
    "message",
    [
        calling("calendar"),
        HumanMessage("clock", name="clock"),
        AIMessage("clock", name="clock"),
        AIMessage([{"type": "text", "text": "clock"}]),
        ToolMessage("clock", tool_call_id="call_1"),
    ],
)
def test_the_word_alone_is_no_call(message: BaseMessage) -> None:
    assert not CLOCK & tools_called_in([message])


@pytest.mark.parametrize("block", BLOCKS)
def test_what_the_provider_ran_has_run_already(block: dict[str, Any]) -> None:
    assert CLOCK & tools_run_inside([AIMessage([block, {"type": "text", "text": "found"}])])


def test_what_the_answer_asks_for_has_not_run_yet() -> None:
    block = {"type": "tool_use", "name": "clock", "id": "call_1", "input": {}}
    asked = calling("clock")
    assert not CLOCK & tools_run_inside([asked])
    assert not CLOCK & tools_run_inside([asked.model_copy(update={"content": [block]})])


def test_no_messages_called_nothing() -> None:
    assert tools_called_in([]) == tools_run_inside([]) == set()

"""What is new each time an answer is served."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock

from llamaindex_semcache.serialization import calls_in, renew_ids, unbilled


def _message(*ids: str | None, name: str = "clock", **kwargs: Any) -> ChatMessage:
    blocks = [ToolCallBlock(tool_call_id=each, tool_name=name) for each in ids]
    return ChatMessage(role="assistant", blocks=blocks, additional_kwargs=kwargs)


def _ids(message: ChatMessage) -> list[Any]:
    return [block.tool_call_id for block in message.blocks if isinstance(block, ToolCallBlock)]


@pytest.mark.parametrize(
    ("old", "form"),
    [
        ("call_abcDEF1234567890", r"call_[A-Za-z0-9]{16}"),
        ("toolu_01ABCDEFGHIJKL", r"toolu_[A-Za-z0-9]{14}"),
        ("abcDEF123", r"[A-Za-z0-9]{9}"),
        ("3f2a-7", r"3f2a-[A-Za-z0-9]{9}"),
        ("odd!", r"odd![A-Za-z0-9]{9}"),
    ],
)
def test_an_id_keeps_its_form(old: str, form: str) -> None:
    """Mistral takes ids of nine letters and digits only."""
    message = _message(old)
    renew_ids(message)
    [new] = _ids(message)
    assert new != old and re.fullmatch(form, new)


@given(st.lists(st.text("ab1_-", min_size=1, max_size=12), max_size=4))
def test_equal_ids_stay_equal_and_others_apart(ids: list[str]) -> None:
    message = _message(*ids)
    renew_ids(message)
    for one, a in zip(ids, _ids(message), strict=True):
        for other, b in zip(ids, _ids(message), strict=True):
            assert (one == other) == (a == b)


def test_no_id_and_the_name_as_an_id_stay() -> None:
    """Some integrations find the tool of a result by an id that is its name."""
    message = _message(None, "clock", "clock_0", tool_calls=[{"id": "clock_0"}])
    renew_ids(message)
    assert _ids(message) == [None, "clock", "clock_0"]
    assert message.additional_kwargs == {"tool_calls": [{"id": "clock_0"}]}


def test_ids_in_additional_kwargs_go_along() -> None:
    call = {"id": "call_123456789", "type": "function", "function": {"name": "clock"}}
    other = {
        "id": "call_987654321",
        "function": {"name": "x", "arguments": {"id": "call_123456789"}},
    }
    message = _message(
        "call_123456789", tool_calls=[call, other], reference={"call_id": "call_123456789"}
    )
    renew_ids(message)
    [new] = _ids(message)
    one, two = message.additional_kwargs["tool_calls"]
    assert one["id"] == new == message.additional_kwargs["reference"]["call_id"]
    assert two["id"] not in ("call_987654321", new)
    assert two["function"]["arguments"] == {"id": "call_123456789"}  # the app's own
    assert one["type"] == "function"


def test_tool_calls_are_found_as_integrations_tell_them() -> None:
    told = {"tool_calls": [{"a": 1}, None], "function_call": {"b": 2}, "other": [1]}
    assert calls_in(told) == [{"a": 1}, {"b": 2}]
    assert calls_in({"tool_calls": None}) == calls_in({"tool_calls": []}) == calls_in({}) == []


def test_counts_of_tokens_are_zero() -> None:
    """Trap 10."""
    told = {
        "prompt_tokens": 3,
        "usage": {"output_tokens": 2.0, "details": {"cachedTokens": 1}},
        "token": "text",
        "tokens_known": True,
        "score": 5,
        "tool_calls": [{"arguments": {"max_tokens": 9}}],
    }
    assert unbilled(told) == {
        **told,
        "prompt_tokens": 0,
        "usage": {"output_tokens": 0, "details": {"cachedTokens": 0}},
    }

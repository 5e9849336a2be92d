"""Why an answer ended, wherever a provider says so."""

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from llamaindex_semcache.serialization import GUESSED, ending, ending_so_far, spoils


class Reason(IntEnum):
    STOP = 1
    MAX_TOKENS = 2


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, None),
        ("length", None),
        (7, None),
        ({}, None),
        ({"finish_reason": None}, None),
        ({"status": 200}, None),
        ({"stop_reason": "max_tokens"}, "max_tokens"),
        ({"done_reason": "stop", "message": {"content": "length"}}, "stop"),
        ({"choices": [{"finish_reason": "length"}]}, "length"),
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}, "length"),
        (
            SimpleNamespace(choices=[SimpleNamespace(finish_reason="content_filter")]),
            "content_filter",
        ),
        ({"candidates": [{"finish_reason": Reason.MAX_TOKENS}]}, "max_tokens"),
        ({"choices": [{"message": {"refusal": "I cannot"}, "finish_reason": "stop"}]}, "refusal"),
        ({"choices": [{"message": {"refusal": None}}]}, None),
        ({"response": {"status": "incomplete"}}, "incomplete"),
        ({"semcache": {"kind": "semantic"}}, GUESSED),
        ({"semcache": {"kind": "exact"}}, None),
    ],
    ids=str,
)
def test_the_worst_reason_counts(raw: Any, reason: str | None) -> None:
    message = ChatMessage(role="assistant", content="hello")
    assert ending(ChatResponse(message=message, raw=raw)) == reason
    assert ending(CompletionResponse(text="hello", raw=raw)) == reason


def test_what_is_told_besides_counts_too() -> None:
    message = ChatMessage(role="assistant", additional_kwargs={"refusal": "I cannot"})
    assert ending(ChatResponse(message=message)) == "refusal"
    told = {"finish_reason": "length"}
    assert ending(CompletionResponse(text="", additional_kwargs=told)) == "length"


def test_a_stream_under_way_has_not_ended() -> None:
    item = CompletionResponse(text="", raw={"response": {"status": "in_progress"}})
    assert ending(item) == "in_progress" and ending_so_far(item) is None
    assert ending_so_far(CompletionResponse(text="", raw={"status": "failed"})) == "failed"


def test_bad_endings_and_guesses_spoil_an_answer() -> None:
    assert spoils(GUESSED) and spoils("length")
    assert not spoils("stop") and not spoils(None)


def test_an_object_that_goes_on_for_ever_is_looked_into_only_so_far() -> None:
    raw = SimpleNamespace()
    raw.message = raw.response = raw.choices = raw
    assert ending(CompletionResponse(text="", raw=raw)) is None

"""Finish reasons of providers: which say that an answer is not all there."""

from enum import Enum, IntEnum

import pytest
from semcache_core.adapters import cut_short


class Reason(str, Enum):
    STOP = "stop"
    LENGTH = "length"


class Numbered(IntEnum):
    STOP = 1
    MAX_TOKENS = 2


@pytest.mark.parametrize(
    "reason",
    [
        *("length", "MAX_TOKENS", "max_output_tokens", "content_filter", "SAFETY", "refusal"),
        *("error", "model_context_window_exceeded", "incomplete"),
        *(Reason.LENGTH, Numbered.MAX_TOKENS),
    ],
)
def test_an_answer_that_is_not_all_there_is_cut_short(reason: object) -> None:
    assert cut_short(reason)


@pytest.mark.parametrize(
    "reason",
    [
        *("stop", "STOP", "end_turn", "tool_calls", "COMPLETE", "completed", ""),
        *(None, 7, ["length"], Reason.STOP, Numbered.STOP),
    ],
)
def test_any_other_is_whole(reason: object) -> None:
    assert not cut_short(reason)

"""Streams put together: what is stored is what an app was shown, or nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel
from scripted_llms import ScriptedLLM

from llamaindex_semcache.calls import CHAT_STREAM, COMPLETION_STREAM
from llamaindex_semcache.request import Question

CALL = Question(ScriptedLLM())
CLOCK = ToolCallBlock(tool_name="clock", tool_call_id="1")


def _item(*blocks: ContentBlock, delta: str | None = "", **more: Any) -> ChatResponse:
    kwargs = more.pop("kwargs", {})
    message = ChatMessage(role="assistant", blocks=list(blocks), additional_kwargs=kwargs)
    return ChatResponse(message=message, delta=delta, **more)


def _text(text: str, delta: str | None = "", **more: Any) -> ChatResponse:
    return _item(TextBlock(text=text), delta=delta, **more)


def _whole(*items: ChatResponse) -> ChatResponse | None:
    """What is made of a stream, which must be the same of the items themselves and of copies."""
    kept = CHAT_STREAM.whole(CALL, [CHAT_STREAM.copy(item) for item in items])
    given = CHAT_STREAM.whole(CALL, list(items))
    if kept is None or given is None:
        assert kept is given
        return None
    assert kept.message == given.message and kept.raw == given.raw
    return kept


def _said(*items: ChatResponse) -> str | None:
    whole = _whole(*items)
    return None if whole is None else whole.message.content


@given(st.lists(st.text("ab \n", min_size=1), min_size=1))
def test_text_is_the_deltas_whatever_the_text_so_far_is(deltas: list[str]) -> None:
    so_far = ["".join(deltas[: number + 1]) for number in range(len(deltas))]
    for texts in (so_far, ["", *so_far[:-1]], deltas):
        items = [_text(text, delta) for text, delta in zip(texts, deltas, strict=True)]
        assert _said(*items) == "".join(deltas)
        completions = [
            CompletionResponse(text=text, delta=delta)
            for text, delta in zip(texts, deltas, strict=True)
        ]
        copies = [COMPLETION_STREAM.copy(item) for item in completions]
        for each in (completions, copies):
            whole = COMPLETION_STREAM.whole(CALL, each)
            assert whole is not None and whole.text == "".join(deltas)


def test_text_so_far_counts_where_there_is_no_delta() -> None:
    assert _said(_text("a", None), _text("ab", None)) == "ab"
    assert _said(_text("a", "a"), _text("ab", None), _text("abc", "c")) == "abc"
    assert _said(_text("a", "a"), _text("a", None)) == "a"
    assert _said(_text("a", "a"), _text("", None)) == "a"


def test_texts_that_contradict_are_not_stored() -> None:
    assert _said(_text("a", "a"), _text("b", None)) is None
    contradicting = [CompletionResponse(text="a", delta="a"), CompletionResponse(text="b")]
    assert COMPLETION_STREAM.whole(CALL, contradicting) is None


def test_several_texts_are_kept_where_they_are_what_the_deltas_say() -> None:
    one, two = TextBlock(text="a"), TextBlock(text="b")
    whole = _whole(_text("a", "a"), _item(one, two, delta="b"))
    assert whole is not None and whole.message.blocks == [one, two]
    assert _whole(_text("a", "a"), _item(one, two, delta="c")) is None


def test_blocks_are_those_of_the_last_item() -> None:
    thought = ThinkingBlock(content="hm, yes")
    whole = _whole(
        _item(ThinkingBlock(content="hm"), additional_kwargs={"thinking_delta": "hm"}),
        _item(thought, TextBlock(text="a"), delta="a"),
        _item(thought, TextBlock(text="a"), CLOCK, additional_kwargs={"x": 1}),
    )
    assert whole is not None
    assert whole.message.blocks == [thought, TextBlock(text="a"), CLOCK]
    assert whole.additional_kwargs == {"x": 1}


def test_a_text_that_the_last_item_lacks_stands_after_the_thoughts() -> None:
    thought = ThinkingBlock(content="hm")
    whole = _whole(_item(thought, TextBlock(text="a"), delta="a"), _item(thought, CLOCK))
    assert whole is not None
    assert whole.message.blocks == [thought, TextBlock(text="a"), CLOCK]


@pytest.mark.parametrize(
    "before", [_item(CLOCK), _item(TextBlock(text=""), kwargs={"tool_calls": [{"id": "1"}]})]
)
def test_a_stream_whose_last_item_lacks_a_tool_call_is_not_stored(before: ChatResponse) -> None:
    assert _whole(before, _text("a", "a")) is None


def test_an_empty_stream_is_no_answer() -> None:
    assert _whole() is None
    assert COMPLETION_STREAM.whole(CALL, []) is None


def test_a_copy_is_as_the_item_was() -> None:
    block = ToolCallBlock(tool_name="clock", tool_kwargs={"a": [1]})
    item = _item(TextBlock(text="x"), block, delta="x", kwargs={"n": [1]})
    copy = CHAT_STREAM.copy(item)
    block.tool_kwargs["a"].append(2)  # type: ignore[index,union-attr]
    item.message.additional_kwargs["n"].append(2)
    whole = CHAT_STREAM.whole(CALL, [copy])
    assert whole is not None
    assert whole.message.additional_kwargs == {"n": [1]}
    assert whole.message.blocks[1].tool_kwargs == {"a": [1]}  # type: ignore[union-attr]


class Locked(BaseModel):
    def __deepcopy__(self, memo: Any = None) -> Any:
        raise TypeError("cannot be copied")


def test_objects_that_blocks_repeat_are_not_copied() -> None:
    first = _text("", kwargs={"tool_calls": [{"id": "1"}]})  # the name of the tool comes later
    last = _item(CLOCK, kwargs={"tool_calls": [Locked()]})
    whole = CHAT_STREAM.whole(CALL, [CHAT_STREAM.copy(item) for item in (first, last)])
    assert whole is not None and whole.message.blocks == [CLOCK]
    assert whole.message.additional_kwargs == {}


def test_a_thousand_items_do_not_hold_the_text_a_thousand_times() -> None:
    copy = CHAT_STREAM.copy(_text("a long text so far", "far"))
    assert copy.message.content == "" and copy.delta == "far"
    assert COMPLETION_STREAM.copy(CompletionResponse(text="so far", delta="far")).text == ""


def test_the_worst_reason_of_all_items_counts() -> None:
    whole = _whole(
        _text("a", "a", raw={"status": "in_progress"}),
        _text("ab", "b", raw={"choices": [{"finish_reason": "length"}]}),
        _text("ab", "", raw={"choices": [], "status": "completed"}),
    )
    assert whole is not None and whole.raw == {"finish_reason": "length"}
    ended = _whole(_text("a", "a", raw={"finish_reason": "stop"}), _text("a"))
    assert ended is not None and ended.raw == {"finish_reason": "stop"}

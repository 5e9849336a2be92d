"""Answers as text and back: exactly or not at all, with nothing that belongs to one call only."""

import io
import json
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fakes import named
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    LogProb,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from pydantic import BaseModel
from scripted_llms import calling, said
from semcache_core import Hit, SemcacheError

from llamaindex_semcache.serialization import ChatAnswers, CompletionAnswers

CHATS, COMPLETIONS = ChatAnswers(), CompletionAnswers()
HIT = Hit("", "exact", 1.0, 1.0, "the question", 7, 5.0)
BLOCKS: list[ContentBlock] = [
    TextBlock(text="hello\n"),
    ThinkingBlock(content="hm", num_tokens=3, additional_information={"signature": "s=="}),
    ToolCallBlock(tool_name="clock", tool_kwargs={"zone": ["CET", 1, None]}),
    ToolCallBlock(tool_name="clock", tool_kwargs='{"zone": "CET"}'),
    ImageBlock(image=b"\x89PNG\r\n\x1a\n" + b"0" * 40),
    ImageBlock(url="https://example.org/a.png", detail="high"),
    AudioBlock(audio=b"sound\xff", format="wav"),
    VideoBlock(video=b"film\xff", fps=5),
    DocumentBlock(data=b"text \xff", title="t", document_mimetype="text/plain"),
    CachePoint(cache_control=CacheControl(type="ephemeral")),
    CitationBlock(
        cited_content=TextBlock(text="x"), source="s", title="t", additional_location_info={"a": 1}
    ),
    CitableBlock(title="t", source="s", content=[TextBlock(text="x")]),
]


class Thing(BaseModel):
    """An object of a provider."""

    id: str = "call_1"


def _answer(*blocks: ContentBlock, **kwargs: Any) -> ChatResponse:
    message = ChatMessage(role="assistant", blocks=list(blocks), additional_kwargs=kwargs)
    return ChatResponse(message=message)


# -- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_every_block_comes_back_as_it_was(block: ContentBlock) -> None:
    answer = _answer(TextBlock(text="see:"), block, note={"a": [1, None, "x"]})
    loaded = CHATS.load(CHATS.dump(answer), HIT)
    assert loaded.message == answer.message
    assert loaded.raw == {
        "semcache": {"kind": "exact", "probability": 1.0, "age_s": 5.0, "entry_id": 7}
    }


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(max_size=5))
def test_any_text_comes_back(text: str, more: str) -> None:
    chat = CHATS.load(CHATS.dump(_answer(TextBlock(text=text), TextBlock(text=more))), None)
    assert [block.text for block in chat.message.blocks] == [text, more]  # type: ignore[union-attr]
    completion = COMPLETIONS.load(COMPLETIONS.dump(CompletionResponse(text=text)), None)
    assert completion.text == text


def test_probabilities_of_tokens_come_back() -> None:
    probabilities = [[LogProb(token="hello", logprob=-0.5, bytes=[1])]]
    loaded = CHATS.load(CHATS.dump(said("hello", logprobs=probabilities)), None)
    assert loaded.logprobs == probabilities


def test_a_lone_surrogate_is_not_stored() -> None:
    answer = said("hello")
    answer.message.blocks = [TextBlock.model_construct(block_type="text", text="\ud800")]
    with pytest.raises(ValueError):
        CHATS.dump(answer)


class Colour(Enum):
    RED = "red"


class Details(BaseModel):
    made: datetime


MADE = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("held", "stored"),
    [
        (MADE, "2026-01-02T00:00:00Z"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (Colour.RED, "red"),
        (b"bytes", "Ynl0ZXM="),
        ({"a"}, ["a"]),
        ((1, 2), [1, 2]),
        (Details(made=MADE), {"made": "2026-01-02T00:00:00Z"}),
        (Thing(), {"id": "call_1"}),
        (object(), None),
        (float("nan"), None),
    ],
    ids=named,
)
def test_metadata_is_stored_as_far_as_it_has_a_form_in_json(held: Any, stored: Any) -> None:
    """In the message too: an answer that is never stored would be a cache that never hits."""
    kwargs = {"held": held, "note": "x"}
    expected = {"note": "x"} if stored is None else {"held": stored, "note": "x"}
    chat = _answer(TextBlock(text="hello"), **kwargs)
    chat.additional_kwargs = dict(kwargs)
    loaded = CHATS.load(CHATS.dump(chat), None)
    assert loaded.message.additional_kwargs == loaded.additional_kwargs == expected
    completion = CompletionResponse(text="hello", additional_kwargs=dict(kwargs))
    assert COMPLETIONS.load(COMPLETIONS.dump(completion), None).additional_kwargs == expected
    assert chat.message.additional_kwargs == kwargs  # the app's own is left as it is


def test_token_counts_in_metadata_are_zero_when_served() -> None:
    kwargs = {"note": "x", "usage": {"total_tokens": 7}, "max_score": 2}
    expected = {"note": "x", "usage": {"total_tokens": 0}, "max_score": 2}
    chat = CHATS.dump(said("hello", raw=Thing(), additional_kwargs=kwargs))
    assert CHATS.load(chat, None).additional_kwargs == expected
    completion = CompletionResponse(text="hello", raw=Thing(), additional_kwargs=kwargs)
    assert COMPLETIONS.load(COMPLETIONS.dump(completion), None).additional_kwargs == expected


def test_tool_calls_that_blocks_repeat_need_no_json() -> None:
    """Integrations give their provider's objects besides the blocks."""
    answer = calling("clock")
    answer.message.additional_kwargs["tool_calls"] = [Thing()]
    assert CHATS.load(CHATS.dump(answer), None).message.additional_kwargs == {}
    assert answer.message.additional_kwargs["tool_calls"] == [Thing()]


def test_tool_calls_that_are_no_json_and_nowhere_else_are_not_stored() -> None:
    with pytest.raises(SemcacheError, match="no JSON"):
        CHATS.dump(_answer(TextBlock(text="a"), tool_calls=[Thing()]))
    with pytest.raises(SemcacheError, match="no JSON"):
        COMPLETIONS.dump(CompletionResponse(text="", additional_kwargs={"tool_calls": [Thing()]}))


def test_a_file_or_an_open_stream_is_not_stored(tmp_path: Path) -> None:
    """It could change until the answer is served, or be read to its end by then."""
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG")
    with pytest.raises(SemcacheError, match="ImageBlock holds no data but"):
        CHATS.dump(_answer(ImageBlock(path=file)))
    stream = io.BytesIO(b"\x89PNG")
    with pytest.raises(SemcacheError, match="ImageBlock holds no data but"):
        CHATS.dump(_answer(ImageBlock(image=stream)))
    assert stream.tell() == 0
    cited = CitableBlock(title="t", source="s", content=[DocumentBlock(path=str(file))])
    with pytest.raises(SemcacheError, match="DocumentBlock holds no data but"):
        CHATS.dump(_answer(cited))


@pytest.mark.parametrize(
    "text",
    [
        *("", "garbage", "7", "[]", "{}", "[" * 400, '{"message": 7}', '{"text": []}'),
        *('{"message": {"role": "nobody"}}', '{"message": {"blocks": [{"block_type": "code"}]}}'),
    ],
)
def test_what_was_not_written_by_it_is_refused(text: str) -> None:
    """Trap 12."""
    for answers in (CHATS, COMPLETIONS):
        with pytest.raises((ValueError, RecursionError)):
            answers.load(text, None)


def test_a_row_that_names_a_file_is_refused(tmp_path: Path) -> None:
    """Trap 12: it would have the app read that file and send it to the model."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    row = json.loads(CHATS.dump(_answer(ImageBlock(image=b"\x89PNG"))))
    row["message"]["blocks"][0] |= {"image": None, "path": str(secret)}
    with pytest.raises(SemcacheError, match="holds no data but"):
        CHATS.load(json.dumps(row), None)


def test_each_load_builds_objects_of_its_own() -> None:
    """Trap 11."""
    text = CHATS.dump(calling("clock", zone="CET"))
    one, other = CHATS.load(text, None), CHATS.load(text, None)
    assert one.message.blocks[0] is not other.message.blocks[0]
    assert one.message.blocks[0].tool_call_id != other.message.blocks[0].tool_call_id  # type: ignore[union-attr]


# -- what may be stored ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_an_answer_needs_more_than_thoughts(block: ContentBlock) -> None:
    """Trap 16: empty."""
    is_answer = not isinstance(block, ThinkingBlock | CachePoint)
    assert CHATS.is_storable(_answer(block)) is is_answer
    assert not CHATS.is_storable(_answer(TextBlock(text=" \n")))
    assert not CHATS.is_storable(_answer())
    assert not COMPLETIONS.is_storable(CompletionResponse(text=" \n"))


@pytest.mark.parametrize(
    "raw",
    [
        {"finish_reason": "length"},
        {"semcache": {"kind": "semantic"}},
        {"choices": [{"message": {"refusal": "I cannot"}}]},
    ],
)
def test_what_did_not_end_well_is_not_stored(raw: Any) -> None:
    """Trap 16."""
    assert not CHATS.is_storable(said("hello", raw=raw))
    assert not COMPLETIONS.is_storable(CompletionResponse(text="hello", raw=raw))
    assert CHATS.is_storable(said("hello", raw={"finish_reason": "stop"}))
    assert COMPLETIONS.is_storable(CompletionResponse(text="hello", raw={"done_reason": "stop"}))


def test_a_tool_call_that_is_not_all_there_is_not_stored() -> None:
    half = ToolCallBlock(tool_name="clock", tool_kwargs='{"zone": "C')
    none = ToolCallBlock(tool_name="clock", tool_kwargs="")
    assert not CHATS.is_storable(_answer(half))
    assert CHATS.is_storable(_answer(none))


@pytest.mark.parametrize(
    "kwargs", [{"tool_calls": [{"id": "1"}]}, {"function_call": {"name": "a"}}]
)
def test_tool_calls_are_known_wherever_they_are_told(kwargs: dict[str, Any]) -> None:
    """Trap 5: such an answer is stored exactly only."""
    assert CHATS.calls_tools(calling("clock"))
    assert CHATS.calls_tools(_answer(**kwargs)) and CHATS.is_storable(_answer(**kwargs))
    assert COMPLETIONS.calls_tools(CompletionResponse(text="", additional_kwargs=kwargs))
    assert not CHATS.calls_tools(_answer(TextBlock(text="a"), tool_calls=[]))
    assert not COMPLETIONS.calls_tools(CompletionResponse(text="a"))


def test_words_are_told_where_they_are_all_of_the_answer() -> None:
    thought = ThinkingBlock(content="hm")
    assert CHATS.words(_answer(thought, TextBlock(text="a"), TextBlock(text="b"))) == "a\nb"
    assert CHATS.words(_answer(TextBlock(text="a"), BLOCKS[4])) is None
    assert CHATS.words(calling("clock")) is None
    assert COMPLETIONS.words(CompletionResponse(text="a")) == "a"

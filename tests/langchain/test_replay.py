"""A stored answer as chunks, and chunks as an answer to store."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from semcache_core.adapters import pieces

from langchain_semcache.calls import answer_in, answer_of, chunks_of, copied

CALL = {
    "name": "weather",
    "args": {"place": "Basel", "days": [1, 2]},
    "id": "a",
    "type": "tool_call",
}
USAGE = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
TEXT = "It is warm in Basel,\n\n  and it will be.\n"
V1 = {"output_version": "v1", "model_provider": "openai"}


@given(st.text())
def test_the_pieces_of_a_text_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert all(pieces(text))


def test_pieces_are_words_with_their_space_and_long_ones_are_cut() -> None:
    assert pieces("It is  warm.\n") == ["It", " is", "  warm.", "\n"]
    assert [len(piece) for piece in pieces("好" * 50)] == [20, 20, 10]


def summed(chunks: list[ChatGenerationChunk]) -> AIMessage:
    messages = [chunk.message for chunk in chunks]
    return message_chunk_to_message(messages[0] + messages[1:] if messages[1:] else messages[0])


MESSAGES = {
    "text": AIMessage(TEXT),
    "nothing but a call": AIMessage("", tool_calls=[CALL]),
    "text and two calls": AIMessage(TEXT, tool_calls=[CALL, {**CALL, "id": "b", "args": {}}]),
    "metadata": AIMessage(
        TEXT, response_metadata={"model_name": "gpt-1", "model_provider": "openai", "n": 3}
    ),
    "calls said twice": AIMessage(
        "",
        tool_calls=[CALL],
        additional_kwargs={
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            ],
            "reasoning_content": "hm",
        },
    ),
    "blocks": AIMessage(
        [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": TEXT},
            {"type": "text", "text": "more", "citations": [{"a": 1}]},
            "and a text",
            {"type": "tool_use", "id": "a", "name": "weather", "input": CALL["args"]},
        ],
        tool_calls=[CALL],
    ),
    "numbered blocks": AIMessage(
        [
            {"type": "text", "text": TEXT, "index": 0, "id": "msg_1", "annotations": [{"a": 1}]},
            {"type": "text", "text": "more", "index": 1},
            {"type": "text", "text": "", "index": 2},
        ]
    ),
    "standard blocks": AIMessage(
        [
            {"type": "text", "text": TEXT, "index": 0},
            {"type": "text", "text": TEXT, "index": 1},
            {**CALL, "index": 2},
        ],
        tool_calls=[CALL],
        response_metadata=V1,
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_sum_of_the_chunks_is_the_answer(name: str) -> None:
    message = MESSAGES[name].model_copy(deep=True)
    message.id, message.usage_metadata = "lc_run--1", USAGE  # type: ignore[assignment]
    generation = ChatGeneration(message=message, generation_info={"finish_reason": "stop"})
    chunks = chunks_of(generation)
    assert summed(chunks) == message
    assert {chunk.message.id for chunk in chunks} == {"lc_run--1"}
    assert [chunk.message.chunk_position for chunk in chunks[-2:]][-1] == "last"
    assert chunks[-1].generation_info == {"finish_reason": "stop"}


def test_texts_are_replayed_in_pieces() -> None:
    for content in (TEXT, [{"type": "text", "text": TEXT, "index": 0}]):
        chunks = chunks_of(ChatGeneration(message=AIMessage(content)))
        assert [chunk.message.text for chunk in chunks] == [*pieces(TEXT), ""]


def test_standard_blocks_are_numbered_so_that_no_two_texts_become_one() -> None:
    """LangChain numbers the blocks of a stream by their type: both would be block 0."""
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    message = AIMessage(blocks, response_metadata={"output_version": "v1"})
    whole = summed(chunks_of(ChatGeneration(message=message)))
    assert [(block["text"], block["index"]) for block in whole.content] == [("one", 0), ("two", 1)]


def test_what_reads_the_content_is_in_every_chunk_and_is_not_doubled() -> None:
    message = AIMessage(
        "a b", response_metadata={"model_provider": "openai", "model_name": "gpt-1"}
    )
    chunks = chunks_of(ChatGeneration(message=message))
    assert all(chunk.message.response_metadata["model_provider"] == "openai" for chunk in chunks)
    assert summed(chunks).response_metadata == message.response_metadata


def test_replaying_changes_nothing_of_the_answer() -> None:
    message = MESSAGES["numbered blocks"].model_copy(deep=True)
    for chunk in chunks_of(ChatGeneration(message=message)):
        if chunk.message.content:
            chunk.message.content[0]["text"] = "changed"
    assert message == MESSAGES["numbered blocks"]


# -- what is stored --------------------------------------------------------------------------------


def chunk(content: Any, info: Any = None, **fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(
        message=AIMessageChunk(content=content, **fields), generation_info=info
    )


def test_a_stream_becomes_the_message_that_invoke_gives() -> None:
    calls = [
        {"name": "weather", "args": '{"place": ', "id": "a", "index": 0},
        {"name": None, "args": '"Basel"}', "id": None, "index": 0},
    ]
    chunks = [
        chunk("It is ", id="msg-1", response_metadata={"model_provider": "openai"}),
        chunk("warm", tool_call_chunks=calls[:1], response_metadata={"model_provider": "openai"}),
        chunk("", tool_call_chunks=calls[1:], usage_metadata={**USAGE, "output_tokens": 2}),
        chunk("", {"finish_reason": "tool_calls", "lc_gateway_metadata": {"a": 1}}),
    ]
    [generation] = answer_of(chunks, None)
    assert type(generation.message) is AIMessage
    assert generation.message.text == "It is warm"
    assert generation.message.tool_calls == [{**CALL, "args": {"place": "Basel"}}]
    assert generation.message.usage_metadata == {**USAGE, "output_tokens": 2}
    assert generation.message.response_metadata == {
        "model_provider": "openai",
        "finish_reason": "tool_calls",
    }


def test_a_stream_of_nothing_is_no_answer() -> None:
    assert answer_of([], None) == []


def test_one_chunk_is_an_answer() -> None:
    [generation] = answer_of([chunk("hello")], None)
    assert generation.message == AIMessage("hello")


def test_a_result_gets_the_metadata_that_langchain_gives_it() -> None:
    message = AIMessage("hello", response_metadata={"a": 1, "b": 1})
    generation = ChatGeneration(message=message, generation_info={"b": 2, "finish_reason": "stop"})
    result = ChatResult(generations=[generation], llm_output={"a": 3, "model_name": "gpt-1"})
    [completed] = answer_in(result, None)
    expected = {"a": 1, "b": 1, "finish_reason": "stop", "model_name": "gpt-1"}
    assert completed.message.response_metadata == expected
    assert message.response_metadata == {"a": 1, "b": 1}
    two = ChatResult(generations=[generation] * 2, llm_output={"model_name": "gpt-1"})
    assert "model_name" not in answer_in(two, None)[0].message.response_metadata


def test_version_v1_stores_standard_blocks() -> None:
    message = AIMessage("hello", tool_calls=[CALL])
    for answer in (
        answer_in(ChatResult(generations=[ChatGeneration(message=message)]), "v1"),
        answer_of(chunks_of(ChatGeneration(message=message)), "v1"),
    ):
        assert answer[0].message.content == [{"type": "text", "text": "hello"}, CALL]
        assert answer[0].message.response_metadata["output_version"] == "v1"


def test_a_copy_is_not_changed_by_who_reads_the_stream() -> None:
    for original in (
        chunk("hello"),
        chunk([{"type": "text", "text": "hello"}]),
        chunk("hello", additional_kwargs={"a": ["b"]}),
        chunk("", tool_call_chunks=[{"name": "a", "args": "", "id": "a", "index": 0}]),
    ):
        before, copy = original.model_copy(deep=True), copied(original)
        original.message.id = "other"
        original.message.response_metadata["a"] = 1
        original.message.additional_kwargs.get("a", []).append("c")
        for block in (*original.message.content, *original.message.tool_call_chunks):
            if isinstance(block, dict):
                block["index"] = 7
        original.message.content = "changed"
        assert copy == before

"""Which conversations are the same, and which are not."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms import ChatMessage, ImageBlock, MessageRole, TextBlock
from pydantic import BaseModel
from semcache_core import SemcacheError, digest, split_question
from semcache_core.adapters import read_turn

from llamaindex_semcache.messages import canonical, texts, tool_names

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def key(*messages: ChatMessage) -> str:
    return digest(canonical(messages))


def user(*blocks: ContentBlock | str, **extra: Any) -> ChatMessage:
    content = [TextBlock(text=b) if isinstance(b, str) else b for b in blocks]
    return ChatMessage(role=MessageRole.USER, content=content, additional_kwargs=extra)


def answer(*blocks: ContentBlock | str, **extra: Any) -> ChatMessage:
    message = user(*blocks, **extra)
    message.role = MessageRole.ASSISTANT
    return message


def result(text: str, call_id: str, name: str = "weather") -> ChatMessage:
    extra = {"tool_call_id": call_id, "name": name}
    return ChatMessage(text, role=MessageRole.TOOL, additional_kwargs=extra)


def call(place: str = "Basel", call_id: str = "c1", name: str = "weather") -> ToolCallBlock:
    return ToolCallBlock(tool_name=name, tool_kwargs={"place": place}, tool_call_id=call_id)


def agent(ids: tuple[str, str] = ("c1", "c2"), **changes: Any) -> tuple[ChatMessage, ...]:
    """Two calls, their results, and a question."""
    said = {"system": "be brief", "asked": "how warm is it", "said": "let me see"}
    said |= {"place": "Basel", "result": "10 C", "last": "which is warmer"} | changes
    return (
        ChatMessage(said["system"], role=MessageRole.SYSTEM),
        user(said["asked"]),
        answer(said["said"], call(said["place"], ids[0]), call("Bern", ids[1])),
        result(said["result"], ids[0]),
        result("12 C", ids[1]),
        user(said["last"]),
    )


# -- what is the question --------------------------------------------------------------------------


def test_the_question_is_the_last_user_text() -> None:
    turn = read_turn(canonical(agent()), split_question)
    assert (turn.question, turn.exact_only) == ("which is warmer", False)
    assert "which is warmer" not in json.dumps(turn.rest)


@pytest.mark.parametrize(
    "last",
    [
        result("10 C", "c1"),
        ChatMessage("10 C", role=MessageRole.FUNCTION),
        answer("The answer is"),
        ChatMessage("be brief", role=MessageRole.DEVELOPER),
        ChatMessage("hi", role=MessageRole.CHATBOT),
        user("Observation: 10 C"),
        user("Result of executing the code given:\n\n10 C"),
        user(ImageBlock(image=PIXEL)),
    ],
    ids=lambda message: f"{message.role.value} {message.content}",
)
def test_after_anything_but_a_question_all_must_be_equal(last: ChatMessage) -> None:
    assert read_turn(canonical([user("hi"), last]), split_question).exact_only


# -- equal conversations ---------------------------------------------------------------------------


def test_fresh_call_ids_do_not_show() -> None:
    assert key(*agent(("c1", "c2"))) == key(*agent(("x", "y")))


def test_which_result_belongs_to_which_call_shows() -> None:
    assert key(*agent(("c1", "c2"))) != key(*agent(("c1", "c1")))


@pytest.mark.parametrize("part", ["system", "asked", "said", "place", "result", "last"])
def test_every_part_of_a_conversation_shows(part: str) -> None:
    assert key(*agent()) != key(*agent(**{part: "something else"}))


def test_a_text_is_the_same_as_its_only_block() -> None:
    assert key(ChatMessage("hi")) == key(user("hi"))
    assert key(ChatMessage("")) == key(ChatMessage(None))


def test_each_role_shows() -> None:
    assert len({key(ChatMessage("hi", role=role)) for role in MessageRole}) == len(MessageRole)


@pytest.mark.parametrize(
    "volatile",
    [
        {"usage": {"total": 12}},
        {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
        {"finish_reason": "stop", "model": "m-2025"},
        {"id": "resp_1"},
        {"semcache": {"kind": "exact"}},
        {"tool_calls": [], "refusal": None},
    ],
    ids=str,
)
def test_what_differs_from_run_to_run_does_not_show(volatile: dict[str, Any]) -> None:
    assert key(answer("warm", **volatile), user("why")) == key(answer("warm"), user("why"))


def test_what_a_user_message_says_besides_shows() -> None:
    assert key(user("hi", usage="internal")) != key(user("hi"))
    assert key(answer("hi", name="Ann")) != key(answer("hi"))


# -- a provider's tool calls -----------------------------------------------------------------------


class Function(BaseModel):
    name: str
    arguments: str


class ProvidersCall(BaseModel):
    id: str
    function: Function
    index: int | None = None


def provided(call_id: str, place: str = "Basel") -> ProvidersCall:
    return ProvidersCall(id=call_id, function=Function(name="weather", arguments=f'["{place}"]'))


def test_a_providers_calls_are_equal_as_objects_and_after_a_round_trip() -> None:
    objects = [answer("", tool_calls=[provided("c1")]), result("10 C", "c1")]
    dumped = provided("fresh").model_dump(exclude_none=True)
    dicts = [answer("", tool_calls=[dumped]), result("10 C", "fresh")]
    assert key(*objects) == key(*dicts)
    assert key(*objects) != key(answer("", tool_calls=[provided("c1", "Bern")]), objects[1])


def test_calls_that_are_also_blocks_are_said_twice() -> None:
    blocks = answer(call())
    assert key(answer(call(), tool_calls=[provided("c1")])) == key(blocks)
    assert key(answer(call(), tool_calls=[provided("c1"), provided("c2")])) != key(blocks)


def test_the_id_that_reasoning_has_at_the_provider_is_not_compared() -> None:
    def thought(**about: str) -> ChatMessage:
        block = ThinkingBlock(content="hm", additional_information=about)
        return ChatMessage(role="assistant", blocks=[block, TextBlock(text="Press it.")])

    assert key(thought(id="rs_1", status="ok")) == key(thought(id="rs_2", status="ok"))
    assert key(thought(id="rs_1", status="ok")) == key(thought(status="ok"))
    assert key(thought(id="rs_1", status="ok")) != key(thought(id="rs_1"))


def test_the_tools_that_were_called_are_known() -> None:
    react = answer("Thought: I need a tool.\nAction: clock\nAction Input: {}")
    legacy = answer("", function_call={"name": "dice", "arguments": "{}"})
    messages = [
        *agent(),
        react,
        legacy,
        answer("", tool_calls=[provided("c9")]),
        result("x", "c8", "told"),
        user("Action: nothing"),
    ]
    assert tool_names(canonical(messages)) == {"weather", "clock", "dice", "told"}


# -- blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one, two",
    [
        (ImageBlock(image=PIXEL), ImageBlock(image=PIXEL + b"x")),
        (ImageBlock(image=PIXEL), ImageBlock(image=PIXEL, detail="low")),
        (ImageBlock(url="https://a/1.png"), ImageBlock(url="https://a/2.png")),
        (AudioBlock(audio=b"la"), AudioBlock(audio=b"lo")),
        (VideoBlock(video=b"la"), VideoBlock(video=b"la", fps=3)),
        (DocumentBlock(data=b"la"), DocumentBlock(data=b"la", title="other")),
        (ImageBlock(image=io.BytesIO(b"one")), ImageBlock(image=io.BytesIO(b"two"))),
        (ThinkingBlock(content="so"), ThinkingBlock(content="no")),
        (
            ThinkingBlock(content="so", additional_information={"signature": "s"}),
            ThinkingBlock(content="so"),
        ),
        (
            CitableBlock(title="t", source="s", content="one"),
            CitableBlock(title="t", source="s", content="two"),
        ),
        (
            CitationBlock(
                title="t", source="s", cited_content="x", additional_location_info={"page": 1}
            ),
            CitationBlock(
                title="t", source="s", cited_content="x", additional_location_info={"page": 2}
            ),
        ),
        (CachePoint(cache_control=CacheControl(type="a")), TextBlock(text="a")),
    ],
    ids=lambda block: type(block).__name__,
)
def test_every_block_shows_what_it_holds(one: ContentBlock, two: ContentBlock) -> None:
    assert key(user(one)) == key(user(one)) != key(user(two))


def test_the_tokens_of_a_thought_do_not_show() -> None:
    assert key(answer(ThinkingBlock(content="so", num_tokens=3))) == key(
        answer(ThinkingBlock(content="so"))
    )


def test_bytes_are_not_held_in_the_form() -> None:
    encoded = base64.b64encode(PIXEL).decode()
    assert encoded not in json.dumps(canonical([user(ImageBlock(image=PIXEL))]))


def test_an_image_by_path_is_what_is_in_the_file_now(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(PIXEL)
    message = user(ImageBlock(path=path))
    before = key(message)
    assert key(message) == before
    path.write_bytes(PIXEL + b"x")
    assert key(message) != before


def test_a_stream_is_left_where_it_was() -> None:
    stream = io.BytesIO(b"0123456789")
    stream.seek(4)
    key(user(DocumentBlock(data=stream)))
    assert stream.read() == b"456789"


def test_a_legacy_image_is_the_block_that_was_made_of_it() -> None:
    from llama_index.core.schema import ImageDocument

    document = ImageDocument(image=base64.b64encode(PIXEL).decode())
    one, two = user("what is it", images=[document]), user("what is it")
    assert key(one) == key(user("what is it", ImageBlock(image=PIXEL))) != key(two)


def test_all_texts_are_found() -> None:
    cited = CitableBlock(title="t", source="s", content="nested")
    assert [*texts([user("one", cited, "two"), answer("three")])] == [
        "one",
        "nested",
        "two",
        "three",
    ]


# -- what does not show what it is -----------------------------------------------------------------


class Opaque:
    pass


def closed() -> io.BytesIO:
    stream = io.BytesIO(b"x")
    stream.close()
    return stream


@pytest.mark.parametrize(
    "message, problem",
    [
        (user("hi", thing=Opaque()), "holds a Opaque"),
        (answer("hi", thing=[{"deep": Opaque()}]), "holds a Opaque"),
        (answer(ToolCallBlock(tool_name="x", tool_kwargs={"a": Opaque()})), "holds a Opaque"),
        (user(ImageBlock.model_construct(image=closed())), "cannot be read twice"),
        (user(DocumentBlock(path="/nowhere/x.pdf")), "file of a document block cannot be read"),
    ],
    ids=["user", "answer", "call", "stream", "file"],
)
def test_what_hides_its_fields_cannot_be_compared(message: ChatMessage, problem: str) -> None:
    with pytest.raises(SemcacheError, match=problem) as error:
        canonical([message])
    assert " at 0x" not in str(error.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.text(max_size=5))
def test_any_message_has_one_form(extra: dict[str, Any], text: str) -> None:
    extra.pop("images", None)
    assert key(answer(text, **extra)) == key(answer(text, **extra).model_copy(deep=True))

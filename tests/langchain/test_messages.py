"""Which prompts are the same question, and which are not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes import named
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.content import create_image_block, create_text_block
from pydantic import BaseModel
from scripted_models import Chat
from semcache_core import Request, digest, split_question
from semcache_core.adapters import Turn

from langchain_semcache import SemanticLLMCache
from langchain_semcache.request import read_prompt

OpenCache = Callable[..., SemanticLLMCache]


def read(*messages: BaseMessage) -> Turn:
    turn = read_prompt(dumps(list(messages)), split_question)
    assert turn is not None
    return turn


def key(*messages: BaseMessage) -> str:
    prompt = read(*messages)
    return digest([prompt.question, prompt.rest])


def call(place: str = "Basel", call_id: str = "c1", **more: Any) -> dict[str, Any]:
    return {"name": "weather", "args": {"place": place}, "id": call_id, "type": "tool_call"} | more


def conversation(
    call_ids: tuple[str, str] = ("c1", "c2"), **changes: Any
) -> tuple[BaseMessage, ...]:
    """An agent's two calls and their results, followed by a question."""
    one, two = call_ids
    said = {
        "system": "be brief",
        "asked": "how warm is it?",
        "answer": "let me see",
        "place": "Basel",
        "second_place": "Bern",
        "result": "10 C",
        "name": None,
    } | changes
    return (
        SystemMessage(said["system"]),
        HumanMessage(said["asked"], name=said["name"]),
        AIMessage(
            said["answer"], tool_calls=[call(said["place"], one), call(said["second_place"], two)]
        ),
        ToolMessage(said["result"], tool_call_id=one),
        ToolMessage("12 C", tool_call_id=two),
        HumanMessage("which is warmer?"),
    )


# -- what is the question --------------------------------------------------------------------------


def test_the_question_is_the_last_user_text() -> None:
    prompt = read(
        SystemMessage("be brief"), HumanMessage("hi"), AIMessage("yes?"), HumanMessage("why")
    )
    assert (prompt.question, prompt.exact_only) == ("why", False)
    assert "why" not in json.dumps(prompt.rest)
    assert "be brief" in json.dumps(prompt.rest)


@pytest.mark.parametrize(
    "last",
    [
        ToolMessage("10 C", tool_call_id="c1"),
        AIMessage("The answer is"),
        FunctionMessage("10 C", name="weather"),
        ChatMessage("hi", role="user"),
        SystemMessage("be brief"),
    ],
    ids=lambda message: message.type,
)
def test_nothing_is_matched_by_meaning_when_anything_follows_the_user(last: BaseMessage) -> None:
    assert read(HumanMessage("how warm is it?"), last).exact_only


def test_a_message_without_text_is_matched_exactly() -> None:
    assert read(HumanMessage([{"type": "image_url", "image_url": {"url": "data:,a"}}])).exact_only
    assert read(HumanMessage("")).question == ""


@pytest.mark.parametrize(
    "content",
    [
        ["hi"],
        [{"type": "text", "text": "hi"}],
        [create_text_block("hi")],
        " hi\n",
    ],
    ids=named,
)
def test_one_text_is_the_same_question_however_it_is_packed(content: Any) -> None:
    assert key(HumanMessage(content)) == key(HumanMessage("hi"))


def test_one_text_packed_otherwise_hits(open_cache: OpenCache) -> None:
    model = Chat(cache=open_cache())
    model.invoke([SystemMessage("s"), HumanMessage("hi")])
    text = [{"type": "text", "text": "hi"}]
    model.invoke([SystemMessage([{"type": "text", "text": "s"}]), HumanMessage(text)])
    assert model.asked == 1


# -- attachments -----------------------------------------------------------------------------------


def picture(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


@pytest.mark.parametrize(
    "attach",
    [
        picture,
        lambda data: create_image_block(base64=data, mime_type="image/png"),
        lambda data: {"type": "file", "source_type": "base64", "data": data},
        lambda data: {"type": "image", "id": data, "source_type": "id"},
    ],
    ids=["url", "standard block", "file", "reference"],
)
def test_another_attachment_misses_and_the_same_one_hits(
    cache: SemanticLLMCache, attach: Callable[[str], dict[str, Any]]
) -> None:
    model = Chat(cache=cache)
    for data, question in (
        ("AAAA", "what is this"),
        ("AAAA", "this is what"),
        ("AAAB", "what is this"),
    ):
        model.invoke([HumanMessage([{"type": "text", "text": question}, attach(data)])])
    assert model.asked == 2


def test_an_attachment_earlier_in_the_conversation_counts() -> None:
    first, other = (
        key(HumanMessage([picture(data)]), AIMessage("a cat"), HumanMessage("sure?"))
        for data in ("AAAA", "AAAB")
    )
    assert first != other


def test_an_image_that_the_model_made_counts() -> None:
    first, other = (
        key(AIMessage([{"type": "image_generation_call", "id": name}]), HumanMessage("bigger"))
        for name in ("file-1", "file-2")
    )
    assert first != other


# -- what may differ -------------------------------------------------------------------------------


def test_call_ids_do_not_count() -> None:
    assert key(*conversation(("c1", "c2"))) == key(*conversation(("x", "y")))


def test_which_call_a_result_belongs_to_counts() -> None:
    *rest, one, two, question = conversation()
    one, two = one.model_copy(), two.model_copy()
    one.tool_call_id, two.tool_call_id = two.tool_call_id, one.tool_call_id
    assert key(*rest, one, two, question) != key(*conversation())


def test_call_ids_in_a_provider_s_own_record_do_not_count() -> None:
    def history(call_id: str) -> str:
        said = {
            "tool_calls": [{"id": call_id, "type": "function", "function": {"name": "weather"}}]
        }
        return key(
            AIMessage("", tool_calls=[call(call_id=call_id)], additional_kwargs=said),
            ToolMessage("10 C", tool_call_id=call_id),
        )

    assert history("c1") == history("c9")


@pytest.mark.parametrize("kind", ["tool_use", "function_call"])
def test_call_ids_in_content_blocks_do_not_count(kind: str) -> None:
    def history(call_id: str) -> str:
        block = {"type": kind, "id": call_id, "call_id": call_id, "name": "weather", "input": {}}
        return key(
            AIMessage([block], tool_calls=[call(call_id=call_id)]),
            ToolMessage("10 C", tool_call_id=call_id),
        )

    assert history("c1") == history("c9")


@pytest.mark.parametrize(
    "volatile",
    [
        {"id": "run-1"},
        {"usage_metadata": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}},
        {"usage_metadata": {"total_cost": 0}},
        {"response_metadata": {"id": "chatcmpl-1", "created": 5, "finish_reason": "stop"}},
        {"additional_kwargs": {"refusal": None, "parsed": {"a": 1}, "usage": {"tokens": 5}}},
        {"additional_kwargs": {"__openai_function_call_ids__": {"call_1": "fc_1"}}},
        {"content": [{"type": "text", "text": "hello", "id": "msg_1", "index": 0}]},
    ],
    ids=lambda volatile: next(iter(volatile)),
)
def test_a_provider_s_notes_on_an_answer_do_not_count(volatile: dict[str, Any]) -> None:
    plain = AIMessage("hello")
    noted = plain.model_copy(update=volatile)
    assert key(HumanMessage("hi"), noted, HumanMessage("?")) == key(
        HumanMessage("hi"), plain, HumanMessage("?")
    )


def test_an_answer_that_was_streamed_is_the_same() -> None:
    assert key(AIMessageChunk("hello"), HumanMessage("?")) == key(
        AIMessage("hello"), HumanMessage("?")
    )


def test_a_tool_s_artifact_does_not_count() -> None:
    first, other = (
        key(ToolMessage("10 C", tool_call_id="c1", artifact=artifact))
        for artifact in ("a", object())
    )
    assert first == other


@pytest.mark.parametrize(
    "said",
    [
        {"additional_kwargs": {"function_call": {"name": "weather", "arguments": "{}"}}},
        {"additional_kwargs": {"audio": {"id": "audio_1", "transcript": "ten degrees"}}},
        {"additional_kwargs": {"reasoning_content": "it is cold"}},
        {"invalid_tool_calls": [{"name": "weather", "args": "{", "id": "c1", "error": None}]},
        {"tool_calls": [call()]},
        {"content": [{"type": "text", "text": "hello"}, {"type": "text", "text": "you"}]},
        {"name": "agent"},
    ],
    ids=str,
)
def test_what_an_answer_said_counts(said: dict[str, Any]) -> None:
    plain = AIMessage("hello")
    more = plain.model_copy(update=said)
    assert key(more, HumanMessage("?")) != key(plain, HumanMessage("?"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (HumanMessage("hi", name="ada"), HumanMessage("hi", name="bob")),
        (HumanMessage("hi", additional_kwargs={"a": 1}), HumanMessage("hi")),
        (ChatMessage("hi", role="user"), ChatMessage("hi", role="critic")),
        (SystemMessage("hi"), AIMessage("hi")),
        (ToolMessage("hi", tool_call_id="1"), ToolMessage("hi", tool_call_id="1", status="error")),
        (
            SystemMessage("hi"),
            SystemMessage("hi", additional_kwargs={"__openai_role__": "developer"}),
        ),
    ],
    ids=["name", "additional_kwargs", "role", "type", "status", "developer"],
)
def test_who_said_it_counts(one: BaseMessage, other: BaseMessage) -> None:
    assert key(one, HumanMessage("?")) != key(other, HumanMessage("?"))


class Opaque:
    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __repr__(self) -> str:
        return "Opaque()"


class Parsed(BaseModel):
    text: str


def test_a_message_with_an_object_that_shows_nothing_is_not_cached(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    for secret in ("a", "b"):
        model.invoke([HumanMessage("hi there", additional_kwargs={"data": Opaque(secret)})])
    assert model.asked == 2
    assert cache.stats().entries == 0


def test_a_parsed_answer_in_the_history_is_still_cached(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    history = AIMessage('{"text": "a"}', additional_kwargs={"parsed": Parsed(text="a")})
    for _ in range(2):
        model.invoke([HumanMessage("hi"), history, HumanMessage("and now?")])
    assert model.asked == 1


@pytest.mark.parametrize(
    "almost",
    [
        {},
        {"type": "human", "id": []},
        {"type": "constructor"},
        {"type": "constructor", "id": "HumanMessage"},
        {"type": "constructor", "id": 5},
    ],
    ids=str,
)
def test_prompts_that_only_look_like_messages_are_text(almost: dict[str, Any]) -> None:
    """Else their fields named like volatile ones would not count."""
    first, other = (
        read_prompt(json.dumps([almost | {"kwargs": {"id": name}}]), split_question)
        for name in "ab"
    )
    assert first != other


# -- properties ------------------------------------------------------------------------------------

texts = st.text(max_size=20)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    *("content", "tool_calls", "invalid_tool_calls", "additional_kwargs", "tool_call_id"),
    *("id", "name", "role", "artifact", "response_metadata", "usage_metadata"),
]
TYPES = ["human", "ai", "tool", "system", "AIMessageChunk", "", None]
blocks = st.dictionaries(st.sampled_from(["type", "text", "id", "index", "call_id"]), json_like)
odd_fields = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | json_like},
    optional=dict.fromkeys(FIELDS, json_like)
    | {
        "content": texts | st.lists(blocks | texts, max_size=3) | json_like,
        "tool_calls": st.lists(blocks | json_like, max_size=2) | json_like,
    },
)
odd_messages = st.fixed_dictionaries(
    {"type": st.just("constructor"), "id": st.lists(json_like, max_size=2), "kwargs": odd_fields}
)
not_messages = st.fixed_dictionaries({"type": json_like, "id": json_like, "kwargs": json_like})


@given(st.text())
def test_any_text_can_be_read(prompt: str) -> None:
    turn = read_prompt(prompt, split_question)
    assert turn is not None
    Request(turn.question, scope=digest(turn.rest))


@given(st.lists(odd_messages, max_size=3) | st.lists(not_messages | json_like, max_size=3))
def test_any_json_can_be_read(messages: list[Any]) -> None:
    turn = read_prompt(json.dumps(messages), split_question)
    assert turn is not None
    Request(turn.question, scope=digest(turn.rest))


@pytest.mark.parametrize("prompt", ["[" * 100_000, "[" + "9" * 5000 + "]", '[{"kwargs": {}}', "[]"])
def test_broken_json_is_text(prompt: str) -> None:
    turn = read_prompt(prompt, split_question)
    assert turn is not None and turn.question == prompt


usages = st.none() | st.fixed_dictionaries(
    {name: st.integers(0, 9) for name in ("input_tokens", "output_tokens", "total_tokens")},
    optional={"total_cost": st.floats(0, 1)},
)


@given(
    ids=st.lists(texts.filter(bool), min_size=2, max_size=2, unique=True),
    usage=usages,
    metadata=st.dictionaries(texts, json_like, max_size=3),
    message_id=st.none() | texts,
)
def test_volatile_fields_never_change_the_key(
    ids: list[str], usage: Any, metadata: dict[str, Any], message_id: str | None
) -> None:
    noted = [
        message.model_copy(
            update={"id": message_id, "response_metadata": metadata}
            | ({"usage_metadata": usage} if message.type == "ai" else {})
        )
        for message in conversation((ids[0], ids[1]))
    ]
    assert key(*noted) == key(*conversation())


CHANGEABLE = ["system", "asked", "answer", "place", "second_place", "result", "name"]


@given(name=st.sampled_from(CHANGEABLE), one=texts, other=texts)
def test_any_change_of_what_was_said_changes_the_key(name: str, one: str, other: str) -> None:
    same = key(*conversation(**{name: one})) == key(*conversation(**{name: other}))
    assert same == (one == other)


@given(st.permutations(range(6)))
def test_any_change_of_order_changes_the_key(order: list[int]) -> None:
    messages = (SystemMessage("a"), SystemMessage("b"), *conversation()[1:])[:6]
    shuffled = [messages[place] for place in order]
    assert (key(*shuffled) == key(*messages)) == (order == list(range(6)))

"""What of a conversation is a question, and what must be equal."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import SemcacheError, Split, split_question
from semcache_core.adapters import CallIds, UncachedTools, read_text, read_turn


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def message(kind: str, *content: Any, **more: Any) -> dict[str, Any]:
    return {"type": kind, "content": [text(c) if isinstance(c, str) else c for c in content]} | more


SYSTEM, IMAGE = message("system", "be brief"), {"type": "image", "url": "a"}

# -- the question ----------------------------------------------------------------------------------


def test_the_last_text_of_a_last_user_message_is_the_question() -> None:
    turn = read_turn(
        [SYSTEM, message("human", "see here", IMAGE, "why", name="ada")], split_question
    )
    assert (turn.question, turn.exact_only) == ("why", False)
    assert turn.rest == [SYSTEM, message("human", "see here", IMAGE, "", name="ada")]


def test_a_question_inside_its_documents_leaves_them_to_be_equal() -> None:
    one, other = (
        read_turn([message("human", f"Context: {fact}\n\nQuestion: why?")], split_question)
        for fact in ("it is cold", "it is warm")
    )
    assert one.question == other.question == "why?" and not one.exact_only
    assert one.rest != other.rest
    assert "cold" in json.dumps(one.rest) and "why" not in json.dumps(one.rest)


def test_a_text_that_cannot_be_taken_apart_is_matched_exactly() -> None:
    turn = read_turn([message("human", "why\nso")], split_question)
    assert (turn.question, turn.exact_only) == ("why\nso", True)


@pytest.mark.parametrize("kind", ["ai", "tool", "system", "chat", ""])
def test_nothing_is_matched_by_meaning_when_anything_follows_the_user(kind: str) -> None:
    messages = [message("human", "why"), message(kind, "well")]
    turn = read_turn(messages, split_question)
    assert (turn.question, turn.rest, turn.exact_only) == ("", messages, True)


@pytest.mark.parametrize("content", [[IMAGE], [], None, "why", {}, ["why"], [{"type": "text"}]])
def test_a_message_without_a_text_block_is_matched_exactly(content: Any) -> None:
    last = {"type": "human", "content": content}
    turn = read_turn([SYSTEM, last], split_question)
    assert (turn.question, turn.rest, turn.exact_only) == ("", [SYSTEM, last], True)


def test_what_was_given_is_left_as_it_is() -> None:
    messages = [SYSTEM, message("human", "why")]
    before = json.dumps(messages)
    read_turn(messages, split_question)
    assert json.dumps(messages) == before


def test_a_bare_prompt_is_no_conversation() -> None:
    bare = read_text("why", split_question)
    said = read_turn([message("human", "why")], split_question)
    assert (bare.question, bare.exact_only) == (said.question, said.exact_only) == ("why", False)
    assert bare.rest != said.rest
    assert read_text("why\nso", split_question).exact_only
    assert "cold" in str(read_text("Context: cold\nQuestion: why?", split_question).rest)


texts = st.text(max_size=8)
contents = st.lists(st.builds(text, texts) | st.just(IMAGE), max_size=3)
conversations = st.lists(
    st.builds(
        lambda kind, content: {"type": kind, "content": content},
        st.sampled_from(["human", "ai", "tool", "system"]),
        contents,
    ),
    min_size=1,
    max_size=3,
)


@given(conversations, conversations)
def test_two_conversations_are_the_same_turn_only_when_they_are_equal(one: Any, other: Any) -> None:
    """With a splitter that changes nothing: the question's place is marked by its absence."""
    first, second = (read_turn(messages, lambda text: Split(text, "")) for messages in (one, other))
    assert (first == second) == (one == other)


# -- call ids --------------------------------------------------------------------------------------


def test_call_ids_are_numbered_as_they_appear() -> None:
    ids = CallIds()
    asked = [ids.renumber({"id": call_id, "name": "clock"}) for call_id in ("x", "y")]
    result = ids.renumber({"tool_call_id": "y", "content": "14:03"})
    assert asked == [{"id": "call-0", "name": "clock"}, {"id": "call-1", "name": "clock"}]
    assert result == {"tool_call_id": "call-1", "content": "14:03"}


@pytest.mark.parametrize("name", ["id", "call_id", "tool_use_id", "tool_call_id"])
def test_an_id_has_many_names(name: str) -> None:
    assert CallIds().renumber({name: "x"}) == {name: "call-0"}


@pytest.mark.parametrize("call", ["x", None, 7, ["id"], {"id": None}, {"name": "x"}])
def test_what_is_no_id_stays(call: Any) -> None:
    assert CallIds().renumber(call) == call


@given(st.lists(texts, max_size=6), st.lists(texts, max_size=6))
def test_ids_do_not_count_but_which_belongs_to_which_does(one: list[str], other: list[str]) -> None:
    def numbered(names: list[str]) -> list[Any]:
        ids = CallIds()
        return [ids.renumber({"id": name}) for name in names]

    def pattern(names: list[str]) -> list[int]:
        return [names.index(name) for name in names]

    assert (numbered(one) == numbered(other)) == (pattern(one) == pattern(other))


# -- tools that differ from call to call -----------------------------------------------------------


def test_a_tool_is_known_by_its_name() -> None:
    clock = UncachedTools(["clock", "web_search"])
    assert clock.among({"calendar", "clock"}) and clock.among(["web_search"])
    assert not clock.among({"calendar", "clocks"}) and not clock.among(())
    assert not UncachedTools(()).among(["clock"])


@pytest.mark.parametrize("wrong", ["clock", None, 7, [7], [print], {"clock"}])
def test_anything_but_names_is_an_error(wrong: Any) -> None:
    with pytest.raises(SemcacheError, match=r"uncached_tools must be a sequence of tool names"):
        UncachedTools(wrong)

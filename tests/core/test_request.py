"""Keys, digests, and the question inside a user text."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from semcache_core import Request, Split, digest, split_question
from semcache_core._utils.courtesy import core_of
from semcache_core.request import key_of

# with lone surrogates and NUL, which st.text() leaves out or seldom tries
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
SHORT = st.text(alphabet="ab\x00\ud800", max_size=3)
TRIPLES = st.tuples(SHORT.filter(bool), SHORT, SHORT)


@given(TRIPLES, TRIPLES)
@example(("a", "bc", "d"), ("ab", "c", "d"))
@example(("a", "b", "cd"), ("a", "bc", "d"))
@example(("a", "", "b"), ("a", "b", ""))
def test_two_requests_share_a_key_only_when_all_parts_are_equal(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    keys = [
        key_of(Request(question, scope, namespace), "default")
        for namespace, scope, question in (one, other)
    ]
    assert (keys[0].exact == keys[1].exact) == (one == other)
    assert (keys[0].partition == keys[1].partition) == (one[:2] == other[:2])


def test_exact_only_shares_the_exact_key() -> None:
    assert key_of(Request("q"), "d") == key_of(Request("q", exact_only=True), "d")


def test_no_namespace_means_the_default_one() -> None:
    assert key_of(Request("q"), "tenant") == key_of(Request("q", namespace="tenant"), "x")


@given(ANY_TEXT)
@example("")
@example("\x00")
@example("\ud800\udfff")
@example("Question:")
@example("question : \ud800")
def test_split_question_takes_any_text(text: str) -> None:
    split = split_question(text)
    if split is not None:
        assert split.question in text
        core = core_of(split.question).text
        assert "\n" not in core and "\r" not in core


@given(
    documents=st.text(alphabet="ab :\n\r", max_size=12),
    question=st.text(alphabet="xy ", min_size=1, max_size=8).filter(str.strip),
    after=st.text(alphabet="ab \n\r", max_size=8),
)
@example(documents="doc", question="x", after="\rother document")
def test_every_line_but_the_questions_is_in_the_frame(
    documents: str, question: str, after: str
) -> None:
    for end in ("\n", "\r", "\r\n"):
        split = split_question(f"{documents}\nQuestion: {question}{end}{after}")
        assert split is not None
        assert split.question == question.strip()
        for part in (*documents.split(), *after.split()):
            assert part in split.frame


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Where is Basel?", "Where is Basel?"),
        ("  Where is Basel?\n", "Where is Basel?"),
        ("Context: A.\n\nQuestion: Where?\nAnswer:", "Where?"),
        ("Context: A.\nUser's question: Where?", "Where?"),
        ("QUERY:Where?", "Where?"),
        ("> question : Where?", "Where?"),
        ("", ""),
    ],
)
def test_finds_the_question(text: str, question: str) -> None:
    split = split_question(text)
    assert split is not None and split.question == question


@pytest.mark.parametrize(
    "text",
    ["two\nlines", "two\rlines", "Question: a\nQuestion: b", "Question: a Query: b", "Question: "],
)
def test_what_cannot_be_taken_apart_safely_is_none(text: str) -> None:
    assert split_question(text) is None


def test_another_document_makes_another_frame_and_another_question_does_not() -> None:
    frames = {
        name: split_question(f"Context: {document}\nQuestion: {question}\nAnswer:")
        for name, document, question in (("a", "1", "x"), ("b", "2", "x"), ("c", "1", "y"))
    }
    assert all(frames.values())
    assert frames["a"].frame != frames["b"].frame  # type: ignore[union-attr]
    assert frames["a"].frame == frames["c"].frame  # type: ignore[union-attr]


def test_a_word_that_ends_in_query_is_no_marker() -> None:
    split = split_question("What does jquery: mean?")
    assert split is not None and split.question == "What does jquery: mean?"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def _turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _turned(v) for k, v in reversed(value.items())}
    return [_turned(v) for v in value] if isinstance(value, list) else value


@given(JSON)
def test_the_digest_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert digest(value) == digest(_turned(value))


@given(JSON, JSON)
@example("1", 1)
@example([1], {"1": None})
@example(["a", "b"], ["b", "a"])
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest(one) == digest(other)) == same


def test_the_digest_is_sha256_of_compact_sorted_json() -> None:
    assert digest({"b": 1, "a": "ü"}) == hashlib.sha256(b'{"a":"\\u00fc","b":1}').hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "Context: Alice is 5 years old. How old is Alice?",
        "Given that Basel is in Switzerland, where is Basel?",
        "Based on the report of May, what did we sell?",
        "Using the price list of 2024, what is the fee?",
        "Question: Where is Basel? Context: Basel is in Switzerland.",
        "How old is Alice? Documents: Alice is 5.",
    ],
)
def test_a_question_that_brings_its_own_facts_is_not_matched_by_meaning(text: str) -> None:
    assert split_question(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Quick question: where is Basel?",
        "Hi, I have a question: where is Basel?",
        "Hi there,\n\nwhere is Basel?\n\nKind regards,\nAnna",
        "Where is Basel?\nThanks!",
    ],
)
def test_courtesy_around_a_question_is_no_template_and_no_second_line(text: str) -> None:
    assert split_question(text) == Split(text, "")


@pytest.mark.parametrize(
    "text",
    [
        "Hi, given that Basel is in Switzerland, where is it?",
        "Quick question: Context: Alice is 5. How old is Alice?",
        "Hi,\nBasel is nice.\nWhere is it?\nThanks!",
        "Quick question: where is Basel? Query: where is Bern?",
    ],
)
def test_courtesy_around_facts_does_not_make_them_a_question(text: str) -> None:
    assert split_question(text) is None


def test_a_mark_within_courtesy_is_a_template_still() -> None:
    split = split_question("Hello, use the notes.\nQuestion: where is Basel?\nThanks!")
    assert split is not None and split.question == "where is Basel?"


@pytest.mark.parametrize(
    "text", ["Is my data safe?", "Which information do you need?", "What is given to charity?"]
)
def test_a_question_about_data_or_information_is_a_question(text: str) -> None:
    assert split_question(text) == Split(text, "")

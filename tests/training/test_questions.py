"""A log of questions: what is read, what an error names, and when known answers agree."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.errors import TrainingError
from semcache_core.training.data.records import (
    Question,
    fold_question,
    json_line,
    normalise_answer,
    read_objects,
    read_questions,
    same_known_answer,
)

GOOD = '{"question": "a?"}'


def written(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "log.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_bare_questions_answers_lists_of_answers_and_ids_are_read(tmp_path):
    file = written(
        tmp_path,
        GOOD,
        "",
        '{"question": "b?", "answer": "1972"}',
        '{"question": "c?", "answer": ["1972", "December 1972"], "asked": "yesterday"}',
        '{"question": "é\u2028?", "answer_id": "pin_blocked"}',
        '{"question": "e?", "answer": null, "answer_id": null}',
    )
    assert read_questions(file) == [
        Question("a?"),
        Question("b?", ("1972",)),
        Question("c?", ("1972", "December 1972")),
        Question("é\u2028?", (), "pin_blocked"),
        Question("e?"),
    ]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{not json", "not JSON"),
        ('"a question"', "write an object"),
        ('{"text": "b"}', "question is missing"),
        ('{"question": " "}', "question is ' '"),
        ('{"question": ["b"]}', "question is a list; give a question as text"),
        ('{"question": "b", "answer": 7}', "answer is 7"),
        (
            '{"question": "b", "answer": ["x", ""]}',
            "answer is a list; give a text",
        ),
        ('{"question": "b", "answer": " "}', "answer is ' '"),
        ('{"question": "b", "answer_id": 7}', "answer_id is 7"),
        ('{"question": "b", "answer_id": ""}', "answer_id is ''"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, named):
    file = written(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(TrainingError) as error:
        read_questions(file)
    assert f"{file}, line 3" in str(error.value)
    assert named in str(error.value)


def test_a_file_without_questions_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="holds no questions"):
        read_questions(written(tmp_path, " "))


def test_a_file_that_cannot_be_read_is_an_error_naming_it(tmp_path):
    with pytest.raises(TrainingError, match=r"missing\.jsonl cannot be read"):
        read_questions(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("The  Beatles!", "beatles"),
        ("U.S.", "us"),
        ("an  Apple a day", "apple day"),
        ("Theodore", "theodore"),
        ("14 December 1972", "14 december 1972"),
        ("“Straße”", "strasse"),
        ("The", "the"),
        ("+", "+"),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(answer, normalised):
    assert normalise_answer(answer) == normalised


@given(st.text(st.characters(codec="ascii")))
def test_normalising_an_answer_twice_changes_nothing_more(answer):
    once = normalise_answer(answer)
    assert normalise_answer(once) == once


@given(st.text().filter(str.strip))
def test_no_answer_is_normalised_to_nothing(answer):
    assert normalise_answer(answer)


def test_questions_have_the_same_answer_when_any_wording_of_one_is_any_of_the_other():
    moon = Question("when", ("14 December 1972", "December 1972"))
    assert same_known_answer(moon, Question("x", ("1969", "december 1972."))) is True
    assert same_known_answer(moon, Question("x", ("1972",))) is False


def test_ids_are_compared_as_they_are_and_decide_over_answers():
    assert same_known_answer(Question("a", (), "1-12"), Question("b", (), "1-12")) is True
    assert same_known_answer(Question("a", (), "1-12"), Question("b", (), "11-2")) is False
    assert same_known_answer(Question("a", ("x",), "1"), Question("b", ("x",), "2")) is False
    assert same_known_answer(Question("a", ("x",), "1"), Question("b", ("x",))) is True


def test_nothing_is_said_where_one_side_has_nothing_to_compare():
    known = Question("a", ("x",))
    assert same_known_answer(known, Question("b")) is None
    assert same_known_answer(known, Question("b", (), "x")) is None
    assert same_known_answer(Question("a"), Question("b")) is None


def test_an_id_is_never_the_key_of_an_answer():
    assert Question("a", ("x",)).answer_keys.isdisjoint(Question("b", (), "x").answer_keys)
    assert Question("a", ("x", "y")).answer_keys & Question("b", ("The X",)).answer_keys


def test_case_white_space_and_closing_punctuation_make_no_other_question():
    assert fold_question("  How do\tI pay ?! ") == fold_question("how do i pay") == "how do i pay"


@pytest.mark.parametrize("other", ["what is c", "what is c++", "what is #c#"])
def test_other_characters_make_another_question(other):
    assert fold_question("What is C#?") != fold_question(other)


def test_a_question_of_punctuation_alone_is_itself():
    assert fold_question("?") != fold_question("!")


@given(st.dictionaries(st.text(), st.text(st.characters(exclude_categories=()))))
def test_what_is_written_as_a_line_is_read_back(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("lines") / "one.jsonl"
    file.write_bytes(json_line(data))
    assert [read for _, read in read_objects(file, "{}")] == [data]


def test_other_scripts_stay_readable_in_a_line():
    assert json_line({"a": "é"}) == '{"a": "é"}\n'.encode()
    assert json.loads(json_line({"a": "\ud800"})) == {"a": "\ud800"}

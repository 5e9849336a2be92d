"""A model as judge: what it may say, and what it is told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.adapters import judge_input, verdict


@pytest.mark.parametrize(
    ("said", "probability"),
    [("YES", 1.0), ("NO", 0.0), ("yes", 1.0), ("No.", 0.0), (" \nYES!\n", 1.0)],
)
def test_yes_is_1_and_no_is_0(said: str, probability: float) -> None:
    assert verdict(said) == probability


@pytest.mark.parametrize(
    "said", ["", "MAYBE", "YES and NO", "YESNO", "NOT", "Y", "YES, as the answer says so", "1.0"]
)
def test_anything_else_is_an_error_that_quotes_it(said: str) -> None:
    with pytest.raises(ValueError, match=f"the judge said {said!r}, neither YES nor NO"):
        verdict(said)


@given(st.text(), st.text(), st.text())
def test_whatever_the_texts_are_they_come_as_data(asked: str, stored: str, response: str) -> None:
    texts = {"question_asked": asked, "question_answered": stored, "answer": response}
    assert json.loads(judge_input(asked, stored, response)) == texts


def test_a_lone_surrogate_is_replaced() -> None:
    assert json.loads(judge_input("price of \ud800", "", ""))["question_asked"] == "price of ?"

"""Streams: what a file may hold, and that those made are what their docstrings say."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.errors import TrainingError
from semcache_core.evaluation.replay import Arrival, from_pairs, in_order, read_stream, zipf
from semcache_core.training.data.records import Pair

BANK = [Arrival(f"{answer} in wording {i}", answer) for answer in "abcd" for i in range(3)]


def write(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_arrivals_are_read_in_their_order_with_repeats(tmp_path):
    file = write(
        tmp_path / "s.jsonl",
        '{"question": "b?", "answer_id": "1"}',
        "",
        '{"question": "a?", "answer_id": "2", "at": 5}',
        '{"question": "b?", "answer_id": "1"}',
    )
    assert read_stream(file) == [Arrival("b?", "1"), Arrival("a?", "2"), Arrival("b?", "1")]


GOOD = '{"question": "a?", "answer_id": "1"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "write an object"),
        ('{"answer_id": "1"}', "question is missing"),
        ('{"question": " ", "answer_id": "1"}', "question is ' '"),
        ('{"question": "a?"}', "answer_id is missing"),
        ('{"question": "a?", "answer_id": 7}', "answer_id is 7"),
        ('{"question": "a?", "answer_id": " "}', "answer_id is ' '"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, said):
    file = write(tmp_path / "s.jsonl", GOOD, "", line, GOOD)
    with pytest.raises(TrainingError) as caught:
        read_stream(file)
    assert f"{file}, line 3" in str(caught.value)
    assert said in str(caught.value)


def test_a_file_without_arrivals_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no arrivals"):
        read_stream(write(tmp_path / "s.jsonl", "", ""))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"no\.jsonl cannot be read"):
        read_stream(tmp_path / "no.jsonl")


texts = st.text(min_size=1).filter(str.strip)


@given(arrivals=st.lists(st.builds(Arrival, texts, texts), min_size=1, max_size=5))
def test_whatever_is_written_as_json_lines_is_read_back(tmp_path_factory, arrivals):
    lines = [json.dumps({"question": a.question, "answer_id": a.answer_id}) for a in arrivals]
    assert read_stream(write(tmp_path_factory.mktemp("s") / "s.jsonl", *lines)) == arrivals


def test_in_order_keeps_the_order_given():
    assert in_order(BANK) == BANK


def test_a_seed_shuffles_and_repeats_itself():
    one, again, other = in_order(BANK, 1), in_order(BANK, 1), in_order(BANK, 2)
    assert one == again != other
    assert one != BANK
    assert Counter(one) == Counter(BANK)


def test_zipf_draws_so_many_arrivals_of_those_given_and_repeats_itself():
    one, again, other = (zipf(BANK, 50, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len(one) == 50
    assert set(one) <= set(BANK)


def test_zipf_asks_for_answers_in_proportion_to_their_rank_to_the_exponent():
    # ranks 1 to 4: 1, 1/4, 1/9, 1/16 of a sum of 1.4236
    asked = Counter(arrival.answer_id for arrival in zipf(BANK, 20_000, 2.0, seed=3))
    shares = sorted((count / 20_000 for count in asked.values()), reverse=True)
    assert shares == pytest.approx([0.702, 0.176, 0.078, 0.044], abs=0.02)


def test_zipf_of_exponent_0_is_uniform():
    asked = Counter(arrival.answer_id for arrival in zipf(BANK, 20_000, 0.0, seed=3))
    assert [count / 20_000 for count in asked.values()] == pytest.approx([0.25] * 4, abs=0.02)


def test_zipf_draws_every_wording_of_an_answer_alike_and_an_answer_of_many_no_more_often():
    # "b" has nine times the wordings of "a", and must still be drawn as if it had one
    questions = [Arrival("a0", "a"), *(Arrival(f"b{i}", "b") for i in range(9))]
    asked = Counter(arrival.question for arrival in zipf(questions, 20_000, 0.0, seed=5))
    assert asked["a0"] / 20_000 == pytest.approx(0.5, abs=0.02)
    assert [asked[f"b{i}"] / 20_000 for i in range(9)] == pytest.approx([1 / 18] * 9, abs=0.01)


def test_which_answer_is_asked_for_most_is_up_to_the_seed():
    most = {Counter(a.answer_id for a in zipf(BANK, 200, 3.0, seed)).most_common(1)[0][0]
            for seed in range(20)}  # fmt: skip
    assert most == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("length", "exponent", "said"),
    [(0, 1.0, "length is 0"), (5, -0.1, "exponent is -0.1"), (5, float("nan"), "exponent is nan"),
     (5, float("inf"), "exponent is inf")],
)  # fmt: skip
def test_zipf_refuses_what_makes_no_stream(length, exponent, said):
    with pytest.raises(TrainingError, match=said):
        zipf(BANK, length, exponent)


@pytest.mark.parametrize("make", [in_order, lambda none: zipf(none, 5)])
def test_no_questions_make_no_stream(make):
    with pytest.raises(TrainingError, match="no questions"):
        make([])


PAIRS = [Pair("a", "b", 1), Pair("c", "b", 1), Pair("a", "x", 0), Pair("m", "n", 0)]


def test_from_pairs_asks_every_question_once():
    questions = [arrival.question for arrival in from_pairs(PAIRS)]
    assert sorted(questions) == ["a", "b", "c", "m", "n", "x"]


def test_questions_joined_by_positive_pairs_have_one_answer_and_all_others_their_own():
    answer = {arrival.question: arrival.answer_id for arrival in from_pairs(PAIRS)}
    assert answer["a"] == answer["b"] == answer["c"]
    assert len({answer[question] for question in "axmn"}) == 4


def test_the_order_of_pairs_is_up_to_the_seed():
    orders = {tuple(a.question for a in from_pairs(PAIRS, seed)) for seed in (0, 0, 1, 2)}
    assert len(orders) == 3

"""The doubt about one entry: what judgements say of it beyond the calibration of all."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.quality.entry_trust import PRIOR_SCALE, doubt, doubted

PROBABILITIES = st.floats(0, 1)
JUDGEMENTS = st.lists(st.tuples(PROBABILITIES, st.booleans()), max_size=30)


def _log_posterior(b: float, judgements: list[tuple[float, bool]]) -> float:
    """Written out anew, for probabilities well within (0, 1)."""
    total = -((b / PRIOR_SCALE) ** 2) / 2
    for probability, correct in judgements:
        right = 1 / (1 + math.exp(b) * (1 - probability) / probability)
        total += math.log(right if correct else 1 - right)
    return total


def test_without_evidence_there_is_no_doubt() -> None:
    assert doubt([]) == 0.0


@given(st.lists(PROBABILITIES, min_size=1, max_size=30))
def test_there_is_no_doubt_where_all_were_right(probabilities: list[float]) -> None:
    assert doubt([(probability, True) for probability in probabilities]) == 0.0


@given(st.floats(0.01, 1))
def test_one_wrong_answer_makes_a_doubt(probability: float) -> None:
    assert doubt([(probability, False)]) > 0


@given(JUDGEMENTS, PROBABILITIES)
def test_a_wrong_answer_never_lowers_the_doubt_and_a_right_one_never_raises_it(
    judgements: list[tuple[float, bool]], probability: float
) -> None:
    before = doubt(judgements)
    assert doubt([*judgements, (probability, False)]) >= before
    assert doubt([*judgements, (probability, True)]) <= before


def test_each_further_wrong_answer_raises_the_doubt() -> None:
    rising = [doubt([(0.9, False)] * wrong) for wrong in range(50)]
    assert all(more > less for less, more in itertools.pairwise(rising))


@given(JUDGEMENTS, st.randoms())
def test_the_order_of_the_judgements_does_not_matter(
    judgements: list[tuple[float, bool]], chance: random.Random
) -> None:
    shuffled = judgements.copy()
    chance.shuffle(shuffled)
    assert doubt(shuffled) == doubt(judgements)


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), max_size=20))
def test_no_other_doubt_is_more_probable(judgements: list[tuple[float, bool]]) -> None:
    found = doubt(judgements)
    best = _log_posterior(found, judgements)
    for step in (1e-3, 0.1, 1.0, 5.0):
        assert best >= _log_posterior(found + step, judgements)
        assert best >= _log_posterior(max(0.0, found - step), judgements)


@pytest.mark.parametrize("probability", [0.0, 5e-324, 1e-12, 1 - 1e-16, 1.0])
@pytest.mark.parametrize("correct", [True, False])
def test_probabilities_at_the_ends_give_a_finite_doubt(probability: float, correct: bool) -> None:
    assert 0 <= doubt([(probability, correct)] * 1000) < 40


def test_one_wrong_answer_counts_and_is_not_for_ever() -> None:
    wrong = [(0.95, False)]
    assert doubted(0.95, doubt(wrong)) < 0.9
    assert doubt(wrong + [(0.95, True)] * 5) < 0.6 * doubt(wrong)
    assert doubt(wrong + [(0.95, True)] * 20) == 0.0


@given(PROBABILITIES)
def test_no_doubt_leaves_a_probability_as_it_is(probability: float) -> None:
    assert doubted(probability, 0.0) == probability


@given(st.floats(0.01, 0.99), st.floats(0, 10))
def test_a_doubt_is_taken_off_the_log_odds(probability: float, b: float) -> None:
    lowered = doubted(probability, b)
    expected = math.log(probability / (1 - probability)) - b
    assert math.log(lowered / (1 - lowered)) == pytest.approx(expected, abs=1e-9)


@given(PROBABILITIES, st.floats(0, 64))
def test_a_doubted_probability_is_one(probability: float, b: float) -> None:
    assert 0 <= doubted(probability, b) <= probability + 1e-15

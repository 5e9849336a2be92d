"""What the pieces of evidence weigh, found again on made-up questions."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from semcache_core.decision.guard import RULES
from semcache_core.decision.scoring import Neighbour, Weights
from semcache_core.errors import TrainingError
from semcache_core.training.calibration.calibrate import KNOTS, fit_weights
from semcache_core.training.calibration.streams import Trial

ASKED = "why is order 1 open"
ALIKE = "Why is order 1 open"
TOLD_APART = {
    "number": "why is order 2 open",
    "opposite": "why is order 1 closed",
    "question word": "when is order 1 open",
}
NARROW, WIDE = KNOTS
PLANTED = Weights(
    intercept=-13.0,
    similarity=16.0,
    margins=((NARROW, 40.0), (WIDE, 10.0)),
    rules={"number": -1.5, "opposite": -3.0},
)
START = Weights.of_similarity(0.05, 16.0)


def made_up(
    n: int,
    weights: Weights = PLANTED,
    *,
    seed: int = 0,
    rules: Sequence[str] = ("number", "opposite"),
    rivals_alike: bool = True,
) -> list[Trial]:
    """n questions, the nearest stored one right with the probability that `weights` give it."""
    draw = np.random.default_rng(seed)
    stored = [ALIKE, *(TOLD_APART[rule] for rule in rules)]
    rivals = [ALIKE] if rivals_alike else [ALIKE, TOLD_APART["number"]]
    made = []
    for row in range(n):
        similarity = float(draw.uniform(0.5, 1))
        margin = float(draw.uniform(0, 0.25))
        near = (
            Neighbour(0, stored[int(draw.integers(len(stored)))], 1, similarity),
            Neighbour(1, rivals[int(draw.integers(len(rivals)))], 2, similarity - margin),
        )
        met = Trial(row, ASKED, 1, near, answerable=True, complete=True)
        right = draw.random() < met.nearest(weights).probability
        made.append(met if right else replace(met, answer=3))
    return made


def close(found: Weights, planted: Weights) -> bool:
    """Within about three standard errors at 2,500 questions."""
    slopes, expected = dict(found.margins), dict(planted.margins)
    return (
        abs(found.similarity - planted.similarity) < 2
        and abs(slopes[NARROW] - expected[NARROW]) < 15
        and abs(slopes[WIDE] - expected[WIDE]) < 5
        and all(abs(found.rules[rule] - planted.rules[rule]) < 0.6 for rule in planted.rules)
    )


def test_planted_weights_are_found_again() -> None:
    found = fit_weights([made_up(2500)], [], START)
    assert close(found, PLANTED)
    assert abs(found.intercept - PLANTED.intercept) < 1.5
    assert list(found.rules) == list(RULES)
    # what never fires weighs nothing
    assert found.rules["negation"] == found.rules["question word"] == 0


def test_margins_are_those_by_what_the_rules_are_found_to_weigh_wherever_it_starts() -> None:
    # half of the rivals are told apart: by a veto they would not count at all, by none in full
    weights = replace(PLANTED, rules={"number": -0.8, "opposite": -3.0})
    made = made_up(2500, weights, rivals_alike=False)
    found = fit_weights([made], [], START)
    assert close(found, weights)
    from_none = fit_weights([made], [], replace(START, rules={}))
    assert from_none.similarity == pytest.approx(found.similarity, rel=1e-3)
    assert dict(from_none.margins) == pytest.approx(dict(found.margins), rel=1e-2)


def test_a_margin_that_speaks_against_a_hit_is_left_out_and_the_rest_fitted_without_it() -> None:
    turned = replace(PLANTED, margins=((NARROW, 60.0), (WIDE, -12.0)))
    found = fit_weights([made_up(1500, turned)], [], START)
    assert dict(found.margins)[WIDE] == 0
    assert dict(found.margins)[NARROW] > 10
    assert abs(found.similarity - PLANTED.similarity) < 2.5


def test_a_rule_that_speaks_for_a_hit_is_left_out_and_the_rest_fitted_without_it() -> None:
    turned = replace(PLANTED, rules={"number": 1.5, "opposite": -3.0})
    found = fit_weights([made_up(1500, turned)], [], START)
    assert found.rules["number"] == 0
    assert found.rules["opposite"] < -2
    assert all(weight <= 0 for weight in found.rules.values())


def test_a_similarity_that_speaks_against_a_hit_is_an_error() -> None:
    turned = replace(PLANTED, similarity=-16.0, intercept=10.0)
    made = made_up(500, turned)
    with pytest.raises(TrainingError, match=r"weight of the similarity is -.*check the labels"):
        fit_weights([made], [], START)


def test_a_similarity_that_says_nothing_is_an_error() -> None:
    near = (Neighbour(0, ALIKE, 1, 0.9),)
    met = Trial(0, ASKED, 1, near, answerable=True, complete=True)
    with pytest.raises(TrainingError, match="weight of the similarity is"):
        fit_weights([[met, replace(met, answer=2)] * 10], [], START)


@pytest.mark.parametrize(("answer", "said"), [(1, "always"), (3, "never")])
def test_questions_of_one_kind_are_an_error_saying_which(answer: int, said: str) -> None:
    same = [replace(met, answer=answer) for met in made_up(30)]
    with pytest.raises(TrainingError, match=f"of 30 questions .* the right answer {said}"):
        fit_weights([same], [], START)


def test_a_domain_weighs_the_same_however_many_questions_it_has() -> None:
    one = made_up(400, rules=["number"])
    other = made_up(400, replace(PLANTED, intercept=-11.0, similarity=12.0), seed=1)
    once = fit_weights([one, other], [], START)
    repeated = fit_weights([one * 4, other], [], START)
    assert repeated.similarity == pytest.approx(once.similarity, rel=0.02)
    assert repeated.intercept == pytest.approx(once.intercept, rel=0.02)
    assert repeated.rules["number"] == pytest.approx(once.rules["number"], rel=0.02)
    alone = fit_weights([one], [], START)
    assert alone.similarity != pytest.approx(once.similarity, rel=0.02)


def test_edited_questions_show_what_rules_weigh_and_do_not_move_the_similarity() -> None:
    natural = made_up(1000, rules=[])
    # made by rule, the nearest is right for other reasons: less so the nearer it is
    turned = replace(
        PLANTED,
        similarity=-8.0,
        intercept=6.0,
        rules={"opposite": -3.0, "question word": -2.0, "number": 0.0},
    )
    edited = made_up(1000, turned, rules=["opposite", "question word"], seed=1)
    without = fit_weights([natural], [], START)
    found = fit_weights([natural], edited, START)
    assert found.similarity == pytest.approx(without.similarity, rel=0.05)
    assert found.intercept == pytest.approx(without.intercept, rel=0.05)
    assert without.rules["opposite"] == 0
    assert found.rules["opposite"] == pytest.approx(-3, abs=0.7)
    assert found.rules["question word"] == pytest.approx(-2, abs=0.7)


def test_a_domain_without_questions_is_passed_over() -> None:
    made = made_up(200)
    assert fit_weights([[], made], [], START) == fit_weights([made], [], START)

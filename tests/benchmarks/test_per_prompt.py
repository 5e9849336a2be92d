"""What a stored question learns by itself, and how often it is served for it."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import per_prompt
import pytest
from fakes import WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from per_prompt import FEWEST, Evidence, PerPrompt
from semcache_core.decision.scoring import Neighbour
from semcache_core.errors import TrainingError
from semcache_core.evaluation.policies import LearningPolicy
from semcache_core.evaluation.replay import Arrival
from semcache_core.evaluation.simulation import simulate

Observations = Sequence[tuple[float, bool]]

observations = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=12)
CLEAR = [(0.9, True), (0.92, True), (0.94, True), (0.6, False), (0.65, False)]


def evidence_of(seen: Observations) -> Evidence:
    evidence = Evidence()
    for similarity, same in seen:
        evidence.add(similarity, same)
    return evidence


def taught(seen: Observations, bound: float = 0.02, seed: int = 0) -> PerPrompt:
    policy = PerPrompt("learner", bound, seed)
    for similarity, same in seen:
        policy.observe("asked", Neighbour(0, "stored", 0, similarity), same)
    return policy


def chance(policy: PerPrompt, similarity: float) -> float:
    return policy.serving_chance(Neighbour(0, "stored", 0, similarity))


def decisions(policy: PerPrompt, similarity: float, count: int = 200) -> list[bool]:
    return [
        policy.pick("asked", iter([Neighbour(0, "stored", 0, similarity)])) is not None
        for _ in range(count)
    ]


def bounded_in_loops(seen: Observations, similarity: float) -> float:
    """The rule once more, curve by curve."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    fits = []
    for threshold in per_prompt._THRESHOLDS.tolist():
        best = (-math.inf, 0.0)
        for steepness in per_prompt._STEEPNESS.tolist():
            total = 0.0
            for at, same in [(0.0, False), (1.0, True), *seen]:
                margin = steepness * (at - threshold)
                total += math.log(sigmoid(margin if same else -margin))
            best = max(best, (total, steepness))
        fits.append((threshold, *best))
    top = max(total for _, total, _ in fits)
    bounds = []
    for missed, allowed in zip(per_prompt._MISSED, per_prompt._ALLOWED, strict=True):
        threshold, _, steepness = max(fit for fit in fits if 2 * (top - fit[1]) <= allowed + 1e-9)
        bounds.append((1 - missed) * sigmoid(steepness * (similarity - threshold)))
    return float(max(bounds))


@given(seen=observations, similarity=st.floats(0, 1))
def test_the_bound_is_that_of_the_rule_worked_out_curve_by_curve(
    seen: Observations, similarity: float
) -> None:
    found = evidence_of(seen).surely_right(similarity)
    assert found == pytest.approx(bounded_in_loops(seen, similarity), abs=1e-6)


@given(seen=observations, similarities=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_more_similar_question_is_never_less_surely_right(
    seen: Observations, similarities: tuple[float, float]
) -> None:
    evidence = evidence_of(seen)
    low, high = sorted(similarities)
    assert 0 <= evidence.surely_right(low) <= evidence.surely_right(high) < 1


@given(seen=observations, seed=st.integers(0, 99))
def test_the_order_of_observations_makes_no_difference(seen: Observations, seed: int) -> None:
    shuffled = random.Random(seed).sample(list(seen), len(seen))
    one, other = evidence_of(seen), evidence_of(shuffled)
    assert one.surely_right(0.9) == pytest.approx(other.surely_right(0.9), abs=1e-6)


def test_each_observation_counts_for_or_against() -> None:
    before = evidence_of(CLEAR).surely_right(0.95)
    assert evidence_of([*CLEAR, (0.93, True)]).surely_right(0.95) > before
    assert evidence_of([*CLEAR, (0.93, False)]).surely_right(0.95) < before


def test_nothing_is_served_before_the_fewest_observations() -> None:
    assert chance(taught(CLEAR[: FEWEST - 1]), 0.99) == 0
    assert chance(taught(CLEAR[:FEWEST]), 0.99) > 0
    assert chance(PerPrompt("learner", 0.02), 0.99) == 0


def test_an_answer_is_served_as_often_as_the_bound_leaves_room_for_its_being_wrong() -> None:
    right = evidence_of(CLEAR).surely_right(0.95)
    assert 0.5 < right < 0.98
    policy = taught(CLEAR, 0.02)
    assert chance(policy, 0.95) == pytest.approx(0.02 / (1 - right))
    served = sum(decisions(policy, 0.95, 4000)) / 4000
    assert served == pytest.approx(0.02 / (1 - right), abs=0.03)


def test_with_room_to_spare_it_is_always_served() -> None:
    policy = taught(CLEAR, 0.5)
    assert chance(policy, 0.99) == 1
    assert all(decisions(policy, 0.99))


def test_what_is_learnt_of_one_stored_question_says_nothing_of_another() -> None:
    policy = taught(CLEAR, 0.5)
    assert policy.serving_chance(Neighbour(0, "another", 0, 0.99)) == 0


def test_only_the_nearest_is_looked_at() -> None:
    policy = taught(CLEAR, 0.5)
    nearest = [Neighbour(0, "another", 0, 0.995), Neighbour(0, "stored", 0, 0.99)]
    assert policy.pick("asked", iter(nearest)) is None
    assert policy.pick("asked", iter(nearest[::-1])) == nearest[1]
    assert policy.pick("asked", iter([])) is None


def test_a_question_that_is_stored_anew_starts_from_nothing() -> None:
    policy = taught(CLEAR, 0.5)
    policy.stored("another")
    assert chance(policy, 0.99) == 1
    policy.stored("stored")
    assert chance(policy, 0.99) == 0


def test_decisions_are_drawn_by_the_seed() -> None:
    one, same, other = (decisions(taught(CLEAR, seed=seed), 0.95) for seed in (3, 3, 4))
    assert one == same != other


def test_a_fresh_one_has_learnt_nothing_and_draws_from_the_start() -> None:
    policy = taught(CLEAR, seed=3)
    first = decisions(policy, 0.95)
    fresh = policy.fresh()
    assert fresh == policy
    assert chance(fresh, 0.95) == 0
    for similarity, same in CLEAR:
        fresh.observe("asked", Neighbour(0, "stored", 0, similarity), same)
    assert decisions(fresh, 0.95) == first


def test_it_is_a_learning_policy_and_says_what_its_bound_is_a_share_of() -> None:
    policy = PerPrompt("learner", 0.05)
    assert isinstance(policy, LearningPolicy)
    assert "at most 5 % of all requests" in policy.setting


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.1, float("nan")])
def test_a_bound_outside_0_to_1_is_refused(bound: float) -> None:
    with pytest.raises(TrainingError, match="max_error_rate is"):
        PerPrompt("learner", bound)


def test_wrong_answers_stay_within_the_bound_where_the_curve_is_logistic() -> None:
    """3,000 questions about one stored one; the true curve has t = .8 and a steepness of 30."""
    drawn = random.Random(0)
    for bound in (0.01, 0.05):
        policy, served, wrong = PerPrompt("learner", bound), 0, 0
        for _ in range(3000):
            candidate = Neighbour(0, "stored", 0, drawn.uniform(0.5, 1))
            same = drawn.random() < 1 / (1 + math.exp(-30 * (candidate.similarity - 0.8)))
            if policy.pick("asked", iter([candidate])) is None:
                policy.observe("asked", candidate, same)
            else:
                served, wrong = served + 1, wrong + (not same)
        # the rule uses up what the bound allows, so chance takes it a little above or below
        assert wrong / 3000 <= bound + 3 * math.sqrt(bound / 3000)
        assert served / 3000 > 0.15


def test_in_a_simulation_it_learns_and_every_run_is_the_same() -> None:
    words = [f"word{index}" for index in range(6)]
    orders = random.Random(0)
    stream = [
        Arrival(" ".join(orders.sample(words, 6)) + f" {topic}", topic)
        for _ in range(60)
        for topic in ("card", "loan")
    ]
    arms = [(PerPrompt("learner", 0.05), WordEmbedder())]
    first, again = (simulate(stream, arms).arms[0] for _ in range(2))
    assert first == again
    assert first.semantic_hits > 10
    assert first.wrong_hits == 0
    other = replace(arms[0][0], seed=1)
    assert simulate(stream, [(other, WordEmbedder())]).arms[0] != first

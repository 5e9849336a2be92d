"""What speaks for a stored answer and against it, and which one is the likeliest."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.decision import scoring
from semcache_core.decision.guard import RULES, Difference, Reading, differences
from semcache_core.decision.scoring import (
    VETO,
    CandidateScores,
    Neighbour,
    ScoredCandidate,
    Weights,
    sigmoid,
)

ASKED = "where is order 1"
OTHER_NUMBER = "where is order 2"
SIMILARITY = 20.0
WEIGHTS = Weights(
    intercept=-16.0,
    similarity=SIMILARITY,
    margins=((0.05, 40.0), (0.15, 10.0)),
    rules={"number": -2.0, "opposite": -3.0},
)
WIDEST = 0.05 * 40 + 0.15 * 10


def near(
    similarity: float, answer: int = 1, question: str = ASKED, *, servable: bool = True
) -> Neighbour:
    return Neighbour(round(similarity * 1000), question, answer, similarity, servable=servable)


def judgement(
    *neighbours: Neighbour, weights: Weights = WEIGHTS, complete: bool = True
) -> CandidateScores:
    return CandidateScores(ASKED, neighbours, weights, complete)


def judged(*neighbours: Neighbour, complete: bool = True) -> list[ScoredCandidate]:
    return list(judgement(*neighbours, complete=complete))


def log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Reading, Reading]]:
    """What the guard was asked to compare, in order."""
    calls: list[tuple[Reading, Reading]] = []

    def counted(one: Reading, other: Reading) -> tuple[Difference, ...]:
        calls.append((one, other))
        return differences(one, other)

    monkeypatch.setattr(scoring, "differences", counted)
    return calls


# -- log-odds ----------------------------------------------------------------------------------


@given(st.floats(-1000, 1000))
def test_the_sigmoid_of_log_odds_never_overflows(x: float) -> None:
    assert 0 <= sigmoid(x) <= 1
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1)


def test_the_sigmoid_is_that_of_the_definition() -> None:
    for x in (-3.0, 0.0, 0.5, 4.0):
        assert sigmoid(x) == pytest.approx(1 / (1 + math.exp(-x)))


@given(st.floats(-1, 1))
def test_similarity_alone_is_the_equation_of_the_paper(similarity: float) -> None:
    weights = Weights.of_similarity(0.05, 16.0)
    expected = 1 / (1 + math.exp(-(similarity / 0.05 - 16.0)))
    assert sigmoid(weights.log_odds(similarity, 0.3)) == pytest.approx(expected)
    assert weights.widest == 0


def test_with_similarity_alone_every_rule_is_a_veto() -> None:
    weights = Weights.of_similarity(0.05, 16.0)
    for rule in RULES:
        found = [Difference(rule, "")]
        assert weights.against(found) == VETO
        assert sigmoid(weights.log_odds(1.0, 0.0, found)) < 1e-6


def test_every_piece_of_evidence_adds_its_weight() -> None:
    found = [Difference("number", ""), Difference("opposite", ""), Difference("name", "")]
    assert WEIGHTS.log_odds(0.9, 0.1, found) == pytest.approx(
        -16 + 0.9 * 20 + 0.05 * 40 + 0.1 * 10 - 2 - 3
    )


def test_a_margin_counts_up_to_each_knot() -> None:
    alone = WEIGHTS.log_odds(0.9, 0.0)
    assert WEIGHTS.log_odds(0.9, 0.02) - alone == pytest.approx(0.02 * 50)
    assert WEIGHTS.log_odds(0.9, 5.0) - alone == pytest.approx(WIDEST)
    assert WEIGHTS.log_odds(0.9, -0.1) - alone == pytest.approx(-0.1 * 50)


def test_the_widest_knot_is_found_wherever_it_stands() -> None:
    assert WEIGHTS.widest == 0.15
    assert replace(WEIGHTS, margins=WEIGHTS.margins[::-1]).widest == 0.15


# -- margins -----------------------------------------------------------------------------------


def test_the_margin_is_that_to_the_nearest_with_another_answer() -> None:
    first, second, third, fourth = judged(
        near(0.90, 1), near(0.88, 1), near(0.84, 2), near(0.80, 3)
    )
    assert first.margin == pytest.approx(0.06)
    assert second.margin == pytest.approx(0.04)
    # the nearest of all is its rival, not the one below it
    assert third.margin == pytest.approx(-0.06)
    assert fourth.margin == pytest.approx(-0.10)


def test_a_margin_ends_at_the_widest_knot() -> None:
    first, _ = judged(near(0.9, 1), near(0.2, 2))
    assert first.margin == 0.15
    (alone,) = judged(near(0.9, 1))
    assert alone.margin == 0.15


def test_without_a_rival_the_last_one_stands_for_what_lies_beyond() -> None:
    first, last = judged(near(0.9), near(0.82), complete=False)
    assert first.margin == pytest.approx(0.08)
    assert last.margin == 0
    assert [one.margin for one in judged(near(0.9), near(0.82))] == [0.15, 0.15]


def test_a_rival_in_sight_counts_also_when_more_lies_beyond() -> None:
    first, *_ = judged(near(0.9, 1), near(0.88, 2), near(0.8, 1), complete=False)
    assert first.margin == pytest.approx(0.02)


def test_a_last_one_that_is_far_away_leaves_the_widest_knot() -> None:
    first, _ = judged(near(0.9), near(0.2), complete=False)
    assert first.margin == 0.15


def test_a_rival_that_the_guard_tells_apart_is_discounted_by_what_its_rules_weigh() -> None:
    first, _ = judged(near(0.9, 1), near(0.89, 2, OTHER_NUMBER))
    assert first.margin == pytest.approx(0.01 + 2 / SIMILARITY)


def test_behind_a_discounted_rival_the_next_one_counts() -> None:
    first, *_ = judged(near(0.9, 1), near(0.89, 2, OTHER_NUMBER), near(0.85, 3))
    assert first.margin == pytest.approx(0.05)


def test_one_that_is_told_apart_itself_still_has_its_rivals() -> None:
    first, _ = judged(near(0.9, 1, OTHER_NUMBER), near(0.86, 2))
    assert first.margin == pytest.approx(0.04)


# -- what is made of it --------------------------------------------------------------------------


def test_the_probability_is_that_of_all_the_evidence() -> None:
    first, second = judged(near(0.9, 1, OTHER_NUMBER), near(0.86, 2))
    assert first.differences == (Difference("number", "other numbers: 1, 2"),)
    expected = WEIGHTS.log_odds(0.9, first.margin, first.differences)
    assert log_odds(first.probability) == pytest.approx(expected)
    assert second.differences == ()
    assert log_odds(second.probability) == pytest.approx(WEIGHTS.log_odds(0.86, second.margin))


def test_a_doubt_is_taken_off_the_log_odds_of_its_own_entry_only() -> None:
    pair = near(0.9, 1), near(0.86, 2)
    before = judged(*pair)
    after = judged(pair[0]._replace(doubt=1.5), pair[1])
    assert log_odds(after[0].probability) == pytest.approx(log_odds(before[0].probability) - 1.5)
    assert after[1] == before[1]


# -- the best ----------------------------------------------------------------------------------


def test_the_best_is_the_nearest_of_those_that_are_likely_enough() -> None:
    best = judgement(near(0.95), near(0.94), near(0.93)).best(0.5)
    assert best is not None and best.neighbour.similarity == 0.95


def test_the_second_is_the_best_where_the_guard_tells_the_first_apart() -> None:
    first, second = near(0.9, 1, OTHER_NUMBER), near(0.88, 2)
    best = judgement(first, second, weights=Weights.of_similarity(0.05, 16.0)).best(0.5)
    assert best is not None and best.neighbour == second


def test_the_best_is_the_likeliest_also_where_a_nearer_one_would_do() -> None:
    first, second = near(0.95, 1, OTHER_NUMBER), near(0.94, 2)
    one, other = judged(first, second)
    assert 0.5 < one.probability < other.probability
    best = judgement(first, second).best(0.5)
    assert best is not None and best.neighbour == second


def test_a_probability_of_just_the_threshold_is_enough() -> None:
    for neighbours in ((near(0.9),), (near(0.9, 1), near(0.86, 2)), (near(0.9, 1, OTHER_NUMBER),)):
        probability = max(one.probability for one in judged(*neighbours))
        assert judgement(*neighbours).best(probability) is not None
        assert judgement(*neighbours).best(math.nextafter(probability, 1)) is None


def test_the_ends_are_thresholds_like_any_other() -> None:
    sure = near(5.0)  # no cosine, but a probability of 1
    assert judgement(near(0.1)).best(0.0) is not None
    assert judgement(sure).best(1.0) is not None
    assert judgement(near(0.1)).best(1.0) is None


def test_there_is_no_best_of_none_or_of_unlikely_ones() -> None:
    assert judgement().best(0.0) is None
    assert judgement(near(0.5)).best(0.5) is None
    assert list(judgement(complete=False)) == []


def test_one_that_is_not_servable_is_never_the_best_but_is_a_rival() -> None:
    hidden, other = near(0.9, 1, servable=False), near(0.88, 2)
    assert judgement(hidden).best(0.0) is None
    best = judgement(hidden, other).best(0.0)
    assert best is not None and best.neighbour == other
    assert best.margin == pytest.approx(-0.02)


def test_a_doubted_first_gives_way_to_a_second_of_the_same_answer() -> None:
    first, second = near(0.9)._replace(doubt=4.0), near(0.88)
    best = judgement(first, second).best(0.5)
    assert best is not None and best.neighbour == second


SOME = st.lists(
    st.builds(
        Neighbour,
        entry_id=st.integers(0, 9),
        question=st.sampled_from((ASKED, OTHER_NUMBER)),
        answer=st.integers(0, 2),
        similarity=st.floats(0.6, 1),
        doubt=st.sampled_from((0.0, 0.0, 0.7)),
        servable=st.booleans(),
    ),
    max_size=6,
).map(lambda some: sorted(some, key=lambda one: -one.similarity))


@given(SOME, st.floats(0, 1), st.booleans())
def test_the_best_is_the_likeliest_of_all_or_there_is_none(
    neighbours: list[Neighbour], threshold: float, complete: bool
) -> None:
    found = judged(*neighbours, complete=complete)
    likeliest = max((one.probability for one in found if one.neighbour.servable), default=-1.0)
    best = judgement(*neighbours, complete=complete).best(threshold)
    if likeliest < threshold:
        assert best is None
    else:
        assert best is not None and best in found and best.neighbour.servable
        assert best.probability == likeliest


# -- more of it never counts against a hit -------------------------------------------------------

STORED = 3


def of_store(store: Sequence[Neighbour]) -> dict[int, float]:
    """Entry id -> probability, of the three nearest."""
    ranked = sorted(store, key=lambda one: -one.similarity)[:STORED]
    found = CandidateScores(ASKED, ranked, WEIGHTS, len(store) <= STORED)
    return {one.neighbour.entry_id: one.probability for one in found}


STORES = st.lists(
    st.tuples(
        st.sampled_from((ASKED, OTHER_NUMBER)),
        st.integers(0, 2),
        st.floats(0.6, 1),
        st.sampled_from((0.0, 0.7)),
    ),
    min_size=2,
    max_size=6,
).map(lambda rows: [Neighbour(entry_id, *row) for entry_id, row in enumerate(rows)])


@given(STORES, st.integers(0, 5), st.floats(0, 0.4))
def test_a_nearer_candidate_is_never_less_likely(
    store: list[Neighbour], which: int, nearer: float
) -> None:
    which %= len(store)
    raised = store[which]._replace(similarity=store[which].similarity + nearer)
    before = of_store(store).get(which)
    after = of_store([*store[:which], raised, *store[which + 1 :]]).get(which)
    if before is not None:
        assert after is not None and after >= before - 1e-12


@given(STORES, st.integers(0, 5), st.integers(0, 5))
def test_without_a_rival_no_candidate_is_less_likely(
    store: list[Neighbour], which: int, rival: int
) -> None:
    which, rival = which % len(store), rival % len(store)
    if store[which].answer == store[rival].answer:
        return
    before = of_store(store).get(which)
    after = of_store([one for one in store if one is not store[rival]]).get(which)
    if before is not None:
        assert after is not None and after >= before - 1e-12


# -- the guard is asked when it counts -----------------------------------------------------------


def test_of_a_clear_miss_the_guard_is_not_asked(
    compared: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(text: str) -> Reading:
        raise AssertionError(text)

    monkeypatch.setattr(scoring, "read", unread)
    some = [near(0.6 - n / 100, n) for n in range(16)]
    assert judgement(*some, complete=False).best(0.9) is None
    assert compared == []


def test_of_a_clear_hit_the_guard_is_asked_once(compared: list[object]) -> None:
    some = [near(0.95), *(near(0.7 - n / 100, n) for n in range(2, 17))]
    assert judgement(*some, complete=False).best(0.9) is not None
    assert len(compared) == 1


def test_the_guard_is_asked_once_of_each_that_may_be_a_rival(compared: list[object]) -> None:
    some = [near(0.95, 1), near(0.94, 2), near(0.93, 1), near(0.7, 3)]
    assert len(list(judgement(*some))) == 4
    assert len(compared) == 4
    compared.clear()
    assert judgement(*some).best(0.5) is not None
    # the third has the first one's answer and is less likely; the fourth is out of reach
    assert len(compared) <= 3


def test_one_that_is_not_servable_and_no_rival_is_not_compared(compared: list[object]) -> None:
    some = [near(0.96, servable=False), near(0.95)]
    assert judgement(*some).best(0.5) is not None
    assert len(compared) == 1

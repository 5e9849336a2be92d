"""Thresholds with a stated confidence: the test, the table, and the promise tried out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from semcache_core.decision.calibration import Threshold
from semcache_core.errors import TrainingError
from semcache_core.training.calibration.risk_control import (
    BOUNDS,
    CONFIDENCE,
    shown_above,
    shown_within,
    threshold_table,
)
from semcache_core.training.calibration.streams import Decided, pooled

Floats = NDArray[np.float64]

LEVEL = 0.05 / 3
"""What each of the three sequences is tested with."""


def decided(right: Sequence[bool] | NDArray[np.bool_], domain: str = "d") -> Decided:
    """From the likeliest down: probabilities .999, .9985, .998 and so on."""
    n = len(right)
    return Decided(
        domain=domain,
        probability=p_at(np.arange(1, n + 1)),
        right=np.array(right, np.bool_),
        answerable=np.ones(n, np.bool_),
        question=np.arange(n),
    )


def p_at(rank: NDArray[np.int64] | int) -> Floats:
    return np.asarray(0.999 - (np.asarray(rank) - 1) / 5000, np.float64)


def ranked(n: int, *wrong: int) -> list[bool]:
    """n decisions, of which those at these ranks (from 1) are wrong."""
    return [rank not in wrong for rank in range(1, n + 1)]


def in_streams(one: Decided, streams: int) -> Decided:
    """Every decision so many times, of the same questions."""
    return Decided(
        domain=one.domain,
        probability=np.tile(one.probability, streams),
        right=np.tile(one.right, streams),
        answerable=np.tile(one.answerable, streams),
        question=np.tile(one.question, streams),
    )


def rows_as_questions(one: Decided) -> Decided:
    """The same decisions, each of a question of its own."""
    return replace(one, question=np.arange(len(one.question)))


def reordered(one: Decided) -> Decided:
    order = np.random.default_rng(0).permutation(len(one.question))
    return Decided(
        domain=one.domain,
        probability=one.probability[order],
        right=one.right[order],
        answerable=one.answerable[order],
        question=one.question[order],
    )


def row(*domains: Decided, bound: float = 0.1, confidence: float = CONFIDENCE) -> Threshold:
    (found,) = threshold_table(domains, (bound,), confidence)
    return found


# -- the test ----------------------------------------------------------------------------------


def trials(served: int, wrong: int, bound: float) -> Floats:
    values = np.full(served, -bound)
    values[np.random.default_rng(served).permutation(served)[:wrong]] = 1 - bound
    return values


@pytest.mark.parametrize(
    ("served", "wrong", "within"),
    [(149, 0, False), (400, 0, True), (1000, 5, True), (1000, 12, False), (1000, 30, False)],
)
def test_an_error_is_shown_to_be_within_the_bound_by_enough_that_is_right(
    served: int, wrong: int, within: bool
) -> None:
    assert shown_within(trials(served, wrong, 0.02), 0.02, 0.05) == within
    assert not shown_above(trials(served, wrong, 0.02), 0.02, 0.05) or wrong == 30


def test_an_error_is_shown_to_be_above_the_bound_by_enough_that_is_wrong() -> None:
    assert shown_above(trials(1000, 40, 0.02), 0.02, 0.05)
    assert not shown_above(trials(1000, 22, 0.02), 0.02, 0.05)


def test_nothing_shows_nothing() -> None:
    nothing = np.zeros(0)
    assert not shown_within(nothing, 0.02, 0.05)
    assert not shown_above(nothing, 0.02, 0.05)


@pytest.mark.parametrize("bound", [0.02, 0.1])
@pytest.mark.parametrize("shown", [shown_within, shown_above])
def test_what_is_at_the_bound_is_shown_to_be_elsewhere_no_more_often_than_the_level_allows(
    shown: Callable[[Floats, float, float], bool], bound: float
) -> None:
    random = np.random.default_rng(7)
    runs, level = 2000, 0.05
    # half of the questions are wrong in one of two streams, which has the same mean
    shares = np.array([0.0, 0.5, 1.0])
    odds = np.array([1 - 1.5 * bound, bound, bound / 2])
    found = sum(
        shown(random.choice(shares, 800, p=odds) - bound, bound, level) for _ in range(runs)
    )
    assert found / runs <= level + 2 * math.sqrt(level * (1 - level) / runs)
    assert found > 0


# -- the table ---------------------------------------------------------------------------------


def test_as_many_right_ones_are_needed_as_show_the_bound() -> None:
    # not even Clopper and Pearson's limit shows 10 % from 38 (.9^38 > .05 / 3); betting needs more
    assert row(decided(ranked(38))) == Threshold(0.1, None, 0.0, 0, 0)
    enough = row(decided(ranked(100)))
    assert enough.probability == p_at(100)
    assert (enough.served, enough.wrong) == (100, 0)


def test_less_confidence_needs_fewer() -> None:
    def fewest(confidence: float) -> int:
        return next(
            n
            for n in range(20, 200)
            if row(decided(ranked(n)), confidence=confidence).probability is not None
        )

    assert fewest(0.8) < 0.8 * fewest(0.95)


def test_a_sequence_ends_at_the_first_step_that_fails() -> None:
    # only wrong ones from 101 on: nothing below can be shown
    found = row(decided(ranked(400, *range(101, 401))))
    assert found.probability is not None and p_at(120) < found.probability < p_at(80)
    assert found.upper is not None and found.upper <= 0.1


def test_what_lies_behind_a_failed_step_is_not_taken() -> None:
    # 12 of 1,000 would do, but the first 58, where the sequences start, have all of them
    early, late = range(3, 59, 5), range(400, 1000, 50)
    assert len(early) == len(late)
    assert row(decided(ranked(1000, *early))).probability is None
    assert row(decided(ranked(1000, *late))).served == 1000
    assert shown_within(trials(1000, len(early), 0.1), 0.1, LEVEL)


@pytest.mark.parametrize("wrong", [(1,), (1, 20)])
def test_a_wrong_one_at_the_very_top_does_not_end_everything(wrong: tuple[int, ...]) -> None:
    # too many where the first sequence starts, at 58, not where the last does, at 131
    found = row(decided(ranked(400, *wrong)))
    assert found.served > 380
    assert found.wrong == len(wrong)


def test_an_embedder_that_is_wrong_too_often_gets_no_threshold() -> None:
    tenth = [rank % 10 != 0 for rank in range(1, 2001)]
    assert row(decided(tenth)).probability is None


def test_equal_probabilities_are_served_together_or_not_at_all() -> None:
    one = decided(ranked(120, *range(100, 121)))
    assert row(one).served > 90
    tied = one.probability.copy()
    tied[70:] = tied[70]
    # the last 50 have 21 wrong ones, which is too many for the 120
    assert 55 < row(replace(one, probability=tied)).served <= 70
    assert row(replace(one, probability=tied, right=np.ones(120, np.bool_))).served == 120


@pytest.mark.parametrize("streams", [1, 4])
def test_the_order_of_the_rows_does_not_matter(streams: int) -> None:
    one = in_streams(decided(ranked(300, 2, 90, 170, *range(200, 301, 3))), streams)
    found = row(one)
    assert 150 * streams < found.served < 300 * streams
    assert row(reordered(one)) == found


def test_the_figures_of_a_row_add_up() -> None:
    one = decided(ranked(500, 2, 90, 170, *range(200, 501, 3)))
    found = row(one)
    assert found.probability is not None and found.max_error_rate == 0.1
    served = one.probability >= found.probability
    assert found.served == served.sum() < 500
    assert found.wrong == (served & ~one.right).sum()
    assert found.share_served == found.served / 500
    assert found.upper is not None and found.wrong / found.served < found.upper <= 0.1


def test_upper_is_the_lowest_error_that_is_shown_at_the_level_of_one_sequence() -> None:
    # where all are right their order is of no matter to the test
    upper = row(decided(ranked(300))).upper
    assert upper is not None
    lower = upper - 1e-5
    assert shown_within(trials(300, 0, upper), upper, LEVEL)
    assert not shown_within(trials(300, 0, lower), lower, LEVEL)


def test_served_and_wrong_count_over_all_streams() -> None:
    # right in three streams, wrong in the fourth, of every 50th question
    one = in_streams(decided(ranked(500)), 4)
    one.right[1500::50] = False
    found = row(one)
    assert (found.served, found.wrong, found.share_served) == (2000, 10, 1.0)


def test_what_happens_to_a_question_is_averaged_over_its_streams() -> None:
    in_one, in_all = in_streams(decided(ranked(500)), 4), in_streams(decided(ranked(500)), 4)
    in_one.right[1500::50] = False
    in_all.right[::50] = False
    averaged, whole = row(in_one, bound=0.2).upper, row(in_all, bound=0.2).upper
    assert averaged is not None and whole is not None
    assert averaged < 0.8 * whole


@pytest.mark.parametrize(
    "wrong", [(2, 90, 170, *range(200, 501, 25)), (2, 90, 170, *range(200, 501, 3))]
)
def test_a_question_asked_in_many_streams_is_one_trial(wrong: tuple[int, ...]) -> None:
    once = row(decided(ranked(500, *wrong)))
    often = row(in_streams(decided(ranked(500, *wrong)), 16))
    assert once.probability is not None and often.probability is not None
    assert once.upper is not None and often.upper is not None
    # a step may end one question further down
    assert abs(often.probability - once.probability) <= 2 / 5000
    assert often.served == pytest.approx(16 * once.served, rel=0.01)
    assert often.upper == pytest.approx(once.upper, rel=0.05)


@pytest.mark.parametrize("wrong", [(), range(40, 501, 60)])
def test_as_many_questions_more_show_more(wrong: Sequence[int]) -> None:
    few = in_streams(decided(ranked(500, *wrong)), 16)
    often, many = row(few, bound=0.2), row(rows_as_questions(few), bound=0.2)
    assert many.served == often.served == 8000
    assert often.upper is not None and many.upper is not None
    assert many.upper < 0.85 * often.upper


def test_domains_are_judged_as_one_mixture() -> None:
    # neither has enough, together they have
    assert row(decided(ranked(45), "a")).probability is None
    assert row(decided(ranked(45), "a"), decided(ranked(45), "b")).served == 90
    assert row(decided(ranked(18), "a"), decided(ranked(18), "b")).probability is None
    found = row(decided(ranked(200, 100), "a"), decided(ranked(200, 150), "b"))
    assert found.wrong == 2
    assert found.share_served == found.served / 400


def test_questions_of_two_domains_with_the_same_number_are_different_trials() -> None:
    one, other = decided(ranked(200, 100), "a"), decided(ranked(200, 150), "b")
    found = row(one, other)
    assert found == row(one, replace(other, question=other.question + 1000))
    # of one domain they are 200 questions, each asked twice
    same = row(pooled([one, other]))
    assert found.upper is not None and same.upper is not None
    assert same.served == found.served == 400
    assert found.upper < 0.8 * same.upper


def test_a_single_domain_shown_to_be_above_the_bound_forbids_it() -> None:
    good = decided(ranked(1000), "good")
    # ten times as many at every probability, all right
    good = replace(good, probability=np.repeat(good.probability[:100], 10))
    bad = decided(ranked(100, *range(41, 101, 2)), "bad")
    bad = replace(bad, question=bad.question + 1000)
    found = row(good, bad)
    assert found.probability is not None and p_at(80) < found.probability < p_at(45)
    # it is the domain that forbids: as one, 30 wrong of 1,100 would do
    assert row(pooled([good, bad])).served == 1100


def test_a_single_domain_that_may_be_within_the_bound_forbids_nothing() -> None:
    good, few = decided(ranked(2000), "good"), decided(ranked(10, 3), "few")
    assert row(good, few).served > 1900


def test_without_other_bounds_the_table_has_those_of_the_product() -> None:
    rows = threshold_table([decided(ranked(870))])
    assert tuple(one.max_error_rate for one in rows) == BOUNDS
    # 1 % can be shown from some 600 on, .5 % from some 1,200 on
    shown = [one.max_error_rate for one in rows if one.probability is not None]
    assert shown == [bound for bound in BOUNDS if bound >= 0.01]


def test_rows_come_from_the_strictest_bound_on() -> None:
    rows = threshold_table([decided(ranked(400))], (0.2, 0.05, 0.1))
    assert [one.max_error_rate for one in rows] == [0.05, 0.1, 0.2]


@given(
    st.lists(st.sampled_from((0.0, 0.02, 0.1, 0.4)), min_size=1, max_size=8),
    st.integers(0, 1000),
)
def test_what_keeps_a_bound_keeps_a_looser_one(errors: list[float], seed: int) -> None:
    rates = np.repeat(errors, 50)
    right = np.random.default_rng(seed).random(len(rates)) >= rates
    rows = threshold_table([decided(right)], (0.05, 0.06, 0.08, 0.1, 0.2))
    served = [one.served for one in rows]
    assert served == sorted(served)
    for one in rows:
        assert (one.probability is None) == (one.served == 0)
        assert one.upper is None or one.upper <= one.max_error_rate


def test_without_a_domain_there_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no streams"):
        threshold_table([])


# -- the promise -------------------------------------------------------------------------------

RESAMPLED = 1000
ALLOWED = 0.05 + 2 * math.sqrt(0.05 * 0.95 / RESAMPLED)
"""5 %, and two standard errors of a share of 1,000."""
QUESTIONS = 350
BOUND, STRICTER = 0.1, 0.05


@dataclass(frozen=True)
class Population:
    """Endlessly many questions, their probabilities spread evenly over [0, 1].

    `errors` has for each domain how often a stored answer of this probability is wrong; every
    domain has as many questions.
    """

    name: str
    errors: tuple[Callable[[Floats], Floats], ...]

    def drawn(self, chance: np.random.Generator) -> list[Decided]:
        n = QUESTIONS // len(self.errors)
        return [self._domain(error, n, chance) for error in self.errors]

    def true_error(self, threshold: float) -> float:
        """The share of wrong ones among all those of this probability and above."""
        served = np.linspace(threshold, 1, 20_001)
        middle = (served[1:] + served[:-1]) / 2
        return float(np.mean([error(middle) for error in self.errors]))

    def _domain(
        self, error: Callable[[Floats], Floats], n: int, chance: np.random.Generator
    ) -> Decided:
        probability = chance.random(n)
        right = chance.random(n) >= error(probability)
        return Decided("d", probability, right, np.ones(n, np.bool_), np.arange(n))


def _steep(p: Floats) -> Floats:
    return np.asarray(0.002 + 0.6 * (1 - p) ** 2)


def _flat(p: Floats) -> Floats:
    return np.full_like(p, 1.02 * BOUND)


def _non_monotone(p: Floats) -> Floats:
    return np.select([p > 0.98, p > 0.5], [0.2, 0.03], 0.3)


def _hard(p: Floats) -> Floats:
    return np.asarray(0.01 + 0.2 * (1 - p))


STEEP = Population("steep", (_steep,))
FLAT = Population("flat just above the bound", (_flat,))
NON_MONOTONE = Population("worst at the top", (_non_monotone,))
MIXED = Population("of two domains", (_steep, _hard))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("population", "serves"), [(STEEP, 0.85), (FLAT, 0.0), (NON_MONOTONE, 0.4), (MIXED, 0.6)]
)
def test_the_true_error_exceeds_the_bound_no_more_often_than_promised(
    population: Population, serves: float
) -> None:
    chance = np.random.default_rng(0)
    tables = [
        threshold_table(population.drawn(chance), (STRICTER, BOUND)) for _ in range(RESAMPLED)
    ]
    for of_bound, bound in enumerate((STRICTER, BOUND)):
        found = [table[of_bound].probability for table in tables]
        broken = sum(p is not None and population.true_error(p) > bound for p in found)
        assert broken / RESAMPLED <= ALLOWED
    # and it is kept by serving: no threshold at all would keep every bound
    assert sum(table[1].probability is not None for table in tables) >= serves * RESAMPLED


@pytest.mark.parametrize("population", [STEEP, FLAT, NON_MONOTONE, MIXED])
def test_the_last_threshold_with_a_measured_error_within_the_bound_breaks_it(
    population: Population,
) -> None:
    """The rule that looks at the measured error alone, so that the test above shows something."""
    chance = np.random.default_rng(0)
    broken = 0
    for _ in range(RESAMPLED):
        parts = population.drawn(chance)
        probability = np.concatenate([part.probability for part in parts])
        right = np.concatenate([part.right for part in parts])
        order = np.argsort(-probability)
        served = np.arange(1, len(order) + 1)
        within = np.flatnonzero(np.cumsum(~right[order]) <= BOUND * served)
        # fewer than 1 / bound say nothing by any rule
        within = within[within >= 1 / BOUND]
        if len(within):
            broken += population.true_error(float(probability[order][within[-1]])) > BOUND
    assert broken / RESAMPLED > 0.25


# -- the promise, with several streams -----------------------------------------------------------

FEWER = 400
STREAMS_ALLOWED = 0.05 + 2 * math.sqrt(0.05 * 0.95 / FEWER)


@dataclass(frozen=True)
class Streams:
    """Questions asked in four streams each, in half of which the right answer is not stored.

    Where it is, the probability is spread evenly over [0, 1] and the one served is wrong in
    `error` of cases, in both streams or in neither. Where it is not, all that is served is wrong:
    of this probability t and above are `strays` * (1 - t) ** `power`.
    """

    name: str
    error: Callable[[Floats], Floats]
    strays: float
    power: int

    def drawn(self, chance: np.random.Generator) -> Decided:
        n = QUESTIONS
        stored = chance.random(n)
        right = chance.random(n) >= self.error(stored)
        missing = 1 - chance.random(n) ** (1 / self.power)
        missing[chance.random(n) >= self.strays] = 0.0
        nowhere = np.zeros(n, np.bool_)
        return Decided(
            domain="d",
            probability=np.concatenate([stored, missing, stored, missing]),
            right=np.concatenate([right, nowhere, right, nowhere]),
            answerable=np.repeat([True, False, True, False], n),
            question=np.tile(np.arange(n), 4),
        )

    def true_error(self, threshold: float) -> float:
        served = 1 - threshold
        wrong = served * Population(self.name, (self.error,)).true_error(threshold)
        strays = self.strays * served**self.power
        return (wrong + strays) / (served + strays)

    def breaks(self, threshold: float | None) -> bool:
        return threshold is not None and self.true_error(threshold) > BOUND


def _just_above(p: Floats) -> Floats:
    # with 5 strays to every 100
    return np.full_like(p, 1.02 * BOUND * 1.05 - 0.05)


STEEP_STREAMS = Streams("steep", _steep, 1.0, 8)
FLAT_STREAMS = Streams("flat just above the bound", _just_above, 0.05, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("population", "serves"), [(STEEP_STREAMS, 0.4), (FLAT_STREAMS, 0.0)])
def test_the_promise_is_kept_where_each_question_is_asked_in_several_streams(
    population: Streams, serves: float
) -> None:
    chance = np.random.default_rng(0)
    found = [row(population.drawn(chance), bound=BOUND).probability for _ in range(FEWER)]
    assert sum(population.breaks(p) for p in found) / FEWER <= STREAMS_ALLOWED
    assert sum(p is not None for p in found) >= serves * FEWER


def test_the_promise_would_be_broken_if_every_stream_were_a_trial() -> None:
    chance = np.random.default_rng(0)
    found = [
        row(rows_as_questions(FLAT_STREAMS.drawn(chance)), bound=BOUND).probability
        for _ in range(FEWER)
    ]
    assert sum(FLAT_STREAMS.breaks(p) for p in found) / FEWER > STREAMS_ALLOWED


# -- the promise, where answers have several questions -------------------------------------------


@dataclass(frozen=True)
class Answers:
    """`count` answers with `each` questions; how often those of one are wrong varies by answer.

    The share of an answer is drawn from a beta distribution with the mean `error` and this
    intraclass correlation.
    """

    count: int
    each: int
    correlation: float
    error: float

    def drawn(self, chance: np.random.Generator) -> Decided:
        n = self.count * self.each
        weight = 1 / self.correlation - 1
        shares = chance.beta(self.error * weight, (1 - self.error) * weight, self.count)
        answer = np.repeat(np.arange(self.count), self.each)
        right = chance.random(n) >= shares[answer]
        # all have the same probability: they are served together, or not at all
        alike = np.full(n, 0.9)
        return Decided("d", alike, right, np.ones(n, np.bool_), np.arange(n), answer=answer)


@pytest.mark.parametrize(
    "answers",
    [Answers(20, 60, 0.2, 0.105), Answers(30, 20, 0.9, 0.105)],
    ids=str,
)
def test_the_promise_is_kept_where_questions_of_an_answer_are_wrong_together(
    answers: Answers,
) -> None:
    chance = np.random.default_rng(0)
    draws = [answers.drawn(chance) for _ in range(100)]
    kept = sum(row(draw, bound=BOUND).probability is None for draw in draws)
    assert kept >= 91  # 95 %, and two standard errors of a share of 100
    # as questions on their own they would break it: the test above shows something
    alone = sum(row(replace(d, answer=None), bound=BOUND).probability is not None for d in draws)
    assert alone > 10


def test_enough_answers_that_are_right_still_show_a_bound() -> None:
    chance = np.random.default_rng(0)
    found = row(Answers(80, 20, 0.1, 0.02).drawn(chance), bound=BOUND)
    assert found.share_served > 0.9
    assert found.upper is not None and found.upper <= BOUND


def test_a_few_answers_show_less_than_as_many_questions_of_many() -> None:
    one = decided(ranked(600))
    few, many = (replace(one, answer=np.arange(600) % count) for count in (10, 600))
    assert row(many, bound=0.02).probability is not None
    assert row(many, bound=0.02) == row(one, bound=0.02)
    assert row(few, bound=0.02).probability is None
    assert row(few, bound=0.2).probability is not None
    assert row(replace(one, answer=np.zeros(600, np.int64)), bound=0.2).probability is None


def test_equal_answer_numbers_of_two_domains_are_different_answers() -> None:
    one, other = (replace(decided(ranked(300), d), answer=np.arange(300) // 10) for d in "ab")
    apart = row(one, other, bound=0.05)
    assert apart == row(one, replace(other, answer=other.answers + 1000), bound=0.05)
    assert apart.upper is not None
    together = row(pooled([one, replace(other, question=other.question + 1000)]), bound=0.05)
    assert together.upper is not None and together.upper > apart.upper

"""Thresholds that keep an error bound with 95 % confidence, from a finite sample."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from semcache_core.decision.calibration import Threshold
from semcache_core.errors import TrainingError
from semcache_core.training.calibration.streams import Decided

CONFIDENCE = 0.95
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2)
LEAST_CORRELATION = 0.05
"""Of the errors of an answer's questions. Seen on Banking77 (3,079 test questions of 77 answers,
three tuned models): 0 to .10 where 1 to 4 % of those served are wrong, .2 where 10 % are."""
_LARGEST_EFFECT = 100.0
_ONE_EACH = 1 + 1e-9
"""The mean size of an answer, in questions, where each has one; above 1 by rounding alone."""
_STARTS = (1.5, 2.25, 3.375)
_STEP = 1.05

# The first bets assume an error of a quarter of the bound, with the weight of so many questions.
_BELIEF = 50
_BOLDEST = 0.95  # share of the capital ever at stake
_HALVINGS = 20


def threshold_table(
    decided: Sequence[Decided],
    bounds: Sequence[float] = BOUNDS,
    confidence: float = CONFIDENCE,
) -> tuple[Threshold, ...]:
    """For each bound the lowest probability that is shown to keep it.

    `decided` holds one item per domain, its questions judged by weights that were fitted to others.
    The error is the share of wrong ones among those served. Learn-then-Test by fixed-sequence
    testing (arXiv 2110.01052): going down from the likeliest, every step tests "the error here
    exceeds the bound", and the first step that fails ends the sequence. Three sequences start at
    different numbers of questions, each with its share of 1 - `confidence`, so that a few wrong
    labels at the very top do not end everything.

    The questions are the trials, in random order; what happens to one is averaged over its streams.
    The test is by betting (arXiv 2010.09686), exact for any number of questions that are
    independent. The binomial limit of Clopper and Pearson, which needs each question once, found
    fewer thresholds on the same data.

    Questions of one answer tend to be wrong together, so that a few answers with many questions
    show less than as many questions of different ones: the evidence is divided by the
    `design_effect`, which is 1 where every question has an answer of its own. That is an
    approximation; a bet on whole answers is exact, but needs 300 answers for a bound of 5 %, a
    quarter of the questions served.

    With probability `confidence` a threshold keeps its bound on further questions of the same
    mixture of domains. A domain whose error is shown to be *above* the bound forbids a threshold.
    Where nothing passes, the probability is None. `served` and `wrong` count over all streams.
    """
    if not decided:
        raise TrainingError("no streams were given; the table needs those of at least one domain")
    domains = [_Trials.of([one]) for one in decided]
    whole = _Trials.of(decided)
    lowest: float | None = None
    rows = []
    for bound in sorted(bounds):
        found = _lowest(whole, domains, bound, confidence)
        lowest = found if lowest is None or (found is not None and found < lowest) else lowest
        rows.append(_row(bound, whole, lowest, confidence))
    return tuple(rows)


@dataclass(frozen=True)
class _Trials:
    """Decisions from the likeliest down, and to which question each belongs; [decisions].

    `asked` [questions] is how often each was asked, `answer` [questions] which answer it has.
    Questions are numbered in random order, answers from 0.
    """

    probability: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    question: NDArray[np.int64]
    asked: NDArray[np.int64]
    answer: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Decided]) -> "_Trials":
        question = _numbered([part.question for part in parts])
        shuffled = np.random.default_rng(0).permutation(int(question.max()) + 1)[question]
        answer = np.zeros(int(question.max()) + 1, np.int64)
        answer[shuffled] = _numbered([part.answers for part in parts])
        probability = np.concatenate([part.probability for part in parts])
        order = np.argsort(-probability, kind="stable")
        return cls(
            probability[order],
            ~np.concatenate([part.right for part in parts])[order],
            shuffled[order],
            np.bincount(shuffled),
            answer,
        )

    def served(self, probability: float) -> int:
        """How many decisions are at `probability` and above; equal ones are served together."""
        return int(np.searchsorted(-self.probability, -probability, side="right"))

    def excess(self, probability: float, bound: float) -> NDArray[np.float64]:
        """Wrong - bound * served of each served question, averaged over its streams.

        The error is within the bound when the mean is at most 0.
        """
        served = self.served(probability)
        question = self.question[:served]
        value = self.wrong[:served] - bound
        total = np.bincount(question, weights=value, minlength=len(self.asked))
        touched = np.bincount(question, minlength=len(self.asked)) > 0
        mean: NDArray[np.float64] = (total / self.asked)[touched]
        return mean

    def design_effect(self, probability: float, level: float) -> float:
        """By how many times fewer independent questions would show as much as those served.

        The variance of the error between answers over that between questions, at least that of
        an intraclass correlation of LEAST_CORRELATION (where nothing is wrong none can be seen),
        with the correction of Korn and Graubard (1998) for few answers.
        """
        served = self.served(probability)
        question = self.question[:served]
        n = len(self.asked)
        weight = np.bincount(question, minlength=n) / self.asked
        wrong = np.bincount(question, weights=self.wrong[:served], minlength=n) / self.asked
        residual = wrong - weight * wrong.sum() / weight.sum()
        of_answer = [np.bincount(self.answer, weights=value) for value in (weight, residual)]
        answers = int((of_answer[0] > 0).sum())
        if answers < 2:
            return _LARGEST_EFFECT
        size = (of_answer[0] ** 2).sum() / (weight**2).sum()
        if size <= _ONE_EACH:
            return 1.0
        effect = max(1.0, 1 + (size - 1) * LEAST_CORRELATION)
        spread = (residual**2).sum()
        if spread > 0:
            seen = (of_answer[1] ** 2).sum() / spread * answers / (answers - 1)
            effect = max(effect, seen)
        few = stdtrit(answers - 1, level) / ndtri(level)
        return float(min(effect * few**2, _LARGEST_EFFECT))

    def shown_within(self, probability: float, bound: float, level: float) -> bool:
        effect = self.design_effect(probability, level)
        return shown_within(self.excess(probability, bound), bound, level**effect)


def _numbered(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Numbers from 0 for all parts in a row, different ones for equal numbers of two parts."""
    named = np.concatenate(
        [np.column_stack([np.full(len(part), index), part]) for index, part in enumerate(parts)]
    )
    return np.unique(named, axis=0, return_inverse=True)[1].ravel()


def shown_within(trials: NDArray[np.float64], bound: float, level: float) -> bool:
    """Whether the mean of the trials, each `wrong - bound * served`, is below 0.

    `level` is the chance of a wrong yes.
    """
    return _log_capital(-trials, worst=1 - bound, bound=bound) >= -math.log(level)


def shown_above(trials: NDArray[np.float64], bound: float, level: float) -> bool:
    """Whether the mean of such trials is shown to be above 0."""
    return _log_capital(trials, worst=bound, bound=bound) >= -math.log(level)


def _log_capital(gains: NDArray[np.float64], worst: float, bound: float) -> float:
    """Log of the most that a capital of 1 reaches by betting on the gains, one after the other.

    Each gain is -`worst` or more. Where their mean is not above 0, a bettor who looks at past gains
    only reaches c with a chance of at most 1/c (Ville).

    Half is bet boldly, which shows most by few gains that are all alike, half with care for the
    cost of the worst gain: the bold half alone showed 8,000 answers with 1.6 % wrong to be within
    4.5 %, both show 2.3 %.
    """
    if not len(gains):
        return 0.0
    before = np.concatenate([[0.0], np.cumsum(gains)[:-1]])
    squares = np.concatenate([[0.0], np.cumsum(gains**2)[:-1]])
    hope, risk = before + _BELIEF * bound * 0.75, squares + _BELIEF * bound
    care = np.maximum(0, before * (2 * worst - 1))
    bold, careful = (
        np.cumsum(np.log1p(np.clip(hope / against, 0, _BOLDEST / worst) * gains))
        for against in (risk, risk + care)
    )
    return float(max(0.0, (np.logaddexp(bold, careful) - math.log(2)).max()))


def _lowest(
    whole: _Trials, domains: Sequence[_Trials], bound: float, confidence: float
) -> float | None:
    level = (1 - confidence) / len(_STARTS)
    first = math.log(level) / math.log1p(-bound)
    found = [_down(whole, domains, bound, first * start, confidence) for start in _STARTS]
    return min((one for one in found if one is not None), default=None)


def _down(
    whole: _Trials, domains: Sequence[_Trials], bound: float, start: float, confidence: float
) -> float | None:
    """The last threshold that passes, from the one that serves `start` questions down."""
    passed = None
    level = (1 - confidence) / len(_STARTS)
    streams = len(whole.probability) / len(whole.asked)
    count, everything = start, float(len(whole.asked))
    # the steps are set by how many are served, never by what is right: the tests stay valid
    while count <= everything:
        probability = float(whole.probability[int(count * streams) - 1])
        too_wrong = (
            shown_above(domain.excess(probability, bound), bound, 1 - confidence)
            for domain in domains
        )
        if not whole.shown_within(probability, bound, level) or any(too_wrong):
            break
        passed = probability
        if count == everything:
            break
        count = min(max(count * _STEP, count + 1), everything)
    return passed


def _row(bound: float, whole: _Trials, probability: float | None, confidence: float) -> Threshold:
    if probability is None:
        return Threshold(bound, None, 0.0, 0, 0)
    served = whole.served(probability)
    return Threshold(
        max_error_rate=bound,
        probability=probability,
        share_served=served / len(whole.probability),
        served=served,
        wrong=int(whole.wrong[:served].sum()),
        upper=_upper_limit(whole, probability, (1 - confidence) / len(_STARTS)),
    )


def _upper_limit(whole: _Trials, probability: float, level: float) -> float:
    """The lowest error that the decisions at `probability` and above are shown to be within."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if whole.shown_within(probability, middle, level):
            high = middle
        else:
            low = middle
    return high

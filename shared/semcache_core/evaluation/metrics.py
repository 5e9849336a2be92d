"""Metrics of ranking, calibration and served share, from arrays of one value per pair or question.

Labels are from 0 to 1; rankings take those above .5 as positive. NaN: the figure is undefined.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = NDArray[np.int64]

BINS = 15
"""Equal-mass bins of the expected calibration error by default."""
LEVEL = 0.95
"""Share of the bootstrap draws that an interval holds by default."""


class Interval(NamedTuple):
    """Plausible range of a figure on other data of the same kind."""

    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """A measured value and its bootstrap interval; None where it cannot be measured."""

    value: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Reliability:
    """Mean probability, mean label and size of bins, from the lowest probability up; all [bins]."""

    probability: Floats
    observed: Floats
    count: Rows


@dataclass(frozen=True)
class ServedCurve:
    """One point per distinct score, from the highest down; all are [points].

    `served` is the share of the answerable that is rightly served, `error` the wrong share of the
    served.
    """

    threshold: Floats
    served: Floats
    error: Floats

    def at(self, bound: float) -> float:
        """The largest share that any threshold serves rightly with an error within `bound`."""
        return float(self.served[self.error <= bound].max(initial=0.0))


def auc(score: Floats, label: Floats) -> float:
    """ROC AUC: how often a positive scores above a negative, ties counting half."""
    positive = label > 0.5
    return float(roc_auc_score(positive, score)) if _both_classes(positive) else math.nan


def average_precision(score: Floats, label: Floats) -> float:
    """Precision averaged over the recall steps of a falling threshold, without interpolation."""
    positive = label > 0.5
    return float(average_precision_score(positive, score)) if _both_classes(positive) else math.nan


def _both_classes(positive: Bools) -> bool:
    return bool(positive.any() and not positive.all())


def brier(probability: Floats, label: Floats) -> float:
    """Mean squared difference of probability and label; 0 is best."""
    return float(np.mean((probability - label) ** 2)) if len(label) else math.nan


def expected_calibration_error(probability: Floats, label: Floats, bins: int = BINS) -> float:
    """Mean distance of probability and observed share, over equal-mass bins weighted by size.

    Chance adds to it, so it is never 0 on real data and rises with fewer pairs or more bins.
    """
    curve = reliability_curve(probability, label, bins)
    if not len(curve.count):
        return math.nan
    return float(np.average(np.abs(curve.probability - curve.observed), weights=curve.count))


def reliability_curve(probability: Floats, label: Floats, bins: int = BINS) -> Reliability:
    """Mean probability against mean label in at most `bins` bins of about as many pairs each.

    Equal probabilities share a bin; where many are equal there are fewer bins.
    """
    ordered = np.sort(probability)
    cuts = np.arange(1, bins) * len(ordered) // bins
    edges = np.unique(ordered[cuts]) if len(ordered) else ordered
    of = np.searchsorted(edges, probability, side="right")
    count = np.bincount(of, minlength=len(edges) + 1)
    filled = count > 0

    def mean(values: Floats) -> Floats:
        means: Floats = np.bincount(of, values, len(edges) + 1)[filled] / count[filled]
        return means

    return Reliability(mean(probability), mean(label), count[filled])


def hit_ratio_curve(score: Floats, label: Floats) -> tuple[Floats, Floats]:
    """Cache-hit ratio and precision, a point per distinct score from the highest down."""
    ends, hits = _falling(score, label > 0.5)
    return ends / max(len(score), 1), hits / ends


def p_chr_auc(score: Floats, label: Floats) -> float:
    """Area under precision over cache-hit ratio (arXiv 2606.19719), from 0 to 1.

    The precision averaged over all hit ratios. A perfect ranking of a share s of positives reaches
    s(1 - ln s), not 1: compare it on the same pairs only.
    """
    if not len(score):
        return math.nan
    ratio, precision = hit_ratio_curve(score, label)
    return float(np.sum(np.diff(ratio, prepend=0) * precision))


def served_curve(score: Floats, right: Bools, answerable: Bools) -> ServedCurve:
    """What each threshold serves of a stream, one question per item; all are [n].

    `score` is that of the nearest stored question, `right` whether its answer is right,
    `answerable` whether any stored one is. The served share is NaN where nothing is answerable.
    """
    ends, rightly = _falling(score, right)
    total = int(answerable.sum())
    return ServedCurve(
        threshold=np.sort(score)[::-1][ends - 1],
        served=rightly / total if total else np.full(len(ends), math.nan),
        # divided, not subtracted from 1: 1/50 then equals the bound .02 to the last bit
        error=(ends - rightly) / ends,
    )


def served_at_error(score: Floats, right: Bools, answerable: Bools, bound: float) -> float:
    """The largest share of the answerable that can be rightly served at an error within `bound`.

    The error is the wrong share among the served. The threshold is chosen in hindsight, on the
    same outcomes. 0 where no threshold keeps the bound, NaN where nothing is answerable.
    """
    return served_curve(score, right, answerable).at(bound) if answerable.any() else math.nan


def _falling(score: Floats, good: Bools) -> tuple[Rows, Rows]:
    """For each distinct score from the highest down: how many have it or more, and how many
    of those are good.
    """
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)[: len(falling)])
    return last + 1, np.cumsum(good[order], dtype=np.int64)[last]


def bootstrap(
    statistic: Callable[..., float],
    *arrays: NDArray[Any],
    seed: int,
    resamples: int = 200,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of `statistic(*arrays)` over rows drawn with replacement.

    All arrays have the same number of independent rows: pairs, or questions with their outcomes in
    all streams as columns. Draws in which the statistic is NaN are left out; the interval is NaN
    where that leaves fewer than half.
    """
    chooser, n = np.random.default_rng(seed), len(arrays[0])
    values = np.full(resamples, math.nan)
    for index in range(resamples if n else 0):
        rows = chooser.integers(n, size=n)
        values[index] = statistic(*(array[rows] for array in arrays))
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < max(resamples, 1):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def measured(
    statistic: Callable[..., float], *arrays: NDArray[Any], seed: int, resamples: int = 200
) -> Figure:
    """`statistic(*arrays)` with its 95 % `bootstrap` interval; an empty figure where it is NaN."""
    value = statistic(*arrays)
    if math.isnan(value):
        return Figure()
    interval = bootstrap(statistic, *arrays, seed=seed, resamples=resamples, level=LEVEL)
    return Figure(value, None if math.isnan(interval.low) else interval)

"""Figures of streams: what a cache could serve at best, and what its thresholds serve."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from semcache_core.decision.calibration import Calibration
from semcache_core.decision.scoring import Weights
from semcache_core.errors import TrainingError
from semcache_core.evaluation import metrics
from semcache_core.evaluation.metrics import Bools, Figure, Floats, Interval
from semcache_core.training.calibration.streams import decide, domain_from_pairs, run_trials
from semcache_core.training.data.records import Pair
from semcache_core.types import Vector

BOUNDS = {"0.01": 0.01, "0.02": 0.02, "0.05": 0.05, "0.10": 0.10}
MIN_ASKED = 20
"""Fewer different questions make no stream."""

Measure: TypeAlias = Callable[..., Figure]
"""`metrics.measured` with its seed and resamples set: a statistic and its arrays go in."""


@dataclass(frozen=True)
class Streams:
    """Outcomes of the questions asked: [questions, streams], and the domain of each question."""

    domain: NDArray[np.object_]
    probability: Floats
    right: Bools
    answerable: Bools

    def of(self, domain: str) -> "Streams":
        rows = self.domain == domain
        return Streams(*(values[rows] for values in vars(self).values()))


@dataclass(frozen=True)
class Served:
    """What one threshold serves of the `n` different questions asked, over all their streams.

    `share_served` is of all asked, `rightly_served` of the answerable, `error` of the served.
    """

    n: int
    share_served: Figure
    rightly_served: Figure
    error: Figure


@dataclass(frozen=True)
class StreamFigures:
    """By bound: the share rightly served with the best threshold, and what the artefact's serves.

    Empty figures where fewer than MIN_ASKED questions are asked.
    """

    asked: int
    served_at_error: dict[str, Figure]
    at_threshold: dict[str, Served]


@dataclass(frozen=True)
class Forms:
    """The same questions with every one answerable, and with half of the right answers missing."""

    all_answerable: StreamFigures
    half_missing: StreamFigures

    def broken_bounds(self) -> list[str]:
        """The bounds that the artefact's thresholds do not keep where half of the right answers are
        missing: all of the interval of the wrong share lies above the bound.
        """
        errors = {name: self.half_missing.at_threshold[name].error for name in BOUNDS}
        return [
            name
            for name, bound in BOUNDS.items()
            if (interval := errors[name].interval) is not None and interval.low > bound
        ]

    def tree(self, calibration: Calibration) -> dict[str, Any]:
        """Nested by name, with figures as leaves."""
        at_threshold = {
            name: {
                "probability": calibration.threshold(bound),
                "all_answerable": vars(self.all_answerable.at_threshold[name]),
                "half_missing": vars(self.half_missing.at_threshold[name]),
            }
            for name, bound in BOUNDS.items()
        }
        return {
            "asked": min(self.all_answerable.asked, self.half_missing.asked),
            "served_at_error": self.all_answerable.served_at_error,
            "served_at_error_half_missing": self.half_missing.served_at_error,
            "at_max_error_rate": at_threshold,
        }


def streams_of(
    pairs: Sequence[Pair],
    vectors: dict[str, Vector],
    weights: Weights,
    *,
    missing: float,
    seeds: Sequence[int],
) -> Streams:
    """One stream per seed in every domain; one too small to have a store asks nothing.

    `vectors` holds the unit vector of every text. See `run_trials` for `missing`.
    """
    none = np.zeros((0, len(seeds)))
    parts = [Streams(np.zeros(0, np.object_), none, none.astype(bool), none.astype(bool))]
    for name in sorted({pair.domain for pair in pairs if pair.positive}):
        domain = domain_from_pairs(name, [pair for pair in pairs if pair.domain == name])
        own = np.stack([vectors[text] for text in domain.texts])
        try:
            trials = run_trials(domain, own, missing=missing, seeds=seeds)
        except TrainingError:  # its store would be empty
            continue
        outcomes = decide(name, trials, weights)
        # pooled seed by seed, each asking the same questions in the same order
        by_question = [
            values.reshape(len(seeds), -1).T
            for values in (outcomes.probability, outcomes.right, outcomes.answerable)
        ]
        parts.append(Streams(np.full(len(by_question[0]), name, np.object_), *by_question))
    return Streams(
        *(np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0]))
    )


def stream_figures(streams: Streams, calibration: Calibration, measure: Measure) -> StreamFigures:
    """Every figure with an interval over the questions, which are drawn with all their streams."""
    asked = len(streams.domain)
    if asked < MIN_ASKED:
        empty = Served(asked, Figure(), Figure(), Figure())
        return StreamFigures(asked, dict.fromkeys(BOUNDS, Figure()), dict.fromkeys(BOUNDS, empty))
    outcomes = (streams.probability, streams.right, streams.answerable)
    return StreamFigures(
        asked,
        {
            name: measure(partial(_mean_served_at_error, bound=bound), *outcomes)
            for name, bound in BOUNDS.items()
        },
        {
            name: _served(streams, calibration.threshold(bound), measure)
            for name, bound in BOUNDS.items()
        },
    )


def probabilities(calibration: Calibration, similarity: Floats) -> Floats:
    """By the function that the cache asks, so that a threshold decides here as it does there."""
    flat = [calibration.probability(float(value)) for value in similarity.ravel()]
    return np.array(flat, np.float64).reshape(similarity.shape)


def _mean_served_at_error(
    probability: Floats, right: Bools, answerable: Bools, bound: float
) -> float:
    shares = [
        metrics.served_at_error(*stream, bound)
        for stream in zip(probability.T, right.T, answerable.T, strict=True)
    ]
    return float(np.mean(shares))


def _served(streams: Streams, threshold: float | None, measure: Measure) -> Served:
    """`threshold` None serves nothing, as the cache does where no threshold keeps the bound."""
    served = streams.probability >= (math.inf if threshold is None else threshold)
    error = measure(_wrong_share, served, streams.right)
    if error.value == 0:
        # no draw finds what did not happen once: the exact binomial interval
        different = int(served.any(axis=1).sum())
        error = Figure(0.0, Interval(0.0, 1 - ((1 - metrics.LEVEL) / 2) ** (1 / different)))
    return Served(
        len(served),
        measure(_share, served, np.ones_like(served)),
        measure(_share, served & streams.right, streams.answerable),
        error,
    )


def _share(some: Bools, of: Bools) -> float:
    return float(some.sum() / of.sum()) if of.any() else math.nan


def _wrong_share(served: Bools, right: Bools) -> float:
    return _share(served & ~right, served)

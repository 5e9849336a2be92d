"""A rival to compare with: every stored question learns by itself from which similarity it holds.

In the manner of vCache (Schroeder et al., arXiv 2502.03771), written from the published rule.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from semcache_core.decision.scoring import Neighbour
from semcache_core.errors import TrainingError

FEWEST = 4
"""Observations before a stored question is served at all: with the two anchors, six."""

# the curves compared: sigmoid(steepness * (similarity - threshold)), every pair of the two
_THRESHOLDS = np.linspace(0, 1.2, 121)
_STEEPNESS = np.geomspace(2, 100, 20)
# chances that the band misses the true threshold, and the drop in deviance that goes with each
_MISSED = np.array([1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4])
_ALLOWED = np.array([NormalDist().inv_cdf(1 - missed) ** 2 for missed in _MISSED])

_Floats = NDArray[np.float64]


class Evidence:
    """What was seen of one stored question, as the likelihood it gives to every curve."""

    def __init__(self) -> None:
        self.observations = 0
        # the anchors: a similarity of 0 means another answer, one of 1 the same
        self._log_likelihood = _log_likelihood(0.0, False) + _log_likelihood(1.0, True)

    def add(self, similarity: float, same_answer: bool) -> None:
        self.observations += 1
        self._log_likelihood += _log_likelihood(similarity, same_answer)

    def surely_right(self, similarity: float) -> float:
        """A lower bound on P(same answer | similarity), in [0, 1).

        The true threshold lies within the band, which ends at t', but for a chance of `missed`. So
        (1 - missed) times the curve at t' is a bound; the highest over all `missed` is taken.
        """
        likeliest = self._log_likelihood.argmax(axis=1)
        profile = self._log_likelihood[np.arange(len(_THRESHOLDS)), likeliest]
        within = 2 * (profile.max() - profile) <= _ALLOWED[:, None]
        end = len(_THRESHOLDS) - 1 - within[:, ::-1].argmax(axis=1)
        margin = _STEEPNESS[likeliest[end]] * (similarity - _THRESHOLDS[end])
        return float(((1 - _MISSED) / (1 + np.exp(-margin))).max())


@dataclass(frozen=True)
class PerPrompt:
    """Serves the nearest stored question as often as what it has learnt of it allows.

    A stored question keeps its observations: how similar a question was, and whether the model
    gave it the same answer. A logistic curve with a threshold t, fitted to them with a confidence
    band on t, bounds P(same answer | similarity) from below by `right`. The answer is served with
    probability min(1, `max_error_rate` / (1 - `right`)). So at most `max_error_rate` of all
    requests (not of those served) are answered wrongly, as far as the curves are logistic.

    Simpler than published: curves come from a grid, and the band from the profile likelihood, which
    needs no variance of t; the steepness is the likeliest at the end of the band.
    """

    name: str
    max_error_rate: float
    seed: int = 0
    _evidence: dict[str, Evidence] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not 0 < self.max_error_rate < 1:
            raise TrainingError(
                f"max_error_rate is {self.max_error_rate}; give a share between 0 and 1, as 0.02"
            )

    @property
    def setting(self) -> str:
        return (
            f"learns a threshold for each stored question; at most {100 * self.max_error_rate:g} % "
            "of all requests wrong"
        )

    @cached_property
    def _chance(self) -> random.Random:
        return random.Random(self.seed)

    def fresh(self) -> "PerPrompt":
        return replace(self)

    def pick(self, asked: str, nearest: Iterable[Neighbour]) -> Neighbour | None:
        best = next(iter(nearest), None)
        if best is None or self._chance.random() >= self.serving_chance(best):
            return None
        return best

    def serving_chance(self, candidate: Neighbour) -> float:
        """The probability, 0 to 1, with which this candidate would be served now."""
        evidence = self._evidence.get(candidate.question)
        if evidence is None or evidence.observations < FEWEST:
            return 0.0
        return min(1.0, self.max_error_rate / (1 - evidence.surely_right(candidate.similarity)))

    def observe(self, asked: str, candidate: Neighbour, same_answer: bool) -> None:
        evidence = self._evidence.setdefault(candidate.question, Evidence())
        evidence.add(candidate.similarity, same_answer)

    def stored(self, question: str) -> None:
        # one that was evicted and comes again may have another answer
        self._evidence.pop(question, None)


def _log_likelihood(similarity: float, same_answer: bool) -> _Floats:
    """Of one observation under every curve: [thresholds, steepness]."""
    margin = _STEEPNESS * (similarity - _THRESHOLDS[:, None])
    likelihood: _Floats = -np.logaddexp(0, -margin if same_answer else margin)
    return likelihood

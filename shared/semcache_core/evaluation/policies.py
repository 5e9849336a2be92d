"""Policies of a simulation: when to serve a stored answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.decision.scoring import CandidateScores, Neighbour, ScoredCandidate
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.errors import TrainingError
from semcache_core.search.retriever import CANDIDATES
from semcache_core.types import Embedder

THRESHOLDS = tuple(round(0.4 + 0.005 * step, 3) for step in range(121))
"""Cosines tried in hindsight: .400, .405, ... 1."""


class Policy(Protocol):
    """Decides by meaning, after exact repeats. `setting` says in one line at what it serves."""

    @property
    def name(self) -> str: ...

    @property
    def setting(self) -> str: ...

    def pick(self, asked: str, nearest: Iterable[Neighbour]) -> Neighbour | None:
        """The candidate to serve, or None to call the model. `nearest` is best first."""
        ...


@runtime_checkable
class LearningPolicy(Policy, Protocol):
    """A policy that learns from misses, whose answer is compared with the nearest stored one.

    Where the two are the same, nothing new is stored.
    """

    def fresh(self) -> "LearningPolicy":
        """This policy with nothing learnt; each stream begins with one."""
        ...

    def observe(self, asked: str, candidate: Neighbour, same_answer: bool) -> None:
        """After a miss: whether the model gave `asked` the answer of the nearest stored one."""
        ...

    def stored(self, question: str) -> None:
        """`question` was just stored, for the first time or anew after it was evicted."""
        ...


class Arm(NamedTuple):
    """A policy and the embedder whose similarities it sees; None where it looks at none."""

    policy: "Policy | InHindsight"
    embedder: Embedder | None


@dataclass(frozen=True)
class ExactOnly:
    """Serves exact repeats and nothing else."""

    name: str = "exact only"
    setting: str = "exact repeats only"

    def pick(self, asked: str, nearest: Iterable[Neighbour]) -> Neighbour | None:
        return None


@dataclass(frozen=True)
class FixedThreshold:
    """Serves the nearest stored question from a cosine of `threshold` on."""

    name: str
    threshold: float

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise TrainingError(f"threshold is {self.threshold}; give a cosine from -1 to 1")

    @property
    def setting(self) -> str:
        return f"similarity at least {self.threshold:g}"

    def pick(self, asked: str, nearest: Iterable[Neighbour]) -> Neighbour | None:
        best = next(iter(nearest), None)
        return best if best is not None and best.similarity >= self.threshold else None


@dataclass(frozen=True)
class InHindsight:
    """The fixed threshold that turns out best on the very stream it is judged on: an oracle.

    Every one of `thresholds` is tried on the whole stream, and so is serving exact repeats only.
    Of those with at most `max_wrong_share` wrong among the answers served by meaning, the one with
    the most requests rightly served is kept, the strictest of several.
    """

    name: str
    max_wrong_share: float
    thresholds: tuple[float, ...] = THRESHOLDS

    def __post_init__(self) -> None:
        if not 0 <= self.max_wrong_share <= 1:
            raise TrainingError(
                f"max_wrong_share is {self.max_wrong_share}; give a share from 0 to 1"
            )
        if not self.thresholds:
            raise TrainingError("no thresholds to try were given; leave them out for the usual")

    def tries(self) -> list[Policy]:
        """Strictest first."""
        thresholds = sorted(set(self.thresholds), reverse=True)
        return [ExactOnly(self.name), *(FixedThreshold(self.name, one) for one in thresholds)]

    def setting_of(self, chosen: Policy) -> str:
        return (
            f"{chosen.setting}; an oracle: chosen in hindsight for at most "
            f"{_percent(self.max_wrong_share)} wrong by meaning on this stream"
        )


@dataclass(frozen=True)
class MaxErrorRate:
    """Serves as the cache does with an artefact: at the calibrated threshold for a bound.

    Questions that the embedder does not read whole are only matched exactly. Raises TrainingError
    for a bound outside (0, 1) and for another embedder's calibration.
    """

    name: str
    calibration: Calibration
    embedder: Embedder
    max_error_rate: float

    def __post_init__(self) -> None:
        if not 0 < self.max_error_rate < 1:
            raise TrainingError(
                f"max_error_rate is {self.max_error_rate}; give a share between 0 and 1, as 0.02"
            )
        if self.calibration.fingerprint != self.embedder.fingerprint:
            raise TrainingError(
                f"the calibration of {self.name!r} is of the embedder "
                f"{self.calibration.fingerprint[:12]}, not of {self.embedder.fingerprint[:12]}; "
                "calibrate this embedder"
            )

    @cached_property
    def threshold(self) -> float | None:
        """The probability served at; None where none keeps the bound: exact repeats only."""
        return self.calibration.threshold(self.max_error_rate)

    @property
    def setting(self) -> str:
        bound = f"calibrated for at most {_percent(self.max_error_rate)} wrong"
        if self.threshold is None:
            return f"exact repeats only; {bound}, which no threshold reached"
        return f"probability at least {self.threshold:.3g}; {bound}"

    def pick(self, asked: str, nearest: Iterable[Neighbour]) -> Neighbour | None:
        best = self.best(asked, nearest)
        return None if best is None else best.neighbour

    def best(self, asked: str, nearest: Iterable[Neighbour]) -> ScoredCandidate | None:
        """What `pick` picks, with its scores."""
        if self.threshold is None:
            return None
        neighbours = list(nearest)
        complete = len(neighbours) < CANDIDATES
        scores = CandidateScores(asked, neighbours, self.calibration.judged_by, complete)
        best = scores.best(self.threshold)
        if best is None or not self._reads(asked, best.neighbour.question):
            return None
        return best

    def _reads(self, *questions: str) -> bool:
        limit = self.calibration.max_tokens
        return all(self.embedder.reads(question, limit) for question in questions)


def artefact_arm(directory: str | Path, max_error_rate: float, name: str) -> Arm:
    """An artefact as the cache serves with it; ArtefactError when it is not whole."""
    embedder = OnnxEmbedder.load(Path(directory))
    calibration = load_calibration(Path(directory))
    return Arm(MaxErrorRate(name, calibration, embedder, max_error_rate), embedder)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"

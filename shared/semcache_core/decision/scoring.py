"""Scores candidates: P(the stored answer is right) from similarity, margin, guard and doubt."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from semcache_core._utils.courtesy import core_of
from semcache_core.decision.guard import RULES, Difference, Reading, differences, read
from semcache_core.embedding.spelling import corrected

VETO = -20.0
"""A weight that nothing outweighs; every rule has it where none was fitted."""


class Neighbour(NamedTuple):
    """A stored question near the one asked; lists of them are nearest first.

    Equal `answer`s are the same answer. `doubt` is subtracted from the log-odds, by what is known
    of this entry. One that is not `servable` still counts as a rival with another answer.
    """

    entry_id: int
    question: str
    answer: int
    similarity: float
    doubt: float = 0.0
    servable: bool = True


@dataclass(frozen=True)
class Weights:
    """Log-odds that the stored answer is right:

    intercept + similarity * s + sum of slope * min(margin, knot) + sum of the rules that fired

    where s is the cosine and the margin is how far it lies above that of the nearest stored
    question with *another* answer. The slopes of `margins` (knot, slope) are at least 0, the
    weights of `rules` at most 0: more similarity never counts against a hit. With no margins this
    is p = sigmoid(s / lambda - c) of arXiv 2402.01173 with rules beside it.
    """

    intercept: float
    similarity: float
    margins: tuple[tuple[float, float], ...]
    rules: Mapping[str, float]

    @classmethod
    def of_similarity(cls, lam: float, c: float) -> "Weights":
        """The paper's equation alone; each difference that the guard finds is then a veto."""
        return cls(-c, 1 / lam, (), dict.fromkeys(RULES, VETO))

    @property
    def widest(self) -> float:
        """A margin above this changes nothing."""
        return max((knot for knot, _ in self.margins), default=0.0)

    def log_odds(self, similarity: float, margin: float, found: Sequence[Difference] = ()) -> float:
        by_margin = sum(slope * min(margin, knot) for knot, slope in self.margins)
        return self.intercept + self.similarity * similarity + by_margin + self.against(found)

    def similarity_at(self, probability: float) -> float:
        """The cosine from which on a candidate without a rival has this probability or more."""
        by_margin = sum(slope * knot for knot, slope in self.margins)
        log_odds = math.log(probability / (1 - probability))
        return (log_odds - self.intercept - by_margin) / self.similarity

    def against(self, found: Sequence[Difference]) -> float:
        """The sum of the weights of the differences found, at most 0."""
        return sum(self.rules.get(difference.rule, 0.0) for difference in found)


@dataclass(frozen=True)
class ScoredCandidate:
    """A neighbour with its scores; `probability` is P(its answer is right)."""

    neighbour: Neighbour
    margin: float
    differences: tuple[Difference, ...]
    probability: float


class CandidateScores:
    """The neighbours of one question, each scored on demand: the guard costs more than the rest.

    `complete` says that nothing else is stored; else further entries are taken to be as near as
    the last neighbour.
    """

    def __init__(
        self, asked: str, neighbours: Sequence[Neighbour], weights: Weights, complete: bool
    ) -> None:
        self._asked = asked
        self._neighbours = neighbours
        self._weights = weights
        self._complete = complete
        self._found: dict[int, tuple[Difference, ...]] = {}

    def __iter__(self) -> Iterator[ScoredCandidate]:
        return (self._judged(index) for index in range(len(self._neighbours)))

    def best(self, threshold: float) -> ScoredCandidate | None:
        """The most probable servable one, if its probability is `threshold` or more.

        Not the first that is likely enough: thresholds are certified for the likeliest.
        """
        best: ScoredCandidate | None = None
        widest = self._weights.widest
        for index, neighbour in enumerate(self._neighbours):
            most = sigmoid(self._weights.log_odds(neighbour.similarity, widest))
            if most < threshold or (best is not None and most <= best.probability):
                break  # nor can any further one be likelier
            if neighbour.servable:
                judged = self._judged(index)
                if judged.probability >= (threshold if best is None else best.probability):
                    best = judged
        return best

    def _judged(self, index: int) -> ScoredCandidate:
        neighbour = self._neighbours[index]
        found, margin = self._differences(index), self._margin(index)
        log_odds = self._weights.log_odds(neighbour.similarity, margin, found) - neighbour.doubt
        return ScoredCandidate(neighbour, margin, found, sigmoid(log_odds))

    def _margin(self, index: int) -> float:
        """How far its similarity is above that of the nearest rival, at most the widest knot.

        A rival is a neighbour with another answer. The weights of the guard's differences are
        subtracted from a rival's similarity. Without a rival among the neighbours, one is assumed
        to be as near as the last neighbour.
        """
        own = self._neighbours[index]
        margin = self._weights.widest
        if not self._complete and self._neighbours:
            margin = min(margin, own.similarity - self._neighbours[-1].similarity)
        for other, neighbour in enumerate(self._neighbours):
            if own.similarity - neighbour.similarity >= margin:
                break  # rules only take off: no further one comes nearer
            if neighbour.answer != own.answer:
                margin = min(margin, own.similarity - self._as_rival(other))
        return margin

    def _as_rival(self, index: int) -> float:
        against = self._weights.against(self._differences(index))
        return self._neighbours[index].similarity + against / self._weights.similarity

    def _differences(self, index: int) -> tuple[Difference, ...]:
        if index not in self._found:
            neighbour = self._neighbours[index]
            stored = _stored_reading(neighbour.entry_id, neighbour.question)
            self._found[index] = differences(self._reading, stored)
        return self._found[index]

    @cached_property
    def _reading(self) -> Reading:
        return _read_core(self._asked)


@lru_cache(maxsize=4096)  # what is near one question is near the next one too
def _stored_reading(_entry_id: int, question: str) -> Reading:
    """Keyed by the entry as well as the text: else a question that another tenant has stored too
    would be scored faster, and so reveal that it is stored.
    """
    return _read_core(question)


def _read_core(question: str) -> Reading:
    """Read the core of a question, with a comma for the greeting that was left out before it: the
    first word behind it can be a name, and the guard takes that of a text for none.

    Slips are corrected as for the embedding: else "enalbe" would be no opposite of "disable".
    """
    core = core_of(question).text
    return read(corrected(question if core == question else f", {core}"))


def sigmoid(log_odds: float) -> float:
    # exp of a large positive number overflows; both forms are the same function
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    return math.exp(log_odds) / (1 + math.exp(log_odds))

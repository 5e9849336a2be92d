"""Streams as the cache judges them: every question with what is stored near it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semcache_core.evidence import Judged, Judgement, Neighbour, Weights
from semcache_core.retrieval import CANDIDATES
from semcache_core.training.streams import SEEDS, Domain, stored_in
from semcache_core.types import Matrix

_BLOCK = 512
_UNLIKELY = 0.5


@dataclass(frozen=True)
class Met:
    """A question asked of a store: its nearest neighbours, and which answer would be right.

    `question` is its place in the domain's texts, `complete` says that nothing else was stored.
    """

    question: int
    asked: str
    answer: int
    neighbours: tuple[Neighbour, ...]
    answerable: bool
    complete: bool

    def nearest(self, weights: Weights) -> Judged:
        return next(iter(self._judgement(weights)))

    def likeliest(self, weights: Weights) -> Judged:
        """The one that the cache would serve at any threshold that its probability reaches, where
        that is one half or more; else the nearest.
        """
        # Below, no threshold will ever be; and to look among the unlikely takes all of the time.
        best = self._judgement(weights).best(_UNLIKELY)
        return self.nearest(weights) if best is None else best

    def _judgement(self, weights: Weights) -> Judgement:
        return Judgement(self.asked, self.neighbours, weights, self.complete)


@dataclass(frozen=True)
class Decided:
    """What the cache would do with every question; all are [n], as those of `Outcomes`.

    `probability` is that of the likeliest stored answer, `right` whether that is the right one.
    """

    domain: str
    probability: NDArray[np.float64]
    right: NDArray[np.bool_]
    answerable: NDArray[np.bool_]
    question: NDArray[np.int64]


def meet(domain: Domain, vectors: Matrix, *, missing: float, seeds: Iterable[int]) -> list[Met]:
    """Every question of every stream, seed by seed; see `run_streams` for the arguments."""
    asked = np.flatnonzero(domain.asked)
    return [
        met
        for seed in seeds
        for met in _ask(domain, vectors, asked, stored_in(domain, missing, seed))
    ]


def meet_once(
    domain: Domain, vectors: Matrix, *, missing: float, seeds: Sequence[int] = SEEDS
) -> list[Met]:
    """Every question once, in one of the streams: so the n questions are n independent trials.

    Asked in all of them, the same few questions would look like much evidence.
    """
    asked = np.flatnonzero(domain.asked)
    stream = np.random.default_rng(len(asked)).integers(0, len(seeds), len(asked))
    return [
        met
        for index, seed in enumerate(seeds)
        for met in _ask(domain, vectors, asked[stream == index], stored_in(domain, missing, seed))
    ]


def decide(domain: str, met: Sequence[Met], weights: Weights) -> Decided:
    """Judge all of them."""
    judged = [one.likeliest(weights) for one in met]
    return Decided(
        domain=domain,
        probability=np.array([one.probability for one in judged], np.float64),
        right=np.array(
            [j.neighbour.answer == one.answer for j, one in zip(judged, met, strict=True)], np.bool_
        ),
        answerable=np.array([one.answerable for one in met], np.bool_),
        question=np.array([one.question for one in met], np.int64),
    )


def pooled(parts: Sequence[Decided]) -> Decided:
    """All of them as one; a question keeps its number, which then is one within its domain."""
    return Decided(
        domain=" and ".join(dict.fromkeys(part.domain for part in parts)),
        probability=np.concatenate([part.probability for part in parts]),
        right=np.concatenate([part.right for part in parts]),
        answerable=np.concatenate([part.answerable for part in parts]),
        question=np.concatenate([part.question for part in parts]),
    )


def _ask(
    domain: Domain, vectors: Matrix, asked: NDArray[np.int64], stored: NDArray[np.int64]
) -> Iterator[Met]:
    k = min(CANDIDATES, len(stored))
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        similarity = vectors[block] @ vectors[stored].T
        right = domain.answers[stored][None, :] == domain.answers[block][:, None]
        # the very same text is an exact repeat, which is served without being judged
        same = block[:, None] == stored[None, :]
        similarity[same] = -np.inf
        top = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        for row, question in enumerate(block):
            near = top[row][np.argsort(-similarity[row, top[row]], kind="stable")]
            yield Met(
                question=int(question),
                asked=domain.texts[question],
                answer=int(domain.answers[question]),
                neighbours=tuple(
                    _neighbour(domain, int(stored[at]), float(similarity[row, at]))
                    for at in near
                    if np.isfinite(similarity[row, at])
                ),
                answerable=bool((right[row] & ~same[row]).any()),
                complete=k == len(stored),
            )


def _neighbour(domain: Domain, text: int, similarity: float) -> Neighbour:
    return Neighbour(text, domain.texts[text], int(domain.answers[text]), similarity)

"""Simulated streams of questions over a store of answered ones.

`run_trials` asks the questions of a `Domain` and finds the nearest stored ones; `decide` scores
these as the cache does.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semcache_core.decision.scoring import CandidateScores, Neighbour, ScoredCandidate, Weights
from semcache_core.embedding.batching import embed_texts
from semcache_core.errors import TrainingError
from semcache_core.search.retriever import CANDIDATES
from semcache_core.training.data.augmentation import synthetic_pairs
from semcache_core.training.data.records import MinedPair, Pair, texts_of
from semcache_core.training.data.splits import answers_by_text
from semcache_core.types import Embedder, Matrix, Vector

SEEDS = tuple(range(16))
# questions compared with the store at once: bounds the memory for stores of many thousands
_AT_ONCE = 512
_UNLIKELY = 0.5


@dataclass(frozen=True)
class Domain:
    """Questions of one field: which have the same answer, which are asked, which may be stored.

    `texts` are distinct; all arrays are [texts]. With `store_size` a stream stores a random choice
    of so many, else all that `storable` marks. Where `rival` marks one, it is stored as a
    look-alike only: it is not there for questions of its own answer.
    """

    name: str
    texts: tuple[str, ...]
    answers: NDArray[np.int64]
    asked: NDArray[np.bool_]
    storable: NDArray[np.bool_]
    store_size: int | None = None
    rival: NDArray[np.bool_] | None = None

    @property
    def rivals(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.texts), np.bool_) if self.rival is None else self.rival


def domain_from_pairs(name: str, pairs: Sequence[Pair], trained_on: Sequence[Pair] = ()) -> Domain:
    """Prompts asked of a store of all `other` questions.

    Questions of the same known answer, and those joined by positive pairs, directly or through
    others, have the same answer; any two others count as having different ones, so the error can
    only come out too high.

    Where all answers are known, the questions of `trained_on` are stored too, as look-alikes only.
    A part of a log holds fewer look-alikes than the cache will, and the error comes out too low:
    .5 to 5 % where it was 4 to 10 % (a tenth of 5,000 questions of Banking77). As right answers
    they would be too easily found, since the model has seen them: 1 to 6 %.
    """
    known = all(key for pair in (*pairs, *trained_on) for key in pair.answers)
    more = trained_on if known else ()
    answer_of = answers_by_text([*pairs, *more])
    asked = {pair.prompt for pair in pairs if pair.positive}
    own = set(texts_of(pairs))
    storable = {pair.other for pair in pairs} | (answer_of.keys() - own)
    return Domain(
        name,
        tuple(answer_of),
        np.array(list(answer_of.values()), np.int64),
        np.array([text in asked for text in answer_of], np.bool_),
        np.array([text in storable for text in answer_of], np.bool_),
        rival=np.array([text not in own for text in answer_of], np.bool_),
    )


def domain_from_labels(
    name: str, texts: Sequence[str], labels: Sequence[str], store_size: int
) -> Domain:
    """Questions with an intent each: the same intent has the same answer.

    All are asked, `store_size` random ones are stored; a question never meets itself. A text that
    occurs twice keeps its first label.
    """
    label_of: dict[str, str] = {}
    for text, label in zip(texts, labels, strict=True):
        label_of.setdefault(text, label)
    if not 0 < store_size < len(label_of):
        raise TrainingError(
            f"store_size is {store_size}, but {name!r} has {len(label_of)} different questions; "
            "store at least one and fewer than there are"
        )
    _, answers = np.unique(list(label_of.values()), return_inverse=True)
    everything = np.ones(len(label_of), np.bool_)
    return Domain(
        name, tuple(label_of), answers.astype(np.int64), everything, everything, store_size
    )


def domain_from_edits(name: str, texts: Sequence[str], seed: int = 0) -> Domain:
    """Edits and rewrites of `texts` (see `synthetic_pairs`), asked of a store of the texts."""
    stored = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    answer_of = dict(stored)
    for pair in synthetic_pairs(list(stored), seed=seed):
        # an edit that happens to be another stored question is no new one
        new = stored[pair.prompt] if pair.positive else len(answer_of) + len(stored)
        answer_of.setdefault(pair.other, new)
    is_stored = np.array([text in stored for text in answer_of], np.bool_)
    answers = np.array(list(answer_of.values()), np.int64)
    return Domain(name, tuple(answer_of), answers, ~is_stored, is_stored)


def split_asked(domain: Domain, share: float, seed: int = 0) -> tuple[Domain, Domain]:
    """The domain with `share` of its answers asked for, and with the others; all are stored."""
    wanted = np.unique(domain.answers[domain.asked])
    some = np.random.default_rng(seed).permutation(wanted)[: math.ceil(share * len(wanted))]
    first = np.isin(domain.answers, some)
    return (
        replace(domain, asked=domain.asked & first),
        replace(domain, asked=domain.asked & ~first),
    )


class Remembering:
    """An embedder that keeps every vector, for figures that embed the same texts many times."""

    def __init__(self, embedder: Embedder) -> None:
        self.fingerprint, self.dimension = embedder.fingerprint, embedder.dimension
        self._embedder = embedder
        self._vectors: dict[str, Vector] = {}

    def embed(self, texts: list[str]) -> Matrix:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._embedder.embed(new), strict=True))
        return np.stack([self._vectors[text] for text in texts])

    def reads(self, text: str, max_tokens: int) -> bool:
        return self._embedder.reads(text, max_tokens)


def similarities_of(embedder: Embedder, pairs: Sequence[Pair | MinedPair]) -> NDArray[np.float64]:
    """Cosine of each pair, float64 [pairs]; every text is embedded once."""
    texts = texts_of(pairs)
    row = {text: index for index, text in enumerate(texts)}
    vectors = embed_texts(embedder, texts).astype(np.float64)
    left = vectors[[row[pair.prompt] for pair in pairs]]
    right = vectors[[row[pair.other] for pair in pairs]]
    similarities: NDArray[np.float64] = (left * right).sum(axis=1)
    return similarities


@dataclass(frozen=True)
class Trial:
    """A question asked of a store: its nearest neighbours, and which answer would be right.

    `question` is its index in the domain's texts. `complete`: the store holds no other questions.
    """

    question: int
    asked: str
    answer: int
    neighbours: tuple[Neighbour, ...]
    answerable: bool
    complete: bool

    def nearest(self, weights: Weights) -> ScoredCandidate:
        """The most similar stored question."""
        return next(iter(self._scores(weights)))

    def likeliest(self, weights: Weights) -> ScoredCandidate:
        """The stored question with the highest probability if that is .5 or more, else the nearest.

        The cache serves this one at any threshold that its probability reaches.
        """
        # No threshold is below .5, and scoring all unlikely neighbours would take most of the time.
        best = self._scores(weights).best(_UNLIKELY)
        return self.nearest(weights) if best is None else best

    def _scores(self, weights: Weights) -> CandidateScores:
        return CandidateScores(self.asked, self.neighbours, weights, self.complete)


@dataclass(frozen=True)
class Decided:
    """What the cache would do with each question asked in one or several streams; all are [n].

    `probability` is that of the likeliest stored answer, `right` whether that is the right one,
    `answerable` whether any stored one is. `answer` is the number of the right answer within the
    domain; without it every question counts as having its own.
    """

    domain: str
    probability: NDArray[np.float64]
    right: NDArray[np.bool_]
    answerable: NDArray[np.bool_]
    question: NDArray[np.int64]
    answer: NDArray[np.int64] | None = None

    @property
    def answers(self) -> NDArray[np.int64]:
        """[n]"""
        return self.question if self.answer is None else self.answer


def run_trials(
    domain: Domain, vectors: Matrix, *, missing: float, seeds: Iterable[int]
) -> list[Trial]:
    """Every question of every stream, one stream per seed.

    `vectors` are the unit rows [texts, dimension] of the domain. `missing` is the share (0 to below
    1) of the answers asked for that are taken out of the store: a cache mostly meets questions it
    cannot answer.
    """
    asked = np.flatnonzero(domain.asked)
    return [
        trial
        for seed in seeds
        for trial in _trials_of(domain, vectors, asked, _stored_in(domain, missing, seed))
    ]


def run_trials_once(
    domain: Domain, vectors: Matrix, *, missing: float, seeds: Sequence[int] = SEEDS
) -> list[Trial]:
    """Every question once, in one of the streams, so that the trials are independent."""
    asked = np.flatnonzero(domain.asked)
    stream = np.random.default_rng(len(asked)).integers(0, len(seeds), len(asked))
    return [
        trial
        for index, seed in enumerate(seeds)
        for trial in _trials_of(
            domain, vectors, asked[stream == index], _stored_in(domain, missing, seed)
        )
    ]


def decide(domain: str, trials: Sequence[Trial], weights: Weights) -> Decided:
    """Score the neighbours of every trial and take the likeliest."""
    likeliest = [trial.likeliest(weights) for trial in trials]
    right = [
        one.neighbour.answer == trial.answer for one, trial in zip(likeliest, trials, strict=True)
    ]
    return Decided(
        domain=domain,
        probability=np.array([one.probability for one in likeliest], np.float64),
        right=np.array(right, np.bool_),
        answerable=np.array([trial.answerable for trial in trials], np.bool_),
        question=np.array([trial.question for trial in trials], np.int64),
        answer=np.array([trial.answer for trial in trials], np.int64),
    )


def pooled(parts: Sequence[Decided]) -> Decided:
    """All of them as one; a question and an answer keep their numbers within their domain."""
    arrays = ("probability", "right", "answerable", "question", "answers")
    return Decided(
        " and ".join(dict.fromkeys(part.domain for part in parts)),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in arrays),
    )


def _stored_in(domain: Domain, missing: float, seed: int) -> NDArray[np.int64]:
    """Which texts a stream stores, as indices."""
    chooser = np.random.default_rng(seed)
    storable = domain.storable.copy()
    if missing:
        wanted = np.unique(domain.answers[domain.asked])
        gone = chooser.permutation(wanted)[: math.ceil(missing * len(wanted))]
        storable &= ~np.isin(domain.answers, gone)
    stored = np.flatnonzero(storable)
    if domain.store_size is not None:
        stored = chooser.permutation(stored)[: domain.store_size]
    if len(stored) < 2:
        raise TrainingError(
            f"a stream of {domain.name!r} would store {len(stored)} questions; give more pairs "
            "(those with same_answer 0 too: their questions are the look-alikes in the store)"
        )
    return stored


def _trials_of(
    domain: Domain, vectors: Matrix, asked: NDArray[np.int64], stored: NDArray[np.int64]
) -> Iterator[Trial]:
    k = min(CANDIDATES, len(stored))
    for start in range(0, len(asked), _AT_ONCE):
        block = asked[start : start + _AT_ONCE]
        similarity = vectors[block] @ vectors[stored].T
        right = domain.answers[stored][None, :] == domain.answers[block][:, None]
        # the very same text is an exact repeat, which is served without being judged
        hidden = (block[:, None] == stored[None, :]) | (right & domain.rivals[stored][None, :])
        similarity[hidden] = -np.inf
        top = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        for row, question in enumerate(block):
            near = top[row][np.argsort(-similarity[row, top[row]], kind="stable")]
            yield Trial(
                question=int(question),
                asked=domain.texts[question],
                answer=int(domain.answers[question]),
                neighbours=tuple(
                    Neighbour(int(text), domain.texts[text], int(domain.answers[text]), score)
                    for text, score in zip(
                        stored[near], similarity[row, near].tolist(), strict=True
                    )
                    if math.isfinite(score)
                ),
                answerable=bool((right[row] & ~hidden[row]).any()),
                complete=k == len(stored),
            )

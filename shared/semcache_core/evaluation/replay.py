"""Streams of questions, and their replay through the caches of several policies.

A stream is read from a file, or made from questions or labelled pairs. `run` answers all its
arrivals in every `Replay`, one policy's growing cache.
"""

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from semcache_core._utils.json_lines import JsonLine, parse_model
from semcache_core.decision.scoring import Neighbour
from semcache_core.embedding.batching import embed_texts
from semcache_core.errors import TrainingError
from semcache_core.evaluation.policies import LearningPolicy, Policy
from semcache_core.search.retriever import CANDIDATES
from semcache_core.training.calibration.streams import domain_from_pairs
from semcache_core.training.data.records import Pair, Text, read_lines
from semcache_core.types import Embedder, Matrix

_EXAMPLE = '{"question": "...", "answer_id": "..."}'


@dataclass(frozen=True)
class Arrival:
    """One request. Equal `answer_id`s mean that one answer serves both questions."""

    question: str
    answer_id: str


class _ArrivalLine(JsonLine):
    question: Text = Field(description="a question as text")
    # a blank id would give all questions with an unknown answer the same answer
    answer_id: Text = Field(description="a text, the same for questions with the same answer")


def read_stream(file: str | Path) -> list[Arrival]:
    """Read `{"question": str, "answer_id": str}` lines; TrainingError as in `read_lines`."""
    return read_lines(file, _arrival, _EXAMPLE, "arrivals")


def _arrival(data: dict[str, Any], where: str) -> Arrival:
    line = parse_model(_ArrivalLine, data, where, _EXAMPLE, TrainingError)
    return Arrival(line.question, line.answer_id)


def in_order(questions: Sequence[Arrival], seed: int | None = None) -> list[Arrival]:
    """Each of `questions` once, in the order given (that of a log), or shuffled with `seed`."""
    _check_some(questions)
    if seed is None:
        return list(questions)
    return random.Random(seed).sample(questions, len(questions))


def zipf(
    questions: Sequence[Arrival], length: int, exponent: float = 1.0, seed: int = 0
) -> list[Arrival]:
    """`length` arrivals as busy services see them: few answers are asked for often, most rarely.

    The answers are ranked at random; the one of rank r is asked for with a probability in
    proportion to r ** -exponent (0 is uniform, 1 is Zipf's law), each time in a random wording.
    """
    _check_some(questions)
    if length < 1:
        raise TrainingError(f"length is {length}; a stream has at least one arrival")
    if not 0 <= exponent < math.inf:  # written so that NaN fails too
        raise TrainingError(f"exponent is {exponent}; give a number from 0 (uniform) up")
    wordings: dict[str, list[Arrival]] = {}
    for arrival in questions:
        wordings.setdefault(arrival.answer_id, []).append(arrival)
    chooser = random.Random(seed)
    ranked = chooser.sample(list(wordings), len(wordings))
    weights = list(accumulate(rank**-exponent for rank in range(1, len(ranked) + 1)))
    drawn = chooser.choices(ranked, cum_weights=weights, k=length)
    return [chooser.choice(wordings[answer_id]) for answer_id in drawn]


def from_pairs(pairs: Sequence[Pair], seed: int = 0) -> list[Arrival]:
    """Every question of labelled pairs once, shuffled: our reading of arXiv 2402.01173.

    Equal answers as in `domain_from_pairs`. Figures need not be comparable with the paper's, whose
    exact draw is not known.
    """
    domain = domain_from_pairs("pairs", pairs)
    arrivals = [
        Arrival(text, str(answer))
        for text, answer in zip(domain.texts, domain.answers.tolist(), strict=True)
    ]
    return in_order(arrivals, seed)


def _check_some(questions: Sequence[Arrival]) -> None:
    if not questions:
        raise TrainingError("no questions were given; a stream is made of at least one")


Eviction: TypeAlias = Literal["lru", "fifo"]
Progress: TypeAlias = Callable[[int, int], None]

# arrivals whose similarities are computed at once: bounds the memory
_BLOCK = 256


@dataclass(frozen=True)
class NumberedStream:
    """A stream as numbers: text and answer of each arrival, numbered by first appearance."""

    texts: list[str]
    text: list[int]
    answer: list[int]


def number_stream(stream: Sequence[Arrival]) -> NumberedStream:
    if not stream:
        raise TrainingError("the stream is empty; give at least one arrival")
    texts: dict[str, int] = {}
    answers: dict[str, int] = {}
    text = [texts.setdefault(arrival.question, len(texts)) for arrival in stream]
    answer = [answers.setdefault(arrival.answer_id, len(answers)) for arrival in stream]
    return NumberedStream(list(texts), text, answer)


class Store:
    """A bounded store of text numbers with LRU or FIFO eviction."""

    def __init__(self, capacity: int, eviction: Eviction) -> None:
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._texts = np.zeros(capacity, np.int64)
        self._spare_used = eviction == "lru"
        self.evictions = 0

    def __contains__(self, text: int) -> bool:
        return text in self._slots

    def used(self, text: int) -> None:
        if self._spare_used:
            self._slots.move_to_end(text)

    def add(self, text: int) -> None:
        slot = len(self._slots)
        if slot == len(self._texts):
            _, slot = self._slots.popitem(last=False)
            self.evictions += 1
        self._slots[text] = slot
        self._texts[slot] = text

    def nearest(self, similarities: NDArray[np.float32]) -> Iterator[tuple[int, float]]:
        """Up to CANDIDATES stored texts with their entry of `similarities`, best first."""
        held = self._texts[: len(self._slots)]
        scores = similarities[held]  # a copy
        # most policies look at the best only, so the others are found when asked for
        for _ in range(min(CANDIDATES, len(held))):
            best = int(scores.argmax())
            yield int(held[best]), float(scores[best])
            scores[best] = -np.inf


class Replay:
    """The cache of one policy and its outcomes so far; arrays are [arrivals]."""

    def __init__(
        self, policy: Policy, stream: NumberedStream, capacity: int, eviction: Eviction
    ) -> None:
        # what one stream taught must not show in the next
        self._learning = policy.fresh() if isinstance(policy, LearningPolicy) else None
        self.policy = policy if self._learning is None else self._learning
        self.store = Store(capacity, eviction)
        self._stream = stream
        self._stored_answer = [-1] * len(stream.texts)
        self.exact = np.zeros(len(stream.text), np.bool_)
        self.semantic = np.zeros(len(stream.text), np.bool_)
        self.right = np.zeros(len(stream.text), np.bool_)
        """Served, and with the right answer."""

    def answer(self, at: int, similarities: NDArray[np.float32] | None) -> None:
        """Arrival `at`, whose `similarities` to the texts so far are given; None for no meaning."""
        text, answer = self._stream.text[at], self._stream.answer[at]
        if text in self.store:
            served: int | None = text
            self.exact[at] = True
        else:
            served = self._picked(text, similarities)
            self.semantic[at] = served is not None
        if served is None:
            self._missed(text, answer, similarities)
        else:
            self.store.used(served)
            self.right[at] = self._stored_answer[served] == answer

    def _picked(self, text: int, similarities: NDArray[np.float32] | None) -> int | None:
        if similarities is None:
            return None
        picked = self.policy.pick(self._stream.texts[text], self._nearest(similarities))
        return None if picked is None else picked.entry_id

    def _missed(self, text: int, answer: int, similarities: NDArray[np.float32] | None) -> None:
        """The model was called: a learning policy is told, and the answer stored if it is new."""
        nearest = None if similarities is None else next(self._nearest(similarities), None)
        if self._learning is not None and nearest is not None:
            same = nearest.answer == answer
            self._learning.observe(self._stream.texts[text], nearest, same)
            if same:
                self.store.used(nearest.entry_id)
                return
        self.store.add(text)
        self._stored_answer[text] = answer
        if self._learning is not None:
            self._learning.stored(self._stream.texts[text])

    def _nearest(self, similarities: NDArray[np.float32]) -> Iterator[Neighbour]:
        for stored, similarity in self.store.nearest(similarities):
            yield Neighbour(
                stored, self._stream.texts[stored], self._stored_answer[stored], similarity
            )

    @property
    def wrong_semantic(self) -> int:
        return int((self.semantic & ~self.right).sum())


def run(
    stream: NumberedStream,
    groups: Sequence[tuple[Embedder | None, Sequence[Replay]]],
    progress: Progress | None = None,
) -> None:
    """Answer the whole stream in all replays, in its order, those of one embedder at once.

    An embedder turns each distinct text into a vector once. None stands for no meaning at all.
    """
    texts, arrivals = stream.texts, len(stream.text)
    embedded = sum(len(texts) for embedder, _ in groups if embedder is not None)
    total, done = embedded + len(groups) * arrivals, 0

    def report(more: int, _: int = 0) -> None:
        if progress is not None:
            progress(done + more, total)

    for embedder, replays in groups:
        vectors = None
        if embedder is not None:
            vectors = embed_texts(embedder, texts, _BLOCK, report)
            done += len(texts)
        for start in range(0, arrivals, _BLOCK):
            block = range(start, min(start + _BLOCK, arrivals))
            similarities = None if vectors is None else _similarities(stream, vectors, block)
            for at in block:
                row = None if similarities is None else similarities[at - start]
                for replay in replays:
                    replay.answer(at, row)
            report(block.stop)
        done += arrivals


def _similarities(stream: NumberedStream, vectors: Matrix, block: range) -> Matrix:
    """Cosines [block, texts that have come up by its end]: none of the others can be stored."""
    asked = stream.text[block.start : block.stop]
    seen = max(stream.text[: block.stop]) + 1
    similarities: Matrix = vectors[asked] @ vectors[:seen].T
    return similarities

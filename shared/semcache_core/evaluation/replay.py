"""A growing cache that answers a stream under one policy; several of them over one stream."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from semcache_core.errors import TrainingError
from semcache_core.evaluation.arrivals import Arrival
from semcache_core.evaluation.policies import Candidate, LearningPolicy, Policy
from semcache_core.retrieval import CANDIDATES
from semcache_core.training.streams import embed_texts
from semcache_core.types import Embedder, Matrix

Eviction: TypeAlias = Literal["lru", "fifo"]
Progress: TypeAlias = Callable[[int, int], None]

# arrivals whose similarities are computed at once: bounds the memory
_BLOCK = 256


@dataclass(frozen=True)
class NumberedStream:
    """The stream in numbers: of the text and of the answer at each arrival, by first appearance."""

    texts: list[str]
    text: list[int]
    answer: list[int]
    number: dict[str, int]


def number_stream(stream: Sequence[Arrival]) -> NumberedStream:
    if not stream:
        raise TrainingError("the stream is empty; give at least one arrival")
    texts: dict[str, int] = {}
    answers: dict[str, int] = {}
    text = [texts.setdefault(arrival.question, len(texts)) for arrival in stream]
    answer = [answers.setdefault(arrival.answer_id, len(answers)) for arrival in stream]
    return NumberedStream(list(texts), text, answer, texts)


class Store:
    """Numbers of the stored texts, the next to be evicted first."""

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
    """One policy's cache, and what it made of the arrivals so far; arrays are [arrivals]."""

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
        return None if picked is None else self._stream.number[picked.question]

    def _missed(self, text: int, answer: int, similarities: NDArray[np.float32] | None) -> None:
        """The model was called: a learning policy is told, and the answer stored if it is new."""
        if self._learning is not None and similarities is not None:
            credited = self._observed(self._learning, text, answer, similarities)
            if credited is not None:
                self.store.used(credited)
                return
        self.store.add(text)
        self._stored_answer[text] = answer
        if self._learning is not None:
            self._learning.stored(self._stream.texts[text])

    def _observed(
        self, policy: LearningPolicy, text: int, answer: int, similarities: NDArray[np.float32]
    ) -> int | None:
        """The nearest stored text if its answer is this one, None if not or if there is none."""
        nearest = next(self._nearest(similarities), None)
        if nearest is None:
            return None
        number = self._stream.number[nearest.question]
        same = self._stored_answer[number] == answer
        policy.observe(self._stream.texts[text], nearest, same)
        return number if same else None

    def _nearest(self, similarities: NDArray[np.float32]) -> Iterator[Candidate]:
        texts = self._stream.texts
        for stored, similarity in self.store.nearest(similarities):
            yield Candidate(texts[stored], similarity, self._stored_answer[stored])

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
    advance = _Advance(embedded + len(groups) * arrivals, progress)
    for embedder, replays in groups:
        vectors = None if embedder is None else _embed(embedder, texts, advance)
        for start in range(0, arrivals, _BLOCK):
            block = range(start, min(start + _BLOCK, arrivals))
            similarities = None if vectors is None else _similarities(stream, vectors, block)
            for at in block:
                row = None if similarities is None else similarities[at - start]
                for replay in replays:
                    replay.answer(at, row)
            advance(len(block))


class _Advance:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, more: int) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._total)


def _embed(embedder: Embedder, texts: list[str], advance: _Advance) -> Matrix:
    rows = []
    for start in range(0, len(texts), _BLOCK):
        some = texts[start : start + _BLOCK]
        rows.append(embed_texts(embedder, some))
        advance(len(some))
    return np.concatenate(rows)


def _similarities(stream: NumberedStream, vectors: Matrix, block: range) -> Matrix:
    """Cosines [block, texts that have come up by its end]: none of the others can be stored."""
    asked = stream.text[block.start : block.stop]
    seen = max(stream.text[: block.stop]) + 1
    similarities: Matrix = vectors[asked] @ vectors[:seen].T
    return similarities

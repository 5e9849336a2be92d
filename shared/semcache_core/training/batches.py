"""Batches of pairs for training; each text of a batch is encoded once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, repeat

import numpy as np
from numpy.typing import NDArray

from semcache_core.errors import TrainingError
from semcache_core.training.data.augmentation import synthetic_pairs
from semcache_core.training.data.records import Pair, check_labels
from semcache_core.training.data.splits import answers_by_text

# batches sorted by length together: more of them pad less, fewer mix better
_WINDOW = 32


@dataclass(frozen=True)
class LengthBatches:
    """Seeded batches of indices of items, similar in length within a batch.

    Each epoch shuffles the items, sorts them by length within windows of 32 batches, and shuffles
    the batches. They depend on seed and epoch only, so a resumed run finds the same ones.
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int

    @property
    def per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch; every index occurs once."""
        random = np.random.default_rng((self.seed, number))
        order = random.permutation(len(self.lengths)).tolist()
        window = _WINDOW * self.batch_size
        batches = []
        for start in range(0, len(order), window):
            alike = sorted(order[start : start + window], key=lambda index: self.lengths[index])
            batches += [
                alike[first : first + self.batch_size]
                for first in range(0, len(alike), self.batch_size)
            ]
        return [batches[index] for index in random.permutation(len(batches))]

    def starting_at(self, step: int) -> Iterator[list[int]]:
        """Batch `step`, counted from 0 through all epochs, and those after it, without end."""
        if not self.lengths:
            return
        number, done = divmod(step, self.per_epoch)
        while True:
            yield from islice(self.epoch(number), done, None)
            number, done = number + 1, 0


class TrainingBatches:
    """The batches of a run: labelled pairs, each batch with its share of synthetic ones.

    `synthetic` is the number of synthetic pairs for each labelled one. They are made from a random
    choice of the questions of the pairs and of the unlabelled `questions`. An edit and a rewrite of
    a question come in the same batch.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        questions: Sequence[str],
        *,
        batch_size: int,
        synthetic: float,
        steps: int,
        seed: int,
    ) -> None:
        self._answers = answers_by_text(pairs)
        self._pairs = pairs
        lengths = [len(pair.prompt) + len(pair.other) for pair in pairs]
        self._labelled = LengthBatches(lengths, batch_size, seed)
        # an edit and a rewrite make two pairs of a question
        count = max(1, round(synthetic * batch_size / 2)) if synthetic else 0
        sources = list(dict.fromkeys((*self._answers, *questions)))
        chosen = np.random.default_rng(seed).permutation(len(sources))[: steps * count]
        made = synthetic_pairs([sources[index] for index in chosen], seed=seed)
        # those of a question follow one another
        self._synthetic = [list(group) for _, group in groupby(made, lambda pair: pair.prompt)]
        lengths = [len(group[0].prompt) for group in self._synthetic]
        self._made = LengthBatches(lengths, max(1, count), seed)

    def starting_at(self, step: int) -> Iterator["Batch"]:
        """Batch `step`, and those after it; see `LengthBatches`."""
        made = self._made.starting_at(step) if self._synthetic else repeat([])
        for rows, groups in zip(self._labelled.starting_at(step), made, strict=False):
            synthetic = [pair for group in groups for pair in self._synthetic[group]]
            yield make_batch([self._pairs[row] for row in rows], synthetic, self._answers)


@dataclass(frozen=True)
class Batch:
    """Pairs as rows of `texts`, so that a text that several pairs share is encoded once.

    `texts` are distinct; the first `given` are questions as they were given, the others made by
    rule. `pairs` and `synthetic` are int64 [n, 2] and [m, 2], with float32 labels [n] and [m].
    `answers` (int64 [texts]) is equal for texts known to have the same answer.
    """

    texts: list[str]
    given: int
    pairs: NDArray[np.int64]
    labels: NDArray[np.float32]
    synthetic: NDArray[np.int64]
    synthetic_labels: NDArray[np.float32]
    answers: NDArray[np.int64]

    def unlabelled(self) -> NDArray[np.bool_]:
        """[given, given]: True where no chain of labels says if two questions share an answer."""
        mask: NDArray[np.bool_] = self.answers[:, None] != self.answers[None, :]
        for rows in (self.pairs, self.synthetic):
            left, right = rows.T
            mask[left, right] = mask[right, left] = False
        return mask[: self.given, : self.given]


def make_batch(
    pairs: Sequence[Pair], synthetic: Sequence[Pair], answers: Mapping[str, int]
) -> Batch:
    """Gather the texts of labelled pairs and of synthetic ones, whose `other` is made by rule.

    `answers` numbers the answers of texts from 0; a text that it lacks has an answer of its own.
    """
    given = [text for pair in pairs for text in (pair.prompt, pair.other)]
    given += [pair.prompt for pair in synthetic]
    row = {text: index for index, text in enumerate(dict.fromkeys(given))}
    count = len(row)
    for pair in synthetic:
        row.setdefault(pair.other, len(row))
    return Batch(
        texts=list(row),
        given=count,
        pairs=_rows(pairs, row),
        labels=_labels(pairs),
        synthetic=_rows(synthetic, row),
        synthetic_labels=_labels(synthetic),
        answers=np.array([answers.get(text, -1 - index) for text, index in row.items()], np.int64),
    )


def check_data(pairs: Sequence[Pair], questions: Sequence[str]) -> None:
    """Raise TrainingError for labels outside [0, 1], pairs of one class, and empty questions."""
    if isinstance(questions, str) or not all(isinstance(q, str) and q.strip() for q in questions):
        raise TrainingError("questions must be texts, none of them empty")
    check_labelled(pairs, "train on")


def check_labelled(pairs: Sequence[Pair], use: str) -> None:
    """Raise TrainingError for no pairs, labels outside [0, 1] and pairs of one class."""
    if not pairs:
        raise TrainingError(f"there are no pairs to {use}; give labelled ones, of both labels")
    check_labels(pair.same_answer for pair in pairs)
    positives = sum(pair.positive for pair in pairs)
    if positives in (0, len(pairs)):
        raise TrainingError(
            f"{positives} of {len(pairs)} pairs have the same answer (same_answer above .5); give "
            "both, pairs with the same answer (1) and look-alikes with another (0)"
        )


def _rows(pairs: Sequence[Pair], row: Mapping[str, int]) -> NDArray[np.int64]:
    return np.array([(row[p.prompt], row[p.other]) for p in pairs], np.int64).reshape(-1, 2)


def _labels(pairs: Sequence[Pair]) -> NDArray[np.float32]:
    return np.array([pair.same_answer for pair in pairs], np.float32)

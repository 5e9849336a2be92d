"""Mines candidate pairs: nearest neighbours in a log of questions, and hard subsets of them."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.wrappers import as_embedder
from semcache_core.errors import TrainingError
from semcache_core.search.chroma import ChromaIndex, memory_client
from semcache_core.search.retriever import MOST_CANDIDATES
from semcache_core.training.data.labelling import label_by_answers
from semcache_core.training.data.records import MinedPair, Pair, Progress, Question, fold_question
from semcache_core.training.data.splits import SHARES, SPLITS, components, deal
from semcache_core.types import Embedder, Matrix


def matched_subset(
    reference: NDArray[np.floating],
    label: NDArray[np.floating],
    *,
    width: float = 0.02,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Row indices, ascending: as many positives as negatives in each bin of the reference.

    The larger class of a bin is thinned at random. What is left cannot be told apart by the
    reference beyond the width of a bin: a score that ranks it has learned something else.
    """
    chooser = np.random.default_rng(seed)
    positive, bins = label > 0.5, np.floor(reference / width)
    kept: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for one in np.unique(bins):
        classes = [np.flatnonzero((bins == one) & which) for which in (positive, ~positive)]
        size = min(map(len, classes))
        kept += [chooser.permutation(rows)[:size] for rows in classes]
    return np.sort(np.concatenate(kept))


NEAR_DUPLICATE = 0.95
"""Questions at least this similar go to the same split: one would give the other away."""

SCAN_LIMIT = 50_000
"""Up to so many questions are all compared with all, which finds every neighbour.

The time of a scan grows with the square of the questions, but one product of matrices compares
hundreds of them with all: at 6,000 it took a quarter of the time that an index took to be built and
asked, and the index is ahead from some 50,000 on only.
"""
_CELLS_AT_ONCE = 1 << 24  # similarities of one block of the scan: 64 MiB
_BATCH = 1024

Ids = NDArray[np.int64]
Similarities = NDArray[np.float32]


def mine(
    questions: Sequence[Question],
    embedder: object,
    *,
    neighbours: int = 10,
    per_question: int | None = None,
    hard: bool = False,
    shares: Sequence[float] = SHARES,
    near_duplicate: float = NEAR_DUPLICATE,
    seed: int = 0,
    progress: Progress | None = None,
    scan_limit: int = SCAN_LIMIT,
) -> list[MinedPair]:
    """Pairs of questions that are among each other's `neighbours` nearest, the nearest first.

    Questions that differ in case, white space and closing punctuation only are one. `embedder` is
    whatever the cache takes, untuned as a rule. The questions are dealt to train, calibration and
    test first (`shares` of the questions), those with a known answer in common or a similarity of
    at least `near_duplicate` together, and neighbours are sought within a split: over all of them
    the pairs would connect nearly every question with every other. Of each pair the later question
    of the log is the prompt, the earlier one, which a cache would have stored, the other; no pair
    comes twice. `per_question` limits the pairs that any one question is in, the nearest kept.

    With `hard`, which needs known answers, the pairs are labelled by these and matched by
    similarity, see `hard_subset`. Up to `scan_limit` questions the search is exact, above it goes
    through the cache's own index in memory. The same arguments give the same pairs.

    Raises TrainingError for arguments out of range, questions without answers where `hard` needs
    them, too few questions, or questions so connected that a split would stay empty.
    """
    _check(neighbours, per_question, near_duplicate)
    if hard:
        _check_answers(questions)
    report = progress or _silent
    distinct = drop_duplicates(questions)
    vectors = _embed(as_embedder(embedder), distinct, report)
    split_of = deal_questions(
        distinct, vectors, shares, near_duplicate, seed, report, scan_limit=scan_limit
    )
    found: list[tuple[float, int, int]] = []
    for name in SPLITS:
        members = np.flatnonzero(np.array(split_of) == name)
        found += _neighbour_pairs(vectors, members, neighbours, report, name, scan_limit)
    found.sort(key=lambda item: (-item[0], item[1:]))
    kept = found if per_question is None else _limited(found, per_question)
    pairs = [
        MinedPair((distinct[late], distinct[early]), similarity, split_of[late])
        for similarity, early, late in kept
    ]
    if not pairs:
        raise TrainingError(
            f"{len(distinct)} different questions gave no pair; give at least two for each split"
        )
    return hard_subset(label_by_answers(pairs), seed=seed) if hard else pairs


def hard_subset(
    pairs: Sequence[MinedPair], *, width: float = 0.02, seed: int = 0
) -> list[MinedPair]:
    """The labelled pairs on which the mining embedder is at chance, split by split, in order.

    Within each split positives and negatives are matched by similarity, see `match_similarity`.
    Raises TrainingError when a pair has no label or no similarity, and when nothing is left.
    """
    for index, pair in enumerate(pairs, start=1):
        if pair.similarity is None:
            raise TrainingError(
                f"pair {index} ({pair.prompt!r}) has no similarity to match by; mine the pairs"
            )
    labelled = [pair.labelled() for pair in pairs]
    kept: list[int] = []
    for name in dict.fromkeys(pair.split for pair in pairs):
        members = [index for index, pair in enumerate(pairs) if pair.split == name]
        similarities = [pairs[index].similarity or 0.0 for index in members]
        chosen = match_similarity(
            [labelled[index] for index in members], similarities, width=width, seed=seed
        )
        kept += [members[index] for index in chosen]
    if not kept:
        positives = sum(pair.positive for pair in labelled)
        raise TrainingError(
            f"{positives} positive and {len(pairs) - positives} negative pairs have no similarity "
            f"in common (within {width:g}); nothing hard is left: mine more questions"
        )
    return [pairs[index] for index in sorted(kept)]


def match_similarity(
    pairs: Sequence[Pair],
    similarities: Sequence[float] | NDArray[np.floating],
    *,
    width: float = 0.02,
    seed: int = 0,
) -> Ids:
    """Indices of pairs among which `similarities`, [pairs], say nothing about the label.

    In every bin of `width` as many positives are kept as negatives, at random where there are too
    many of one; the indices ascend. The narrower the bins, the nearer the ROC AUC of the
    similarities to 0.5 and the fewer pairs are kept. Such a matched set, on which the untuned
    model is at chance, is the hard set of arXiv 2402.01173.
    """
    values = np.asarray(similarities, np.float64)
    if values.shape != (len(pairs),) or not np.isfinite(values).all() or not width > 0:
        raise TrainingError(
            f"got {len(pairs)} pairs, similarities of shape {list(values.shape)} and width "
            f"{width!r}; give one finite similarity for each pair and a width above 0"
        )
    labels = np.array([pair.same_answer for pair in pairs], np.float64)
    return matched_subset(values, labels, width=width, seed=seed)


def drop_duplicates(questions: Sequence[Question]) -> list[Question]:
    """The questions without repeats but for case, white space and closing punctuation.

    The first of equal ones stays, with the answers of all; the first answer_id counts.
    """
    kept: dict[str, Question] = {}
    for question in questions:
        key = fold_question(question.text)
        first = kept.setdefault(key, question)
        if first is not question:
            kept[key] = replace(
                first,
                answers=tuple(dict.fromkeys((*first.answers, *question.answers))),
                answer_id=first.answer_id or question.answer_id,
            )
    return list(kept.values())


def deal_questions(
    questions: Sequence[Question],
    vectors: Matrix,
    shares: Sequence[float] = SHARES,
    near_duplicate: float = NEAR_DUPLICATE,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    scan_limit: int = SCAN_LIMIT,
) -> list[str]:
    """The split of each question; questions that give each other away go to the same one.

    These are questions with a known answer in common and those with a similarity (`vectors` are
    unit rows [questions, dimension]) of at least `near_duplicate`, directly or through others.
    """
    links = list(_answer_links(questions))
    links += _near_duplicates(vectors, near_duplicate, progress or _silent, scan_limit)
    return deal(components(len(questions), links), shares, seed, "questions")


def _check(neighbours: int, per_question: int | None, near_duplicate: float) -> None:
    for name, value in (("neighbours", neighbours), ("per_question", per_question)):
        if value is not None and value < 1:
            raise TrainingError(f"{name} is {value}; give a whole number from 1 on")
    if not near_duplicate > 0:
        raise TrainingError(
            f"near_duplicate is {near_duplicate}; give a cosine above 0, such as {NEAR_DUPLICATE}"
        )


def _check_answers(questions: Sequence[Question]) -> None:
    """Any two must be comparable: either all have answers or all have an id."""
    without = [
        [index for index, question in enumerate(questions) if not known(question)]
        for known in (lambda q: q.answers, lambda q: q.answer_id is not None)
    ]
    if all(without):
        index = min(without, key=len)[0]
        raise TrainingError(
            f"question {index + 1} ({questions[index].text!r}) has no known answer to compare, and "
            "only labelled pairs can be matched; mine without hard, label the pairs, match then"
        )


def _embed(embedder: Embedder, questions: Sequence[Question], report: Progress) -> Matrix:
    rows = [np.zeros((0, embedder.dimension), np.float32)]
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        rows.append(embed_texts(embedder, [question.text for question in batch]))
        report("questions embedded", start + len(batch), len(questions))
    return np.concatenate(rows)


def _answer_links(questions: Sequence[Question]) -> Iterator[tuple[int, int]]:
    first: dict[tuple[str, str], int] = {}
    for index, question in enumerate(questions):
        for key in question.answer_keys:
            yield first.setdefault(key, index), index


def _near_duplicates(
    vectors: Matrix, bound: float, report: Progress, scan_limit: int
) -> Iterator[tuple[int, int]]:
    """Every two rows at least `bound` similar, at least through others.

    Rows whose neighbours are all that near are asked again for four times as many.
    """
    with _search(vectors, scan_limit) as search:
        rows, k = np.arange(len(vectors)), 8
        while len(rows):
            crowded = []
            for done, (row, ids, similarities) in enumerate(search.nearest(rows, k), start=1):
                near = ids[similarities >= bound]
                yield from ((int(row), int(other)) for other in near)
                if len(near) == k:
                    crowded.append(row)
                if done % _BATCH == 0 or done == len(rows):
                    report("questions compared for near duplicates", done, len(rows))
            rows, k = np.array(crowded, np.int64), 4 * k


def _neighbour_pairs(
    vectors: Matrix, members: Ids, k: int, report: Progress, split: str, scan_limit: int
) -> list[tuple[float, int, int]]:
    """(similarity, earlier, later) of each unordered pair of neighbours among `members`."""
    own = vectors[members]
    links = [np.zeros((0, 2), np.int64)]
    with _search(own, scan_limit) as search:
        for row, ids, _ in search.nearest(np.arange(len(own)), k):
            links.append(np.stack([np.full_like(ids, row), ids], axis=1))
            if (row + 1) % _BATCH == 0 or row + 1 == len(own):
                report(f"questions compared within {split}", row + 1, len(own))
    pairs = np.unique(np.sort(np.concatenate(links), axis=1), axis=0)
    # once more, and in float64: the blocks of a scan and an index differ in the last digits
    similarity = np.vecdot(own[pairs[:, 0]], own[pairs[:, 1]], dtype=np.float64)
    rounded = np.minimum(np.round(similarity, 6), 1.0)
    ends = members[pairs]
    return list(zip(rounded.tolist(), ends[:, 0].tolist(), ends[:, 1].tolist(), strict=True))


def _limited(found: Sequence[tuple[float, int, int]], most: int) -> list[tuple[float, int, int]]:
    taken: dict[int, int] = {}
    kept = []
    for item in found:
        if all(taken.get(end, 0) < most for end in item[1:]):
            kept.append(item)
            for end in item[1:]:
                taken[end] = taken.get(end, 0) + 1
    return kept


class _Search(Protocol):
    def nearest(self, rows: Ids, k: int) -> Iterator[tuple[int, Ids, Similarities]]:
        """For each of `rows` itself, its up to `k` nearest other rows, best first, and cosines."""
        ...


@contextmanager
def _search(vectors: Matrix, scan_limit: int) -> Iterator[_Search]:
    if len(vectors) <= scan_limit:
        yield _Scan(vectors)
        return
    # In memory and with a name of its own: Chroma gives every client in memory the same collections
    index = ChromaIndex(memory_client(), secrets.randbits(63), secrets.token_hex(8))
    try:
        index.add(_Indexed.PARTITION, range(1, len(vectors) + 1), vectors)
        yield _Indexed(vectors, index)
    finally:
        index.drop(_Indexed.PARTITION)
        index.close()


class _Scan:
    """Exact search: compares a block of rows with all rows at once."""

    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors

    def nearest(self, rows: Ids, k: int) -> Iterator[tuple[int, Ids, Similarities]]:
        n = len(self._vectors)
        k = min(k, n - 1)
        block = max(1, _CELLS_AT_ONCE // max(n, 1))
        for start in range(0, len(rows) if k > 0 else 0, block):
            asked = rows[start : start + block]
            similarity = self._vectors[asked] @ self._vectors.T
            similarity[np.arange(len(asked)), asked] = -np.inf
            best = np.argpartition(similarity, n - k, axis=1)[:, n - k :]
            values = np.take_along_axis(similarity, best, axis=1)
            order = np.argsort(-values, axis=1, kind="stable")
            ids, values = (np.take_along_axis(a, order, axis=1) for a in (best, values))
            yield from zip(asked.tolist(), ids, values, strict=True)


class _Indexed:
    """Searches the cache's own index, which may miss a neighbour. Its ids begin at 1: row `i` is
    `i + 1`.
    """

    PARTITION = b"questions"

    def __init__(self, vectors: Matrix, index: ChromaIndex) -> None:
        self._vectors = vectors
        self._index = index

    def nearest(self, rows: Ids, k: int) -> Iterator[tuple[int, Ids, Similarities]]:
        k = min(k, MOST_CANDIDATES)
        for row in rows.tolist():
            found = self._index.nearest(self.PARTITION, self._vectors[row], k + 1)
            ids = np.array([i - 1 for i, _ in found if i - 1 != row][:k], np.int64)
            yield row, ids, self._vectors[ids] @ self._vectors[row]


def _silent(what: str, done: int, total: int) -> None:
    pass

"""Mines candidate pairs: nearest neighbours in a log of questions, and hard subsets of them."""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.wrappers import as_embedder
from semcache_core.errors import TrainingError
from semcache_core.search.chroma import ChromaIndex, local_client
from semcache_core.search.retriever import MOST_CANDIDATES
from semcache_core.training.data.labelling import label_by_answers
from semcache_core.training.data.records import MinedPair, Pair, Progress, Question, fold_question
from semcache_core.training.data.splits import SHARES, SPLITS, components, deal
from semcache_core.types import Matrix


def matched_subset(
    reference: NDArray[np.floating],
    label: NDArray[np.floating],
    *,
    width: float = 0.02,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Row indices, ascending: as many positives as negatives in each bin of the reference.

    The larger class of a bin is thinned at random. The narrower the bins, the nearer the ROC AUC of
    the reference to 0.5, and the fewer rows are kept.
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

EACH = 2
"""An answer is common when the smallest split gets so many of its questions on average."""

SCAN_LIMIT = 50_000
"""Up to so many questions are compared with all, which is exact and faster than an index."""
_CELLS_AT_ONCE = 1 << 24  # similarities of one block of the scan: 64 MiB
_BATCH = 1024
_PARTITION = b"questions"

Ids: TypeAlias = NDArray[np.int64]
Found: TypeAlias = Iterable[tuple[int, Ids, NDArray[np.float32]]]
"""For each row asked for: itself, its nearest other rows, best first, and their cosines."""


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
    anything the cache takes. The questions are dealt to train, calibration and test first (see
    `deal_questions`), and neighbours are sought within a split: over all of them the pairs would
    connect nearly every question with every other. Of each pair the later question of the log is
    the prompt; no pair comes twice. `per_question` limits the pairs that any one question is in.

    With `hard` the pairs are labelled by their known answers and matched by similarity, see
    `hard_subset`. Up to `scan_limit` questions the search is exact, above it uses the cache's own
    index in memory. The same arguments give the same pairs.

    Raises TrainingError for arguments out of range, questions without answers where `hard` needs
    them, too few questions, or questions so connected that a split would stay empty.
    """
    _check(neighbours, per_question, near_duplicate)
    if hard:
        _check_answers(questions)
    report = progress or _silent
    distinct = drop_duplicates(questions)
    vectors = embed_texts(
        as_embedder(embedder),
        [question.text for question in distinct],
        progress=partial(report, "questions embedded"),
    )
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
    """The labelled pairs on which the mining embedder is at chance, in order.

    Each split is matched by similarity, see `match_similarity`. Raises TrainingError when a pair
    has no label or no similarity, and when nothing is left.
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

    See `matched_subset`. Such a set is the hard set of arXiv 2402.01173.
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
    """The first of the questions that are equal by `fold_question`, with the answers of all."""
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
    """The split of each question.

    The questions of a common answer are dealt out, so that each split meets this answer and its
    look-alikes. Those of a rare one, with too few for that, go to one split as a whole, together
    with the nearest other rare answer: dealt each by itself, the look-alikes that a cache meets
    would be in other splits. A question without a known answer counts as a rare one. Questions of
    a similarity (of the unit rows `vectors`) of at least `near_duplicate` are never parted.
    """
    report = progress or _silent
    links = list(_near_duplicates(vectors, near_duplicate, report, scan_limit))
    links += _rare_links(questions, vectors, shares, scan_limit)
    return deal(components(len(questions), links), shares, seed, "questions")


def _rare_links(
    questions: Sequence[Question], vectors: Matrix, shares: Sequence[float], scan_limit: int
) -> Iterator[tuple[int, int]]:
    """Each question of a rare answer with the first of it, and that with the nearest rare answer's.

    The distance of two answers is that of the means of their questions.
    """
    answer = np.array(components(len(questions), _answer_links(questions)), np.int64)
    _, first, own, size = np.unique(
        answer, return_index=True, return_inverse=True, return_counts=True
    )
    rare = np.flatnonzero(size * min(share for share in shares if share) < EACH)
    for question in np.flatnonzero(np.isin(own, rare)):
        yield int(first[own[question]]), int(question)
    means = np.zeros((len(size), vectors.shape[1]), np.float32)
    np.add.at(means, own, vectors)
    means = means[rare] / np.maximum(np.linalg.norm(means[rare], axis=1, keepdims=True), 1e-12)
    with _search(means, scan_limit) as search:
        for row, ids, _ in search(np.arange(len(means)), 1):
            yield from ((int(first[rare[row]]), int(first[rare[other]])) for other in ids)


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


def _answer_links(questions: Sequence[Question]) -> Iterator[tuple[int, int]]:
    first: dict[tuple[str, str], int] = {}
    for index, question in enumerate(questions):
        for key in question.answer_keys:
            yield first.setdefault(key, index), index


def _near_duplicates(
    vectors: Matrix, bound: float, report: Progress, scan_limit: int
) -> Iterator[tuple[int, int]]:
    """Every two rows at least `bound` similar, at least through others."""
    with _search(vectors, scan_limit) as search:
        rows, k = np.arange(len(vectors)), 8
        # rows whose neighbours are all that near are asked again for four times as many
        while len(rows):
            crowded = []
            for done, (row, ids, similarities) in enumerate(search(rows, k), start=1):
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
        for row, ids, _ in search(np.arange(len(own)), k):
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
    taken: Counter[int] = Counter()
    kept = []
    for item in found:
        ends = item[1:]
        if all(taken[end] < most for end in ends):
            kept.append(item)
            taken.update(ends)
    return kept


@contextmanager
def _search(vectors: Matrix, scan_limit: int) -> Iterator[Callable[[Ids, int], Found]]:
    """A function that finds the up to `k` nearest other rows of some rows."""
    if len(vectors) <= scan_limit:
        yield partial(_scan, vectors)
        return
    # with a name of its own: Chroma gives every client in memory the same collections
    index = ChromaIndex(local_client(), secrets.randbits(63), secrets.token_hex(8))
    try:
        index.add(_PARTITION, range(1, len(vectors) + 1), vectors)
        yield partial(_ask_index, vectors, index)
    finally:
        index.drop(_PARTITION)
        index.close()


def _scan(vectors: Matrix, rows: Ids, k: int) -> Found:
    """Exact search: compares a block of rows with all rows at once."""
    n = len(vectors)
    k = min(k, n - 1)
    block = max(1, _CELLS_AT_ONCE // max(n, 1))
    for start in range(0, len(rows) if k > 0 else 0, block):
        asked = rows[start : start + block]
        similarity = vectors[asked] @ vectors.T
        similarity[np.arange(len(asked)), asked] = -np.inf
        best = np.argpartition(similarity, n - k, axis=1)[:, n - k :]
        values = np.take_along_axis(similarity, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        ids, values = (np.take_along_axis(a, order, axis=1) for a in (best, values))
        yield from zip(asked.tolist(), ids, values, strict=True)


def _ask_index(vectors: Matrix, index: ChromaIndex, rows: Ids, k: int) -> Found:
    """Approximate search; row `i` has the id `i + 1` in the index."""
    k = min(k, MOST_CANDIDATES)
    for row in rows.tolist():
        found = index.nearest(_PARTITION, vectors[row], k + 1)
        ids = np.array([i - 1 for i, _ in found if i - 1 != row][:k], np.int64)
        yield row, ids, vectors[ids] @ vectors[row]


def _silent(what: str, done: int, total: int) -> None:
    pass

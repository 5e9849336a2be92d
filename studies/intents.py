"""Questions with an intent each: splits, hard pairs, streams, and what is measured on them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from arms import Arm, Bench
from numpy.typing import NDArray
from runner import Results, plain, say
from semcache_core.decision.calibration import Calibration
from semcache_core.decision.scoring import Weights
from semcache_core.embedding.batching import embed_texts
from semcache_core.errors import TrainingError
from semcache_core.evaluation import metrics
from semcache_core.evaluation.served import Forms, Streams, stream_figures
from semcache_core.training.calibration.calibrate import MISSING
from semcache_core.training.calibration.streams import (
    Domain,
    decide,
    domain_from_labels,
    run_trials,
    similarities_of,
)
from semcache_core.training.data.labelling import label_by_answers
from semcache_core.training.data.mining import drop_duplicates, mine
from semcache_core.training.data.records import Pair, Question, fold_question
from semcache_core.types import Embedder, Matrix

HELD_OUT = 0.15
"""The share of the training questions that is calibrated on instead."""
NEIGHBOURS = 5
STORED = 3
"""One in so many questions of a stream is stored."""
STREAMS = 8


@dataclass(frozen=True)
class Split:
    """Questions to train on, to calibrate on and to test; `answer_id` is the intent."""

    train: list[Question]
    calibration: list[Question]
    seen: list[Question]
    unseen: list[Question]

    @property
    def unseen_intents(self) -> list[str]:
        return sorted({str(question.answer_id) for question in self.unseen})


@dataclass(frozen=True)
class Group:
    """Hard pairs of test questions, and a stream that asks and stores such questions."""

    name: str
    pairs: list[Pair]
    domain: Domain

    @property
    def asked(self) -> int:
        return int(self.domain.asked.sum())


def read_intents(file: Path) -> list[Question]:
    """Different questions, each with its intent as `answer_id`."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [(row["text"].strip(), row["category"].strip()) for row in csv.DictReader(lines)]
    except (OSError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise TrainingError(
            f"{file} cannot be read ({error!r}); give a UTF-8 file with the columns text,category"
        ) from None
    return drop_duplicates([Question(text, answer_id=intent) for text, intent in rows])


def split_questions(
    train: Sequence[Question], test: Sequence[Question], unseen: int, seed: int
) -> Split:
    intents = sorted({str(question.answer_id) for question in (*train, *test)})
    if not 2 <= unseen <= len(intents) - 2:
        raise TrainingError(
            f"unseen is {unseen} of {len(intents)} intents; leave two at least on either side"
        )
    chooser = np.random.default_rng(seed)
    left_out = set(chooser.permutation(intents)[:unseen].tolist())
    tested = {fold_question(question.text) for question in test}
    known = [
        question
        for question in train
        if question.answer_id not in left_out and fold_question(question.text) not in tested
    ]
    held_out = set(chooser.permutation(len(known))[: round(HELD_OUT * len(known))].tolist())
    return Split(
        train=[question for row, question in enumerate(known) if row not in held_out],
        calibration=[question for row, question in enumerate(known) if row in held_out],
        seen=[question for question in test if question.answer_id not in left_out],
        unseen=[question for question in test if question.answer_id in left_out],
    )


def hard_pairs(
    questions: Sequence[Question],
    vectors: Matrix,
    per_question: int,
    seed: int,
    asked: NDArray[np.bool_] | None = None,
) -> list[Pair]:
    """For each question so many random others of its intent, and so many nearest of other intents.

    `vectors` [questions, dimension] are unit rows. No pair comes twice, so that there are somewhat
    fewer. Only pairs of the questions that `asked` [questions] marks; of all if it is None.
    """
    chooser = np.random.default_rng(seed)
    intent = np.unique([str(q.answer_id) for q in questions], return_inverse=True)[1]
    found: dict[tuple[int, int], None] = {}
    for row in range(len(questions)):
        if asked is not None and not asked[row]:
            continue
        same = intent == intent[row]
        similarity = np.where(same, -np.inf, vectors @ vectors[row])
        nearest = np.argsort(-similarity, kind="stable")[:per_question]
        same[row] = False
        drawn = chooser.permutation(np.flatnonzero(same))[:per_question]
        for other in (*drawn.tolist(), *nearest.tolist()):
            found.setdefault((min(row, other), max(row, other)))
    return [
        Pair(questions[one].text, questions[other].text, float(intent[one] == intent[other]))
        for one, other in found
    ]


def calibration_pairs(questions: Sequence[Question], embedder: Embedder, seed: int) -> list[Pair]:
    """Each question with its nearest, whatever their intent: what a cache has to decide on.

    The pairs trained on would not do: on them a higher similarity means another intent.
    """
    mined = mine(questions, embedder, neighbours=NEIGHBOURS, shares=(0, 1, 0), seed=seed)
    return [pair.labelled() for pair in label_by_answers(mined)]


def groups_of(split: Split, embedder: Embedder, seed: int) -> list[Group]:
    """Seen intents among themselves, unseen ones among themselves, and unseen among all."""
    both = [*split.seen, *split.unseen]
    asked = np.arange(len(both)) >= len(split.seen)
    return [
        group_of("seen", split.seen, embedder, seed),
        group_of("unseen", split.unseen, embedder, seed),
        group_of("unseen among all", both, embedder, seed, asked),
    ]


def group_of(
    name: str,
    questions: Sequence[Question],
    embedder: Embedder,
    seed: int,
    asked: NDArray[np.bool_] | None = None,
) -> Group:
    """One random and one nearest partner for each question asked; the nearest to `embedder`."""
    pairs = hard_pairs(questions, embedded(embedder, questions), 1, seed, asked)
    domain = stream_of(name, questions)
    return Group(name, pairs, domain if asked is None else replace(domain, asked=asked))


def stream_of(name: str, questions: Sequence[Question]) -> Domain:
    texts, intents = zip(*((q.text, str(q.answer_id)) for q in questions), strict=True)
    return domain_from_labels(name, texts, intents, max(2, len(questions) // STORED))


def embedded(embedder: Embedder, questions: Sequence[Question]) -> Matrix:
    return embed_texts(embedder, [question.text for question in questions])


def measure_group(bench: Bench, group: Group, arm: Arm, calibration: Calibration) -> Results:
    """Ranking of the pairs, and what the streams could be and would be served."""
    say(f"{arm.name}: {group.name}")
    seed = bench.arguments.seed
    measure = partial(metrics.measured, seed=seed, resamples=bench.arguments.resamples)
    similarity = similarities_of(arm.embedder, group.pairs)
    label = np.array([pair.same_answer for pair in group.pairs])
    vectors = embed_texts(arm.embedder, group.domain.texts)
    weights = calibration.judged_by
    asked = [streams(group.domain, vectors, weights, missing, seed) for missing in (0.0, MISSING)]
    forms = Forms(*(stream_figures(one, calibration, measure) for one in asked))
    figures: Results = plain(
        {
            "auc": measure(metrics.auc, similarity, label),
            "average_precision": measure(metrics.average_precision, similarity, label),
            **forms.tree(calibration),
        }
    )
    return figures


def streams(
    domain: Domain, vectors: Matrix, weights: Weights, missing: float, seed: int
) -> Streams:
    seeds = range(seed, seed + STREAMS)
    decided = decide(
        domain.name, run_trials(domain, vectors, missing=missing, seeds=seeds), weights
    )
    # pooled seed by seed, each asking the same questions in the same order
    by_question = (
        values.reshape(STREAMS, -1).T
        for values in (decided.probability, decided.right, decided.answerable)
    )
    return Streams(np.full(int(domain.asked.sum()), domain.name, np.object_), *by_question)

"""The public question sets that the shipped artefact is made from, read and split."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path

from semcache_core.training.calibration.streams import Domain, domain_from_labels, domain_from_pairs
from semcache_core.training.data.mining import drop_duplicates
from semcache_core.training.data.records import Pair, Question, read_pairs, read_questions

SEED = 0
TUNED_INTENTS = 40
"""Of Banking77's 77, drawn by the seed; the thresholds are set on questions of the others."""
STORED_PER_INTENT = 13
HELD_OUT = "Banking77 test"


@dataclass(frozen=True)
class Data:
    """The files, read. The test sets are measured on and never fitted to."""

    qqp_train: list[Pair]
    tuned_banking: list[Question]
    unlabelled: list[str]
    qqp_calibration: list[Pair]
    medical_pairs: list[Pair]
    qqp: Domain
    medical: Domain
    banking_train: Domain
    banking_test: Domain
    qqp_test: list[Pair]
    qqp_test_stream: Domain

    @property
    def fitted(self) -> list[Pair]:
        return self.qqp_calibration + self.medical_pairs


def read_data(directory: Path) -> Data:
    medical = read_pairs(directory / "mqp_dev.jsonl", domain="medical")
    calibration = read_pairs(directory / "qqp_calibration.jsonl", domain="QQP")
    test = read_pairs(directory / "qqp_test.jsonl")
    banking = read_banking(directory / "banking77_train.csv")
    intents = sorted({str(question.answer_id) for question in banking})
    tuned = set(random.Random(SEED).sample(intents, TUNED_INTENTS))
    natural = [question.text for question in read_questions(directory / "nq_open_dev.jsonl")]
    return Data(
        qqp_train=read_pairs(directory / "qqp_train.jsonl", domain="QQP"),
        tuned_banking=[question for question in banking if question.answer_id in tuned],
        unlabelled=[*natural, *(question.text for question in banking)],
        qqp_calibration=calibration,
        medical_pairs=medical,
        qqp=domain_from_pairs("QQP calibration", calibration),
        medical=domain_from_pairs("medical", medical),
        banking_train=banking_domain(
            "Banking77 train, intents not trained on",
            [question for question in banking if question.answer_id not in tuned],
        ),
        banking_test=banking_domain(HELD_OUT, read_banking(directory / "banking77_test.csv")),
        qqp_test=test,
        qqp_test_stream=domain_from_pairs("QQP test", test),
    )


def read_banking(file: Path) -> list[Question]:
    with file.open(newline="", encoding="utf-8") as lines:
        rows = [(row["text"].strip(), row["category"]) for row in csv.DictReader(lines)]
    return drop_duplicates([Question(text, answer_id=intent) for text, intent in rows])


def banking_domain(name: str, questions: list[Question]) -> Domain:
    labels = [str(question.answer_id) for question in questions]
    texts = [question.text for question in questions]
    return domain_from_labels(name, texts, labels, STORED_PER_INTENT * len(set(labels)))

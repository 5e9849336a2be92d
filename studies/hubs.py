"""How well are collision hubs told from entries that many people ask for?

python studies/hubs.py [--questions FILE]

FILE is a CSV with the columns text and category. The committed figures are of Banking77's test set
(MAX_SPREAD was chosen on its training set); the default is the shipped sample. An ordinary entry
is a question with the others near enough to be served it. A hub is the best that an attacker could
place: a free vector near enough to questions of as many intents as possible.
"""

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runner import Results, markdown, parser, run_study
from semcache_core.cli.demo import sample_questions
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.evaluation.simulation import Rate
from semcache_core.quality.hubs import MIN_ASKED, is_hub
from semcache_core.types import Matrix, Vector

MOST = 3000
SERVED_AT = (0.73, 0.8, 0.85, 0.9, 0.93)
"""Cosines served at: .73 is the shipped artefact's bound of 20 % wrong answers, .93 that of 2 %."""
TRIES = 400
MOST_ASKED = 19
"""So many different questions were served at most when an entry is looked at."""


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "hubs")
    made.add_argument("--questions", type=Path, help="a CSV with the columns text and category")
    run_study(study, table, made.parse_args(argv))


def study(arguments: argparse.Namespace) -> Results:
    file, seed = arguments.questions, arguments.seed
    questions = _questions(file, seed)
    embedder = OnnxEmbedder.load(DEFAULT_ARTEFACT)
    vectors = embedder.embed([text for text, _ in questions])
    intents = np.array([intent for _, intent in questions])
    return {
        "fingerprint": embedder.fingerprint,
        "file": file.name if file else "the shipped sample",
        "questions": len(questions),
        "rows": [measure(vectors, intents, at, seed) for at in SERVED_AT],
    }


def measure(vectors: Matrix, intents: Any, served_at: float, seed: int) -> dict[str, Any]:
    """How many ordinary entries, and how many hubs, are flagged where that cosine is served."""
    rng = np.random.default_rng(seed)
    ordinary, hubs = [], []
    for i, vector in enumerate(vectors):
        near = vectors @ vector >= served_at
        near[i] = False
        if near.sum() >= MIN_ASKED:
            ordinary.append(is_hub(_asked(vectors, near, rng), served_at))
    reached = [crafted(vectors, intents, served_at, rng) for _ in range(TRIES)]
    for met in reached:
        if len(met) >= MIN_ASKED:
            hubs.append(is_hub(vectors[met][:MOST_ASKED], served_at))
    return {
        "served_at": served_at,
        "ordinary": len(ordinary),
        "ordinary_flagged": sum(ordinary),
        "false_flags": vars(Rate.of(sum(ordinary), len(ordinary))),
        "hubs": len(hubs),
        "hubs_flagged": sum(hubs),
        "detected": vars(Rate.of(sum(hubs), len(hubs))),
        "most_intents_at_once": max(map(len, reached)),
    }


def crafted(vectors: Matrix, intents: Any, served_at: float, rng: np.random.Generator) -> list[int]:
    """Questions of different intents that one vector is near enough to: greedily, from a random
    one, always adding what is nearest to the middle of those already reached.
    """
    met = [int(rng.integers(len(vectors)))]
    while True:
        order = np.argsort(-(vectors @ _middle(vectors[met])))
        seen = set(intents[met])
        fitting = (
            int(j)
            for j in [k for k in order[:MOST] if intents[k] not in seen][:10]
            if (vectors[[*met, j]] @ _middle(vectors[[*met, j]])).min() >= served_at
        )
        added = next(fitting, None)
        if added is None:
            return met
        met.append(added)


def _middle(vectors: Matrix) -> Vector:
    total: Vector = vectors.sum(axis=0)
    return total / np.linalg.norm(total)


def _asked(vectors: Matrix, near: Any, rng: np.random.Generator) -> Matrix:
    """What has been asked when the entry is looked at: a few of all who might."""
    found = np.flatnonzero(near)
    few = int(rng.integers(MIN_ASKED, MOST_ASKED + 1))
    return vectors[rng.choice(found, min(few, len(found)), replace=False)]


def _questions(file: Path | None, seed: int) -> list[tuple[str, str]]:
    if file is None:
        return [(each.question, each.intent) for each in sample_questions()]
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(lines)]
    return random.Random(seed).sample(rows, min(MOST, len(rows)))


def table(results: Results) -> str:
    rows = [
        (
            f"{row['served_at']:g}",
            *(f"{row[f'{kind}_flagged']} of {row[kind]}" for kind in ("ordinary", "hubs")),
            str(row["most_intents_at_once"]),
        )
        for row in results["rows"]
    ]
    head = ("served at a cosine of", "ordinary entries flagged", "hubs flagged", "intents at once")
    return markdown(head, rows)


if __name__ == "__main__":
    main()

"""What each rule of the guard is worth: wrong hits it prevents against right ones it costs.

python benchmarks/paper/guard.py --data DIR

DIR holds qqp_test.jsonl, mqp_dev.jsonl and banking77_test.csv. Pairs that the shipped model would
serve at 2 %, and all of a cosine of .9 and more: of QQP and medical questions as labelled, of
Banking77 each question with its nearest of 1,000 others, and synthetic edits and rewrites of all
three. A minute or two.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from arguments import RESULTS
from common import machine
from figures import Results, markdown, write
from intents import read_intents
from semcache_core.embedding import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.guard import decisive_difference
from semcache_core.predictor import load_calibration
from semcache_core.training.card import cosine
from semcache_core.training.pairs import Pair, read_pairs
from semcache_core.training.questions import Question
from semcache_core.training.streams import embed_texts, similarities_of
from semcache_core.training.synthetic import synthetic_pairs
from semcache_core.types import Embedder

BOUND = 0.02
STORED = 1000
EDITED = 3000
"""So many questions are edited and reworded."""


@dataclass(frozen=True)
class Near:
    """A pair that is near enough to be served, and what the guard says of it."""

    right: bool
    difference: str


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--data", type=Path, required=True, help="the directory of the three files")
    made.add_argument("--out", type=Path, default=RESULTS / "guard.json", help="the JSON to write")
    made.add_argument("--seed", type=int, default=0, help="draws whatever is drawn")
    arguments = made.parse_args(argv)
    write(arguments.out, None)
    embedder = OnnxEmbedder.load(DEFAULT_ARTEFACT)
    calibration = load_calibration(DEFAULT_ARTEFACT)
    at_bound = calibration.threshold(BOUND)
    cosines = {"0.9": 0.9} | ({} if at_bound is None else {"2 %": cosine(calibration, at_bound)})
    results: Results = {
        "format": 1,
        "seed": arguments.seed,
        "fingerprint": calibration.fingerprint,
        "cosines": {name: round(value, 4) for name, value in cosines.items()},
        **machine(),
        "sets": {},
    }
    for name, pairs in sets(arguments.data, embedder, arguments.seed).items():
        similarity = similarities_of(embedder, pairs)
        difference = [decisive_difference(pair.prompt, pair.other) for pair in pairs]
        results["sets"][name] = {
            threshold: worth(
                [
                    Near(pair.positive, difference[row])
                    for row, pair in enumerate(pairs)
                    if similarity[row] >= least
                ]
            )
            for threshold, least in cosines.items()
        }
    write(arguments.out, results)
    print(table(results))


def sets(directory: Path, embedder: Embedder, seed: int) -> dict[str, list[Pair]]:
    banking = nearest(read_intents(directory / "banking77_test.csv"), embedder, seed)
    named = {
        "QQP": read_pairs(directory / "qqp_test.jsonl"),
        "medical": read_pairs(directory / "mqp_dev.jsonl"),
        "Banking77": banking,
    }
    questions = list(dict.fromkeys(pair.prompt for pairs in named.values() for pair in pairs))
    chosen = np.random.default_rng(seed).permutation(len(questions))[:EDITED]
    made = synthetic_pairs([questions[index] for index in chosen], seed=seed)
    return named | {
        "edits": [pair for pair in made if not pair.positive],
        "rewrites": [pair for pair in made if pair.positive],
    }


def nearest(questions: Sequence[Question], embedder: Embedder, seed: int) -> list[Pair]:
    """Each question with the nearest of so many others; one intent has one answer."""
    vectors = embed_texts(embedder, [question.text for question in questions])
    chooser = np.random.default_rng(seed)
    pairs = []
    for row, question in enumerate(questions):
        stored = chooser.permutation(len(questions))[:STORED]
        stored = stored[stored != row]
        other = questions[int(stored[(vectors[stored] @ vectors[row]).argmax()])]
        same = question.answer_id == other.answer_id
        pairs.append(Pair(question.text, other.text, float(same)))
    return pairs


def worth(near: Sequence[Near]) -> Results:
    """How many would be served, and per rule how many of them it takes out."""
    rules = Counter((one.difference.split(":")[0], one.right) for one in near if one.difference)
    return {
        "right": sum(one.right for one in near),
        "wrong": sum(not one.right for one in near),
        "right_lost": sum(count for (_, right), count in rules.items() if right),
        "wrong_prevented": sum(count for (_, right), count in rules.items() if not right),
        "rules": {
            rule: {"right_lost": rules[rule, True], "wrong_prevented": rules[rule, False]}
            for rule in sorted({rule for rule, _ in rules})
        },
    }


def table(results: Results) -> str:
    rules = sorted({rule for of in results["sets"].values() for rule in of["0.9"]["rules"]})
    rows = []
    for rule in [*rules, "all rules"]:
        cells = []
        for of in results["sets"].values():
            found = of["0.9"] if rule == "all rules" else of["0.9"]["rules"].get(rule)
            lost, prevented = (found["right_lost"], found["wrong_prevented"]) if found else (0, 0)
            cells.append(f"{prevented:,} / {lost:,}")
        rows.append([rule, *cells])
    totals = [f"{of['0.9']['wrong']:,} / {of['0.9']['right']:,}" for of in results["sets"].values()]
    header = ("differs in", *results["sets"])
    return markdown(header, [*rows, ["of so many wrong / right", *totals]])


if __name__ == "__main__":
    main()

"""What each rule of the guard is worth: wrong hits it prevents against right ones it costs.

python studies/guard.py --data DIR

DIR holds qqp_test.jsonl, mqp_dev.jsonl and banking77_test.csv. The pairs are those of QQP and of
medical questions as labelled, of Banking77 each question with its nearest of 1,000 others, and
synthetic edits and rewrites of all three. Counted is where a rule fires, among pairs of a cosine
of .9 and more to the shipped model, and where what it weighs decides, at the artefact's thresholds
for 2 % and 5 %, each pair as if nothing else were stored. A minute or two.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from intents import read_intents
from runner import Results, limited, markdown, parser, run_study
from semcache_core.decision.calibration import load_calibration
from semcache_core.decision.guard import RULES, Difference, differences, read
from semcache_core.decision.scoring import Weights, sigmoid
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.training.calibration.streams import similarities_of
from semcache_core.training.data.augmentation import synthetic_pairs
from semcache_core.training.data.records import Pair, Question, read_pairs
from semcache_core.types import Embedder

BOUNDS = {"2 %": 0.02, "5 %": 0.05}
COSINE = 0.9
STORED = 1000
EDITED = 3000
"""So many questions are edited and reworded."""


@dataclass(frozen=True)
class Near:
    """A pair, and what the guard says of it."""

    right: bool
    similarity: float
    found: tuple[Difference, ...]

    @property
    def rules(self) -> set[str]:
        return {difference.rule for difference in self.found}


def main(argv: Sequence[str] | None = None) -> None:
    run_study(study, table, parser(__doc__, "guard", data="the three files").parse_args(argv))


def study(arguments: argparse.Namespace) -> Results:
    embedder = OnnxEmbedder.load(DEFAULT_ARTEFACT)
    calibration = load_calibration(DEFAULT_ARTEFACT)
    weights = calibration.judged_by
    thresholds = {
        name: threshold
        for name, bound in BOUNDS.items()
        if (threshold := calibration.threshold(bound)) is not None
    }
    found = {}
    for name, pairs in sets(arguments, embedder).items():
        near = judged(pairs, embedder)
        found[name] = {
            "by rule": by_rule([one for one in near if one.similarity >= COSINE]),
            "by weight": {
                bound: by_weight(near, weights, threshold)
                for bound, threshold in thresholds.items()
            },
        }
    return {
        "fingerprint": calibration.fingerprint,
        "cosine": COSINE,
        "thresholds": thresholds,
        "weights": asdict(weights),
        "sets": found,
    }


def sets(arguments: argparse.Namespace, embedder: Embedder) -> dict[str, list[Pair]]:
    directory, limit, seed = arguments.data, arguments.limit, arguments.seed
    questions = limited(read_intents(directory / "banking77_test.csv"), limit, seed)
    named = {
        "QQP": limited(read_pairs(directory / "qqp_test.jsonl"), limit, seed),
        "medical": limited(read_pairs(directory / "mqp_dev.jsonl"), limit, seed),
        "Banking77": nearest(questions, embedder, seed),
    }
    prompts = list(dict.fromkeys(pair.prompt for pairs in named.values() for pair in pairs))
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:EDITED]
    made = synthetic_pairs([prompts[index] for index in chosen], seed=seed)
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


def judged(pairs: Sequence[Pair], embedder: Embedder) -> list[Near]:
    return [
        Near(pair.positive, float(similarity), differences(read(pair.prompt), read(pair.other)))
        for pair, similarity in zip(pairs, similarities_of(embedder, pairs), strict=True)
    ]


def by_rule(near: Sequence[Near]) -> Results:
    """Of pairs that are near enough, those that a rule fires at, whatever it weighs."""
    fired = {rule: [one for one in near if rule in one.rules] for rule in RULES}
    rules = {rule: _taken_out(found) for rule, found in fired.items() if found}
    return {**worth(near, [one for one in near if one.found]), "rules": rules}


def by_weight(near: Sequence[Near], weights: Weights, threshold: float) -> Results:
    """Of pairs that their similarity would have served, those that the rules keep back."""

    def served(one: Near, found: Sequence[Difference]) -> bool:
        log_odds = weights.log_odds(one.similarity, weights.widest, found)
        return sigmoid(log_odds) >= threshold

    alike = [one for one in near if served(one, ())]
    return worth(alike, [one for one in alike if not served(one, one.found)])


def worth(near: Sequence[Near], kept_back: Sequence[Near]) -> Results:
    """How many would be served, and how many of them the rules take out."""
    right = sum(one.right for one in near)
    return {"right": right, "wrong": len(near) - right, **_taken_out(kept_back)}


def _taken_out(found: Sequence[Near]) -> Results:
    right = sum(one.right for one in found)
    return {"right_lost": right, "wrong_prevented": len(found) - right}


def table(results: Results) -> str:
    """Wrong prevented / right lost: by rule, by all of them, and by what they weigh."""
    sets = results["sets"].values()
    fired = [of["by rule"] for of in sets]
    none = {"right_lost": 0, "wrong_prevented": 0}
    rows = [
        _row(rule, [of["rules"].get(rule, none) for of in fired])
        for rule in RULES
        if any(rule in of["rules"] for of in fired)
    ]
    rows += [_row("all rules", fired), _totals(fired)]
    for bound in results["thresholds"]:
        weighed = [of["by weight"][bound] for of in sets]
        rows += [_row(f"all rules, by weight, at {bound}", weighed), _totals(weighed)]
    return markdown(("differs in", *results["sets"]), rows)


def _row(name: str, counts: Sequence[Results]) -> list[str]:
    return [name, *(f"{of['wrong_prevented']:,} / {of['right_lost']:,}" for of in counts)]


def _totals(counts: Sequence[Results]) -> list[str]:
    return ["of so many wrong / right", *(f"{of['wrong']:,} / {of['right']:,}" for of in counts)]


if __name__ == "__main__":
    main()

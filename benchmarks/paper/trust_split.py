"""The same method on questions of one's own: thresholds set on one half, judged on the other."""

from collections.abc import Sequence
from dataclasses import dataclass

from figures import Results, markdown
from semcache_core.embedding.batching import embed_texts
from semcache_core.training.calibration.risk_control import threshold_table
from semcache_core.training.calibration.streams import (
    Decided,
    Domain,
    decide,
    pooled,
    run_trials,
    split_asked,
)
from semcache_core.types import Matrix
from trial import BOUNDS, Part, Trial, shown_spread
from trust_static import FORMS, MISSING, domains, promise_kept

STREAMS = range(1000, 1004)
"""Not those that the other half is asked in."""


@dataclass(frozen=True)
class Split:
    """One draw of the halves: the thresholds by bound, and the other half's questions by form."""

    thresholds: dict[float, float | None]
    judged: dict[str, list[Decided]]


def measure(trial: Trial) -> Results:
    chosen = [
        (domain, embed_texts(trial.embedder, domain.texts)) for domain in domains(trial.arguments)
    ]
    splits = []
    for seed in range(trial.arguments.seeds):
        splits.append(split(chosen, trial, seed))
        trial.steps.show("split", seed + 1, trial.arguments.seeds)
    names = [domain.name for domain, _ in chosen]
    return {
        form: {
            name: {f"{bound:g}": kept(splits, form, at, bound) for bound in BOUNDS}
            for at, name in enumerate([*names, "all"])
        }
        for form in FORMS
    }


def split(chosen: Sequence[tuple[Domain, Matrix]], trial: Trial, seed: int) -> Split:
    """Set thresholds on half of the questions of every domain, with half of the answers missing."""
    weights = trial.calibration.judged_by
    halves = [split_asked(domain, 0.5, seed) for domain, _ in chosen]
    vectors = [own for _, own in chosen]
    table = threshold_table(
        [
            decide(first.name, run_trials(first, own, missing=MISSING, seeds=STREAMS), weights)
            for (first, _), own in zip(halves, vectors, strict=True)
        ],
        BOUNDS,
    )
    judged = {}
    for form, missing in FORMS.items():
        others = [
            decide(second.name, run_trials(second, own, missing=missing, seeds=[seed]), weights)
            for (_, second), own in zip(halves, vectors, strict=True)
        ]
        judged[form] = [*others, pooled(others)]
    return Split({row.max_error_rate: row.probability for row in table}, judged)


def kept(splits: Sequence[Split], form: str, at: int, bound: float) -> Results:
    return promise_kept(
        [one.judged[form][at] for one in splits], [one.thresholds[bound] for one in splits], bound
    )


def table(results: Results) -> str:
    header = ("other half of", "stream", "bound", "rightly served", "error", "within the bound")
    rows = [
        (
            *(name, form, f"{float(bound):.0%}"),
            *(shown_spread(found[figure]) for figure in ("rightly_served", "error")),
            f"{found['within']} of {found['streams']}",
        )
        for form, by_name in results.items()
        for name, by_bound in by_name.items()
        for bound, found in by_bound.items()
    ]
    return markdown(header, rows)


SPLIT = Part("split", measure, table)

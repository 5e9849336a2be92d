"""Questions against a store that does not grow: what the artefact serves of each stream."""

import argparse
from collections.abc import Sequence

import numpy as np
from common import limited
from figures import Results, markdown
from intents import read_intents, stream_of
from semcache_core.decision.calibration import Calibration
from semcache_core.embedding.batching import embed_texts
from semcache_core.training.calibration.calibrate import MISSING
from semcache_core.training.calibration.streams import (
    Decided,
    Domain,
    decide,
    domain_from_pairs,
    run_trials,
)
from semcache_core.training.data.records import read_pairs
from semcache_core.types import Matrix
from trial import BOUNDS, Part, Trial, shown_spread, spread, within

PAIRS = {"medical": "mqp_dev.jsonl", "QQP": "qqp_test.jsonl"}
INTENTS = {"Banking77": "banking77_test.csv"}
FORMS = {"all answerable": 0.0, "half missing": MISSING}


def measure(trial: Trial) -> Results:
    found: Results = {}
    for domain in domains(trial.arguments):
        trial.steps.show(f"static, {domain.name}", 0, 1)
        vectors = embed_texts(trial.embedder, domain.texts)
        found[domain.name] = {
            "data": {
                "file": {**PAIRS, **INTENTS}[domain.name],
                "split": "as given",
                "asked": int(domain.asked.sum()),
            },
            **{
                form: by_bound(streams(domain, vectors, missing, trial), trial.calibration)
                for form, missing in FORMS.items()
            },
        }
        trial.steps.show(f"static, {domain.name}", 1, 1)
    return found


def domains(arguments: argparse.Namespace) -> list[Domain]:
    directory, limit = arguments.data, arguments.limit
    return [
        *(
            domain_from_pairs(name, limited(read_pairs(directory / file), limit, 0))
            for name, file in PAIRS.items()
        ),
        *(
            stream_of(name, limited(read_intents(directory / file), limit, 0))
            for name, file in INTENTS.items()
        ),
    ]


def streams(domain: Domain, vectors: Matrix, missing: float, trial: Trial) -> list[Decided]:
    """One for each seed, or one only where a seed would draw nothing."""
    drawn = missing > 0 or domain.store_size is not None
    seeds = range(trial.arguments.seeds if drawn else 1)
    weights = trial.calibration.judged_by
    return [
        decide(domain.name, run_trials(domain, vectors, missing=missing, seeds=[seed]), weights)
        for seed in seeds
    ]


def by_bound(decided: Sequence[Decided], calibration: Calibration) -> Results:
    return {
        f"{bound:g}": promise_kept(decided, [calibration.threshold(bound)] * len(decided), bound)
        for bound in BOUNDS
    }


def promise_kept(
    seeds: Sequence[Decided], thresholds: Sequence[float | None], bound: float
) -> Results:
    """What is served of the stream of each seed at its threshold, and in how many streams the error
    is within the bound. None serves nothing.
    """
    rightly: list[float | None] = []
    errors: list[float | None] = []
    counts = []
    for outcomes, threshold in zip(seeds, thresholds, strict=True):
        served = outcomes.probability >= (np.inf if threshold is None else threshold)
        right, count = int((served & outcomes.right).sum()), int(served.sum())
        answerable = int(outcomes.answerable.sum())
        rightly.append(right / answerable if answerable else None)
        errors.append((count - right) / count if count else None)
        counts.append(count)
    return {
        "streams": len(seeds),
        "within": within(errors, bound),
        "served": counts,
        "rightly_served": spread(rightly),
        "error": spread(errors),
    }


def table(results: Results) -> str:
    header = ("questions", "stream", "bound", "rightly served", "error", "within the bound")
    rows = [
        (
            *(name, form, f"{float(bound):.0%}"),
            *(shown_spread(kept[figure]) for figure in ("rightly_served", "error")),
            f"{kept['within']} of {kept['streams']}",
        )
        for name, domain in results.items()
        for form in FORMS
        for bound, kept in domain[form].items()
    ]
    return markdown(header, rows)


STATIC = Part("static", measure, table)

"""What a bound is worth: what is served under it, and how often the error keeps it.

python studies/trust.py --data DIR --seeds 20

DIR holds banking77_train.csv, banking77_test.csv, mqp_dev.jsonl and qqp_test.jsonl. A set that the
artefact was calibrated on does not say what its bound is worth elsewhere: what it was stands in the
results, as `calibrated_on`.

Arrivals: all training questions of Banking77 reach an empty cache, each once, in several orders;
one intent has one answer. Fixed thresholds and a learner per stored question see the similarities
of the untuned base, the artefact its own. The learner promises a share of all requests, the
artefact one of those served by meaning; both shares are given for every policy.

Static: questions against a store that does not grow, a stream for each seed; all can be answered
from it, or half of the answers are missing.

Split: as static, but thresholds are set on half of the questions of every set and judged on the
other half, which no part of the calibration has seen; other halves for each seed.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from intents import read_intents, stream_of
from per_prompt import PerPrompt
from runner import (
    BASE,
    Results,
    artefact_named,
    at_least_one,
    limited,
    markdown,
    name_of,
    open_base,
    parser,
    plain,
    run_study,
    shown_spread,
    spread,
)
from semcache_core.cli.progress import Steps
from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.evaluation.policies import Arm, FixedThreshold, InHindsight, artefact_arm
from semcache_core.evaluation.replay import Arrival, in_order
from semcache_core.evaluation.simulation import ArmResult, simulate
from semcache_core.training.calibration.calibrate import MISSING
from semcache_core.training.calibration.risk_control import threshold_table
from semcache_core.training.calibration.streams import (
    Decided,
    Domain,
    Remembering,
    decide,
    domain_from_pairs,
    pooled,
    run_trials,
    split_asked,
)
from semcache_core.training.data.records import read_pairs
from semcache_core.training.onnx_export import export_onnx
from semcache_core.types import Embedder, Matrix

BOUNDS = (0.01, 0.02, 0.05, 0.10)
FIXED = (0.90, 0.85)
RIVAL_BOUNDS = (0.01, 0.02, 0.05)
TRIED = tuple(round(0.76 + 0.02 * step, 2) for step in range(12))
"""Thresholds tried in hindsight."""
ARRIVING = "banking77_train.csv"
SHARES = {"served": "hit_rate", "wrong_of_all": "wrong_rate", "wrong_of_served": "false_hit_rate"}
"""Our names of the figures of a simulation; the last is of the answers served by meaning."""
PAIRS = {"medical": "mqp_dev.jsonl", "QQP": "qqp_test.jsonl"}
INTENTS = {"Banking77": "banking77_test.csv"}
FORMS = {"all answerable": 0.0, "half missing": MISSING}
SPLIT_STREAMS = range(1000, 1004)
"""Seeds of the half that sets the thresholds; the other half is asked with others."""


@dataclass(frozen=True)
class Trial:
    """What every part measures with: the untuned base, and an artefact with its arm per bound.

    Both embedders remember, so that a text is embedded once however many seeds there are.
    """

    arguments: argparse.Namespace
    untuned: Embedder
    embedder: Embedder
    calibration: Calibration
    served: dict[float, Arm]
    steps: Steps


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "trust", data="the four files", seed=False, limit=True)
    add = made.add_argument
    add("--seeds", type=at_least_one, default=20, help="static streams of each kind")
    add("--orders", type=at_least_one, default=5, help="in which the questions arrive")
    add("--artefact", type=Path, default=DEFAULT_ARTEFACT, help="what makes the promise")
    add("--base", help="a sentence-transformers name or directory; all-MiniLM-L6-v2 if none")
    arguments = made.parse_args(argv)
    run_study(study, table, arguments)


def study(arguments: argparse.Namespace) -> Results:
    with Steps() as steps:
        trial = trial_of(arguments, steps)
        parts = {name: plain(measure(trial)) for name, (measure, _) in PARTS.items()}
    return {
        "study": "what a bound is worth",
        "artefact": artefact_named(arguments.artefact, trial.calibration),
        "base": {
            "name": name_of(arguments.base or BASE),
            "fingerprint": trial.untuned.fingerprint,
        },
        **parts,
    }


def table(results: Results) -> str:
    return "\n\n".join(shown(results[name]) for name, (_, shown) in PARTS.items())


def trial_of(arguments: argparse.Namespace, steps: Steps) -> Trial:
    served = {
        bound: artefact_arm(arguments.artefact, bound, f"max_error_rate {bound:g}")
        for bound in BOUNDS
    }
    embedder = Remembering(OnnxEmbedder.load(arguments.artefact))
    return Trial(
        arguments=arguments,
        untuned=Remembering(untuned_of(arguments.base)),
        embedder=embedder,
        calibration=load_calibration(arguments.artefact),
        served={bound: Arm(arm.policy, embedder) for bound, arm in served.items()},
        steps=steps,
    )


def untuned_of(base: str | None) -> Embedder:
    """The published weights in int8, as an artefact has them."""
    with tempfile.TemporaryDirectory(prefix="semcache-trust-") as directory:
        export_onnx(open_base(base), Path(directory))
        return OnnxEmbedder.load(Path(directory))


def within(errors: Sequence[float | None], bound: float) -> int:
    """How many of the errors keep the bound; where nothing was served there is none to break it."""
    return sum(error is None or error <= bound + 1e-12 for error in errors)


@dataclass(frozen=True)
class Contender:
    """An arm, and which of its shares it promises to keep within a bound; None for no promise."""

    arm: Arm
    bound: float | None = None
    promised: str = "wrong_of_served"


def arrivals(trial: Trial) -> Results:
    arguments = trial.arguments
    asked = [
        Arrival(question.text, str(question.answer_id))
        for question in limited(read_intents(arguments.data / ARRIVING), arguments.limit, 0)
    ]
    seen: list[list[ArmResult]] = []
    for order in range(arguments.orders):
        simulation = simulate(
            in_order(asked, order),
            [one.arm for one in contenders(trial, order)],
            progress=partial(trial.steps.show, f"arrivals, order {order}"),
        )
        seen.append(list(simulation.arms))
    arms = zip(contenders(trial, 0), zip(*seen, strict=True), strict=True)
    return {
        "data": {"file": ARRIVING, "split": "train", "requests": len(asked)},
        "orders": arguments.orders,
        "arms": {one.arm.policy.name: arm_figures(one, results) for one, results in arms},
    }


def contenders(trial: Trial, seed: int) -> list[Contender]:
    """Those that look at the untuned base, then the artefact; `seed` is the learner's."""
    untuned = trial.untuned
    fixed = [FixedThreshold(f"threshold {one:.2f}", one) for one in FIXED]
    best = [(InHindsight(f"best threshold, {one:g}", one, TRIED), one) for one in RIVAL_BOUNDS]
    learners = [(PerPrompt(f"per-prompt learner, {one:g}", one, seed), one) for one in RIVAL_BOUNDS]
    return [
        *(Contender(Arm(policy, untuned)) for policy in fixed),
        *(Contender(Arm(policy, untuned), bound) for policy, bound in best),
        *(Contender(Arm(policy, untuned), bound, "wrong_of_all") for policy, bound in learners),
        *(Contender(arm, bound) for bound, arm in trial.served.items()),
    ]


def arm_figures(contender: Contender, results: Sequence[ArmResult]) -> Results:
    """Every share with a figure per order, and in how many orders the promise was kept."""
    shares = {
        name: [getattr(result, figure).value for result in results]
        for name, figure in SHARES.items()
    }
    kept = None
    if contender.bound is not None:
        kept = within(shares[contender.promised], contender.bound)
    return {
        "settings": list(dict.fromkeys(result.setting for result in results)),
        "bound": contender.bound,
        "promised": None if contender.bound is None else contender.promised,
        "within": kept,
        **{name: spread(share) for name, share in shares.items()},
    }


def arrivals_table(results: Results) -> str:
    header = (
        f"Banking77 arriving, {results['orders']} orders of {results['data']['requests']:,}",
        *("served", "wrong of all requests", "wrong of those by meaning", "within its bound"),
    )
    rows = [
        (
            name,
            *(shown_spread(arm[share]) for share in SHARES),
            "-" if arm["within"] is None else f"{arm['within']} of {results['orders']}",
        )
        for name, arm in results["arms"].items()
    ]
    return markdown(header, rows)


def static(trial: Trial) -> Results:
    found: Results = {}
    for domain, vectors in domains(trial):
        file = {**PAIRS, **INTENTS}[domain.name]
        asked = int(domain.asked.sum())
        found[domain.name] = {"data": {"file": file, "split": "as given", "asked": asked}}
        for form, missing in FORMS.items():
            drawn = missing > 0 or domain.store_size is not None  # by the seed; else one stream
            streams = [
                decided(trial, domain, vectors, missing, [seed])
                for seed in range(trial.arguments.seeds if drawn else 1)
            ]
            thresholds = {bound: trial.calibration.threshold(bound) for bound in BOUNDS}
            found[domain.name][form] = {
                f"{bound:g}": promise_kept(streams, [threshold] * len(streams), bound)
                for bound, threshold in thresholds.items()
            }
    return found


def domains(trial: Trial) -> list[tuple[Domain, Matrix]]:
    """Each set of questions, with the vectors of its texts."""
    directory, limit = trial.arguments.data, trial.arguments.limit
    pairs = [
        domain_from_pairs(name, limited(read_pairs(directory / file), limit, 0))
        for name, file in PAIRS.items()
    ]
    intents = [
        stream_of(name, limited(read_intents(directory / file), limit, 0))
        for name, file in INTENTS.items()
    ]
    return [(one, embed_texts(trial.embedder, one.texts)) for one in (*pairs, *intents)]


def decided(
    trial: Trial, domain: Domain, vectors: Matrix, missing: float, seeds: Iterable[int]
) -> Decided:
    trials = run_trials(domain, vectors, missing=missing, seeds=seeds)
    return decide(domain.name, trials, trial.calibration.judged_by)


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


def static_table(results: Results) -> str:
    return promises_table(
        "questions",
        [
            (name, form, bound, kept)
            for name, domain in results.items()
            for form in FORMS
            for bound, kept in domain[form].items()
        ],
    )


def promises_table(of: str, kept: Sequence[tuple[str, str, str, Results]]) -> str:
    """(name, form, bound, figures of `promise_kept`) a line."""
    header = (of, "stream", "bound", "rightly served", "error", "within the bound")
    rows = [
        (
            *(name, form, f"{float(bound):.0%}"),
            *(shown_spread(found[figure]) for figure in ("rightly_served", "error")),
            f"{found['within']} of {found['streams']}",
        )
        for name, form, bound, found in kept
    ]
    return markdown(header, rows)


@dataclass(frozen=True)
class Split:
    """One draw of the halves: the thresholds by bound, and the other half's questions by form."""

    thresholds: dict[float, float | None]
    judged: dict[str, list[Decided]]


def by_halves(trial: Trial) -> Results:
    chosen = domains(trial)
    splits = []
    for seed in range(trial.arguments.seeds):
        splits.append(split(chosen, trial, seed))
        trial.steps.show("split", seed + 1, trial.arguments.seeds)
    names = [*(domain.name for domain, _ in chosen), "all"]
    return {
        form: {
            name: {f"{bound:g}": kept(splits, form, at, bound) for bound in BOUNDS}
            for at, name in enumerate(names)
        }
        for form in FORMS
    }


def split(chosen: Sequence[tuple[Domain, Matrix]], trial: Trial, seed: int) -> Split:
    """Set thresholds on half of the questions of every domain, with half of the answers missing."""
    halves = [(*split_asked(domain, 0.5, seed), vectors) for domain, vectors in chosen]
    table = threshold_table(
        [decided(trial, first, own, MISSING, SPLIT_STREAMS) for first, _, own in halves], BOUNDS
    )
    judged = {}
    for form, missing in FORMS.items():
        others = [decided(trial, second, own, missing, [seed]) for _, second, own in halves]
        judged[form] = [*others, pooled(others)]
    return Split({row.max_error_rate: row.probability for row in table}, judged)


def kept(splits: Sequence[Split], form: str, at: int, bound: float) -> Results:
    return promise_kept(
        [one.judged[form][at] for one in splits], [one.thresholds[bound] for one in splits], bound
    )


def halves_table(results: Results) -> str:
    return promises_table(
        "other half of",
        [
            (name, form, bound, found)
            for form, by_name in results.items()
            for name, by_bound in by_name.items()
            for bound, found in by_bound.items()
        ],
    )


PARTS: dict[str, tuple[Callable[[Trial], Results], Callable[[Results], str]]] = {
    "arrivals": (arrivals, arrivals_table),
    "static": (static, static_table),
    "split": (by_halves, halves_table),
}
"""What is measured on each kind of data, and its table; in the order measured and printed."""

if __name__ == "__main__":
    main()

"""What a bound is worth: what is served under it, and how often the error keeps it.

python studies/trust.py --data DIR --seeds 20

DIR holds banking77_train.csv, banking77_test.csv, mqp_dev.jsonl and qqp_test.jsonl. A set that the
artefact was calibrated on does not say what its bound is worth elsewhere: what it was stands in the
results, as `calibrated_on`.

Arrivals: all training questions of Banking77 reach an empty cache, each once, in several orders;
one intent has one answer. Fixed thresholds and a learner per stored question see the similarities
of the untuned base, the artefact its own. The learner promises a share of all requests, the
artefact one of those served by meaning; both shares are given for every policy.

Split: questions against a store that does not grow; all can be answered from it, or half of the
answers are missing. Thresholds are set on half of the questions of every set and judged on the
other half, which no part of the calibration has seen; other halves for each seed. What the
artefact's own thresholds do on such streams is in its card.
"""

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from intents import read_intents, stream_of
from per_prompt import PerPrompt
from runner import (
    Results,
    limited,
    markdown,
    open_base,
    parser,
    plain,
    run_study,
    say,
    shown_spread,
    spread,
)
from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.decision.scoring import Weights
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.evaluation.policies import Arm, FixedThreshold, InHindsight, MaxErrorRate
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


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "trust", data="the four files", seed=False)
    add = made.add_argument
    add("--seeds", type=int, default=20, help="draws of the halves")
    add("--orders", type=int, default=5, help="in which the questions arrive")
    add("--artefact", type=Path, default=DEFAULT_ARTEFACT, help="what makes the promise")
    add("--base", help="a sentence-transformers name or directory; all-MiniLM-L6-v2 if none")
    run_study(study, table, made.parse_args(argv))


def study(arguments: argparse.Namespace) -> Results:
    embedder = Remembering(OnnxEmbedder.load(arguments.artefact))
    calibration = load_calibration(arguments.artefact)
    untuned = Remembering(untuned_of(arguments.base))
    return {
        "study": "what a bound is worth",
        "artefact": {
            "name": arguments.artefact.name,
            "fingerprint": calibration.fingerprint,
            "calibrated_on": calibration.calibrated_on,
        },
        "base": {
            "name": Path(arguments.base or "all-MiniLM-L6-v2").name,
            "fingerprint": untuned.fingerprint,
        },
        "arrivals": plain(arrivals(arguments, untuned, embedder, calibration)),
        "split": plain(by_halves(arguments, embedder, calibration.judged_by)),
    }


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


def arrivals(
    arguments: argparse.Namespace, untuned: Embedder, embedder: Embedder, calibration: Calibration
) -> Results:
    asked = [
        Arrival(question.text, str(question.answer_id))
        for question in limited(read_intents(arguments.data / ARRIVING), arguments.limit, 0)
    ]
    seen: list[Sequence[ArmResult]] = []
    for order in range(arguments.orders):
        say(f"arrivals, order {order}")
        tried = contenders(untuned, embedder, calibration, order)
        seen.append(simulate(in_order(asked, order), [one.arm for one in tried]).arms)
    return {
        "data": {"file": ARRIVING, "split": "train", "requests": len(asked)},
        "orders": arguments.orders,
        "arms": {
            one.arm.policy.name: arm_figures(one, results)
            for one, results in zip(tried, zip(*seen, strict=True), strict=True)
        },
    }


def contenders(
    untuned: Embedder, embedder: Embedder, calibration: Calibration, seed: int
) -> list[Contender]:
    """Those that look at the untuned base, then the artefact; `seed` is the learner's."""
    fixed = [FixedThreshold(f"threshold {one:.2f}", one) for one in FIXED]
    best = [(InHindsight(f"best threshold, {one:g}", one, TRIED), one) for one in RIVAL_BOUNDS]
    learners = [(PerPrompt(f"per-prompt learner, {one:g}", one, seed), one) for one in RIVAL_BOUNDS]
    ours = [
        (MaxErrorRate(f"max_error_rate {one:g}", calibration, embedder, one), one) for one in BOUNDS
    ]
    return [
        *(Contender(Arm(policy, untuned)) for policy in fixed),
        *(Contender(Arm(policy, untuned), bound) for policy, bound in best),
        *(Contender(Arm(policy, untuned), bound, "wrong_of_all") for policy, bound in learners),
        *(Contender(Arm(policy, embedder), bound) for policy, bound in ours),
    ]


def arm_figures(contender: Contender, results: Sequence[ArmResult]) -> Results:
    """Every share with a figure per order, and in how many orders the promise was kept."""
    shares = {
        name: [getattr(result, figure).value for result in results]
        for name, figure in SHARES.items()
    }
    promised = None if contender.bound is None else contender.promised
    return {
        "settings": list(dict.fromkeys(result.setting for result in results)),
        "bound": contender.bound,
        "promised": promised,
        "within": promised and within(shares[promised], contender.bound or 0),
        **{name: spread(share) for name, share in shares.items()},
    }


@dataclass(frozen=True)
class Split:
    """One draw of the halves: the thresholds by bound, and the other half's questions by form."""

    thresholds: dict[float, float | None]
    judged: dict[str, list[Decided]]


def by_halves(arguments: argparse.Namespace, embedder: Embedder, weights: Weights) -> Results:
    domains = read_domains(arguments.data, arguments.limit)
    chosen = [(one, embed_texts(embedder, one.texts)) for one in domains]
    splits = []
    for seed in range(arguments.seeds):
        say(f"split {seed}")
        splits.append(split(chosen, weights, seed))
    return {
        form: {
            name: {f"{bound:g}": kept(splits, form, at, bound) for bound in BOUNDS}
            for at, name in enumerate([*(domain.name for domain in domains), "all"])
        }
        for form in FORMS
    }


def read_domains(directory: Path, limit: int | None) -> list[Domain]:
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


def split(chosen: Sequence[tuple[Domain, Matrix]], weights: Weights, seed: int) -> Split:
    """Set thresholds on half of the questions of every domain, with half of the answers missing."""

    def decided(domain: Domain, own: Matrix, missing: float, seeds: Iterable[int]) -> Decided:
        return decide(domain.name, run_trials(domain, own, missing=missing, seeds=seeds), weights)

    halves = [(*split_asked(domain, 0.5, seed), vectors) for domain, vectors in chosen]
    table = threshold_table(
        [decided(first, own, MISSING, SPLIT_STREAMS) for first, _, own in halves], BOUNDS
    )
    judged = {}
    for form, missing in FORMS.items():
        others = [decided(second, own, missing, [seed]) for _, second, own in halves]
        judged[form] = [*others, pooled(others)]
    return Split({row.max_error_rate: row.probability for row in table}, judged)


def kept(splits: Sequence[Split], form: str, at: int, bound: float) -> Results:
    """What is served of the questions of each split at its threshold, and in how many splits the
    error is within the bound. A threshold of None serves nothing.
    """
    rightly: list[float | None] = []
    errors: list[float | None] = []
    counts = []
    for one in splits:
        outcomes, threshold = one.judged[form][at], one.thresholds[bound]
        served = outcomes.probability >= (np.inf if threshold is None else threshold)
        right, count = int((served & outcomes.right).sum()), int(served.sum())
        answerable = int(outcomes.answerable.sum())
        rightly.append(right / answerable if answerable else None)
        errors.append((count - right) / count if count else None)
        counts.append(count)
    return {
        "streams": len(splits),
        "within": within(errors, bound),
        "served": counts,
        "rightly_served": spread(rightly),
        "error": spread(errors),
    }


def table(results: Results) -> str:
    arriving = results["arrivals"]
    header = (
        f"Banking77 arriving, {arriving['orders']} orders of {arriving['data']['requests']:,}",
        *("served", "wrong of all requests", "wrong of those by meaning", "within its bound"),
    )
    rows = [
        (
            name,
            *(shown_spread(arm[share]) for share in SHARES),
            "-" if arm["within"] is None else f"{arm['within']} of {arriving['orders']}",
        )
        for name, arm in arriving["arms"].items()
    ]
    halves = ("other half of", "stream", "bound", "rightly served", "error", "within the bound")
    judged = [
        (
            *(name, form, f"{float(bound):.0%}"),
            *(shown_spread(found[figure]) for figure in ("rightly_served", "error")),
            f"{found['within']} of {found['streams']}",
        )
        for form, by_name in results["split"].items()
        for name, by_bound in by_name.items()
        for bound, found in by_bound.items()
    ]
    return markdown(header, rows) + "\n\n" + markdown(halves, judged)


if __name__ == "__main__":
    main()

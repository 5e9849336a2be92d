"""Banking77 as it arrives: an empty cache that fills, under every policy, in several orders."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from common import limited
from figures import Results, markdown
from intents import read_intents
from semcache_core.evaluation.per_prompt import PerPrompt
from semcache_core.evaluation.policies import Arm, FixedThreshold, InHindsight
from semcache_core.evaluation.replay import Arrival, in_order
from semcache_core.evaluation.simulation import ArmResult, simulate
from trial import Part, Trial, shown_spread, spread, within

FIXED = (0.90, 0.85)
RIVAL_BOUNDS = (0.01, 0.02, 0.05)
TRIED = tuple(round(0.76 + 0.02 * step, 2) for step in range(12))
"""Thresholds tried in hindsight."""
FILE = "banking77_train.csv"
SHARES = {"served": "hit_rate", "wrong_of_all": "wrong_rate", "wrong_of_served": "false_hit_rate"}
"""Our names of the figures of a simulation; the last is of those served by meaning."""


@dataclass(frozen=True)
class Contender:
    """An arm, and which of its shares it promises to keep within a bound; None for no promise."""

    arm: Arm
    bound: float | None = None
    promised: str = "wrong_of_served"


def measure(trial: Trial) -> Results:
    arguments = trial.arguments
    asked = [
        Arrival(question.text, str(question.answer_id))
        for question in limited(read_intents(arguments.data / FILE), arguments.limit, 0)
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
        "data": {"file": FILE, "split": "train", "requests": len(asked)},
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


def table(results: Results) -> str:
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


ARRIVALS = Part("arrivals", measure, table)

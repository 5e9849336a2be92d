"""A general assistant, tuned on Quora question pairs with either loss of arXiv 2402.01173.

python studies/qqp.py --data DIR

DIR holds qqp_train.jsonl, qqp_calibration.jsonl and qqp_test.jsonl, no question in two of them,
and what is not tuned on: mqp_dev.jsonl and banking77_test.csv.

Untuned, BCE and SLD are measured side by side: ranking of all test pairs and of a hard subset, as
many of either label in each bin of .02 of the untuned similarity; what streams of nearest
neighbours could be served; a cache that fills as the questions of the test pairs arrive; and two
fields that nothing was tuned on, where tuning may cost.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from arms import PLAIN, Arm, Bench, run_training_study, training_parser
from intents import Group, group_of, measure_group, read_intents
from runner import Results, limited, markdown, plain, say, shown
from semcache_core.decision.calibration import Calibration
from semcache_core.evaluation import evaluate
from semcache_core.evaluation.policies import Arm as SimulatedArm
from semcache_core.evaluation.policies import ExactOnly, InHindsight, MaxErrorRate
from semcache_core.evaluation.replay import from_pairs, zipf
from semcache_core.evaluation.simulation import simulate
from semcache_core.training.calibration.calibrate import calibrate
from semcache_core.training.calibration.streams import similarities_of
from semcache_core.training.data.records import Pair, Question, fold_question, read_pairs, texts_of

BOUNDS = (0.02, 0.05, 0.1)
"""The last because the labels are noisy: an error much below 10 % cannot be measured on them."""

RATES = ("caching_efficiency", "hit_rate", "false_hit_rate")


@dataclass(frozen=True)
class Data:
    """Pairs of the three splits, and of two fields that nothing is tuned on."""

    train: list[Pair]
    calibration: list[Pair]
    test: list[Pair]
    medical: list[Pair]
    banking: list[Question]


@dataclass(frozen=True)
class Measured:
    """An arm with its calibration and its figures."""

    arm: Arm
    calibration: Calibration
    figures: Results


def main(argv: Sequence[str] | None = None) -> None:
    made = training_parser(__doc__, "qqp", PLAIN, "the five files")
    run_training_study(study, table, made.parse_args(argv))


def study(bench: Bench) -> Results:
    seed = bench.arguments.seed
    data = read_data(bench.arguments.data, bench.arguments.limit, seed)
    untuned = bench.untuned()
    base = similarities_of(untuned.embedder, data.test).tolist()
    banking = group_of("all intents", data.banking, untuned.embedder, seed)
    # one by one: what cannot be calibrated is refused before any training
    measured = [
        measure(bench, data, banking, base, arm)
        for arm in chain([untuned], bench.tuned(data.train))
    ]
    return {
        "study": "QQP as a general assistant",
        "data": {name: len(rows) for name, rows in vars(data).items()},
        "split": "by connected component, as given; a training or calibration pair with a question "
        "of a later split, but for case, space and closing points, is dropped",
        "arms": {one.arm.name: {"training": one.arm.training, **one.figures} for one in measured},
        "simulation": simulations(data.test, measured, seed),
    }


def read_data(directory: Path, limit: int | None, seed: int) -> Data:
    train, calibration, test, medical = (
        limited(read_pairs(directory / f"{name}.jsonl"), limit, seed)
        for name in ("qqp_train", "qqp_calibration", "qqp_test", "mqp_dev")
    )
    banking = limited(read_intents(directory / "banking77_test.csv"), limit, seed)
    calibration = apart(calibration, test)
    return Data(apart(train, [*calibration, *test]), calibration, test, medical, banking)


def apart(pairs: Sequence[Pair], held_out: Sequence[Pair]) -> list[Pair]:
    """Pairs without a question of `held_out`; case, space and closing points do not count."""
    questions = {fold_question(text) for text in texts_of(held_out)}
    return [
        pair for pair in pairs if not questions & {*map(fold_question, (pair.prompt, pair.other))}
    ]


def measure(bench: Bench, data: Data, banking: Group, base: list[float], arm: Arm) -> Measured:
    calibration = calibrate(arm.embedder, data.calibration, out=arm.directory)

    def figures(pairs: list[Pair], base: list[float] | None) -> Results:
        found = evaluate(
            pairs,
            arm.embedder,
            calibration,
            base_similarities=base,
            resamples=bench.arguments.resamples,
            seed=bench.arguments.seed,
        )
        tree = found.forms.tree(calibration)
        return {**vars(found.figures), **tree, "slices": found.slices}

    tree = {
        "lambda": calibration.lam,
        "c": calibration.c,
        "test": figures(data.test, base),
        "not tuned on": {
            "medical": figures(data.medical, None),
            "banking77": measure_group(bench, banking, arm, calibration),
        },
    }
    return Measured(arm, calibration, plain(tree))


def simulations(pairs: list[Pair], measured: list[Measured], seed: int) -> Results:
    """The questions of the pairs as they arrive at an empty cache, under every policy."""
    arms = [SimulatedArm(ExactOnly(), None)]
    for one in measured:
        name, embedder = one.arm.name, one.arm.embedder
        for bound in BOUNDS:
            best = InHindsight(f"{name}, best threshold at {bound:g}", bound)
            promised = MaxErrorRate(
                f"{name}, max_error_rate {bound:g}", one.calibration, embedder, bound
            )
            arms += [SimulatedArm(best, embedder), SimulatedArm(promised, embedder)]
    once = from_pairs(pairs, seed)
    found = {}
    for name, stream in (
        ("each question once", once),
        ("Zipf", zipf(once, len(once), seed=seed)),
    ):
        say(f"simulation: {name}")
        simulation = asdict(simulate(stream, arms, seed=seed))
        for arm in simulation["arms"]:
            del arm["series"]  # the course of the stream
        by_name = {arm.pop("name"): arm for arm in simulation["arms"]}
        found[name] = plain({**simulation, "arms": by_name})
    return found


def table(results: Results) -> str:
    forms = ("served_at_error", "served_at_error_half_missing")
    rows = [
        (
            name,
            *(shown(arm["test"][figure]) for figure in ("auc", "average_precision", "hard_auc")),
            *(shown(arm["test"][form][bound]) for form in forms for bound in ("0.02", "0.05")),
            *(shown(arm["not tuned on"][field]["auc"]) for field in ("medical", "banking77")),
        )
        for name, arm in results["arms"].items()
    ]
    header = (
        *("model", "AUC", "AP", "hard AUC", "served at 2 %", "at 5 %", "half missing at 2 %"),
        *("at 5 %", "medical AUC", "Banking77 hard AUC"),
    )
    streams = [
        markdown(
            (stream, "rightly served", "hits", "wrong of those by meaning"),
            [
                (name, *(_rate(arm[rate]) for rate in RATES))
                for name, arm in simulation["arms"].items()
            ],
        )
        for stream, simulation in results["simulation"].items()
    ]
    return "\n\n".join([markdown(header, rows), *streams])


def _rate(rate: Results) -> str:
    return shown({"value": rate["value"], "interval": (rate["low"], rate["high"])})


if __name__ == "__main__":
    main()

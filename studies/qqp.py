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
from functools import partial
from itertools import chain
from pathlib import Path

from arms import Arm, Bench, run_training_study, training_parser
from intents import Group, group_of, measure_group, read_intents
from runner import Results, apart, counts, limited, markdown, plain, shown
from semcache_core.decision.calibration import Calibration
from semcache_core.evaluation.evaluate import Evaluation, evaluate
from semcache_core.evaluation.policies import Arm as SimulatedArm
from semcache_core.evaluation.policies import ExactOnly, InHindsight, MaxErrorRate
from semcache_core.evaluation.replay import from_pairs, zipf
from semcache_core.evaluation.simulation import Simulation, simulate
from semcache_core.training.calibration.calibrate import calibrate
from semcache_core.training.calibration.streams import similarities_of
from semcache_core.training.data.records import Pair, Question, read_pairs

BOUNDS = (0.02, 0.05, 0.1)
"""The last because the labels are noisy: an error much below 10 % cannot be measured on them."""


@dataclass(frozen=True)
class Data:
    """Pairs of the three splits, and of two fields that nothing is tuned on."""

    train: list[Pair]
    calibration: list[Pair]
    test: list[Pair]
    medical: list[Pair]
    banking: list[Question]
    dropped: int

    def about(self) -> Results:
        return {
            "train": counts(self.train, file="qqp_train.jsonl", dropped=self.dropped),
            "calibration": counts(self.calibration, file="qqp_calibration.jsonl"),
            "test": counts(self.test, file="qqp_test.jsonl"),
            "medical": counts(self.medical, file="mqp_dev.jsonl"),
            "banking77": {"file": "banking77_test.csv", "rows": len(self.banking)},
        }


@dataclass(frozen=True)
class Measured:
    """An arm with its calibration and its figures."""

    arm: Arm
    calibration: Calibration
    figures: Results


def main(argv: Sequence[str] | None = None) -> None:
    made = training_parser(__doc__, "qqp", steps=600, data="the five files")
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
        "data": data.about(),
        "split": "by connected component, as given; a training or calibration pair with a question "
        "of a later split, but for case, space and closing points, is dropped",
        "arms": {one.arm.name: {"training": one.arm.training, **one.figures} for one in measured},
        "simulation": simulations(bench, data.test, measured),
    }


def read_data(directory: Path, limit: int | None, seed: int) -> Data:
    train, calibration, test, medical = (
        limited(read_pairs(directory / f"{name}.jsonl"), limit, seed)
        for name in ("qqp_train", "qqp_calibration", "qqp_test", "mqp_dev")
    )
    calibration = apart(calibration, test)
    kept = apart(train, calibration, test)
    return Data(
        train=kept,
        calibration=calibration,
        test=test,
        medical=medical,
        banking=limited(read_intents(directory / "banking77_test.csv"), limit, seed),
        dropped=len(train) - len(kept),
    )


def measure(bench: Bench, data: Data, banking: Group, base: list[float], arm: Arm) -> Measured:
    calibration = calibrate(arm.embedder, data.calibration, out=arm.directory)

    def evaluated(pairs: list[Pair], base: list[float] | None) -> Evaluation:
        return evaluate(
            pairs,
            arm.embedder,
            calibration,
            base_similarities=base,
            resamples=bench.arguments.resamples,
            seed=bench.arguments.seed,
            progress=bench.tell(arm.name),
        )

    test, medical = evaluated(data.test, base), evaluated(data.medical, None)
    figures = {
        "lambda": calibration.lam,
        "c": calibration.c,
        "test": {**_figures(test), "slices": test.slices},
        "not tuned on": {
            "medical": _figures(medical),
            "banking77": measure_group(bench, banking, arm, calibration),
        },
    }
    return Measured(arm, calibration, plain(figures))


def _figures(evaluation: Evaluation) -> Results:
    return {**vars(evaluation.figures), **evaluation.forms.tree(evaluation.calibration)}


def simulations(bench: Bench, pairs: list[Pair], measured: list[Measured]) -> Results:
    """The questions of the pairs as they arrive at an empty cache, under every policy."""
    seed = bench.arguments.seed
    once = from_pairs(pairs, seed)
    streams = {"each question once": once, "Zipf": zipf(once, len(once), seed=seed)}
    found = {}
    for name, stream in streams.items():
        progress = partial(bench.tell(name), "simulation")
        arms = simulated_arms(measured)
        found[name] = _simulated(simulate(stream, arms, seed=seed, progress=progress))
    return found


def simulated_arms(measured: list[Measured]) -> list[SimulatedArm]:
    arms = [SimulatedArm(ExactOnly(), None)]
    for one in measured:
        name, embedder = one.arm.name, one.arm.embedder
        for bound in BOUNDS:
            best = InHindsight(f"{name}, best threshold at {bound:g}", bound)
            promised = MaxErrorRate(
                f"{name}, max_error_rate {bound:g}", one.calibration, embedder, bound
            )
            arms += [SimulatedArm(best, embedder), SimulatedArm(promised, embedder)]
    return arms


def _simulated(simulation: Simulation) -> Results:
    """All but the course of the stream."""
    about = asdict(simulation)
    arms = about.pop("arms")
    for arm in arms:
        del arm["series"]
    tree: Results = plain({**about, "arms": {arm.pop("name"): arm for arm in arms}})
    return tree


def table(results: Results) -> str:
    rows = [
        (
            name,
            *(shown(arm["test"][figure]) for figure in ("auc", "average_precision", "hard_auc")),
            *(shown(arm["test"]["served_at_error"][bound]) for bound in ("0.02", "0.05")),
            *(shown(arm["test"]["served_at_error_half_missing"][b]) for b in ("0.02", "0.05")),
            *(shown(arm["not tuned on"][field]["auc"]) for field in ("medical", "banking77")),
        )
        for name, arm in results["arms"].items()
    ]
    header = (
        *("model", "AUC", "AP", "hard AUC", "served at 2 %", "at 5 %", "half missing at 2 %"),
        *("at 5 %", "medical AUC", "Banking77 hard AUC"),
    )
    return "\n\n".join([markdown(header, rows), *map(_arms_table, results["simulation"].items())])


def _arms_table(named: tuple[str, Results]) -> str:
    stream, simulation = named
    rows = [
        (name, *(_rate(arm[rate]) for rate in ("caching_efficiency", "hit_rate", "false_hit_rate")))
        for name, arm in simulation["arms"].items()
    ]
    return markdown((stream, "rightly served", "hits", "wrong of those by meaning"), rows)


def _rate(rate: Results) -> str:
    return shown({"value": rate["value"], "interval": (rate["low"], rate["high"])})


if __name__ == "__main__":
    main()

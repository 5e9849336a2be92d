"""What an audit is worth when answers change: how soon it notices, and what is served wrongly.

python studies/drift.py --data DIR --seeds 20

DIR holds banking77_train.csv. Its questions reach an empty cache, each once, in another order for
each seed; one intent has one answer. From the middle of the stream on, every other question of an
intent (chosen by its hash, so that no model can tell) has a new answer, so half of what a stored
one serves is wrong. The artefact decides at each bound, alone and with an audit of 5 % of the hits.
An audited hit is answered by the model, as in the cache.
"""

import argparse
import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from intents import read_intents
from runner import (
    Results,
    artefact_named,
    at_least_one,
    limited,
    markdown,
    parser,
    plain,
    run_study,
    shown_spread,
    spread,
)
from semcache_core._utils.intervals import NOTHING
from semcache_core.cli.progress import Steps
from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.decision.scoring import Neighbour
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.evaluation.policies import MaxErrorRate, Policy
from semcache_core.evaluation.replay import Arrival, Progress, Replay, in_order, number_stream, run
from semcache_core.quality.monitor import ErrorMonitor
from semcache_core.training.calibration.streams import Remembering
from semcache_core.types import Embedder

BOUNDS = (0.02, 0.05)
RATE = 0.05
FILE = "banking77_train.csv"
PARTS = {"before": (0.0, 0.5), "right after": (0.5, 0.75), "last quarter": (0.75, 1.0)}
"""Of the stream; the answers change at the end of the first half."""

Seen: TypeAlias = dict[tuple[float, bool], Results]
"""The figures of one stream, by bound and whether it is audited."""


@dataclass
class Audited:
    """Serves what `policy` picks, at the threshold that its error monitor allows.

    `answers` are the answers of the questions; each is asked once. `alarms` collects the numbers of
    the arrivals at which the monitor stopped serving.
    """

    policy: MaxErrorRate
    answers: Mapping[str, str]
    chance: random.Random
    alarms: list[int] = field(default_factory=list)
    _asked: int = 0

    def __post_init__(self) -> None:
        policy = self.policy
        self.audit = ErrorMonitor(
            policy.max_error_rate, policy.threshold, chance=self.chance, tell=self._on_change
        )

    @property
    def name(self) -> str:
        return f"{self.policy.name}, audited"

    @property
    def setting(self) -> str:
        return f"{self.policy.setting}; {RATE:.0%} of the hits audited"

    def pick(self, asked: str, nearest: Iterable[Neighbour]) -> Neighbour | None:
        self._asked += 1
        found = self.policy.best(asked, nearest)
        if found is None:
            return None
        candidate, probability = found.neighbour, found.probability
        served = probability >= self.audit.threshold
        if served and not self.audit.sampled(RATE):
            return candidate
        correct = self.answers[asked] == self.answers[candidate.question]
        self.audit.add(probability, correct, 1 / RATE if served else 1.0)
        return None

    def _on_change(self, text: str) -> None:
        if self.audit.threshold == NOTHING:
            self.alarms.append(self._asked - 1)


def changing(questions: Sequence[Arrival]) -> list[Arrival]:
    """The stream with new answers to half of the questions from its middle on."""
    return [
        Arrival(one.question, f"{one.answer_id}, new")
        if at >= len(questions) // 2 and _has_changed(one.question)
        else one
        for at, one in enumerate(questions)
    ]


def _has_changed(question: str) -> bool:
    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 1


def one_stream(
    questions: Sequence[Arrival],
    embedder: Embedder,
    calibration: Calibration,
    seed: int,
    progress: Progress | None = None,
) -> Seen:
    """Every arm over `questions`, which are all different, in the order of `seed`."""
    arrivals = changing(in_order(questions, seed))
    answers = {one.question: one.answer_id for one in arrivals}
    stream = number_stream(arrivals)
    policies: dict[tuple[float, bool], Policy] = {}
    for bound in BOUNDS:
        alone = MaxErrorRate(f"max_error_rate {bound:g}", calibration, embedder, bound)
        policies[bound, False] = alone
        policies[bound, True] = Audited(alone, answers, random.Random(seed))
    replays = {
        arm: Replay(policy, stream, len(arrivals), "lru") for arm, policy in policies.items()
    }
    run(stream, [(embedder, list(replays.values()))], progress)
    return {arm: figures(replay) for arm, replay in replays.items()}


def figures(replay: Replay) -> Results:
    """Share served and error in each part; with an audit also its alarms, and the hits by meaning
    between the change and the first alarm (None if it went unnoticed).
    """
    arrivals = len(replay.semantic)
    found: Results = {}
    for name, (start, end) in PARTS.items():
        part = slice(int(start * arrivals), int(end * arrivals))
        served, right = replay.semantic[part], replay.right[part]
        hits = int(served.sum())
        error = (hits - int((served & right).sum())) / hits if hits else None
        found[name] = {"served": hits / len(served) if len(served) else 0.0, "error": error}
    if isinstance(replay.policy, Audited):
        changed = arrivals // 2
        noticed = [at for at in replay.policy.alarms if at >= changed]
        found["alarms before"] = len(replay.policy.alarms) - len(noticed)
        found["hits until noticed"] = (
            int(replay.semantic[changed : noticed[0]].sum()) if noticed else None
        )
    return found


def over_seeds(streams: Sequence[Seen]) -> Results:
    """The arms by bound, each figure with its spread over the streams."""
    arms: Results = {f"{bound:g}": {} for bound in BOUNDS}
    for bound, audited in streams[0]:
        each = [stream[bound, audited] for stream in streams]
        arm: Results = {
            part: {name: spread([one[part][name] for one in each]) for name in each[0][part]}
            for part in PARTS
        }
        if audited:
            arm["alarms before"] = [one["alarms before"] for one in each]
            arm["hits until noticed"] = spread([one["hits until noticed"] for one in each])
        arms[f"{bound:g}"]["audited" if audited else "alone"] = arm
    return arms


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "drift", data=FILE, seed=False, limit=True)
    add = made.add_argument
    add("--seeds", type=at_least_one, default=20, help="orders in which the questions arrive")
    add("--artefact", type=Path, default=DEFAULT_ARTEFACT, help="what decides")
    run_study(study, table, made.parse_args(argv))


def study(arguments: argparse.Namespace) -> Results:
    rows = limited(read_intents(arguments.data / FILE), arguments.limit, 0)
    questions = [Arrival(row.text, str(row.answer_id)) for row in rows]
    embedder = Remembering(OnnxEmbedder.load(arguments.artefact))
    calibration = load_calibration(arguments.artefact)
    with Steps() as steps:
        streams = [
            one_stream(questions, embedder, calibration, seed, partial(steps.show, f"order {seed}"))
            for seed in range(arguments.seeds)
        ]
    return {
        "study": "answers that change, with and without an audit",
        "artefact": artefact_named(arguments.artefact, calibration),
        "data": {"file": FILE, "split": "train", "requests": len(questions)},
        "audit_rate": RATE,
        "bounds": plain(over_seeds(streams)),
    }


def table(results: Results) -> str:
    header = (
        *("bound", "audit", *(f"error {part}" for part in PARTS), "served in the last quarter"),
        *("hits until noticed", "noticed", "alarms before"),
    )
    rows = []
    for bound, arms in results["bounds"].items():
        for name, arm in arms.items():
            errors = [shown_spread(arm[part]["error"]) for part in PARTS]
            served = shown_spread(arm["last quarter"]["served"])
            rows.append((f"{float(bound):.0%}", name, *errors, served, *_noticing(arm)))
    return markdown(header, rows)


def _noticing(arm: Results) -> tuple[str, str, str]:
    if "alarms before" not in arm:
        return "-", "-", "-"
    hits = arm["hits until noticed"]
    noticed = sum(each is not None for each in hits["each"])
    mean = "-" if not noticed else f"{hits['mean']:.0f} ({hits['lowest']} to {hits['highest']})"
    return mean, f"{noticed} of {len(hits['each'])}", str(sum(arm["alarms before"]))


if __name__ == "__main__":
    main()

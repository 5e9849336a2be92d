"""Simulates a stream of questions under several policies side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semcache_core._utils.intervals import Measured
from semcache_core.errors import TrainingError
from semcache_core.evaluation.policies import Arm, ExactOnly, InHindsight, MaxErrorRate, Policy
from semcache_core.evaluation.replay import Arrival, Eviction, Progress, Replay, number_stream, run
from semcache_core.types import Embedder

_POINTS = 100
_RESAMPLES = 2000


@dataclass(frozen=True)
class Rate:
    """A share of `n` with its 95 % Wilson interval; None where `n` is 0.

    The interval takes the requests for independent, which those of one stream are not quite.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, successes: int, n: int) -> "Rate":
        if not n:
            return cls(None, None, None, 0)
        share = Measured.of(n, successes)
        return cls(share.error, share.low, share.high, n)


@dataclass(frozen=True)
class Gain:
    """Caching efficiency less that of the first arm, with a 95 % paired bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """Shares after so many `requests`, at about 100 points of the stream."""

    requests: tuple[int, ...]
    caching_efficiency: tuple[float, ...]
    hit_rate: tuple[float, ...]
    wrong_rate: tuple[float, ...]


@dataclass(frozen=True)
class ArmResult:
    """Figures of the stream under one policy.

    `requests` = `exact_hits` + `semantic_hits` + `misses`. A hit is wrong when the answer it
    served has another `answer_id`: `wrong_hits`, of which `wrong_semantic_hits` by meaning.

    - `caching_efficiency`: requests rightly served from the cache, of all. The figure of this name
      in arXiv 2402.01173 need not be comparable.
    - `hit_rate`: hits, right or wrong, of all requests.
    - `false_hit_rate`: wrong ones of the hits by meaning, which `max_error_rate` bounds.
    - `wrong_rate`: wrong hits of all requests.
    - `cost_saved`: calls not made, less what wrong hits cost; `cost_saved_share` is its share of
      the cost without a cache.
    - `seconds_saved`: waiting for the model that right hits spared, lookups not counted.
    """

    name: str
    setting: str
    requests: int
    exact_hits: int
    semantic_hits: int
    misses: int
    wrong_hits: int
    wrong_semantic_hits: int
    evictions: int
    caching_efficiency: Rate
    hit_rate: Rate
    false_hit_rate: Rate
    wrong_rate: Rate
    gain: Gain
    cost_saved: float
    cost_saved_share: float
    seconds_saved: float
    series: Series


@dataclass(frozen=True)
class Simulation:
    """One run: the stream, what was assumed, and a result per arm in the order given.

    `answerable` is the share of requests whose answer had been asked for before: the most that any
    cache can serve rightly.
    """

    requests: int
    distinct_questions: int
    distinct_answers: int
    answerable: float
    capacity: int | None
    eviction: Eviction
    cost_per_call: float
    seconds_per_call: float
    cost_of_wrong: float
    seed: int
    arms: tuple[ArmResult, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, without NaN or infinity."""
        return asdict(self)


def simulate(
    stream: Sequence[Arrival],
    arms: Sequence[tuple[Policy | InHindsight, Embedder | None]],
    *,
    capacity: int | None = None,
    eviction: Eviction = "lru",
    cost_per_call: float = 1.0,
    seconds_per_call: float = 1.0,
    cost_of_wrong: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Simulation:
    """Let every arm answer the same arrivals in the same order, each from an empty cache.

    A question that is stored is served exactly. Else the arm's policy picks one or none of the
    nearest stored ones. A miss stores the model's answer, which is taken as right. Beyond
    `capacity` entries (None: no bound) the least recently used goes, or with `eviction` "fifo" the
    oldest.

    `cost_per_call` and `cost_of_wrong` are in any one unit; a wrong answer costs one more call by
    default. `seed` draws the bootstrap. `progress(done, total)` counts texts embedded and arrivals
    answered.

    Raises TrainingError, before anything is embedded, for an empty stream, no arms, two arms of one
    name, an arm without the embedder it needs, and numbers out of range.
    """
    wrong = cost_per_call if cost_of_wrong is None else cost_of_wrong
    pairs = [Arm(policy, embedder) for policy, embedder in arms]
    _check_numbers(capacity, eviction, cost_per_call, seconds_per_call, wrong)
    _check_arms(pairs)
    arrivals = number_stream(stream)
    size = len(arrivals.texts) if capacity is None else min(capacity, len(arrivals.texts))
    replays = [
        [Replay(policy, arrivals, size, eviction) for policy in _policies(arm)] for arm in pairs
    ]
    run(arrivals, _by_embedder(pairs, replays), progress)
    kept = [_kept(arm.policy, tried) for arm, tried in zip(pairs, replays, strict=True)]
    costs = (cost_per_call, wrong, seconds_per_call)
    return Simulation(
        requests=len(arrivals.text),
        distinct_questions=len(arrivals.texts),
        distinct_answers=len(set(arrivals.answer)),
        answerable=1 - len(set(arrivals.answer)) / len(arrivals.answer),
        capacity=capacity,
        eviction=eviction,
        cost_per_call=cost_per_call,
        seconds_per_call=seconds_per_call,
        cost_of_wrong=wrong,
        seed=seed,
        arms=tuple(
            _result(arm, replay, kept[0].right, costs, seed)
            for arm, replay in zip(pairs, kept, strict=True)
        ),
    )


def _policies(arm: Arm) -> list[Policy]:
    return arm.policy.tries() if isinstance(arm.policy, InHindsight) else [arm.policy]


def _by_embedder(
    arms: Sequence[Arm], replays: Sequence[Sequence[Replay]]
) -> list[tuple[Embedder | None, list[Replay]]]:
    groups: dict[str | None, tuple[Embedder | None, list[Replay]]] = {}
    for arm, tried in zip(arms, replays, strict=True):
        key = None if arm.embedder is None else arm.embedder.fingerprint
        groups.setdefault(key, (arm.embedder, []))[1].extend(tried)
    return list(groups.values())


def _kept(policy: Policy | InHindsight, tried: Sequence[Replay]) -> Replay:
    """The only replay, or of those tried in hindsight the best that keeps the bound."""
    if not isinstance(policy, InHindsight):
        return tried[0]
    allowed = [
        replay
        for replay in tried
        if replay.wrong_semantic <= policy.max_wrong_share * replay.semantic.sum() + 1e-9
    ]
    # max takes the first of equals, which is the strictest
    return max(allowed, key=lambda replay: int(replay.right.sum()))


def _result(
    arm: Arm, replay: Replay, first: NDArray[np.bool_], costs: tuple[float, float, float], seed: int
) -> ArmResult:
    hit = replay.exact | replay.semantic
    n, hits, right = len(hit), int(hit.sum()), int(replay.right.sum())
    cost_per_call, cost_of_wrong, seconds_per_call = costs
    saved = hits * cost_per_call - (hits - right) * cost_of_wrong
    return ArmResult(
        name=arm.policy.name,
        setting=_setting(arm.policy, replay.policy),
        requests=n,
        exact_hits=int(replay.exact.sum()),
        semantic_hits=int(replay.semantic.sum()),
        misses=n - hits,
        wrong_hits=hits - right,
        wrong_semantic_hits=replay.wrong_semantic,
        evictions=replay.store.evictions,
        caching_efficiency=Rate.of(right, n),
        hit_rate=Rate.of(hits, n),
        false_hit_rate=Rate.of(replay.wrong_semantic, int(replay.semantic.sum())),
        wrong_rate=Rate.of(hits - right, n),
        gain=_gain(replay.right, first, seed),
        cost_saved=saved,
        cost_saved_share=saved / (n * cost_per_call),
        seconds_saved=right * seconds_per_call,
        series=_series(hit, replay.right),
    )


def _setting(policy: Policy | InHindsight, kept: Policy) -> str:
    return policy.setting_of(kept) if isinstance(policy, InHindsight) else kept.setting


def _gain(right: NDArray[np.bool_], first: NDArray[np.bool_], seed: int) -> Gain:
    n = len(right)
    better, worse = int((right & ~first).sum()), int((first & ~right).sum())
    # resampling n requests of three kinds is one draw of how many there are of each
    kinds = np.array([better, worse, n - better - worse]) / n
    drawn = np.random.default_rng(seed).multinomial(n, kinds, size=_RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return Gain((better - worse) / n, float(low), float(high))


def _series(hit: NDArray[np.bool_], right: NDArray[np.bool_]) -> Series:
    n = len(hit)
    after = np.unique(np.ceil(np.linspace(n / _POINTS, n, _POINTS)).astype(np.int64))

    def shares(of: NDArray[np.bool_]) -> tuple[float, ...]:
        return tuple((np.cumsum(of)[after - 1] / after).tolist())

    return Series(tuple(after.tolist()), shares(right), shares(hit), shares(hit & ~right))


def _check_numbers(
    capacity: int | None, eviction: str, cost: float, seconds: float, wrong: float
) -> None:
    if capacity is not None and capacity < 1:
        raise TrainingError(f"capacity is {capacity}; give at least 1, or None for no bound")
    if eviction not in ("lru", "fifo"):
        raise TrainingError(f"eviction is {eviction!r}; give 'lru' or 'fifo'")
    if not 0 < cost < np.inf:  # written so that NaN fails too
        raise TrainingError(f"cost_per_call is {cost}; give a number above 0")
    for name, value in (("seconds_per_call", seconds), ("cost_of_wrong", wrong)):
        if not 0 <= value < np.inf:
            raise TrainingError(f"{name} is {value}; give a number from 0 up")


def _check_arms(arms: Sequence[Arm]) -> None:
    if not arms:
        raise TrainingError("no arms were given; give at least one (policy, embedder)")
    names = [arm.policy.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise TrainingError(f"two arms are called {name!r}; give each a name of its own")
    for policy, embedder in arms:
        if embedder is None and not isinstance(policy, ExactOnly):
            raise TrainingError(f"{policy.name!r} decides by meaning; give it an embedder")
        if isinstance(policy, MaxErrorRate) and policy.embedder.fingerprint != (
            embedder and embedder.fingerprint
        ):
            raise TrainingError(
                f"{policy.name!r} is calibrated for another embedder than its arm has; give it "
                "policy.embedder"
            )

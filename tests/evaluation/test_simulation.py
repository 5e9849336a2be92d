"""The figures of a simulation: worked out by hand, and against brute force."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from fakes import WordEmbedder, calibration
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request
from semcache_core.errors import TrainingError
from semcache_core.evaluation.policies import ExactOnly, FixedThreshold, InHindsight, MaxErrorRate
from semcache_core.evaluation.replay import Arrival
from semcache_core.evaluation.simulation import Rate, simulate


class ForbiddenEmbedder(WordEmbedder):
    def embed(self, texts):
        raise AssertionError("embedded before the check")


# the same words in another order have the same vector, others nearly orthogonal ones
STREAM = [
    Arrival("reset my password", "password"),  # miss
    Arrival("my password reset", "password"),  # by meaning, right
    Arrival("reset my password", "password"),  # exact
    Arrival("opening hours", "hours"),  # miss
    Arrival("hours opening", "opening a shop"),  # by meaning, wrong
    Arrival("hours opening", "opening a shop"),  # by meaning, wrong: nothing was stored
    Arrival("lost card", "card"),  # miss
    Arrival("opening hours", "hours on Sunday"),  # exact, wrong: the answer has changed
]


def fixed(name="fixed", threshold=0.9):
    return FixedThreshold(name, threshold)


def test_hits_and_misses_are_counted_by_kind_and_judged_by_the_answer():
    (arm,) = simulate(STREAM, [(fixed(), WordEmbedder())]).arms
    assert (arm.requests, arm.exact_hits, arm.semantic_hits, arm.misses) == (8, 2, 3, 3)
    assert (arm.wrong_hits, arm.wrong_semantic_hits) == (3, 2)
    assert (arm.caching_efficiency.value, arm.caching_efficiency.n) == (2 / 8, 8)
    assert (arm.hit_rate.value, arm.hit_rate.n) == (5 / 8, 8)
    assert (arm.false_hit_rate.value, arm.false_hit_rate.n) == (2 / 3, 3)
    assert (arm.wrong_rate.value, arm.wrong_rate.n) == (3 / 8, 8)


def test_exact_only_serves_repeats_of_what_was_stored():
    (arm,) = simulate(STREAM, [(ExactOnly(), None)]).arms
    assert (arm.exact_hits, arm.semantic_hits, arm.misses, arm.wrong_hits) == (3, 0, 5, 1)
    assert arm.false_hit_rate.value is None


def test_the_stream_is_described_with_what_any_cache_could_serve():
    simulation = simulate(STREAM[:4], [(ExactOnly(), None)])
    assert (simulation.requests, simulation.distinct_questions) == (4, 3)
    assert simulation.distinct_answers == 2
    assert simulation.answerable == 2 / 4


def test_savings_are_the_calls_not_made_less_what_wrong_answers_cost():
    (arm,) = simulate(
        STREAM, [(fixed(), WordEmbedder())], cost_per_call=2, seconds_per_call=4, cost_of_wrong=7
    ).arms
    assert arm.cost_saved == 5 * 2 - 3 * 7
    assert arm.cost_saved_share == -11 / 16
    assert arm.seconds_saved == 2 * 4  # only right answers spare anybody the wait


def test_a_wrong_answer_costs_one_call_unless_said_otherwise():
    simulation = simulate(STREAM, [(fixed(), WordEmbedder())], cost_per_call=2)
    assert simulation.cost_of_wrong == 2
    assert simulation.arms[0].cost_saved == (5 - 3) * 2


def test_a_bounded_cache_evicts():
    stream = [Arrival(question, question) for question in ("one", "two", "three", "one")]
    unbounded, bounded = (
        simulate(stream, [(ExactOnly(), None)], capacity=capacity).arms[0] for capacity in (None, 2)
    )
    assert (unbounded.exact_hits, unbounded.evictions) == (1, 0)
    assert (bounded.exact_hits, bounded.evictions) == (0, 2)


def test_the_way_of_eviction_is_the_one_asked_for():
    stream = [Arrival(question, question) for question in ("one", "two", "one", "three", "one")]
    lru, fifo = (
        simulate(stream, [(ExactOnly(), None)], capacity=2, eviction=way).arms[0]
        for way in ("lru", "fifo")
    )
    assert (lru.exact_hits, fifo.exact_hits) == (2, 1)


class Watching:
    """Serves everything or nothing, and notes what it is asked and shown."""

    setting = "watching"

    def __init__(self, name, serves):
        self.name = name
        self.serves = serves
        self.seen = []

    def pick(self, asked, nearest):
        shown = list(nearest)
        self.seen.append((asked, sorted(one.question for one in shown)))
        return shown[0] if self.serves and shown else None


def test_all_arms_see_the_same_arrivals_in_the_same_order_each_from_its_own_cache():
    one, two = WordEmbedder(), WordEmbedder()
    two.fingerprint = "two"
    first, lax, second = Watching("1", False), Watching("2", True), Watching("3", False)
    simulate(STREAM, [(first, one), (lax, one), (second, two)])
    new = ["reset my password", "my password reset", "opening hours", "hours opening", "lost card"]
    assert first.seen == second.seen
    assert first.seen == [(asked, sorted(new[:at])) for at, asked in enumerate(new)]
    # the lax one stores its first question only and serves that to all that are not its repeat
    others = [a.question for a in STREAM if a.question != new[0]]
    assert lax.seen == [(new[0], []), *((asked, [new[0]]) for asked in others)]


def test_arms_of_one_embedder_share_its_vectors_and_of_two_do_not():
    one, two = WordEmbedder(), WordEmbedder()
    two.fingerprint = "two"
    simulate(STREAM, [(fixed("a"), one), (fixed("b"), one), (fixed("c"), two)])
    assert len(one.calls) == len(two.calls) == 5


def test_an_arm_fares_alike_alone_and_in_company():
    alone = simulate(STREAM, [(fixed(), WordEmbedder())]).arms[0]
    beside = simulate(STREAM, [(fixed(), WordEmbedder()), (fixed("lax", -1), WordEmbedder())])
    assert beside.arms[0] == alone


def test_a_bound_serves_at_its_calibrated_threshold():
    embedder = WordEmbedder()
    arms = [
        (MaxErrorRate(f"at {bound}", calibration(), embedder, bound), embedder)
        for bound in (0.001, 0.02)
    ]
    never, served = simulate(STREAM, arms).arms
    assert never.semantic_hits == 0
    assert served.semantic_hits == 3
    assert "at most 2 %" in served.setting


def test_a_bound_fares_as_the_cache_itself_with_the_same_artefact(bench):
    chance = random.Random(4)
    long = "please tell me at once where the parcel of my dear old aunt is with number"
    texts = [f"{long} {number}" for number in (1, 2, 3)]
    texts += [
        "reset password",
        "lost card",
        "opening hours",
        "a b c d e f g h i j",
        *(" ".join("x" * n) for n in (40, 41)),
    ]
    shuffled = [" ".join(chance.sample(text.split(), len(text.split()))) for text in texts]
    stream = [Arrival(text, f"answer {at % 5}") for at, text in enumerate(texts + shuffled)]
    stream = chance.choices(stream, k=150)
    embedder = WordEmbedder()
    policy = MaxErrorRate("m", calibration(), embedder, 0.02)
    (arm,) = simulate(stream, [(policy, embedder)], capacity=4).arms

    cache, seen = bench.open(path=None, max_error_rate=0.02, max_entries=4), Counter()
    for arrival in stream:
        bench.clock.now += 1
        hit = cache.lookup(Request(arrival.question))
        if hit is None:
            cache.update(Request(arrival.question), arrival.answer_id)
        kind = "miss" if hit is None else hit.kind
        seen[kind, hit is not None and hit.response != arrival.answer_id] += 1
    assert arm.misses == seen["miss", False]
    assert arm.semantic_hits == seen["semantic", False] + seen["semantic", True]
    assert arm.wrong_semantic_hits == seen["semantic", True]
    assert arm.exact_hits == seen["exact", False] + seen["exact", True]
    assert min(arm.misses, arm.exact_hits, arm.semantic_hits, arm.evictions) > 10


# -- in hindsight ----------------------------------------------------------------------------------

WORDS = st.lists(st.sampled_from(["reset", "my", "card", "pin", "now"]), min_size=1, max_size=3)
ARRIVALS = st.lists(
    st.builds(Arrival, WORDS.map(" ".join), st.sampled_from("xyz")), min_size=1, max_size=25
)
TRIED = (0.3, 0.45, 0.6, 0.75, 0.9, 0.98)


@given(stream=ARRIVALS, bound=st.sampled_from([0.0, 0.1, 0.3, 0.5]), capacity=st.integers(1, 8))
def test_the_oracle_is_the_best_of_all_thresholds_that_keep_the_bound(stream, bound, capacity):
    embedder = WordEmbedder()
    each = [(ExactOnly("none"), None), *((fixed(f"{t}", t), embedder) for t in reversed(TRIED))]
    alone = [simulate(stream, [arm], capacity=capacity).arms[0] for arm in each]
    keep = [arm for arm in alone if (arm.false_hit_rate.value or 0) <= bound]
    best = max(keep, key=lambda arm: arm.exact_hits + arm.semantic_hits - arm.wrong_hits)
    oracle = InHindsight("oracle", bound, TRIED)
    (found,) = simulate(stream, [(oracle, embedder)], capacity=capacity).arms
    assert found.setting.startswith(best.setting)
    assert (found.exact_hits, found.semantic_hits, found.wrong_hits, found.evictions) == (
        best.exact_hits, best.semantic_hits, best.wrong_hits, best.evictions
    )  # fmt: skip


def test_the_bound_is_on_the_answers_served_by_meaning():
    # of the first five requests two are served by meaning, one of them wrongly
    for bound, hits in ((0.49, 0), (0.5, 2)):
        oracle = InHindsight("oracle", bound, (0.9,))
        (arm,) = simulate(STREAM[:5], [(oracle, WordEmbedder())]).arms
        assert arm.semantic_hits == hits


def test_of_equally_good_thresholds_the_strictest_is_kept():
    oracle = InHindsight("oracle", 0.5, (0.5, 0.9, 0.6))
    assert (
        simulate(STREAM[:5], [(oracle, WordEmbedder())])
        .arms[0]
        .setting.startswith("similarity at least 0.9;")
    )


# -- rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # the textbook values of Wilson's score interval
    [
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 100, 0.0018, 0.0545),
    ],
)
def test_wilson_intervals(successes, n, low, high):
    rate = Rate.of(successes, n)
    assert rate.value == successes / n
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-4)


def test_nothing_of_nothing_is_no_rate():
    rate = Rate.of(0, 0)
    assert (rate.value, rate.low, rate.high, rate.n) == (None, None, None, 0)


def test_the_gain_is_over_the_first_arm_on_the_same_requests():
    first, second = simulate(STREAM, [(ExactOnly(), None), (fixed(), WordEmbedder())]).arms
    assert (first.gain.value, first.gain.low, first.gain.high) == (0, 0, 0)
    # rightly served: exact only the third and the sixth, fixed the second and the third
    assert second.gain.value == 0
    assert second.gain.low == -second.gain.high < 0


def test_the_interval_of_a_gain_is_that_of_paired_requests():
    # 100 times a question and its rewording: the second arm rightly serves half of all more
    texts = [text for i in range(100) for text in (f"word{i} other{i}", f"other{i} word{i}")]
    stream = [Arrival(text, str(i // 2)) for i, text in enumerate(texts)]
    arms = [(ExactOnly(), None), (fixed(), WordEmbedder())]
    gain = simulate(stream, arms).arms[1].gain
    assert gain.value == 0.5
    error = 1.96 * math.sqrt(0.5 * 0.5 / 200)
    assert (gain.low, gain.high) == pytest.approx((0.5 - error, 0.5 + error), abs=0.012)
    assert simulate(stream, arms).arms[1].gain == gain
    assert simulate(stream, arms, seed=1).arms[1].gain != gain


def test_the_series_is_cumulative_and_ends_at_the_figures():
    (arm,) = simulate(STREAM, [(fixed(), WordEmbedder())]).arms
    assert arm.series.requests == tuple(range(1, 9))
    right = [0, 1, 2, 2, 2, 2, 2, 2]
    wrong = [0, 0, 0, 0, 1, 2, 2, 3]
    assert arm.series.caching_efficiency == tuple(r / (i + 1) for i, r in enumerate(right))
    assert arm.series.wrong_rate == tuple(w / (i + 1) for i, w in enumerate(wrong))
    assert arm.series.hit_rate == tuple(
        (r + w) / (i + 1) for i, (r, w) in enumerate(zip(right, wrong, strict=True))
    )


def test_a_long_stream_has_a_hundred_points():
    stream = [Arrival(f"q{i % 7}", "x") for i in range(1234)]
    series = simulate(stream, [(ExactOnly(), None)]).arms[0].series
    assert len(series.requests) == 100
    assert series.requests[-1] == 1234
    assert np.abs(np.diff(series.requests) - 12.34).max() < 1


def test_the_figures_are_json_without_nan_even_where_nothing_was_served():
    arms = [(ExactOnly(), None), (InHindsight("oracle", 0.0), WordEmbedder())]
    simulation = simulate(STREAM[:1], arms)
    data = json.loads(json.dumps(simulation.as_json(), allow_nan=False))
    assert data["requests"] == 1
    assert [arm["name"] for arm in data["arms"]] == ["exact only", "oracle"]
    assert data["arms"][0]["false_hit_rate"] == {"value": None, "low": None, "high": None, "n": 0}


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"eviction": "random"}, "eviction is 'random'"),
        ({"cost_per_call": 0}, "cost_per_call is 0"),
        ({"cost_per_call": math.nan}, "cost_per_call is nan"),
        ({"cost_per_call": math.inf}, "cost_per_call is inf"),
        ({"seconds_per_call": -1}, "seconds_per_call is -1"),
        ({"cost_of_wrong": -1}, "cost_of_wrong is -1"),
        ({"cost_of_wrong": math.nan}, "cost_of_wrong is nan"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_embedded(changes, said):
    with pytest.raises(TrainingError, match=said):
        simulate(STREAM, [(fixed(), ForbiddenEmbedder())], **changes)


def test_an_empty_stream_is_refused():
    with pytest.raises(TrainingError, match="stream is empty"):
        simulate([], [(ExactOnly(), None)])


def other_embedder():
    embedder = ForbiddenEmbedder()
    embedder.fingerprint = "another"
    return embedder


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([], "no arms"),
        ([(fixed(), ForbiddenEmbedder()), (ExactOnly("fixed"), None)], "two arms are called"),
        ([(fixed(), None)], "give it an embedder"),
        ([(InHindsight("oracle", 0.02), None)], "give it an embedder"),
        ([(MaxErrorRate("m", calibration(), ForbiddenEmbedder(), 0.02), other_embedder())],
         "another embedder"),
    ],
)  # fmt: skip
def test_arms_that_cannot_run_are_refused_before_anything_is_embedded(arms, said):
    with pytest.raises(TrainingError, match=said):
        simulate(STREAM, arms)

"""What judged answers say of the error, and when the threshold goes up and comes down again."""

import itertools
import random
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from semcache_core._utils.intervals import NOTHING, Measured, wilson
from semcache_core.errors import SettingsError
from semcache_core.quality.monitor import ErrorMonitor

CALIBRATED = 0.8
PROBABILITIES = st.floats(0, 1)
JUDGEMENTS = st.lists(st.tuples(PROBABILITIES, st.booleans(), st.sampled_from([1.0, 20.0])))


def audit(
    bound: float = 0.02, threshold: float | None = CALIBRATED, **options: Any
) -> ErrorMonitor:
    return ErrorMonitor(bound, threshold, chance=random.Random(0), **options)


def fill(one: ErrorMonitor, right: int, wrong: int = 0, probability: float = 0.9) -> ErrorMonitor:
    for correct in (*[True] * right, *[False] * wrong):
        one.add(probability, correct)
    return one


class TestMeasured:
    def test_an_interval_is_that_of_wilson(self) -> None:
        # Brown, Cai and DasGupta (2001) print that of 5 of 50 as [.043, .214]
        found = Measured.of(50, 5)
        assert (found.n, found.wrong, found.error) == (50, 5, 0.1)
        assert (found.low, found.high) == pytest.approx((0.0435, 0.2136), abs=1e-4)

    def test_where_nothing_was_judged_everything_is_possible(self) -> None:
        assert Measured.of(0, 0) == Measured(0, 0, None, 0.0, 1.0)

    @given(st.integers(1, 1000), st.data())
    def test_an_interval_holds_the_share_and_stays_within_0_and_1(
        self, n: int, data: st.DataObject
    ) -> None:
        wrong = data.draw(st.integers(0, n))
        found = Measured.of(n, wrong)
        assert 0 <= found.low <= wrong / n + 1e-12
        assert wrong / n - 1e-12 <= found.high <= 1

    @given(st.integers(1, 1000), st.floats(-3, 3))
    def test_more_wrong_ones_never_lower_a_limit(self, n: int, z: float) -> None:
        limits = [wilson(n, wrong, z) for wrong in range(n + 1)]
        assert all(more >= less - 1e-12 for less, more in itertools.pairwise(limits))


class TestWhatCounts:
    def test_without_judgements_it_is_as_calibrated(self) -> None:
        assert audit().threshold == CALIBRATED
        assert audit().measured().n == 0

    def test_only_what_the_calibrated_threshold_would_serve_is_measured(self) -> None:
        one = audit()
        one.add(CALIBRATED, False)
        one.add(1.0, True)
        for not_served in (0.79, 0.0, float("nan")):
            one.add(not_served, False)
        assert one.measured() == Measured.of(2, 1)

    def test_the_oldest_judgements_are_forgotten(self) -> None:
        one = fill(audit(bound=0.5, size=20), right=2, wrong=8)
        assert fill(one, right=12).measured() == Measured.of(20, 8)
        assert fill(one, right=3).measured() == Measured.of(20, 5)

    def test_a_strict_bound_has_a_window_in_which_it_can_be_shown_kept(self) -> None:
        assert audit(bound=0.001).size == 5_000
        assert audit(bound=0.02).size == 500

    def test_where_nothing_is_calibrated_nothing_is_served_and_nothing_counts(self) -> None:
        told: list[str] = []
        one = fill(audit(threshold=None, tell=told.append), right=500, wrong=50, probability=1.0)
        assert (one.threshold, one.measured().n, told) == (NOTHING, 0, [])

    def test_withheld_lookups_count_no_more_than_audited_ones_stand_for(self) -> None:
        one = audit(bound=0.5)
        for _ in range(10):
            one.add(0.9, True, weight=100)
        for _ in range(4_000):
            one.add(0.9, True, weight=1)
        assert 10 + 20 < one.measured().n < 10 + 60

    def test_while_nothing_is_served_every_lookup_counts(self) -> None:
        one = audit()
        for _ in range(30):
            one.add(0.9, False, weight=100)
            if one.threshold == NOTHING:
                break
        assert fill(one, right=60).measured() == Measured.of(60, 0)

    @pytest.mark.parametrize("rate", [0.0, 0.05, 1.0])
    def test_a_share_of_the_hits_is_sampled(self, rate: float) -> None:
        one = audit()
        assert sum(one.sampled(rate) for _ in range(10_000)) == pytest.approx(1e4 * rate, abs=70)

    def test_judgements_of_many_threads_are_all_counted(self) -> None:
        one = audit(bound=0.5)
        threads = [threading.Thread(target=fill, args=(one, 95, 5)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.measured() == Measured.of(400, 20)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"bound": 0.0}, "bound is 0.0"),
            ({"bound": float("nan")}, "bound is nan"),
            ({"threshold": 1.2}, "threshold is 1.2"),
            ({"size": 19}, "size is 19"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_its_value(
        self, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(SettingsError, match=said):
            audit(**options)

    def test_a_judgement_that_stands_for_nothing_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="weight is 0"):
            audit().add(0.9, True, weight=0)


class TestThreshold:
    @given(JUDGEMENTS, st.sampled_from([0.02, 0.3]))
    def test_it_is_never_below_the_calibrated_one(
        self, judgements: list[tuple[float, bool, float]], bound: float
    ) -> None:
        one = audit(bound)
        for judgement in judgements * 5:
            one.add(*judgement)
            assert CALIBRATED <= one.threshold <= NOTHING

    @given(st.lists(st.tuples(PROBABILITIES, st.floats(1, 100))))
    def test_right_answers_leave_it_alone(self, right: list[tuple[float, float]]) -> None:
        one = audit(tell=pytest.fail)
        for probability, weight in right:
            one.add(probability, True, weight)
        assert one.threshold == CALIBRATED

    @given(st.lists(st.floats(CALIBRATED, 1), min_size=20))
    def test_nothing_is_served_while_all_probabilities_are_often_wrong(
        self, probabilities: list[float]
    ) -> None:
        one = audit()
        for at, probability in enumerate(probabilities * 5):
            one.add(probability, at % 3 > 0)
        assert one.threshold == NOTHING

    def test_a_few_wrong_ones_are_no_alarm(self) -> None:
        assert fill(audit(), right=0, wrong=19).threshold == CALIBRATED
        assert fill(audit(), right=0, wrong=20).threshold == NOTHING
        assert fill(audit(bound=0.001), right=20, wrong=2).threshold == CALIBRATED
        assert fill(audit(bound=0.001), right=20, wrong=3).threshold == NOTHING

    def test_the_latest_are_looked_at_by_themselves(self) -> None:
        # 9 of 500 are within 2 %, 6 of the last 100 are not
        spread_out = audit()
        for _ in range(9):
            fill(spread_out, right=50, wrong=1)
        assert spread_out.threshold == CALIBRATED
        assert fill(audit(), right=400, wrong=6).threshold == NOTHING

    def test_an_alarm_begins_a_new_measurement(self) -> None:
        one = fill(audit(), right=400, wrong=6)
        assert one.measured().n == 0

    def test_it_is_then_served_where_fresh_answers_prove_right(self) -> None:
        one = fill(audit(), right=400, wrong=6)
        for _ in range(200):
            one.add(0.85, False)
            one.add(0.95, True)
            one.add(0.99, True)
        assert one.threshold == 0.95

    def test_among_equal_probabilities_the_wrong_ones_count_too(self) -> None:
        one = fill(audit(), right=400, wrong=6)
        for _ in range(150):
            one.add(0.95, False)
        for _ in range(150):
            one.add(0.95, True)
        assert one.threshold == NOTHING

    def test_it_comes_back_by_itself_and_not_before_the_bound_is_shown_kept(self) -> None:
        one = fill(audit(), right=400, wrong=6)
        assert fill(one, right=80).threshold == NOTHING  # at 90 % up to 2.01 % may be wrong
        assert fill(one, right=1).threshold == CALIBRATED

    def test_what_was_withheld_is_measured_but_is_no_alarm(self) -> None:
        one = fill(audit(), right=400, wrong=6)
        fill(one, right=0, wrong=30, probability=0.85)
        fill(one, right=300, probability=0.95)
        assert one.threshold == 0.95
        fill(one, right=0, wrong=100, probability=0.85)
        assert one.threshold == 0.95
        assert one.measured() == Measured.of(430, 130)


class TestTold:
    def test_it_tells_of_the_alarm_of_serving_again_and_of_the_return(self) -> None:
        told: list[str] = []
        one = audit(tell=told.append)
        for _ in range(2):
            fill(one, right=400, wrong=6)
            fill(one, right=0, wrong=30, probability=0.85)
            fill(one, right=300, probability=0.95)
            fill(one, right=500, probability=0.85)
        assert told[:3] == told[3:]
        alarm, again, back = told[:3]
        assert "from 0.8 to serving nothing by meaning" in alarm
        assert "of 100 answers judged, 6 were wrong, and max_error_rate is 0.02" in alarm
        assert "invalidate the old ones or set a ttl" in alarm
        assert "from serving nothing by meaning to 0.95, where 0.8 is calibrated" in again
        assert "of 133 answers judged, 0 were wrong" in again
        assert "from 0.95 to 0.8" in back
        assert "nothing to do" in back

    def test_small_steps_are_not_told(self) -> None:
        told: list[str] = []
        one = fill(audit(tell=told.append), right=400, wrong=6)
        chance = random.Random(1)
        thresholds = set()
        for _ in range(3_000):
            u = chance.random()
            one.add(CALIBRATED + 0.2 * u, chance.random() >= max(0.0, 0.8 - 2 * u))
            thresholds.add(one.threshold)
        assert len(thresholds) > 5
        assert len(told) == 2

    def test_who_is_told_may_ask_in_turn(self) -> None:
        seen = []
        one = audit(tell=lambda text: seen.append((one.threshold, one.measured().n)))
        fill(one, right=400, wrong=6)
        assert seen == [(NOTHING, 0)]

    def test_unless_told_otherwise_it_is_logged(self, warnings_of: Any) -> None:
        fill(ErrorMonitor(0.02, CALIBRATED), right=400, wrong=6)
        assert len(warnings_of("semcache: the threshold went from 0.8")) == 1


@dataclass(frozen=True)
class Run:
    """What became of each lookup [n]: whether it was served, and how probably it was wrong."""

    served: NDArray[np.bool_]
    wrong: NDArray[np.float64]
    told: list[str]


def simulate(seed: int, wrong: NDArray[np.float64], u: NDArray[np.float64], bound: float) -> Run:
    """Lookups of a probability .8 + .2 u; 5 % of the hits are audited, every miss is judged."""
    told: list[str] = []
    one = ErrorMonitor(bound, CALIBRATED, chance=random.Random(seed), tell=told.append)
    correct = np.random.default_rng(seed).random(len(u)) >= wrong
    served = np.zeros(len(u), np.bool_)
    for at, probability in enumerate(CALIBRATED + 0.2 * u):
        served[at] = probability >= one.threshold
        if not served[at]:
            one.add(float(probability), bool(correct[at]))
        elif one.sampled(0.05):
            one.add(float(probability), bool(correct[at]), weight=20)
    return Run(served, wrong, told)


class TestSimulated:
    def test_luck_seldom_raises_it(self) -> None:
        """10,000 lookups with half the error that is allowed."""
        runs = [simulate(seed, np.full(10_000, 0.01), np.ones(10_000), 0.02) for seed in range(20)]
        assert sum(bool(run.told) for run in runs) <= 1

    def test_after_a_drift_the_error_is_soon_within_the_bound_again(self) -> None:
        """30 % of the hits become wrong, most where the probability is low.

        From 1,000 lookups on, or 50 audits, all but one seed of 20 are within the bound.
        """
        assert sum(self._error_after_drift(seed, 1_000) > 0.05 for seed in range(20)) <= 1

    def _error_after_drift(self, seed: int, lookups: int) -> float:
        before, after = 3_000, 4_000
        u = np.random.default_rng(100 + seed).random(before + after)
        wrong = np.minimum(1, 1.2 * (1 - u) ** 3)
        wrong[:before] = 0.01
        run = simulate(seed, wrong, u, 0.05)
        served = run.served[before + lookups :]
        assert served.mean() > 0.2  # what is still right is served
        return float(wrong[before + lookups :][served].mean())

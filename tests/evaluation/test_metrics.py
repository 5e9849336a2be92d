"""Metrics against values worked out by hand, brute force, and what must not change them."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from semcache_core.evaluation.metrics import (
    Interval,
    auc,
    average_precision,
    bootstrap,
    brier,
    expected_calibration_error,
    hit_ratio_curve,
    measured,
    p_chr_auc,
    reliability_curve,
    served_at_error,
    served_curve,
)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def bools(*values: int) -> np.ndarray:
    return np.array(values, np.bool_)


SCORE = floats(0.1, 0.4, 0.35, 0.8)
LABEL = floats(0, 0, 1, 1)

scored = st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=2, max_size=40)
"""Few distinct scores, so that ties are common."""


def split(items: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    score, label = zip(*items, strict=True)
    return floats(*score), floats(*label)


# -- what ranks --------------------------------------------------------------------------------


def test_auc_is_the_share_of_positives_above_negatives():
    # of the pairs (.35, .1) (.35, .4) (.8, .1) (.8, .4) all but the second are in order
    assert auc(SCORE, LABEL) == 0.75


def test_a_tie_of_a_positive_and_a_negative_counts_half():
    assert auc(floats(0.5, 0.5), floats(0, 1)) == 0.5


def test_average_precision_weighs_precision_by_the_recall_added():
    # precision 1 at recall 1/2, 2/3 at recall 1
    assert average_precision(SCORE, LABEL) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("metric", [auc, average_precision, p_chr_auc])
def test_a_soft_label_ranks_as_positive_above_a_half_only(metric):
    assert metric(SCORE, floats(0.2, 0.5, 0.51, 0.9)) == metric(SCORE, LABEL)


@pytest.mark.parametrize("label", [floats(0, 0, 0, 0.5), floats(1, 1, 1, 0.6), floats()])
def test_one_class_has_no_auc_and_no_average_precision(label):
    assert math.isnan(auc(SCORE[: len(label)], label))
    assert math.isnan(average_precision(SCORE[: len(label)], label))


@given(scored)
def test_what_ranks_does_not_change_under_a_monotone_map(items):
    score, label = split(items)
    assume(0 < label.sum() < len(label))
    for metric in (auc, average_precision, p_chr_auc):
        assert metric(score**3 * 7 - 2, label) == metric(score, label)


@given(scored)
def test_reversing_the_scores_reverses_the_auc(items):
    score, label = split(items)
    assume(0 < label.sum() < len(label))
    assert auc(-score, label) == pytest.approx(1 - auc(score, label))


# -- precision and cache-hit ratio -------------------------------------------------------------


def test_p_chr_auc_averages_precision_over_all_hit_ratios():
    # 1, 1, 2/3, 2/4
    assert p_chr_auc(floats(4, 3, 2, 1), floats(1, 1, 0, 0)) == pytest.approx((2 + 2 / 3 + 0.5) / 4)
    # 0, 0, 1/3, 2/4
    assert p_chr_auc(floats(4, 3, 2, 1), floats(0, 0, 1, 1)) == pytest.approx((1 / 3 + 0.5) / 4)


def test_equal_scores_are_one_point_of_the_hit_ratio():
    ratio, precision = hit_ratio_curve(floats(2, 1, 1, 1), floats(1, 1, 0, 0))
    assert ratio.tolist() == [0.25, 1]
    assert precision.tolist() == [1, 0.5]
    assert p_chr_auc(floats(2, 1, 1, 1), floats(1, 1, 0, 0)) == pytest.approx(0.25 + 0.75 * 0.5)


def test_a_perfect_ranking_of_many_reaches_the_stated_limit():
    label = (np.arange(10_000) < 2_000).astype(float)
    limit = 0.2 * (1 - math.log(0.2))
    assert p_chr_auc(-np.arange(10_000.0), label) == pytest.approx(limit, abs=1e-3)


def test_nothing_has_no_p_chr_auc():
    assert math.isnan(p_chr_auc(floats(), floats()))


# -- what is calibrated ------------------------------------------------------------------------


def test_brier_takes_soft_labels_as_they_are():
    assert brier(floats(0.8, 0.3), floats(1, 0.5)) == pytest.approx((0.2**2 + 0.2**2) / 2)


def test_expected_calibration_error_by_hand():
    # bins {.2, .3} with half the same, off by .25, and {.8, .9} all the same, off by .15
    probability, label = floats(0.2, 0.9, 0.3, 0.8), floats(0, 1, 1, 1)
    assert reliability_curve(probability, label, bins=2).observed.tolist() == [0.5, 1]
    assert expected_calibration_error(probability, label, bins=2) == pytest.approx(0.2)


def test_bins_weigh_by_their_size_and_equal_probabilities_share_one():
    # three of .1 cannot be split: off by .1 in 3 of 4 pairs and by .4 in the other
    probability, label = floats(0.1, 0.1, 0.1, 0.6), floats(0, 0, 0, 1)
    curve = reliability_curve(probability, label, bins=4)
    assert curve.count.tolist() == [3, 1]
    assert curve.probability == pytest.approx([0.1, 0.6])
    assert curve.observed.tolist() == [0, 1]
    error = expected_calibration_error(probability, label, bins=4)
    assert error == pytest.approx((3 * 0.1 + 0.4) / 4)


def test_bins_hold_about_as_many_pairs_each():
    curve = reliability_curve(np.linspace(0, 1, 100) ** 4, np.zeros(100), bins=15)
    assert len(curve.count) == 15
    assert set(curve.count.tolist()) <= {6, 7}
    assert (np.diff(curve.probability) > 0).all()


def test_one_bin_compares_the_means():
    assert expected_calibration_error(floats(0.1, 0.5), floats(1, 0), bins=1) == pytest.approx(0.2)


@pytest.mark.parametrize("metric", [brier, expected_calibration_error])
def test_nothing_has_no_calibration(metric):
    assert math.isnan(metric(floats(), floats()))


@given(scored, st.integers(1, 6), st.randoms(use_true_random=False))
def test_calibration_does_not_depend_on_the_order_of_the_pairs(items, bins, random):
    score, label = split(items)
    probability = (score + 6) / 12
    order = random.sample(range(len(score)), len(score))
    one = expected_calibration_error(probability, label, bins)
    other = expected_calibration_error(probability[order], label[order], bins)
    assert one == pytest.approx(other)
    assert reliability_curve(probability, label, bins).count.sum() == len(score)


# -- what may be served ------------------------------------------------------------------------


def test_served_share_at_error_by_hand():
    # served from the top: right, right, wrong, right, wrong
    score, right = floats(5, 4, 3, 2, 1), bools(1, 1, 0, 1, 0)
    answerable = bools(1, 1, 1, 1, 0)
    assert served_at_error(score, right, answerable, 0.0) == 2 / 4
    assert served_at_error(score, right, answerable, 0.24) == 2 / 4
    # 1 wrong of 4 meets a bound of .25
    assert served_at_error(score, right, answerable, 0.25) == 3 / 4


def test_a_higher_error_on_the_way_is_passed_over_in_hindsight():
    # 1 of 1 wrong at the top, 1 of 10 in the end
    right = bools(0, *[1] * 9)
    assert served_at_error(-np.arange(10.0), right, np.ones(10, bool), 0.1) == 9 / 10


def test_an_error_equal_to_the_bound_is_within_it():
    for wrong, bound in ((1, 0.01), (1, 0.02), (3, 0.05), (7, 0.1)):
        n = round(wrong / bound)
        right = np.arange(n) >= wrong
        served = served_at_error(-np.arange(float(n)), right, np.ones(n, bool), bound)
        assert served == (n - wrong) / n


def test_equal_scores_are_served_together_or_not_at_all():
    score, right = floats(3, 2, 2, 2), bools(1, 1, 1, 0)
    answerable = np.ones(4, bool)
    assert served_at_error(score, right, answerable, 0.2) == 1 / 4
    assert served_at_error(score, right, answerable, 0.25) == 3 / 4
    curve = served_curve(score, right, answerable)
    assert curve.threshold.tolist() == [3, 2]
    assert curve.served.tolist() == [0.25, 0.75]
    assert curve.error.tolist() == [0, 0.25]


def test_no_threshold_within_the_bound_serves_nothing():
    assert served_at_error(floats(2, 1), bools(0, 1), bools(1, 1), 0.1) == 0


def test_without_anything_answerable_the_served_share_is_undefined():
    assert math.isnan(served_at_error(floats(2, 1), bools(0, 0), bools(0, 0), 0.1))


outcomes = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from([(1, 1), (0, 1), (0, 0)])),
    min_size=1,
    max_size=40,
).filter(lambda items: any(answerable for _, (_, answerable) in items))


@given(outcomes, st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]))
def test_the_served_share_equals_brute_force_over_all_thresholds(items, bound):
    score = floats(*(score for score, _ in items))
    right, answerable = (bools(*(what[k] for _, what in items)) for k in (0, 1))
    shares = [0.0]
    for threshold in score:
        served = score >= threshold
        if (served & ~right).sum() / served.sum() <= bound:
            shares.append(right[served].sum() / answerable.sum())
    assert served_at_error(score, right, answerable, bound) == max(shares)


@given(outcomes, st.floats(0, 1), st.floats(0, 1))
def test_the_served_share_never_falls_as_the_bound_rises(items, one, other):
    score = floats(*(score for score, _ in items))
    right, answerable = (bools(*(what[k] for _, what in items)) for k in (0, 1))
    low, high = (served_at_error(score, right, answerable, b) for b in sorted((one, other)))
    assert low <= high


# -- intervals ---------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_about_two_standard_errors_either_way():
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap(lambda v: float(v.mean()), values, seed=0, resamples=1000)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_a_lower_level_gives_a_narrower_interval():
    values = np.arange(50.0)
    wide, narrow = (
        bootstrap(lambda v: float(v.mean()), values, seed=0, level=level) for level in (0.95, 0.5)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


def test_rows_of_all_arrays_are_drawn_together():
    def together(one: np.ndarray, two: np.ndarray) -> float:
        assert one.shape == (30,)
        assert two.shape == (30, 2)
        assert (one == two[:, 0]).all()
        return float(len(set(one.tolist())))

    values = np.arange(30)
    low, high = bootstrap(together, values, np.stack([values, values], axis=1), seed=0)
    # with replacement: about 63 % of the rows are in a draw
    assert 12 < low <= high < 26


def test_a_seed_repeats_its_interval_and_another_draws_another():
    values = np.random.default_rng(2).normal(size=40)
    first, again, other = (
        bootstrap(lambda v: float(v.mean()), values, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_draws_in_which_the_statistic_is_undefined_are_left_out():
    # a third of the draws of 3 rows lack one of the two classes
    score, label = floats(3, 2, 1), floats(1, 0, 0)
    interval = bootstrap(auc, score, label, seed=0)
    assert interval == Interval(1.0, 1.0)


@pytest.mark.parametrize(("defined", "kept"), [(5, True), (4, False)])
def test_less_than_half_of_the_draws_defined_leave_no_interval(defined, kept):
    calls = iter(range(50))
    interval = bootstrap(
        lambda v: 1.0 if next(calls) % 10 < defined else math.nan,
        np.arange(3),
        seed=0,
        resamples=50,
    )
    assert (not math.isnan(interval.low)) is kept
    assert (not math.isnan(interval.high)) is kept


def test_a_measured_figure_has_its_value_and_interval():
    values = np.arange(20.0)
    figure = measured(lambda v: float(v.mean()), values, seed=4, resamples=50)
    assert figure.value == 9.5
    assert figure.interval == bootstrap(
        lambda v: float(v.mean()), values, seed=4, resamples=50, level=0.95
    )


def test_an_undefined_value_is_measured_as_none():
    figure = measured(auc, SCORE, np.zeros(4), seed=0)
    assert (figure.value, figure.interval) == (None, None)

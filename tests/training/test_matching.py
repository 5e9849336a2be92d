"""The hard subset: nothing that the reference score could tell apart is left in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.evaluation.metrics import auc
from semcache_core.training.data.mining import matched_subset


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


@given(st.lists(st.tuples(st.integers(-99, 99), st.booleans()), max_size=80), st.integers(0, 9))
def test_a_matched_subset_has_as_many_of_either_label_in_each_bin(items, seed):
    reference = floats(*(value / 100 + 0.005 for value, _ in items))
    label = floats(*(value for _, value in items))
    rows = matched_subset(reference, label, width=0.1, seed=seed)
    assert len(set(rows.tolist())) == len(rows)
    assert rows.tolist() == sorted(rows.tolist())
    bins = np.floor(reference / 0.1)
    for one in set(bins.tolist()):
        size = min(((bins == one) & (label == value)).sum() for value in (0, 1))
        for value in (0, 1):
            assert ((bins[rows] == one) & (label[rows] == value)).sum() == size


def test_the_larger_class_of_a_bin_is_thinned_by_the_seed():
    reference, label = np.full(50, 0.5), (np.arange(50) < 5).astype(float)
    first, again, other = (matched_subset(reference, label, seed=s).tolist() for s in (1, 1, 2))
    assert first == again != other
    assert first[:5] == [0, 1, 2, 3, 4]


def test_a_score_is_at_chance_on_the_subset_matched_on_itself():
    random = np.random.default_rng(0)
    label = (np.arange(4000) < 1500).astype(float)
    score = random.normal(0.5 + 0.2 * label, 0.15)
    rows = matched_subset(score, label)
    assert auc(score, label) > 0.8
    assert auc(score[rows], label[rows]) == pytest.approx(0.5, abs=0.03)

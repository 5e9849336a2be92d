"""Entries that answer questions which have little in common but the entry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.quality.hubs import MAX_SPREAD, MIN_ASKED, is_hub, spread
from semcache_core.types import Matrix

DIMENSION = 64


def around_an_entry(n: int, cosine: float, shared: float = 0.0) -> Matrix:
    """n unit vectors at `cosine` to one entry, their directions away from it at `shared` to each
    other: as questions on `n` matters, or, the more they share, on one.
    """
    own, common = np.sqrt(1 - shared), np.sqrt(shared)
    away = own * np.eye(n, DIMENSION) + common * np.eye(DIMENSION)[n]
    entry = np.eye(DIMENSION)[n + 1]
    return (cosine * entry + np.sqrt(1 - cosine**2) * away).astype(np.float32)


@pytest.mark.parametrize("served_at", [0.5, 0.73, 0.93, 0.99])
def test_questions_with_only_the_entry_in_common_spread_by_one_wherever_it_is_served(
    served_at: float,
) -> None:
    assert spread(around_an_entry(20, served_at), served_at) == pytest.approx(1, abs=1e-4)


def test_equal_questions_do_not_spread() -> None:
    assert spread(around_an_entry(9, 0.9, shared=1.0), 0.9) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("served_at", [0.73, 0.93])
def test_an_entry_that_unlike_questions_share_is_a_hub(served_at: float) -> None:
    assert is_hub(around_an_entry(MIN_ASKED, served_at), served_at)
    assert not is_hub(around_an_entry(MIN_ASKED, served_at, shared=0.5), served_at)


def test_the_bound_is_where_it_says() -> None:
    shared = 1 - MAX_SPREAD
    assert is_hub(around_an_entry(12, 0.8, shared - 0.01), 0.8)
    assert not is_hub(around_an_entry(12, 0.8, shared + 0.01), 0.8)


def test_few_questions_say_nothing() -> None:
    assert not is_hub(around_an_entry(MIN_ASKED - 1, 0.8), 0.8)
    assert not is_hub(np.zeros((0, DIMENSION), np.float32), 0.8)


@pytest.mark.parametrize("served_at", [-1.0, 0.0, 1.0, 1.5, float("nan")])
def test_where_everything_or_nothing_is_served_there_are_no_hubs(served_at: float) -> None:
    assert not is_hub(np.eye(MIN_ASKED, DIMENSION, dtype=np.float32), served_at)


@given(n=st.integers(2, 30), seed=st.integers(0, 2**32 - 1), served_at=st.floats(0.1, 0.99))
def test_spread_is_that_of_all_pairs_in_any_order(n: int, seed: int, served_at: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, DIMENSION))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    cosines = (vectors.astype(float) @ vectors.T)[np.triu_indices(n, 1)]
    expected = (1 - cosines.mean()) / (1 - served_at**2)
    assert spread(vectors, served_at) == pytest.approx(expected, rel=1e-4)
    assert spread(vectors[::-1], served_at) == pytest.approx(expected, rel=1e-4)

"""What a provider tells of an answer is taken as far as it is plausible, and never raises."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Usage
from semcache_core.adapters import unknown_usage, usage_from

anything = st.one_of(
    st.none(),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.text(),
    st.just(math.inf),
    st.lists(st.integers()),
    st.builds(object),
)


def test_plausible_figures_are_taken() -> None:
    assert usage_from("m-1", 30, 0) == Usage("m-1", 30, 0)


def test_others_are_left_out_one_by_one() -> None:
    assert usage_from("", -1, 4) == Usage(None, None, 4)
    assert usage_from(5, True, 4.0) == Usage()


@given(anything, anything, anything)
def test_nothing_that_is_told_raises(model: Any, tokens_in: Any, tokens_out: Any) -> None:
    told = usage_from(model, tokens_in, tokens_out)
    assert told.model is None or told.model == model
    assert told.tokens_in is None or told.tokens_in == tokens_in
    assert told.seconds is None


def test_where_nothing_is_told_nothing_is_known() -> None:
    assert unknown_usage("question", "answer") == Usage()

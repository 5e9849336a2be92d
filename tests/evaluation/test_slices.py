"""Which pairs are of which kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.evaluation.evaluate import PREDICATES, slices_of
from semcache_core.training.data.records import Pair


def of(name: str, prompt: str, other: str = "x") -> bool:
    return PREDICATES[name](Pair(prompt, other, 1))


@pytest.mark.parametrize(
    ("prompt", "other", "appear", "differ"),
    [
        ("order 12", "order 13", True, True),
        ("order 12", "the order", True, True),
        ("the order", "order 12", True, True),
        ("order 12 on day 3", "on day 3, order 12", True, False),
        ("pay $1,000", "pay 1000 dollars", True, False),
        ("two dogs", "2 dogs", True, False),
        ("two dogs", "three dogs", True, True),
        ("Twenty eggs", "a dozen eggs", True, True),
        ("which one", "how does one ask", False, False),
        ("often", "tenor", False, False),
        ("dogs", "cats", False, False),
    ],
)
def test_numbers_in_digits_and_words(prompt, other, appear, differ):
    assert of("numbers: appear", prompt, other) is appear
    assert of("numbers: differ", prompt, other) is differ


@pytest.mark.parametrize(
    ("prompt", "other", "appears", "differs"),
    [
        ("can I not pay", "can I pay", True, True),
        ("can I pay", "why can't I pay", True, True),
        ("I don’t know", "it is unknown", True, True),
        ("Never pay", "no payment", True, False),
        ("without a card", "cannot pay", True, False),
        ("dont pay", "isnt paid", True, False),
        ("a knot in the notes", "nobles", False, False),
    ],
)
def test_negation_in_either_text_and_in_one_only(prompt, other, appears, differs):
    assert of("negation: in any", prompt, other) is appears
    assert of("negation: in one only", prompt, other) is differs


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("What is a knot?", "what"),
        ("what's a knot", "what"),
        ("WHY so", "why"),
        ("since when?", "when"),
        ("Where’s it", "where"),
        ("Who", "who"),
        ("To whom", "who"),
        ("whose knot", "who"),
        ("tell me how", "how"),
        ("which one, and why", "which"),
        ("is it a knot", "other"),
        ("whatever, somehow", "other"),
    ],
)
def test_the_first_wh_word_of_the_prompt_decides_alone(prompt, word):
    pair = Pair(prompt, "why how which", 1)
    assert [n for n in PREDICATES if n.startswith("wh-word") and PREDICATES[n](pair)] == [
        f"wh-word: {word}"
    ]


@pytest.mark.parametrize(
    ("prompt", "other", "name"),
    [
        (8, 3, "length: at most 8 words"),
        (9, 3, "length: 9 to 20 words"),
        (3, 9, "length: 9 to 20 words"),
        (20, 20, "length: 9 to 20 words"),
        (21, 3, "length: over 20 words"),
        (3, 21, "length: over 20 words"),
    ],
)
def test_the_longer_text_decides_the_length(prompt, other, name):
    pair = Pair("w " * prompt, "w " * other, 1)
    assert [n for n in PREDICATES if n.startswith("length") and PREDICATES[n](pair)] == [name]


def test_slices_are_masks_of_the_pairs_with_one_for_each_named_source():
    pairs = [Pair("what 1", "what", 1, "b"), Pair("why", "y", 0, "a"), Pair("who", "y", 0)]
    slices = slices_of(pairs)
    assert list(slices) == [*PREDICATES, "source: a", "source: b"]
    assert all(mask.dtype == np.bool_ and mask.shape == (3,) for mask in slices.values())
    assert slices["source: a"].tolist() == [False, True, False]
    assert slices["source: b"].tolist() == [True, False, False]
    assert slices["numbers: appear"].tolist() == [True, False, False]
    assert not slices["wh-word: where"].any()


def test_pairs_without_a_source_have_no_source_slice():
    assert list(slices_of([Pair("a", "b", 1)])) == list(PREDICATES)


@given(st.lists(st.builds(Pair, st.text(), st.text(), st.just(1.0)), max_size=5))
def test_any_text_has_one_wh_word_and_one_length(pairs):
    slices = slices_of(pairs)
    for kind in ("wh-word", "length"):
        of_kind = np.array([mask for name, mask in slices.items() if name.startswith(kind)])
        assert (of_kind.sum(axis=0) == 1).all()
    assert not (slices["numbers: differ"] & ~slices["numbers: appear"]).any()
    assert not (slices["negation: in one only"] & ~slices["negation: in any"]).any()

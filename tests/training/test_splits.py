"""Splits: no question in two of them, nothing lost, and what cannot be split is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.errors import TrainingError
from semcache_core.training.data.records import Pair
from semcache_core.training.data.splits import (
    SPLITS,
    components,
    deal,
    part_of,
    split_by_component,
    split_pairs,
)


def alone(n: int) -> list[Pair]:
    """n pairs that share no question."""
    return [Pair(f"p{i}", f"o{i}", i % 2) for i in range(n)]


def star(n: int) -> list[Pair]:
    """n pairs around one question."""
    return [Pair("centre", f"s{i}", 0) for i in range(n)]


def questions(pairs: list[Pair]) -> set[str]:
    return {text for pair in pairs for text in (pair.prompt, pair.other)}


pairs_strategy = st.lists(
    st.builds(Pair, *[st.integers(0, 60).map(str)] * 2, st.sampled_from([0.0, 1.0])), min_size=1
)


@given(pairs_strategy, st.integers(0, 9))
def test_no_question_is_in_two_splits_and_no_pair_is_lost(pairs, seed):
    connected = components(61, ((int(pair.prompt), int(pair.other)) for pair in pairs))
    if len({connected[int(pair.prompt)] for pair in pairs}) < 3:
        with pytest.raises(TrainingError, match="would stay empty"):
            split_by_component(pairs, seed=seed)
        return
    dealt = split_by_component(pairs, seed=seed)
    assert tuple(dealt) == SPLITS
    assert all(dealt.values())
    for name in SPLITS:
        others = [pair for other in SPLITS if other != name for pair in dealt[other]]
        assert questions(dealt[name]).isdisjoint(questions(others))
        kept = iter(pairs)
        assert all(pair in kept for pair in dealt[name])  # the order is that of the input
    everything = [pair for name in SPLITS for pair in dealt[name]]
    assert sorted(map(repr, everything)) == sorted(map(repr, pairs))


def test_pairs_that_share_no_question_are_dealt_by_the_shares():
    dealt = split_by_component(alone(100), (0.7, 0.2, 0.1))
    assert [len(dealt[name]) for name in SPLITS] == [70, 20, 10]


def test_a_share_of_nothing_stays_empty():
    dealt = split_by_component([*star(9), *alone(1)], (0.9, 0.1, 0))
    assert [len(dealt[name]) for name in SPLITS] == [9, 1, 0]


def test_a_seed_deals_the_same_way_again_and_another_one_does_not():
    first, again, other = (split_by_component(alone(50), seed=seed)["test"] for seed in (1, 1, 2))
    assert first == again != other


def test_chance_and_not_their_size_decides_where_small_components_go():
    # components of one to four pairs; were the largest dealt first, test would get single pairs
    pairs = [Pair(f"p{i}", f"o{i}-{k}", 0) for i in range(1000) for k in range(1 + i % 4)]
    dealt = split_by_component(pairs)
    sizes = {name: len(dealt[name]) / len({p.prompt for p in dealt[name]}) for name in SPLITS}
    assert max(sizes.values()) - min(sizes.values()) < 0.4


def test_a_very_large_component_goes_to_the_largest_share():
    dealt = split_by_component([*alone(40), *star(60)], (0.8, 0.1, 0.1))
    assert {pair.prompt for pair in dealt["train"]} >= {"centre"}
    assert [len(dealt[name]) for name in SPLITS] == [80, 10, 10]


def test_few_components_leave_no_split_empty():
    for n in (3, 4, 5, 9):
        assert all(split_by_component(alone(n)).values())


def test_too_few_components_are_an_error_saying_how_large_the_largest_is():
    with pytest.raises(
        TrainingError, match=r"21 pairs form 2 connected component\(s\), the largest of 20.*more"
    ):
        split_by_component([*star(20), *alone(1)])


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)]
)
def test_shares_that_are_none_are_an_error_showing_them(shares):
    with pytest.raises(TrainingError) as error:
        split_by_component(alone(10), shares)
    assert str(shares) in str(error.value)


def test_nothing_to_split_is_an_error():
    with pytest.raises(TrainingError, match="no pairs to split"):
        split_by_component([])


def test_items_of_one_component_are_dealt_together():
    dealt = deal([7, 7, 3, 7, 5], (0.6, 0.2, 0.2), 0, "items")
    assert {dealt[index] for index in (0, 1, 3)} == {"train"}
    assert {dealt[2], dealt[4]} == {"calibration", "test"}


def test_items_are_connected_directly_or_through_others():
    named = components(5, [(0, 1), (3, 4), (1, 4)])
    assert named[0] == named[1] == named[3] == named[4] != named[2]


def named(*splits: str) -> list[Pair]:
    return [Pair(f"p{i}", f"o{i}", 1, "", split) for i, split in enumerate(splits)]


def test_pairs_that_name_their_split_keep_it():
    pairs = named("test", "train", "test")
    assert split_pairs(pairs) == {
        "train": [pairs[1]],
        "calibration": [],
        "test": [pairs[0], pairs[2]],
    }


def test_pairs_that_name_no_split_are_dealt():
    assert split_pairs(alone(20), seed=3) == split_by_component(alone(20), seed=3)


@pytest.mark.parametrize("wrong", ["", "dev"])
def test_a_split_that_is_missing_or_unknown_is_an_error_naming_the_pair(wrong):
    with pytest.raises(TrainingError, match=f"pair 2 has the split {wrong!r}"):
        split_pairs(named("train", wrong))


def test_a_question_in_two_named_splits_is_an_error():
    pairs = [Pair("a", "b", 1, "", "train"), Pair("c", "b", 1, "", "test")]
    with pytest.raises(TrainingError, match="'b' is in the splits 'train' and, in pair 2, 'test'"):
        split_pairs(pairs)


def test_part_of_takes_the_named_split_only_and_all_pairs_where_none_is_named() -> None:
    named = [Pair("a", "b", 1.0, split="train"), Pair("c", "d", 0.0, split="test")]
    plain = [Pair("a", "b", 1.0), Pair("c", "d", 0.0)]
    assert part_of(named, "test") == named[1:]
    assert part_of(plain, "test") == plain
    with pytest.raises(TrainingError, match="no pair has the split 'calibration'"):
        part_of(named, "calibration")

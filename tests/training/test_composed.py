"""Composed pairs: two questions in one, and what label the whole has."""

from semcache_core.training.data.augmentation import composed_pairs
from semcache_core.training.data.records import Pair

ALIKE = [Pair(f"a{n}", f"A{n}", 0.9) for n in range(5)]
UNLIKE = [Pair(f"b{n}", f"B{n}", 0.1) for n in range(5)]
LABELLED = {(p.prompt, p.other): p.same_answer for p in ALIKE + UNLIKE}


def test_both_sides_are_the_same_two_pairs_in_the_same_order_and_the_label_is_their_product() -> (
    None
):
    made = composed_pairs(ALIKE + UNLIKE, 40)
    assert len(made) == 40
    for pair in made:
        parts = list(zip(pair.prompt.split(), pair.other.split(), strict=True))
        assert len(parts) == 2
        assert pair.same_answer == LABELLED[parts[0]] * LABELLED[parts[1]]


def test_every_second_one_has_a_part_with_another_answer_and_it_comes_on_either_side() -> None:
    made = composed_pairs(ALIKE + UNLIKE, 40)
    assert [pair.positive for pair in made] == [True, False] * 20
    assert {pair.prompt.split()[0][0] for pair in made if not pair.positive} == {"a", "b"}


def test_the_seed_decides_and_one_class_alone_composes_nothing() -> None:
    assert composed_pairs(ALIKE + UNLIKE, 9, seed=1) == composed_pairs(ALIKE + UNLIKE, 9, seed=1)
    assert composed_pairs(ALIKE + UNLIKE, 9, seed=1) != composed_pairs(ALIKE + UNLIKE, 9, seed=2)
    assert composed_pairs(ALIKE, 9) == composed_pairs(UNLIKE, 9) == []

"""Mining: which questions meet, in which split, in which order, and the matched hard subset."""

import numpy as np
import pytest
from fakes import WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.errors import TrainingError
from semcache_core.training.data import mining
from semcache_core.training.data.mining import (
    deal_questions,
    drop_duplicates,
    hard_subset,
    match_similarity,
    mine,
)
from semcache_core.training.data.records import (
    MinedPair,
    Pair,
    Question,
    read_mined,
    read_pairs,
    write_pairs,
)
from semcache_core.training.data.splits import SPLITS
from sklearn.metrics import roc_auc_score

TRAIN_ONLY = (1.0, 0.0, 0.0)


class Plane:
    """The text is an angle in degrees, so that similarities are cosines of differences."""

    fingerprint, dimension = "plane", 2

    def embed(self, texts: list[str]) -> np.ndarray:
        radians = np.radians([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    def reads(self, text: str, max_tokens: int) -> bool:
        return True


def at(*degrees: float) -> list[Question]:
    return [Question(str(degree)) for degree in degrees]


def ends(pairs: list[MinedPair]) -> list[tuple[str, str]]:
    return [(pair.prompt, pair.other) for pair in pairs]


def topics(n: int, each: int = 4) -> list[Question]:
    """n topics of a few questions, which share two words of three within a topic."""
    return [
        Question(f"t{i} u{i} v{i}x{k}", (f"answer {i}-{k // 2}",))
        for i in range(n)
        for k in range(each)
    ]


def test_neighbours_are_paired_once_nearest_first_with_the_later_one_as_prompt():
    pairs = mine(at(0, 40, 10, 70), Plane(), neighbours=1, shares=TRAIN_ONLY)
    # 0 and 10 are nearest to each other, 70 to 40, and 40 to 10 or 70, both 30 away
    assert ends(pairs)[0] == ("10", "0")
    assert ("70", "40") in ends(pairs)
    assert len({frozenset(pair) for pair in ends(pairs)}) == len(pairs)
    for pair in pairs:
        apart = abs(float(pair.prompt) - float(pair.other))
        assert pair.similarity == pytest.approx(np.cos(np.radians(apart)), abs=1e-5)
    similarities = [pair.similarity for pair in pairs]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities == [round(similarity, 6) for similarity in similarities]
    assert {pair.same_answer for pair in pairs} == {None}


def test_as_many_neighbours_are_sought_as_asked_for():
    pairs = mine(at(0, 10, 21, 33), Plane(), neighbours=2, shares=TRAIN_ONLY)
    assert sorted(ends(pairs)) == sorted(
        [("10", "0"), ("21", "0"), ("21", "10"), ("33", "10"), ("33", "21")]
    )


def test_repeats_but_for_case_space_and_closing_punctuation_are_dropped_first():
    log = [Question("5"), Question("30"), Question(" 5 ?"), Question("5!")]
    assert ends(mine(log, Plane(), shares=TRAIN_ONLY)) == [("30", "5")]


def test_the_first_of_equal_questions_keeps_the_answers_of_all():
    log = [Question("a", ("x",)), Question("A?", ("y", "x"), "id"), Question("b")]
    assert drop_duplicates(log) == [Question("a", ("x", "y"), "id"), Question("b")]


def test_a_question_is_in_at_most_so_many_pairs_and_keeps_the_nearest():
    # 0 is a neighbour of all, but no pair of its own is among the nearest two
    pairs = mine(at(0, 10, -11, 12, -13), Plane(), neighbours=4, per_question=1, shares=TRAIN_ONLY)
    assert ends(pairs) == [("12", "10"), ("-13", "-11")]


def test_known_answers_travel_with_the_pairs_into_the_file(tmp_path):
    log = [Question("0", ("x", "y")), Question("10", (), "id")]
    pairs = mine(log, Plane(), shares=TRAIN_ONLY)
    write_pairs(tmp_path / "mined.jsonl", pairs)
    (pair,) = read_mined(tmp_path / "mined.jsonl")
    assert pair.questions == (log[1], log[0])
    assert pair.split == "train"
    assert pair.similarity == pytest.approx(np.cos(np.radians(10)), abs=1e-5)


def test_pairs_stay_within_a_split_and_every_split_has_its_share():
    pairs = mine(topics(60), WordEmbedder(), seed=3)
    home: dict[str, str] = {}
    for pair in pairs:
        assert home.setdefault(pair.prompt, pair.split) == pair.split
        assert home.setdefault(pair.other, pair.split) == pair.split
    counts = [list(home.values()).count(name) for name in SPLITS]
    assert counts == [144, 72, 24]


def test_the_same_seed_mines_the_same_pairs_and_another_one_does_not():
    first, again, other = (mine(topics(20), WordEmbedder(), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert {p.prompt for p in first if p.split == "test"} != {
        p.prompt for p in other if p.split == "test"
    }


def test_questions_of_a_rare_answer_or_id_are_in_one_split():
    log = [Question(f"{7 * i}", (f"answer {i % 5}", f"own {i}")) for i in range(20)]
    log += [Question(f"{7 * i + 3}", (), f"id {i % 5}") for i in range(20)]
    split_of = deal_questions(log, Plane().embed([q.text for q in log]), near_duplicate=2)
    for i in range(5):
        assert len({split_of[j] for j in range(20) if j % 5 == i}) == 1
        assert len({split_of[20 + j] for j in range(20) if j % 5 == i}) == 1


def test_a_rare_answer_goes_with_its_look_alike():
    # fifty places a long way apart, with two answers each
    log = [Question(f"{7 * i + k}", (), f"{i}-{k // 2}") for i in range(50) for k in range(4)]
    split_of = deal_questions(log, Plane().embed([q.text for q in log]), near_duplicate=2)
    assert set(split_of) == set(SPLITS)
    for i in range(50):
        assert len(set(split_of[4 * i : 4 * i + 4])) == 1


def test_every_split_has_questions_of_every_common_answer():
    log = [Question(f"{36 * i + k / 10}", (), f"{i}") for i in range(10) for k in range(60)]
    split_of = deal_questions(log, Plane().embed([q.text for q in log]), near_duplicate=2)
    for i in range(10):
        assert set(split_of[60 * i : 60 * i + 60]) == set(SPLITS)


@given(st.lists(st.integers(0, 359), min_size=3, max_size=40, unique=True), st.integers(0, 5))
def test_near_duplicates_are_never_in_two_splits(degrees, seed):
    bound = float(np.cos(np.radians(4.5)))
    vectors = Plane().embed([str(degree) for degree in degrees])
    try:
        split_of = deal_questions(at(*degrees), vectors, near_duplicate=bound, seed=seed)
    except TrainingError as error:
        assert "would stay empty" in str(error)
        return
    near = vectors @ vectors.T >= bound
    for i, j in np.argwhere(near):
        assert split_of[i] == split_of[j]


@pytest.mark.parametrize("scan_limit", [1000, 10], ids=["scan", "index"])
def test_of_many_near_duplicates_all_are_in_one_split(scan_limit):
    # five clumps of a dozen, three degrees apart: whoever asks for few neighbours sees its own only
    crowd = [3 * clump + i / 1000 for clump in range(5) for i in range(12)]
    log = at(*crowd, *(20 * i for i in range(2, 18)))
    vectors = Plane().embed([question.text for question in log])
    for seed in range(3):
        split_of = deal_questions(log, vectors, (0.4, 0.3, 0.3), seed=seed, scan_limit=scan_limit)
        assert len(set(split_of[:60])) == 1
        assert len(set(split_of)) == 3


def test_a_search_through_the_index_finds_what_the_scan_finds(own_client):
    log = topics(40)
    scanned = mine(log, WordEmbedder(), neighbours=3)
    indexed = mine(log, WordEmbedder(), neighbours=3, scan_limit=10)
    assert indexed == scanned
    assert own_client.list_collections() == []  # nothing is left behind


def test_a_scan_in_blocks_finds_what_one_block_finds(monkeypatch):
    whole = mine(topics(10), WordEmbedder())
    monkeypatch.setattr(mining, "_CELLS_AT_ONCE", 7 * 40)
    assert mine(topics(10), WordEmbedder()) == whole


def test_progress_counts_up_to_the_number_of_questions():
    seen: dict[str, tuple[int, int]] = {}
    mine(topics(10), WordEmbedder(), progress=lambda what, *counts: seen.update({what: counts}))
    assert seen["questions embedded"] == (40, 40)
    assert seen["questions compared within train"] == (24, 24)
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"per_question": 0}, {"near_duplicate": float("nan")}]
)
def test_arguments_out_of_range_are_refused_before_anything_is_embedded(wrong):
    embedder = WordEmbedder()
    (name,) = wrong
    with pytest.raises(TrainingError, match=f"{name} is {wrong[name]}"):
        mine(topics(5), embedder, **wrong)
    assert embedder.calls == []


def test_a_log_that_gives_no_pair_is_an_error():
    with pytest.raises(TrainingError, match="1 different questions gave no pair"):
        mine(at(0), Plane(), shares=TRAIN_ONLY)
    with pytest.raises(TrainingError, match="no questions to split"):
        mine([], Plane())


def test_questions_all_connected_are_an_error():
    with pytest.raises(TrainingError, match=r"4 questions form 1 connected .* would stay empty"):
        mine([Question(f"{90 * i}", ("yes",)) for i in range(4)], Plane())


def test_hard_pairs_are_labelled_by_the_answers_and_matched(tmp_path):
    pairs = mine(topics(100), WordEmbedder(), neighbours=3, hard=True)
    write_pairs(tmp_path / "hard.jsonl", pairs)
    labels = [pair.same_answer for pair in read_pairs(tmp_path / "hard.jsonl")]
    assert labels.count(1) == labels.count(0) > 20
    similarities = [pair.similarity for pair in pairs]
    assert similarities == sorted(similarities, reverse=True)
    for pair in pairs:
        assert (pair.questions[0].answers == pair.questions[1].answers) == pair.same_answer


@pytest.mark.parametrize(
    "second", [Question("20"), Question("20", (), "id")], ids=["unknown", "an id only"]
)
def test_hard_pairs_need_answers_to_compare_before_anything_is_embedded(second):
    embedder = WordEmbedder()
    with pytest.raises(TrainingError, match=r"question 2 \('20'\).* label the pairs, match then"):
        mine([Question("0", ("x",)), second, Question("3", ("y",))], embedder, hard=True)
    assert embedder.calls == []


def mined(label: float | None, similarity: float | None, split: str = "train") -> MinedPair:
    return MinedPair((Question("a"), Question("b")), similarity, split, "", label)


def test_the_hard_subset_is_matched_in_every_split_by_itself():
    # in each split similarities tell the labels apart; over both splits they seem matched
    pairs = [mined(1, 0.9, "train"), mined(0, 0.5, "train")] * 5
    pairs += [mined(0, 0.9, "test"), mined(1, 0.5, "test")] * 5
    with pytest.raises(TrainingError, match="10 positive and 10 negative pairs have no similarity"):
        hard_subset(pairs)
    pairs.insert(3, mined(0, 0.901, "train"))
    kept = sorted((pair.same_answer, pair.split) for pair in hard_subset(pairs))
    assert kept == [(0, "train"), (1, "train")]


def test_a_hard_subset_of_unlabelled_pairs_is_refused():
    with pytest.raises(TrainingError, match="label the pairs first"):
        hard_subset([mined(None, 0.5)])
    with pytest.raises(TrainingError, match=r"pair 2 .* has no similarity"):
        hard_subset([mined(1, 0.5), mined(1, None)])


def generated(n: int) -> tuple[list[Pair], np.ndarray]:
    """Positives are more similar by one standard deviation: an AUC of .76."""
    chooser = np.random.default_rng(0)
    labels = chooser.random(n) < 0.3
    similarities = np.clip(chooser.normal(0.6 + 0.1 * labels, 0.1), -1, 1)
    return [Pair(f"p{i}", f"o{i}", float(label)) for i, label in enumerate(labels)], similarities


def test_among_matched_pairs_the_similarity_is_at_chance():
    pairs, similarities = generated(4000)
    labels = np.array([pair.positive for pair in pairs])
    assert roc_auc_score(labels, similarities) > 0.7
    kept = match_similarity(pairs, similarities)
    assert roc_auc_score(labels[kept], similarities[kept]) == pytest.approx(0.5, abs=0.03)
    assert labels[kept].mean() == 0.5
    assert len(kept) > 1200


def test_every_bin_keeps_as_many_of_both_and_as_many_as_it_can():
    pairs, similarities = generated(500)
    kept = set(match_similarity(pairs, similarities, width=0.1).tolist())
    for low in np.arange(-1, 1.01, 0.1):
        within = [i for i in range(500) if np.floor(similarities[i] / 0.1) == np.round(low / 0.1)]
        counts = [sum(pairs[i].positive == label for i in within) for label in (True, False)]
        assert sum(i in kept for i in within) == 2 * min(counts)


def test_matched_indices_ascend_and_depend_on_the_seed_alone():
    pairs, similarities = generated(500)
    first, again, other = (match_similarity(pairs, similarities, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.diff(first) > 0).all()
    assert first.tolist() != other.tolist()


def test_pairs_of_one_class_have_no_match():
    assert match_similarity([Pair("a", "b", 1)], [0.5]).tolist() == []
    assert match_similarity([], []).tolist() == []


@pytest.mark.parametrize(
    ("similarities", "width"), [([0.1], 0.02), ([0.1, float("nan")], 0.02), ([0.1, 0.2], 0.0)]
)
def test_similarities_that_cannot_be_matched_are_an_error(similarities, width):
    with pytest.raises(TrainingError, match=f"2 pairs.* width {width}"):
        match_similarity([Pair("a", "b", 1), Pair("a", "c", 0)], similarities, width=width)

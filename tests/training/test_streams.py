"""Streams drawn from pairs and from intents: who is asked, what is stored, what is right."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakes import WordEmbedder
from semcache_core.embedding.batching import embed_texts
from semcache_core.errors import TrainingError
from semcache_core.training.calibration import streams
from semcache_core.training.calibration.streams import (
    Domain,
    Remembering,
    domain_from_edits,
    domain_from_labels,
    domain_from_pairs,
    run_trials,
    split_asked,
)
from semcache_core.training.data.augmentation import synthetic_pairs
from semcache_core.training.data.records import Pair


def plane(*degrees: float) -> np.ndarray:
    """Unit rows in the plane, so that similarities are cosines of differences of angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def run_streams(domain: Domain, vectors: np.ndarray, *, missing: float, seeds: list[int]):
    """What serving the nearest stored question makes of every stream; all are [n]."""
    trials = run_trials(domain, vectors, missing=missing, seeds=seeds)
    nearest = [trial.neighbours[0] for trial in trials]
    pairs = zip(nearest, trials, strict=True)
    return SimpleNamespace(
        question=np.array([trial.question for trial in trials]),
        similarity=np.array([one.similarity for one in nearest]),
        right=np.array([one.answer == trial.answer for one, trial in pairs]),
        answerable=np.array([trial.answerable for trial in trials]),
    )


def test_questions_joined_through_a_third_have_the_same_answer():
    domain = domain_from_pairs("d", [Pair("a", "b", 1), Pair("c", "b", 1), Pair("a", "x", 0)])
    answer = dict(zip(domain.texts, domain.answers.tolist(), strict=True))
    assert answer["a"] == answer["b"] == answer["c"] != answer["x"]


def test_prompts_of_positive_pairs_are_asked_and_all_others_stored():
    domain = domain_from_pairs("d", [Pair("a", "b", 1), Pair("a", "x", 0), Pair("n", "y", 0)])
    texts = np.array(domain.texts)
    assert set(texts[domain.asked]) == {"a"}
    assert set(texts[domain.storable]) == {"b", "x", "y"}


def known(prompt: str, other: str, same: float, *answers: str) -> Pair:
    return Pair(prompt, other, same, answers=(answers[0], answers[-1]))


def test_questions_with_the_same_known_answer_have_the_same_answer() -> None:
    pairs = [known("a", "b", 1, "x"), known("c", "d", 1, "x"), known("a", "e", 0, "x", "y")]
    answer = dict(zip((d := domain_from_pairs("d", pairs)).texts, d.answers, strict=True))
    assert answer["a"] == answer["b"] == answer["c"] == answer["d"] != answer["e"]


def test_questions_that_were_trained_on_are_look_alikes_but_never_the_right_answer() -> None:
    pairs = [known("a", "b", 1, "x"), known("c", "d", 1, "y")]
    seen = [known("near a", "next to a", 1, "x"), known("far", "farther", 1, "z")]
    domain = domain_from_pairs("d", pairs, seen)
    assert len(domain.texts) == 8
    assert {text for text, asked in zip(domain.texts, domain.asked, strict=True) if asked} == {
        "a",
        "c",
    }
    vectors = np.eye(8, dtype=np.float32) + 0.1
    for trial in run_trials(domain, vectors, missing=0, seeds=(0,)):
        met = {neighbour.question for neighbour in trial.neighbours}
        other = {"near a", "next to a"} if trial.asked == "c" else set()
        assert met == {"b", "d", "far", "farther"} | other
        assert trial.answerable


def test_where_answers_are_not_known_nothing_else_is_stored() -> None:
    seen = [known("e", "f", 1, "x")]
    assert domain_from_pairs("d", [Pair("a", "b", 1)], seen).texts == ("a", "b")
    assert domain_from_pairs("d", [known("a", "b", 1, "x")], [Pair("e", "f", 1)]).texts == (
        "a",
        "b",
    )


def test_the_nearest_stored_question_is_served_and_judged_by_its_answer():
    # a is nearest to its own b (10 degrees), c nearer to the look-alike x (5) than to its d (40)
    pairs = [Pair("a", "b", 1), Pair("c", "d", 1), Pair("c", "x", 0)]
    domain = domain_from_pairs("d", pairs)
    assert domain.texts == ("a", "b", "c", "d", "x")
    result = run_streams(domain, plane(0, 10, 90, 130, 95), missing=0, seeds=[0])
    assert result.question.tolist() == [0, 2]
    assert result.right.tolist() == [True, False]
    assert result.answerable.tolist() == [True, True]
    np.testing.assert_allclose(result.similarity, np.cos(np.radians([10, 5])), atol=1e-6)


def test_a_question_never_meets_its_own_text():
    # "a" is stored as well, because it is the other of a pair
    pairs = [Pair("a", "b", 1), Pair("c", "a", 0)]
    domain = domain_from_pairs("d", pairs)
    result = run_streams(domain, plane(0, 60, 90), missing=0, seeds=[0])
    np.testing.assert_allclose(result.similarity, [0.5], atol=1e-6)


def test_half_missing_takes_out_the_right_answers_of_half_of_the_questions():
    pairs = [Pair(f"p{i}", f"o{i}", 1) for i in range(10)]
    pairs += [Pair(f"p{i}", f"x{i}", 0) for i in range(10)]
    domain = domain_from_pairs("d", pairs)
    vectors = plane(*range(0, 3 * len(domain.texts), 3))
    complete = run_streams(domain, vectors, missing=0, seeds=[1])
    halved = run_streams(domain, vectors, missing=0.5, seeds=[1])
    assert complete.answerable.sum() == 10
    assert len(halved.answerable) == 10
    assert halved.answerable.sum() == 5
    assert not halved.right[~halved.answerable].any()
    fewer = run_streams(domain, vectors, missing=0.75, seeds=[1])
    assert fewer.answerable.sum() == 2


def test_a_seed_repeats_its_streams_and_another_draws_others():
    pairs = [Pair(f"p{i}", f"o{i}", 1) for i in range(20)]
    domain = domain_from_pairs("d", pairs)
    vectors = plane(*range(40))
    first, again, other = (
        run_streams(domain, vectors, missing=0.5, seeds=[seed]).answerable.tolist()
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_seeds_are_pooled_in_their_order():
    pairs = [Pair(f"p{i}", f"o{i}", 1) for i in range(6)]
    domain = domain_from_pairs("d", pairs)
    vectors = plane(*range(12))
    pooled = run_streams(domain, vectors, missing=0.5, seeds=[5, 6])
    alone = [run_streams(domain, vectors, missing=0.5, seeds=[seed]) for seed in (5, 6)]
    for field in ("similarity", "right", "answerable", "question"):
        np.testing.assert_array_equal(
            getattr(pooled, field), np.concatenate([getattr(one, field) for one in alone])
        )


def test_questions_asked_in_blocks_come_out_as_in_one(monkeypatch):
    pairs = [Pair(f"p{i}", f"o{i}", 1) for i in range(7)]
    domain = domain_from_pairs("d", pairs)
    vectors = plane(*range(14))
    whole = run_streams(domain, vectors, missing=0.5, seeds=[0])
    monkeypatch.setattr(streams, "_AT_ONCE", 3)
    blocks = run_streams(domain, vectors, missing=0.5, seeds=[0])
    np.testing.assert_array_equal(whole.question, blocks.question)
    np.testing.assert_allclose(whole.similarity, blocks.similarity, atol=1e-6)
    np.testing.assert_array_equal(whole.right, blocks.right)


def test_intents_are_stored_up_to_the_store_size_and_half_of_them_not_at_all():
    texts = [f"{label}{i}" for label in "abcd" for i in range(10)]
    domain = domain_from_labels("bank", texts, [text[0] for text in texts], store_size=12)
    result = run_streams(domain, plane(*range(40)), missing=0.5, seeds=[0])
    answerable = {texts[index][0] for index in result.question[result.answerable]}
    lost = {texts[index][0] for index in result.question[~result.answerable]}
    assert len(answerable) == 2
    assert len(lost) == 2
    assert len(result.question) == 40


def test_a_text_that_occurs_twice_keeps_its_first_label():
    domain = domain_from_labels("bank", ["a", "b", "a"], ["x", "y", "y"], store_size=1)
    assert domain.texts == ("a", "b")
    assert domain.answers[0] != domain.answers[1]


@pytest.mark.parametrize("store_size", [0, 2, 3])
def test_a_store_that_leaves_nothing_to_ask_is_an_error(store_size):
    with pytest.raises(TrainingError, match=f"store_size is {store_size}, but 'bank' has 2"):
        domain_from_labels("bank", ["a", "b"], ["x", "y"], store_size=store_size)


def test_a_stream_whose_store_would_be_empty_is_an_error():
    domain = domain_from_pairs("tiny", [Pair("a", "b", 1)])
    with pytest.raises(TrainingError, match="'tiny' would store 0"):
        run_streams(domain, plane(0, 10), missing=0.5, seeds=[0])


def test_texts_are_embedded_in_batches_in_their_order():
    class Angles:
        fingerprint, dimension = "angles", 2

        def __init__(self) -> None:
            self.sizes: list[int] = []

        def embed(self, texts: list[str]) -> np.ndarray:
            self.sizes.append(len(texts))
            return plane(*map(float, texts))

        def reads(self, text: str, max_tokens: int) -> bool:
            return True

    embedder = Angles()
    rows = embed_texts(embedder, ["0", "30", "60", "90", "45"], batch=2)
    np.testing.assert_allclose(rows, plane(0, 30, 60, 90, 45), atol=1e-6)
    assert embedder.sizes == [2, 2, 1]


def test_a_remembering_embedder_asks_for_each_text_once_and_answers_as_the_one_in_it_does() -> None:
    inner = WordEmbedder()
    remembering = Remembering(inner)
    for texts in (["a b", "c", "a b"], ["c", "d e"]):
        np.testing.assert_array_equal(remembering.embed(texts), WordEmbedder().embed(texts))
    assert inner.calls == ["a b", "c", "d e"]
    assert (remembering.fingerprint, remembering.dimension) == (inner.fingerprint, inner.dimension)
    assert remembering.reads("a b", 512) == inner.reads("a b", 512)


# -- parts and edits ---------------------------------------------------------------------------


def test_the_parts_of_a_domain_share_no_answer_and_ask_everything_between_them() -> None:
    domain = domain_from_labels(
        "d", [f"q{i}" for i in range(40)], [f"a{i // 2}" for i in range(40)], 10
    )
    first, second = split_asked(domain, 0.3)
    assert len(np.unique(first.answers[first.asked])) == 6
    assert not np.isin(second.answers[second.asked], first.answers[first.asked]).any()
    assert (first.asked | second.asked).tolist() == domain.asked.tolist()
    assert not (first.asked & second.asked).any()
    # either asks of the same store
    assert first.storable.tolist() == second.storable.tolist() == domain.storable.tolist()
    assert split_asked(domain, 0.3, seed=1)[0].asked.tolist() != first.asked.tolist()


def test_edits_are_asked_without_a_stored_answer_and_rewrites_with_that_of_their_question() -> None:
    texts = ["How many days does it take to fly to Rome?", "Is it safe to enable two factor login?"]
    domain = domain_from_edits("edited", [*texts, texts[0]])
    assert [domain.texts[i] for i in np.flatnonzero(domain.storable)] == texts
    assert domain.asked.tolist() == (~domain.storable).tolist()
    made = {pair.other: pair for pair in synthetic_pairs(texts, seed=0)}
    stored = domain.answers[domain.storable].tolist()
    for index in np.flatnonzero(domain.asked):
        pair = made[domain.texts[index]]
        if pair.positive:
            assert domain.answers[index] == stored[texts.index(pair.prompt)]
        else:
            assert domain.answers[index] not in stored
    edits = [i for i in np.flatnonzero(domain.asked) if not made[domain.texts[i]].positive]
    assert len(set(domain.answers[edits].tolist())) == len(edits) > 0

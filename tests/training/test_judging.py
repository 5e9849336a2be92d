"""Streams as the cache judges them: who is asked once, what is near, what would be served."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from semcache_core.decision.scoring import VETO, Neighbour, Weights
from semcache_core.search.retriever import CANDIDATES
from semcache_core.training.calibration import streams
from semcache_core.training.calibration.streams import (
    Decided,
    Domain,
    Trial,
    decide,
    domain_from_labels,
    domain_from_pairs,
    pooled,
    run_trials,
    run_trials_once,
)
from semcache_core.training.data.records import Pair

WEIGHTS = Weights(-16.0, 20.0, ((0.15, 10.0),), {"number": -2.0})


def plane(*degrees: float) -> NDArray[np.float32]:
    """Unit rows in the plane, so that similarities are cosines of differences of angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def uneven(n: int) -> NDArray[np.float32]:
    """Rows of which no two are equally near to a third."""
    return plane(*(np.linspace(0, 13, n) ** 2))


def some_pairs(n: int) -> tuple[Domain, NDArray[np.float32]]:
    """n questions, each with a stored one of the same answer and a look-alike."""
    pairs = [Pair(f"p{i}", f"o{i}", 1) for i in range(n)]
    pairs += [Pair(f"p{i}", f"x{i}", 0) for i in range(n)]
    domain = domain_from_pairs("d", pairs)
    return domain, uneven(len(domain.texts))


def labelled(n: int, store_size: int) -> tuple[Domain, NDArray[np.float32]]:
    domain = domain_from_labels(
        "d", [f"q{i}" for i in range(n)], [str(i % 4) for i in range(n)], store_size
    )
    return domain, uneven(n)


def met_of(*neighbours: tuple[str, int, float], answer: int = 1) -> Trial:
    near = tuple(
        Neighbour(entry_id, question, right, similarity)
        for entry_id, (question, right, similarity) in enumerate(neighbours)
    )
    return Trial(7, "is order 1 here", answer, near, answerable=True, complete=True)


def test_the_nearest_stored_questions_are_met_best_first_with_their_answers() -> None:
    pairs = [Pair("a", "b", 1), Pair("c", "d", 1), Pair("c", "x", 0)]
    domain = domain_from_pairs("d", pairs)
    assert domain.texts == ("a", "b", "c", "d", "x")
    a, c = run_trials(domain, plane(0, 10, 90, 130, 95), missing=0, seeds=[0])
    assert (a.question, a.asked, a.answer) == (0, "a", domain.answers[0])
    assert [one.question for one in a.neighbours] == ["b", "x", "d"]
    assert [one.entry_id for one in a.neighbours] == [1, 4, 3]
    assert [one.answer for one in a.neighbours] == domain.answers[[1, 4, 3]].tolist()
    expected = np.cos(np.radians([10, 95, 130]))
    np.testing.assert_allclose([one.similarity for one in a.neighbours], expected, atol=1e-6)
    assert [one.question for one in c.neighbours] == ["x", "d", "b"]
    assert a.complete and c.complete
    assert all(one.servable and not one.doubt for one in a.neighbours)


def test_no_more_are_met_than_the_cache_retrieves_and_they_are_the_nearest() -> None:
    domain, vectors = labelled(60, store_size=40)
    for one in run_trials(domain, vectors, missing=0, seeds=[3]):
        similarities = [near.similarity for near in one.neighbours]
        assert len(similarities) == CANDIDATES
        assert similarities == sorted(similarities, reverse=True)
        assert not one.complete
    seen = {
        near.entry_id
        for one in run_trials(domain, vectors, missing=0, seeds=[3])
        for near in one.neighbours
    }
    assert len(seen) <= 40


def test_a_store_as_small_as_what_is_retrieved_is_complete() -> None:
    assert all(one.complete for one in run_trials(*labelled(60, CANDIDATES), missing=0, seeds=[0]))
    assert not any(
        one.complete for one in run_trials(*labelled(60, CANDIDATES + 1), missing=0, seeds=[0])
    )


def test_a_question_never_meets_itself() -> None:
    domain, vectors = labelled(12, store_size=11)
    met = run_trials(domain, vectors, missing=0, seeds=[0, 1])
    assert len(met) == 24
    for one in met:
        assert one.question not in [near.entry_id for near in one.neighbours]
        assert len(one.neighbours) in (10, 11)


def test_its_own_text_makes_no_question_answerable() -> None:
    domain = domain_from_labels("d", ["q0", "q1", "q2"], ["a", "b", "c"], 2)
    met = run_trials(domain, plane(0, 30, 60), missing=0, seeds=range(4))
    assert not any(one.answerable for one in met)


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_by_similarity_alone_the_nearest_of_all_stored_questions_is_decided_on(
    missing: float,
) -> None:
    domain, vectors = some_pairs(20)
    met = run_trials(domain, vectors, missing=missing, seeds=[2, 5])
    decided = decide("d", met, Weights(0.0, 1.0, (), {}))
    assert sum(one.answerable for one in met) == round(40 * (1 - missing))
    stored = [streams._stored_in(domain, missing, seed) for seed in (2, 5)]
    for index, one in enumerate(met):
        others = stored[index // 20]
        cosines = vectors[others] @ vectors[one.question]
        assert others[cosines.argmax()] == one.neighbours[0].entry_id
        right = domain.answers[others] == domain.answers[one.question]
        assert decided.right[index] == right[cosines.argmax()]
        assert decided.answerable[index] == right.any()
        expected = 1 / (1 + np.exp(-cosines.max()))
        np.testing.assert_allclose(decided.probability[index], expected, rtol=1e-6)


def test_questions_beyond_one_block_are_met_too(monkeypatch: pytest.MonkeyPatch) -> None:
    domain, vectors = some_pairs(10)
    whole = run_trials(domain, vectors, missing=0.5, seeds=[1])
    monkeypatch.setattr(streams, "_AT_ONCE", 3)
    in_blocks = run_trials(domain, vectors, missing=0.5, seeds=[1])
    # not the similarities: a product of other shapes may differ in the last bit
    assert [(one.question, one.answer, one.answerable) for one in in_blocks] == [
        (one.question, one.answer, one.answerable) for one in whole
    ]


def test_each_is_met_once_and_the_streams_share_them() -> None:
    domain, vectors = some_pairs(120)
    once = run_trials_once(domain, vectors, missing=0.5, seeds=[4, 5, 6])
    assert sorted(one.question for one in once) == np.flatnonzero(domain.asked).tolist()
    in_stream = [
        {one.question: one for one in run_trials(domain, vectors, missing=0.5, seeds=[seed])}
        for seed in (4, 5, 6)
    ]
    assert all(
        any(stream[one.question].neighbours == one.neighbours for stream in in_stream)
        for one in once
    )
    # what is missing differs by stream, so one stream alone cannot have given all
    assert all(
        any(stream[one.question].answerable != one.answerable for one in once)
        for stream in in_stream
    )


def test_the_streams_get_about_as_many_questions_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spied(
        domain: Domain, vectors: object, asked_here: NDArray[np.int64], stored: object
    ) -> list[Trial]:
        asked.append(len(asked_here))
        return []

    monkeypatch.setattr(streams, "_trials_of", spied)
    domain, vectors = some_pairs(400)
    run_trials_once(domain, vectors, missing=0.5, seeds=range(4))
    assert len(asked) == 4 and sum(asked) == 400
    assert min(asked) > 70  # of 100; fewer by chance in one of thousands


def test_met_once_is_the_same_every_time() -> None:
    domain, vectors = some_pairs(30)
    assert run_trials_once(domain, vectors, missing=0.5) == run_trials_once(
        domain, vectors, missing=0.5
    )


def test_the_nearest_is_judged_whatever_the_guard_says_and_the_likeliest_looks_past_it() -> None:
    met = met_of(("is order 2 here", 2, 0.9), ("is order 1 there", 1, 0.88))
    assert met.nearest(WEIGHTS).neighbour.entry_id == 0
    assert met.likeliest(WEIGHTS).neighbour.entry_id == 1


def test_the_likeliest_is_found_however_many_are_told_apart_before_it() -> None:
    guarded = [("is order 2 here", 2, 0.99 - n / 1000) for n in range(CANDIDATES - 1)]
    met = met_of(*guarded, ("is order 1 there", 1, 0.9))
    weights = replace(WEIGHTS, rules={"number": VETO})
    assert met.likeliest(weights).neighbour.question == "is order 1 there"


def test_what_is_decided_is_the_likeliest_and_whether_it_is_right() -> None:
    right = met_of(("is order 2 here", 2, 0.9), ("is order 1 there", 1, 0.88))
    wrong = replace(right, question=3, answer=2, answerable=False)
    decided = decide("d", [right, wrong], WEIGHTS)
    assert decided.domain == "d"
    assert decided.right.tolist() == [True, False]
    assert decided.answerable.tolist() == [True, False]
    assert decided.question.tolist() == [7, 3]
    expected = right.likeliest(WEIGHTS).probability
    assert decided.probability.tolist() == [expected, expected]


def test_what_is_pooled_keeps_its_order_and_every_name_once() -> None:
    one = decide("a", [met_of(("x", 1, 0.9))], WEIGHTS)
    other = decide("b", [met_of(("y", 2, 0.8)), met_of(("z", 1, 0.7))], WEIGHTS)
    both: Decided = pooled([one, other, one])
    assert both.domain == "a and b"
    assert both.right.tolist() == [True, False, True, True]
    for name in ("probability", "right", "answerable", "question"):
        parts = [getattr(part, name) for part in (one, other, one)]
        np.testing.assert_array_equal(getattr(both, name), np.concatenate(parts))
        assert getattr(both, name).dtype == parts[0].dtype

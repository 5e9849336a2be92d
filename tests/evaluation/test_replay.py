"""The growing cache against one kept in a plain list, and what is embedded how often."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.decision.scoring import Neighbour
from semcache_core.evaluation import replay
from semcache_core.evaluation.policies import FixedThreshold
from semcache_core.evaluation.replay import Arrival, Replay, Store, number_stream, run

# no two distances between these are equal, so which stored one is nearest is never a toss-up
DEGREES = dict(zip("abcdefgh", (0, 2, 8, 18, 30, 44, 64, 68), strict=True))


class PlaneEmbedder:
    """Texts on a circle: the similarity of two is the cosine of the angle between them."""

    fingerprint = "plane"
    dimension = 2

    def __init__(self):
        self.embedded = []

    def embed(self, texts):
        self.embedded.extend(texts)
        angles = np.radians([DEGREES[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def reads(self, text, max_tokens):
        return True


def replayed(stream, degrees, capacity, eviction="lru"):
    numbered = number_stream(stream)
    one = Replay(FixedThreshold("f", math.cos(math.radians(degrees))), numbered, capacity, eviction)
    run(numbered, [(PlaneEmbedder(), [one])])
    return one


def modelled(stream, degrees, capacity, eviction):
    """Per arrival (exact, semantic, right): a list of (question, answer), next to go first."""
    held, made = [], []
    for question, answer in stream:
        distance = {q: abs(DEGREES[q] - DEGREES[question]) for q, _ in held}
        nearest = min(distance, key=distance.get, default=None)
        exact = question in distance
        if not exact and (nearest is None or distance[nearest] > degrees):
            held = [*held, (question, answer)][-capacity:]
            made.append((False, False, False))
            continue
        entry = next(e for e in held if e[0] == (question if exact else nearest))
        if eviction == "lru":
            held.remove(entry)
            held.append(entry)
        made.append((exact, not exact, entry[1] == answer))
    return made


arrivals = st.lists(
    st.tuples(st.sampled_from(list(DEGREES)), st.sampled_from(["x", "y"])), min_size=1, max_size=40
)


@given(
    stream=arrivals,
    degrees=st.sampled_from([1, 5, 11, 15, 25]),
    capacity=st.integers(1, 6),
    eviction=st.sampled_from(["lru", "fifo"]),
)
def test_every_arrival_fares_as_in_a_cache_kept_in_a_list(stream, degrees, capacity, eviction):
    one = replayed([Arrival(*arrival) for arrival in stream], degrees, capacity, eviction)
    found = list(zip(one.exact.tolist(), one.semantic.tolist(), one.right.tolist(), strict=True))
    assert found == modelled(stream, degrees, capacity, eviction)


def letters(questions):
    return [Arrival(question, question) for question in questions]


def test_a_hit_spares_an_entry_from_eviction_under_lru_and_not_under_fifo():
    # full with c and e; c is used again, then h comes: which of the two is still there?
    assert replayed(letters("cechc"), 1, 2, "lru").exact.tolist() == [0, 0, 1, 0, 1]
    assert replayed(letters("cechc"), 1, 2, "fifo").exact.tolist() == [0, 0, 1, 0, 0]


def test_a_hit_by_meaning_spares_the_entry_it_was_served_from():
    # d and f are stored; c (10 degrees from d) is served from d; h then evicts f
    one = replayed(letters("dfchd"), 11, 2, "lru")
    assert one.semantic.tolist() == [0, 0, 1, 0, 0]
    assert one.exact.tolist() == [0, 0, 0, 0, 1]


def test_a_wrong_hit_stores_nothing():
    # b is wrongly served from a, so that c, 6 degrees from b and 8 from a, meets a alone
    one = replayed(letters("abc"), 7, 9)
    assert one.semantic.tolist() == [False, True, False]
    assert not one.right.any()


def test_evictions_are_counted():
    assert replayed(letters("aceh"), 1, 3).store.evictions == 1
    assert replayed(letters("aceh"), 1, 4).store.evictions == 0


def test_a_store_gives_its_nearest_best_first_and_no_more_than_the_cache_looks_at():
    store = Store(20, "lru")
    for text in range(20):
        store.add(text)
    similarities = np.linspace(0, 0.95, 20, dtype=np.float32)
    found = list(store.nearest(similarities))
    assert [text for text, _ in found] == list(range(19, 3, -1))
    assert [value for _, value in found] == pytest.approx([0.05 * t for t, _ in found], abs=1e-6)
    assert similarities[19] == np.float32(0.95)  # not spoilt for the next policy


def test_an_empty_store_has_no_nearest():
    assert list(Store(3, "lru").nearest(np.zeros(0, np.float32))) == []


def test_blocks_make_no_difference(monkeypatch):
    stream = letters("abcdefghabgfedhcba" * 3)
    whole = replayed(stream, 9, 4)
    monkeypatch.setattr(replay, "_BLOCK", 5)
    parts = replayed(stream, 9, 4)
    assert whole.semantic.any()
    for name in ("exact", "semantic", "right"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_every_text_is_embedded_once_however_many_replays_there_are():
    numbered, embedder = number_stream(letters("abcaab")), PlaneEmbedder()
    replays = [Replay(FixedThreshold("f", t), numbered, 9, "lru") for t in (0.5, 0.9)]
    run(numbered, [(embedder, replays)])
    assert embedder.embedded == ["a", "b", "c"]


def test_progress_counts_texts_and_arrivals_up_to_the_total(monkeypatch):
    monkeypatch.setattr(replay, "_BLOCK", 2)
    numbered, seen = number_stream(letters("abcab")), []
    replays = [Replay(FixedThreshold("f", 0.5), numbered, 9, "lru") for _ in range(2)]
    run(numbered, [(PlaneEmbedder(), replays[:1]), (None, replays[1:])],
        lambda done, total: seen.append((done, total)))  # fmt: skip
    # 3 texts and 5 arrivals with the embedder, 5 arrivals without one
    assert [done for done, _ in seen] == [2, 3, 5, 7, 8, 10, 12, 13]
    assert {total for _, total in seen} == {13}


def test_without_an_embedder_no_policy_sees_a_candidate():
    numbered = number_stream(letters("ab"))
    one = Replay(FixedThreshold("f", -1), numbered, 9, "lru")
    run(numbered, [(None, [one])])
    assert not one.semantic.any()


@dataclass(frozen=True)
class Listening:
    """Serves what is nearer than `degrees`, as FixedThreshold does, and writes down what it is
    told.
    """

    degrees: float
    name: str = "listening"
    setting: str = "none"
    observed: list[tuple[str, str, bool]] = field(default_factory=list, init=False, compare=False)
    added: list[str] = field(default_factory=list, init=False, compare=False)

    def fresh(self) -> "Listening":
        return Listening(self.degrees)

    def pick(self, asked, nearest):
        return FixedThreshold("f", math.cos(math.radians(self.degrees))).pick(asked, nearest)

    def observe(self, asked: str, candidate: Neighbour, same_answer: bool) -> None:
        apart = abs(DEGREES[asked] - DEGREES[candidate.question])
        assert candidate.similarity == pytest.approx(math.cos(math.radians(apart)), abs=1e-6)
        self.observed.append((asked, candidate.question, same_answer))

    def stored(self, question: str) -> None:
        self.added.append(question)


def listened(stream, degrees=0.5, capacity=9, eviction="lru"):
    numbered = number_stream([Arrival(*arrival) for arrival in stream])
    one = Replay(Listening(degrees), numbered, capacity, eviction)
    run(numbered, [(PlaneEmbedder(), [one])])
    return one


def test_after_a_miss_a_learning_policy_hears_whether_the_nearest_had_the_answer():
    one = listened([("a", "x"), ("b", "x"), ("h", "y"), ("g", "x")])
    assert one.policy.observed == [("b", "a", True), ("h", "a", False), ("g", "h", False)]
    assert not (one.exact | one.semantic).any()


def test_an_answer_that_the_nearest_stored_one_has_is_not_stored_again():
    one = listened([("a", "x"), ("b", "x"), ("b", "x"), ("c", "y"), ("c", "y")])
    assert one.policy.added == ["a", "c"]
    assert one.exact.tolist() == [False, False, False, False, True]


def test_a_policy_that_does_not_learn_stores_every_miss():
    stream = [Arrival(*arrival) for arrival in [("a", "x"), ("b", "x"), ("b", "x")]]
    assert replayed(stream, 0.5, 9).exact.tolist() == [False, False, True]


def test_a_hit_teaches_nothing():
    # exact, and by meaning
    one = listened([("a", "x"), ("a", "x"), ("b", "x")], degrees=5)
    assert (one.exact.sum(), one.semantic.sum()) == (1, 1)
    assert one.policy.observed == []


def test_the_stored_question_that_gets_the_credit_is_spared_from_eviction_under_lru():
    # full with a and e; b credits a; h then evicts e, or a where the oldest goes
    stream = [("a", "x"), ("e", "y"), ("b", "x"), ("h", "z"), ("a", "x")]
    assert listened(stream, capacity=2, eviction="lru").exact[-1]
    assert not listened(stream, capacity=2, eviction="fifo").exact[-1]


def test_a_learning_policy_hears_of_a_question_that_is_stored_anew():
    one = listened([("a", "x"), ("h", "y"), ("a", "z")], capacity=1)
    assert one.policy.added == ["a", "h", "a"]
    assert one.store.evictions == 2


def test_each_replay_begins_with_nothing_learnt_and_leaves_its_policy_alone():
    stream = [Arrival("a", "x"), Arrival("h", "y")]
    policy, numbered = Listening(0.5), number_stream(stream)
    replays = [Replay(policy, numbered, 9, "lru") for _ in range(2)]
    run(numbered, [(PlaneEmbedder(), replays)])
    assert [one.policy.observed for one in replays] == [[("h", "a", False)]] * 2
    assert policy.observed == policy.added == []


def test_without_an_embedder_a_learning_policy_observes_nothing_and_every_miss_is_stored():
    numbered = number_stream([Arrival("a", "x"), Arrival("b", "x")])
    one = Replay(Listening(0.5), numbered, 9, "lru")
    run(numbered, [(None, [one])])
    assert (one.policy.observed, one.policy.added) == ([], ["a", "b"])


def modelled_learning(stream, degrees, capacity, eviction):
    """Per arrival (exact, semantic), and what is observed: a list of (question, answer)."""
    held, made, observed = [], [], []
    for question, answer in stream:
        distance = {q: abs(DEGREES[q] - DEGREES[question]) for q, _ in held}
        nearest = min(distance, key=distance.get, default=None)
        exact = question in distance
        semantic = not exact and nearest is not None and distance[nearest] <= degrees
        made.append((exact, semantic))
        entry = next((e for e in held if e[0] == nearest), None)
        if not exact and not semantic and entry is not None:
            observed.append((question, nearest, entry[1] == answer))
        if exact or semantic or (entry is not None and entry[1] == answer):
            if eviction == "lru":
                held.remove(entry)
                held.append(entry)
        else:
            held = [*held, (question, answer)][-capacity:]
    return made, observed


@given(
    stream=arrivals,
    degrees=st.sampled_from([1, 5, 11, 15, 25]),
    capacity=st.integers(1, 6),
    eviction=st.sampled_from(["lru", "fifo"]),
)
def test_a_learning_policy_meets_what_it_would_in_a_cache_kept_in_a_list(
    stream, degrees, capacity, eviction
):
    one = listened(stream, degrees, capacity, eviction)
    found = list(zip(one.exact.tolist(), one.semantic.tolist(), strict=True))
    assert (found, one.policy.observed) == modelled_learning(stream, degrees, capacity, eviction)

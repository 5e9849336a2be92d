"""Whether a stored answer serves a question in other words: every reason for and against."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Bench
from fakes import MARGINS, PlacedEmbedder, calibrated
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request, SemanticCache
from semcache_core._utils.intervals import NOTHING
from semcache_core.decision.decide import Decision, _answers, _Miss
from semcache_core.decision.scoring import CandidateScores, Neighbour
from semcache_core.quality.verdicts import Verdict
from semcache_core.request import key_of
from semcache_core.search.retriever import CANDIDATES, Retrieved
from semcache_core.storage.lookups import StoredEntry
from semcache_core.testing import engine_of

EVERYWHERE = [f"{a}{b}" for a in "abcde" for b in "abcde"]
PLACES = {
    "left": 0.0,
    "middle": 16.5,  # .9588 of both
    "right": 33.0,
    "near left": 5.0,  # .9962 and .8829
    "uncertain": 30.0,  # .8660 of the left one: between the thresholds for 10 % and for 2 %
    "hopeless": 40.0,  # .7660
    "right 7": 33.0,
    "uncertain 7": 30.0,
    **{name: 60.0 + n for n, name in enumerate(EVERYWHERE)},
}

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture
def cache(bench: Bench) -> SemanticCache:
    calibrated(bench.artefact, weights=MARGINS)
    return bench.open(embedder=PlacedEmbedder(PLACES))


def decide(
    cache: SemanticCache,
    question: str,
    *,
    writer: str | None = None,
    confirmations: int = 0,
    **parts: Any,
) -> Decision:
    request = Request(question, writer=writer)
    engine = engine_of(cache)
    assert engine.decider is not None
    decider = replace(engine.decider, confirmations=confirmations, **parts)
    vector = engine.embedder.embed([question])[0]
    return decider.decide(request, key_of(request, "default"), vector, engine.clock(), [])


def judge(cache: SemanticCache, entry_id: int | None, asked: str, correct: bool = False) -> None:
    assert entry_id is not None
    engine_of(cache).verdicts.judge(
        Verdict("default", entry_id, asked, "left", 0.95, 0.95, correct, "feedback", 1.0),
        key_of(Request(asked), "default").exact,
    )


def served(decision: Decision) -> str | None:
    assert (decision.served is None) == (decision.entry is None)
    return decision.entry and decision.entry.question


class TestMargins:
    def test_what_has_no_rival_has_the_widest_margin(self, cache: SemanticCache) -> None:
        cache.update(Request("left"), "one")
        decision = decide(cache, "middle")
        assert served(decision) == "left"
        assert decision.served is not None and decision.served.margin == MARGINS.widest
        assert decision.reason == "a stored question is near enough"

    def test_between_two_answers_neither_is_served(self, cache: SemanticCache) -> None:
        cache.update(Request("left"), "one")
        cache.update(Request("right"), "two")
        decision = decide(cache, "middle")
        assert served(decision) is None
        assert decision.reason == "questions with different answers are stored about equally near"
        assert [one.entry.question for one in decision.near] == ["left", "right"]

    def test_clearly_nearer_to_one_of_two_it_is_served(self, cache: SemanticCache) -> None:
        cache.update(Request("left"), "one")
        cache.update(Request("right"), "two")
        assert served(decide(cache, "near left")) == "left"

    @pytest.mark.parametrize("second", ["one", "  ONE. "])
    def test_between_two_in_the_same_words_one_is_served_though_nobody_compared_them(
        self, second: str, cache: SemanticCache
    ) -> None:
        cache.update(Request("left"), "one")
        cache.update(Request("right"), second)
        assert served(decide(cache, "middle")) == "left"

    def test_what_the_guard_takes_for_another_question_is_no_rival(
        self, cache: SemanticCache
    ) -> None:
        cache.update(Request("left"), "one")
        cache.update(Request("right 7"), "two")
        assert served(decide(cache, "middle")) == "left"


def stored(entry_id: int, answer: int, digest: int | None) -> Retrieved:
    name = None if digest is None else bytes([digest])
    return Retrieved(
        StoredEntry(entry_id, np.zeros(1, np.float32), "q", answer, name, 0.0, False, None, False),
        0.9,
    )


@given(
    st.lists(st.tuples(st.integers(1, 6), st.none() | st.integers(0, 6)), min_size=1, max_size=12)
)
def test_answers_are_the_same_by_number_by_words_or_by_a_chain_of_both(
    rows: list[tuple[int, int | None]],
) -> None:
    found = _answers([stored(n, *row) for n, row in enumerate(rows)])
    groups: list[set[int]] = [{n} for n in range(len(rows))]
    for n, one in enumerate(rows):
        for m, other in enumerate(rows[:n]):
            if one[0] == other[0] or (one[1] is not None and one[1] == other[1]):
                joined = groups[n] | groups[m]
                for member in joined:
                    groups[member] = joined
    for n in range(len(rows)):
        assert {m for m in range(len(rows)) if found[m] == found[n]} == groups[n]


class TestQuarantine:
    def test_an_entry_known_to_be_wrong_here_is_not_served_and_that_is_said(
        self, cache: SemanticCache
    ) -> None:
        judge(cache, cache.update(Request("left"), "one"), "near left")
        decision = decide(cache, "near left")
        assert served(decision) is None
        assert decision.reason == "what is stored nearest has answered this question wrongly before"
        assert decision.near == ()

    def test_the_next_one_is_served_and_the_known_wrong_one_is_no_rival(
        self, cache: SemanticCache
    ) -> None:
        wrong = cache.update(Request("left"), "one")
        cache.update(Request("right"), "two")
        judge(cache, wrong, "middle")
        for _ in range(30):  # so that neither doubt keeps it back
            judge(cache, wrong, "middle", correct=True)
        left = next(one for one in decide(cache, "left").near if one.entry.id == wrong)
        assert left.entry.doubt == 0
        assert served(decide(cache, "middle")) == "right"

    def test_a_known_wrong_one_with_too_much_doubt_is_no_rival_either(
        self, cache: SemanticCache
    ) -> None:
        wrong = cache.update(Request("left"), "one")
        cache.update(Request("right"), "two")
        for _ in range(10):
            judge(cache, wrong, "middle")
        assert served(decide(cache, "middle")) == "right"

    def test_it_serves_other_questions_still(self, cache: SemanticCache) -> None:
        judge(cache, cache.update(Request("left"), "one"), "middle")
        assert served(decide(cache, "near left")) == "left"
        assert served(decide(cache, "middle")) is None

    def test_leaving_one_out_does_not_make_the_rest_all_that_is_stored(self, bench: Bench) -> None:
        """Beyond the last of as many as are looked at there may be another answer right behind."""
        calibrated(bench.artefact, weights=MARGINS)
        crowd = dict.fromkeys(EVERYWHERE[:CANDIDATES], 10.0)
        cache = bench.open(embedder=PlacedEmbedder({"asked": 0.0, **crowd}))
        ids = [cache.update(Request(name), "one") for name in crowd]
        before = decide(cache, "asked")
        judge(cache, ids[0], "asked")
        after = decide(cache, "asked")
        assert before.scores is not None and after.scores is not None
        margins = [next(iter(one.scores)).margin for one in (before, after)]  # type: ignore[arg-type]
        assert margins == pytest.approx([0.0, 0.0])

    def test_a_far_one_that_is_known_to_be_wrong_is_not_the_reason(
        self, cache: SemanticCache
    ) -> None:
        judge(cache, cache.update(Request("left"), "one"), "aa")
        cache.update(Request("right"), "two")
        assert decide(cache, "aa").reason == "the nearest stored question is not near enough"


class TestAudit:
    @pytest.mark.parametrize("raised", [0.999, NOTHING])
    def test_a_raised_threshold_holds_back_what_was_calibrated_and_says_so(
        self, raised: float, cache: SemanticCache
    ) -> None:
        cache.update(Request("left"), "one")
        decision = decide(cache, "middle", monitor=SimpleNamespace(threshold=raised))
        assert served(decision) is None
        assert decision.held_back is not None
        assert decision.held_back.neighbour.question == "left"
        assert "the audit raised the threshold" in decision.reason

    def test_at_the_raised_threshold_it_is_served(self, cache: SemanticCache) -> None:
        cache.update(Request("left"), "one")
        probability = decide(cache, "middle").served.probability  # type: ignore[union-attr]
        decision = decide(cache, "middle", monitor=SimpleNamespace(threshold=probability))
        assert served(decision) == "left" and decision.held_back is None


class Agreeing:
    """A Verification that says what it is told to, and remembers what it was asked."""

    def __init__(self, verdict: bool | None) -> None:
        self.verdict = verdict
        self.asked: list[tuple[str, str, str]] = []

    def agrees(self, asked: str, stored: str, response: str) -> bool | None:
        self.asked.append((asked, stored, response))
        return self.verdict


class TestVerifier:
    @pytest.mark.parametrize("verdict", [True, False, None])
    def test_its_yes_serves_in_the_uncertain_band_and_nothing_else_does(
        self, verdict: bool | None, cache: SemanticCache
    ) -> None:
        cache.update(Request("left"), "wrapped", answer="one")
        verification = Agreeing(verdict)
        decision = decide(cache, "uncertain", verification=verification)
        assert served(decision) == ("left" if verdict else None)
        assert verification.asked == [("uncertain", "left", "one")]
        assert decision.reason == (
            "a stored question is nearly near enough, and the verifier agreed"
            if verdict
            else "the nearest stored question is not near enough"
        )

    @pytest.mark.parametrize("question", ["near left", "hopeless", "uncertain 7"])
    def test_it_is_not_asked_above_the_band_below_it_or_against_the_guard(
        self, question: str, cache: SemanticCache
    ) -> None:
        cache.update(Request("left"), "one")
        verification = Agreeing(True)
        decision = decide(cache, question, verification=verification)
        assert (served(decision), verification.asked) == (
            "left" if question == "near left" else None,
            [],
        )

    def test_it_is_not_asked_of_what_is_known_to_be_wrong(self, cache: SemanticCache) -> None:
        judge(cache, cache.update(Request("left"), "one"), "uncertain")
        verification = Agreeing(True)
        assert served(decide(cache, "uncertain", verification=verification)) is None
        assert verification.asked == []

    def test_it_is_not_asked_of_what_is_not_confirmed(self, cache: SemanticCache) -> None:
        cache.update(Request("left", writer="a"), "one")
        verification = Agreeing(True)
        decision = decide(
            cache, "uncertain", writer="b", confirmations=1, verification=verification
        )
        assert (served(decision), verification.asked) == (None, [])

    def test_it_is_asked_of_the_likeliest_where_another_is_known_to_be_wrong(
        self, cache: SemanticCache
    ) -> None:
        judge(cache, cache.update(Request("middle"), "one"), "aa")
        cache.update(Request("right"), "two")
        verification = Agreeing(True)
        assert served(decide(cache, "aa", verification=verification)) == "right"

    def test_without_a_band_it_is_not_asked(self, cache: SemanticCache) -> None:
        cache.update(Request("left"), "one")
        verification = Agreeing(True)
        decision = decide(cache, "uncertain", verification=verification, uncertain_from=None)
        assert (served(decision), verification.asked) == (None, [])

    def test_an_entry_that_went_meanwhile_is_not_judged(
        self, cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.update(Request("left"), "one")
        monkeypatch.setattr(engine_of(cache).ledger.lookups, "answer_text", lambda entry_id: None)
        verification = Agreeing(True)
        assert served(decide(cache, "uncertain", verification=verification)) is None
        assert verification.asked == []

    def test_a_threshold_raised_by_the_audit_is_not_the_verifiers_to_lower(
        self, cache: SemanticCache
    ) -> None:
        cache.update(Request("left"), "one")
        verification = Agreeing(True)
        decision = decide(
            cache,
            "middle",
            verification=verification,
            monitor=SimpleNamespace(threshold=NOTHING),
        )
        assert (served(decision), verification.asked) == (None, [])


class TestConfirmations:
    def fill(self, cache: SemanticCache, *writers: str | None) -> None:
        """Each is given the same answer to a question of its own."""
        for question, writer in zip(["left", *EVERYWHERE], writers, strict=False):
            entry_id = cache.update(Request(question, writer=writer), "one")
            ledger = engine_of(cache).ledger
            with ledger.write() as connection:
                connection.exec_driver_sql(
                    "UPDATE semcache_entries SET answer = 1 WHERE id = ?", (entry_id,)
                )

    @pytest.mark.parametrize(
        ("writers", "confirmations", "expected"),
        [
            (["a"], 0, True),
            (["a"], 1, False),
            (["a", "b"], 1, True),
            (["a", "b"], 2, False),
            (["a", "b", "c"], 2, True),
            (["a", "b", "b"], 2, False),
            (["a", "a", "b"], 2, False),
            (["a", None, None], 1, False),
            ([None], 1, False),
            ([None, "b"], 1, True),
            ([None, None], 1, False),
        ],
    )
    def test_as_many_other_writers_must_have_been_given_the_same_answer(
        self,
        writers: list[str | None],
        confirmations: int,
        expected: bool,
        cache: SemanticCache,
    ) -> None:
        self.fill(cache, *writers)
        for writer in ("who asks", None):
            decision = decide(cache, "near left", writer=writer, confirmations=confirmations)
            assert (served(decision) == "left") == expected
            if not expected:
                assert "served only exactly, or to its own writer" in decision.reason

    def test_ones_own_entry_is_always_served(self, cache: SemanticCache) -> None:
        self.fill(cache, "a")
        decision = decide(cache, "near left", writer="a", confirmations=9)
        assert served(decision) == "left"

    def test_nobody_is_no_writer_that_owns_an_entry(self, cache: SemanticCache) -> None:
        self.fill(cache, None)
        assert served(decide(cache, "near left", writer=None, confirmations=1)) is None

    def test_an_unconfirmed_entry_is_still_a_rival(self, cache: SemanticCache) -> None:
        cache.update(Request("left", writer="mine"), "one")
        cache.update(Request("right", writer="theirs"), "two")
        assert served(decide(cache, "middle", writer="mine", confirmations=1)) is None


class TestReasons:
    def test_what_is_found_by_its_own_question_alone(self, cache: SemanticCache) -> None:
        entry_id = cache.update(Request("left"), "one")
        engine_of(cache).ledger.entries.serve_only_exactly(entry_id or 0, 1.0)
        decision = decide(cache, "near left")
        assert served(decision) is None
        assert "served only exactly" in decision.reason

    def test_a_doubt_is_named_where_it_is_what_tells(self, bench: Bench) -> None:
        cache = bench.open(embedder=PlacedEmbedder(PLACES))  # no margins: similarity alone
        entry_id = cache.update(Request("left"), "one")
        for _ in range(5):
            judge(cache, entry_id, "elsewhere")
        assert "given wrong answers before" in decide(cache, "middle").reason
        assert "not near enough" in decide(cache, "hopeless").reason

    def test_a_doubt_is_not_named_where_the_margin_tells(self, cache: SemanticCache) -> None:
        judge(cache, cache.update(Request("left"), "one"), "elsewhere")
        cache.update(Request("right"), "two")
        assert "different answers" in decide(cache, "middle").reason

    def test_all_that_the_guard_sees_is_named(self, bench: Bench) -> None:
        cache = bench.open()
        stored = "please tell me today where is my big parcel of order 7 from Basel to Bern"
        cache.update(Request(stored), "one")
        asked = stored.replace("7", "8").replace("Basel to Bern", "Bern to Basel")
        reason = decide(cache, asked).reason
        assert reason.startswith("the nearest stored question differs in what decides (")
        assert "other numbers: 8, 7" in reason

    def test_the_guard_is_not_blamed_for_what_is_too_far_anyway(self, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("where is order 7 now"), "one")
        why = decide(cache, "what costs order 8 abroad").why
        assert (why.code, why.reason) == (
            "below_threshold",
            "the nearest stored question is not near enough",
        )

    def test_everything_has_expired(self, cache: SemanticCache, bench: Bench) -> None:
        cache.update(Request("left"), "one", ttl=10)
        bench.clock.now += 10
        assert decide(cache, "left").why.code == "expired"


def test_what_went_between_finding_and_reading_it_is_looked_for_again(
    cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.update(Request("left"), "one")
    cache.update(Request("middle"), "one")
    ledger = engine_of(cache).ledger
    original, went = ledger.lookups.get, list[int]()

    def get(entry_id: int, partition: bytes, now: float) -> Any:
        if not went:
            went.append(entry_id)
            ledger.entries.delete(entry_id)
        return original(entry_id, partition, now)

    monkeypatch.setattr(ledger.lookups, "get", get)
    decision = decide(cache, "near left")
    assert (served(decision), went) == ("middle", [1])


class TestWrittenForAnother:
    SIGNED = "How do I reset my password? Thanks, Anna"
    PLAIN = "How do I reset my password?"

    @pytest.mark.parametrize(
        ("asked", "hit"),
        [(PLAIN, False), (f"{PLAIN} Thanks, Bob", False), (f"{PLAIN} Best regards, Anna", True)],
    )
    def test_an_answer_that_names_who_asked_is_served_to_nobody_else(
        self, cache: SemanticCache, asked: str, hit: bool
    ) -> None:
        cache.update(Request(self.SIGNED), "Hi Anna, open the settings.")
        assert (cache.lookup(asked) is not None) == hit
        if not hit:
            assert "names the person" in cache.explain(asked).reason

    def test_an_answer_that_names_nobody_is_served_to_all(self, cache: SemanticCache) -> None:
        cache.update(Request(self.SIGNED), "Open the settings.")
        for asked in (self.PLAIN, f"{self.PLAIN} Thanks, Bob"):
            hit = cache.lookup(asked)
            assert hit is not None and hit.question == self.SIGNED

    def test_the_kept_text_of_an_answer_is_searched_too(self, cache: SemanticCache) -> None:
        cache.update(
            Request("How do I reset my password? Thanks, José"), '"Jos\\u00e9"', answer="Hi José"
        )
        assert cache.lookup(self.PLAIN) is None


@pytest.mark.parametrize(
    ("stored", "similarity", "doubt", "code", "reason"),
    [
        ("room 2", 0.95, 0.0, "deciding_word", "decides (other numbers: 1, 2)"),
        ("room 2", 0.85, 0.0, "deciding_word", "and other evidence is against it too"),
        ("a room", 0.95, 3.0, "reported_wrong", "has given wrong answers before"),
        ("a room", 0.85, 0.0, "rival_answer", "about equally near"),
        ("a room", 0.85, 2.0, "rival_answer", "and the nearest has given wrong answers before"),
        ("a room", 0.5, 0.0, "below_threshold", "not near enough"),
    ],
)
def test_a_miss_names_what_keeps_the_nearest_from_being_served(
    stored: str, similarity: float, doubt: float, code: str, reason: str
) -> None:
    asked = "room 1" if stored == "room 2" else "the room"
    near = [
        Neighbour(1, stored, 1, similarity, doubt),
        Neighbour(2, asked.replace("room", "hall"), 2, similarity - 0.01),
    ]
    scores = CandidateScores(asked, near, MARGINS, complete=True)
    why = _Miss(scores, MARGINS, 0.5, lambda probability: None).why()
    assert why.code == code and reason in why.reason

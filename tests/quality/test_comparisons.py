"""Stored answers against the model's own: what is compared, and what becomes of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from semcache_core.decision.same_answer import answer_digest
from semcache_core.decision.scoring import Neighbour, ScoredCandidate
from semcache_core.quality.comparisons import _PENDING, AnswerComparer, weight_of
from semcache_core.quality.entry_trust import doubted
from semcache_core.quality.verdicts import ServedHit, Verdict, VerdictLog
from semcache_core.request import Key, key_of
from semcache_core.search.retriever import CANDIDATES, Retrieved
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Request

FINGERPRINT = "f" * 64
NOW = 1000.0


def key(question: str, namespace: str = "default") -> Key:
    return key_of(Request(question), namespace)


class CountingAudit:
    """An Audit that only remembers what was added."""

    def __init__(self) -> None:
        self.added: list[tuple[float, bool, float]] = []

    def add(self, probability: float, correct: bool, weight: float = 1.0) -> None:
        self.added.append((probability, correct, weight))


class Asked:
    """A SameAnswer that gives what it is told, and remembers what it was asked."""

    def __init__(self, verdict: Any = False) -> None:
        self.verdict = verdict
        self.asked: list[tuple[str, str]] = []

    def __call__(self, one: str, other: str, /) -> bool:
        self.asked.append((one, other))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict  # type: ignore[no-any-return]


@dataclass
class Post:
    """A watch with all that it writes to."""

    ledger: Ledger
    records: VerdictLog
    audit: CountingAudit
    same_answer: Asked
    watch: AnswerComparer

    def store(self, question: str, response: str, **changes: Any) -> int:
        of = key(question)
        fields: dict[str, Any] = {
            "exact": of.exact,
            "partition": of.partition,
            "namespace": "default",
            "scope": "",
            "exact_only": False,
            "question": question,
            "response": response,
            "created": 0.0,
            "expires": None,
            "cost": None,
            "tags": (),
            "fingerprint": FINGERPRINT,
            "vector": np.ones(2, np.float32) / np.sqrt(2),
            "answer_digest": answer_digest(changes.get("answer_text") or response),
        }
        return self.ledger.entries.insert(NewEntry(**{**fields, **changes}))

    def near(self, *found: tuple[int, float]) -> list[Retrieved]:
        """What a lookup saw: (entry id, similarity), the nearest first."""
        ids = [entry_id for entry_id, _ in found]
        live = self.ledger.lookups.live(ids, key("").partition, FINGERPRINT, NOW)
        by_id = {entry.id: entry for entry in live}
        return [Retrieved(by_id[entry_id], similarity) for entry_id, similarity in found]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Post]]:
    made: list[Post] = []

    def make(verdict: Any = False, rate: float = 0.1) -> Post:
        ledger = Ledger.open(tmp_path / str(len(made)), None)
        records, audit, same = VerdictLog(ledger), CountingAudit(), Asked(verdict)
        watch = AnswerComparer(ledger, records, audit, same, rate)  # type: ignore[arg-type]
        made.append(Post(ledger, records, audit, same, watch))
        return made[-1]

    yield make
    for post in made:
        post.ledger.close()


def judged(
    entry_id: int, stored: str, probability: float = 0.9, doubt: float = 0.0
) -> ScoredCandidate:
    return ScoredCandidate(Neighbour(entry_id, stored, entry_id, 0.95, doubt), 0.0, (), probability)


class TestSameAs:
    def test_without_a_lookup_an_answer_is_a_new_one(self, make: Callable[..., Post]) -> None:
        post = make(True)
        post.store("q", "Yes.")
        assert post.watch.same_as(key("asked"), "Yes.") is None

    def test_the_same_words_are_the_same_answer_however_far_the_question(
        self, make: Callable[..., Post]
    ) -> None:
        post = make(AssertionError("nobody need be asked"))
        ids = [post.store(f"q{n}", f"answer {n}") for n in range(CANDIDATES)]
        post.watch.missed(key("asked"), post.near(*((i, 0.1) for i in ids)), None, "shadow")
        assert post.watch.same_as(key("asked"), " ANSWER  15!") == ids[15]
        assert post.same_answer.asked == []

    def test_the_same_words_win_over_a_nearer_one_that_is_taken_for_the_same(
        self, make: Callable[..., Post]
    ) -> None:
        post = make(True)
        ids = [post.store("q0", "yes"), post.store("q1", "no"), post.store("q2", "perhaps")]
        post.watch.missed(key("asked"), post.near(*((i, 0.9) for i in ids)), None, "shadow")
        assert post.watch.same_as(key("asked"), "perhaps") == ids[2]

    def test_it_is_the_first_one_of_the_same_answers_that_is_named(
        self, make: Callable[..., Post]
    ) -> None:
        post = make()
        first = post.store("q0", "yes")
        second = post.store("q1", "aye", answer=first)
        post.watch.missed(key("asked"), post.near((second, 0.9)), None, "shadow")
        assert post.watch.same_as(key("asked"), "aye") == first

    def test_other_words_are_compared_with_the_two_nearest_and_only_if_these_are_near(
        self, make: Callable[..., Post]
    ) -> None:
        post = make(False)
        ids = [post.store(f"q{n}", f"answer {n}") for n in range(3)]
        post.watch.missed(key("asked"), post.near(*((i, 0.9) for i in ids)), None, "shadow")
        assert post.watch.same_as(key("asked"), "new") is None
        assert post.same_answer.asked == [("answer 0", "new"), ("answer 1", "new")]
        post.same_answer.asked.clear()
        post.watch.missed(key("other"), post.near((ids[0], 0.7), (ids[1], 0.699)), None, "shadow")
        assert post.watch.same_as(key("other"), "new") is None
        assert post.same_answer.asked == [("answer 0", "new")]

    def test_what_is_taken_for_the_same_is(self, make: Callable[..., Post]) -> None:
        post = make(np.True_)
        entry_id = post.store("q", "wrapped", answer_text="yes")
        post.watch.missed(key("asked"), post.near((entry_id, 0.9)), None, "shadow")
        assert post.watch.same_as(key("asked"), "yeah") == entry_id
        assert post.same_answer.asked == [("yes", "yeah")]

    @pytest.mark.parametrize("verdict", [RuntimeError("judge is down"), "yes", None, 1])
    def test_a_judge_that_fails_or_gives_no_verdict_makes_it_another_answer(
        self, verdict: Any, make: Callable[..., Post], warnings_of: Any
    ) -> None:
        post = make(verdict)
        entry_id = post.store("q", "yes")
        for question in ("asked", "other"):
            post.watch.missed(key(question), post.near((entry_id, 0.9)), None, "shadow")
            assert post.watch.same_as(key(question), "no") is None
        assert len(warnings_of("could not be compared")) == 1

    def test_an_entry_that_went_meanwhile_is_not_compared(self, make: Callable[..., Post]) -> None:
        post = make(True)
        entry_id = post.store("q", "yes")
        post.watch.missed(key("asked"), post.near((entry_id, 0.9)), None, "shadow")
        post.ledger.entries.delete(entry_id)
        assert post.watch.same_as(key("asked"), "no") is None
        assert post.same_answer.asked == []

    def test_what_another_tenant_looked_up_does_not_count(self, make: Callable[..., Post]) -> None:
        post = make(True)
        entry_id = post.store("q", "yes")
        post.watch.missed(key("asked", "mine"), post.near((entry_id, 0.9)), None, "shadow")
        assert post.watch.same_as(key("asked", "theirs"), "yes") is None

    def test_the_lookups_longest_ago_are_forgotten_first(self, make: Callable[..., Post]) -> None:
        post = make()
        near = post.near((post.store("q", "yes"), 0.9))
        for n in range(_PENDING):
            post.watch.missed(key(f"asked {n}"), near, None, "shadow")
        post.watch.missed(key("asked 0"), near, None, "shadow")
        post.watch.missed(key("one more"), near, None, "shadow")
        known = [
            question
            for question in ("asked 0", "asked 1", "asked 2", "one more")
            if post.watch.same_as(key(question), "yes")
        ]
        assert known == ["asked 0", "asked 2", "one more"]


class TestAnswered:
    @pytest.mark.parametrize(
        ("source", "weight"), [("audit", 10.0), ("shadow", 1.0)], ids=["audit", "shadow"]
    )
    @pytest.mark.parametrize(("answer", "correct"), [("Yes!", True), ("no", False)])
    def test_a_withheld_answer_is_judged_by_the_one_that_comes(
        self, source: Any, weight: float, answer: str, correct: bool, make: Callable[..., Post]
    ) -> None:
        post = make(False)
        entry_id = post.store("q", "yes")
        post.watch.missed(key("asked"), post.near((entry_id, 0.95)), judged(entry_id, "q"), source)
        post.watch.answered(key("asked"), "asked", answer, NOW)
        assert post.records.judged() == [
            Verdict("default", entry_id, "asked", "q", 0.95, 0.9, correct, source, NOW)
        ]
        assert post.audit.added == [(0.9, correct, weight)]
        asked = key("asked")
        (seen,) = post.ledger.lookups.live(
            [entry_id], asked.partition, FINGERPRINT, NOW, asked.exact
        )
        assert seen.known_wrong is not correct

    def test_it_is_judged_once(self, make: Callable[..., Post]) -> None:
        post = make(False)
        entry_id = post.store("q", "yes")
        post.watch.missed(key("asked"), post.near((entry_id, 0.9)), judged(entry_id, "q"), "audit")
        for _ in range(2):
            post.watch.answered(key("asked"), "asked", "no", NOW)
        assert len(post.records.judged()) == len(post.audit.added) == 1

    def test_the_judge_is_asked_once_of_the_same_two_answers(
        self, make: Callable[..., Post]
    ) -> None:
        post = make(False)
        entry_id = post.store("q", "yes")
        post.watch.missed(key("asked"), post.near((entry_id, 0.9)), judged(entry_id, "q"), "audit")
        post.watch.same_as(key("asked"), "no")
        post.watch.answered(key("asked"), "asked", "no", NOW)
        assert post.same_answer.asked == [("yes", "no")]

    def test_another_answer_to_the_same_request_is_compared_for_itself(
        self, make: Callable[..., Post]
    ) -> None:
        post = make(False)
        entry_id = post.store("q", "yes")
        post.watch.missed(key("asked"), post.near((entry_id, 0.9)), judged(entry_id, "q"), "audit")
        post.watch.same_as(key("asked"), "no")
        post.watch.answered(key("asked"), "asked", "yes", NOW)
        assert [one.correct for one in post.records.judged()] == [True]

    @pytest.mark.parametrize("why", ["nothing withheld", "no lookup", "another request"])
    def test_where_nothing_was_withheld_nothing_is_judged(
        self, why: str, make: Callable[..., Post]
    ) -> None:
        post = make(False)
        entry_id = post.store("q", "yes")
        if why == "nothing withheld":
            post.watch.missed(key("asked"), post.near((entry_id, 0.9)), None, "shadow")
        if why == "another request":
            withheld = judged(entry_id, "q")
            post.watch.missed(key("else"), post.near((entry_id, 0.9)), withheld, "audit")
        post.watch.answered(key("asked"), "asked", "no", NOW)
        assert (post.records.judged(), post.audit.added) == ([], [])
        assert post.same_answer.asked == []

    @pytest.mark.parametrize("why", ["the judge fails", "the entry went"])
    def test_what_cannot_be_told_is_not_judged(self, why: str, make: Callable[..., Post]) -> None:
        post = make(RuntimeError("judge is down"))
        entry_id = post.store("q", "yes")
        post.watch.missed(key("asked"), post.near((entry_id, 0.9)), judged(entry_id, "q"), "audit")
        if why == "the entry went":
            post.ledger.entries.delete(entry_id)
        post.watch.answered(key("asked"), "asked", "no", NOW)
        assert (post.records.judged(), post.audit.added) == ([], [])

    def test_a_doubt_is_learnt_from_the_probability_before_it_and_the_audit_from_that_served(
        self, make: Callable[..., Post]
    ) -> None:
        post = make(False)
        entry_id = post.store("q", "yes")
        withheld = judged(entry_id, "q", doubted(0.95, 0.5), doubt=0.5)
        post.watch.missed(key("asked"), post.near((entry_id, 0.95)), withheld, "audit")
        post.watch.answered(key("asked"), "asked", "no", NOW)
        assert post.records.judged()[0].probability == pytest.approx(0.95)
        assert post.audit.added[0][0] == doubted(0.95, 0.5)


def test_a_hit_is_logged_as_it_was_judged_without_doubt(make: Callable[..., Post]) -> None:
    post = make()
    entry_id = post.store("q", "yes")
    post.watch.served(key("asked"), "asked", judged(entry_id, "q", doubted(0.9, 0.3), 0.3), NOW)
    (hit,) = post.records.served_of(entry_id)
    exact = key("asked").exact
    assert hit == ServedHit(entry_id, "asked", exact, 0.95, pytest.approx(0.9), NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "rate", "weight"),
    [("audit", 0.01, 100.0), ("audit", 1.0, 1.0), ("audit", 0.0, 1.0), ("shadow", 0.01, 1.0)],
)
def test_an_audited_hit_stands_for_those_that_were_not(
    source: Any, rate: float, weight: float
) -> None:
    assert weight_of(source, rate) == weight

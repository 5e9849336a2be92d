"""The log of hits by meaning, the judgements and the quarantine, shared by several ledgers."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from semcache_core.errors import LedgerError
from semcache_core.quality.entry_trust import doubt
from semcache_core.quality.verdicts import KEPT_PER_ENTRY, ServedHit, Verdict, VerdictLog
from semcache_core.request import key_of
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import entries, quarantined, served
from semcache_core.types import Request

ODD_TEXT = "a lone \ud800 and a NUL \0"
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


@pytest.fixture
def open_ledger(tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    opened: list[Ledger] = []

    def open_one() -> Ledger:
        opened.append(Ledger.open(tmp_path / "ledger", None))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[[], Ledger]) -> Ledger:
    return open_ledger()


@pytest.fixture
def records(ledger: Ledger) -> VerdictLog:
    return VerdictLog(ledger)


def stored(ledger: Ledger, question: str = "q", namespace: str = "default") -> int:
    key = key_of(Request(question), namespace)
    return ledger.entries.insert(
        NewEntry(
            exact=key.exact,
            partition=key.partition,
            namespace=namespace,
            scope="",
            exact_only=False,
            question=question,
            response="a",
            created=1.0,
            expires=None,
            cost=None,
            tags=(),
            fingerprint="f",
            vector=None,
        )
    )


def hit(entry_id: int, at: float = 1.0, asked: str = "p") -> ServedHit:
    return ServedHit(entry_id, asked, KEY, 0.91, 0.95, at)


def judgement(entry_id: int, correct: bool = False, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "namespace": "default",
        "asked": "p",
        "stored": "q",
        "similarity": 0.91,
        "probability": 0.95,
        "source": "feedback",
        "at": 1.0,
    }
    return Verdict(entry_id=entry_id, correct=correct, **{**fields, **changes})


def times(hits: list[ServedHit]) -> list[float]:
    return [hit.at for hit in hits]


def logged(ledger: Ledger) -> list[float]:
    return [row[0] for row in ledger.read(sa.select(served.c.at).order_by(served.c.id), {})]


# -- the log ---------------------------------------------------------------------------------------


def test_a_hit_is_found_before_and_after_it_is_written(ledger: Ledger, records: VerdictLog) -> None:
    entry_id, other = stored(ledger), stored(ledger, "other")
    noted = [hit(entry_id, 1.0, ODD_TEXT), hit(entry_id, 2.0)]
    for one in (*noted, hit(other, 3.0)):
        records.served(one)
    for _ in range(2):
        assert records.served_of(entry_id) == noted
        assert records.last_served(entry_id) == noted[-1]
        records.flush()
    assert logged(ledger) == [1.0, 2.0, 3.0]


def test_of_an_entry_never_served_nothing_is_known(ledger: Ledger, records: VerdictLog) -> None:
    records.served(hit(stored(ledger)))
    assert records.served_of(10**9) == []
    assert records.last_served(10**9) is None


def test_the_last_hit_is_the_latest_of_all_processes(open_ledger: Callable[[], Ledger]) -> None:
    mine, theirs = VerdictLog(open_ledger()), VerdictLog(open_ledger())
    entry_id = stored(mine._ledger)
    mine.served(hit(entry_id, 1.0))
    theirs.served(hit(entry_id, 2.0))
    theirs.flush()
    assert times(mine.served_of(entry_id)) == [1.0, 2.0]
    mine.flush()
    assert times(theirs.served_of(entry_id)) == [1.0, 2.0]
    assert mine.last_served(entry_id) == theirs.last_served(entry_id) == hit(entry_id, 2.0)


def test_the_last_hits_of_each_entry_are_kept(ledger: Ledger, records: VerdictLog) -> None:
    often, seldom = stored(ledger, "often"), stored(ledger, "seldom")
    records.served(hit(seldom, 0.5))
    for at in range(KEPT_PER_ENTRY - 1):
        records.served(hit(often, float(at)))
    records.flush()
    assert len(records.served_of(often)) == KEPT_PER_ENTRY - 1
    for at in range(KEPT_PER_ENTRY, KEPT_PER_ENTRY + 3):
        records.served(hit(often, float(at)))
    records.flush()
    kept = times(records.served_of(often))
    assert kept == [*map(float, range(2, KEPT_PER_ENTRY - 1)), 50.0, 51.0, 52.0]
    assert times(records.served_of(seldom)) == [0.5]


def test_the_last_hits_of_all_entries_are_kept(
    ledger: Ledger, records: VerdictLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semcache_core.quality.verdicts.KEPT", 5)
    ids = [stored(ledger, f"q{i}") for i in range(3)]
    for at in range(5):
        records.served(hit(ids[at % 3], float(at)))
    records.flush()
    assert logged(ledger) == [0.0, 1.0, 2.0, 3.0, 4.0]
    for at in (5, 6):
        records.served(hit(ids[0], float(at)))
    records.flush()
    assert logged(ledger) == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_more_hits_than_one_statement_takes_are_written(
    ledger: Ledger, records: VerdictLog
) -> None:
    ids = [stored(ledger, f"q{i}") for i in range(30)]
    for at in range(1100):
        records.served(hit(ids[at % 30], float(at)))
    records.flush()
    assert logged(ledger) == [float(at) for at in range(1100)]


def test_a_hit_of_an_entry_that_is_gone_is_not_written(ledger: Ledger, records: VerdictLog) -> None:
    gone, stays = stored(ledger, "gone"), stored(ledger, "stays")
    records.served(hit(gone, 1.0))
    records.served(hit(stays, 2.0))
    stored(ledger, "gone")
    records.flush()
    assert logged(ledger) == [2.0]
    records.served(hit(gone, 3.0))
    records.flush()
    assert logged(ledger) == [2.0]


def test_a_flush_that_fails_loses_nothing_and_keeps_the_order(
    ledger: Ledger, records: VerdictLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_id = stored(ledger)

    @contextmanager
    def failing() -> Iterator[sa.Connection]:
        records.served(hit(entry_id, 1.0, "meanwhile"))
        raise LedgerError("the disk is full")
        yield

    records.served(hit(entry_id, 1.0, "first"))
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "write", failing)
        with pytest.raises(LedgerError, match="the disk is full"):
            records.flush()
    records.served(hit(entry_id, 1.0, "later"))
    for _ in range(2):
        asked = [one.asked for one in records.served_of(entry_id)]
        assert asked == ["first", "meanwhile", "later"]
        records.flush()


def test_of_what_cannot_be_written_the_last_hits_are_kept(
    open_ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semcache_core.storage.database.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("semcache_core.quality.verdicts.BUFFERED", 3)
    ledger, blocker = open_ledger(), open_ledger()
    records, entry_id = VerdictLog(ledger), stored(ledger)
    for at in range(5):
        records.served(hit(entry_id, float(at)))
    assert times(records.served_of(entry_id)) == [2.0, 3.0, 4.0]
    for at in (5, 6):
        with blocker.write(), pytest.raises(LedgerError):
            records.flush()
        records.served(hit(entry_id, float(at)))
    assert times(records.served_of(entry_id)) == [4.0, 5.0, 6.0]


def test_with_nothing_noted_a_flush_does_not_write(
    open_ledger: Callable[[], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semcache_core.storage.database.BUSY_SECONDS", 0.05)
    records, blocker = VerdictLog(open_ledger()), open_ledger()
    with blocker.write():
        records.flush()


def test_a_hit_is_noted_while_others_are_being_written(
    ledger: Ledger, records: VerdictLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry_id, write = stored(ledger), ledger.write
    writing, go_on = threading.Event(), threading.Event()

    @contextmanager
    def held() -> Iterator[sa.Connection]:
        with write() as connection:
            writing.set()
            assert go_on.wait(30)
            yield connection

    monkeypatch.setattr(ledger, "write", held)
    records.served(hit(entry_id, 1.0))
    with ThreadPoolExecutor(2) as threads:
        flush = threads.submit(records.flush)
        assert writing.wait(30)
        try:
            threads.submit(records.served, hit(entry_id, 2.0)).result(30)
            assert not flush.done()
        finally:
            go_on.set()
        flush.result(30)
    assert times(records.served_of(entry_id)) == [1.0, 2.0]
    assert logged(ledger) == [1.0]


def test_threads_that_note_and_write_at_once_lose_nothing(
    ledger: Ledger, records: VerdictLog
) -> None:
    ids = [stored(ledger, f"q{i}") for i in range(8)]

    def work(thread: int) -> None:
        for at in range(40):
            records.served(hit(ids[thread], float(at)))
            if at % 10 == thread:
                records.flush()
            assert times(records.served_of(ids[thread])) == [float(a) for a in range(at + 1)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    records.flush()
    assert len(logged(ledger)) == 8 * 40


# -- judgements ------------------------------------------------------------------------------------


def test_what_was_judged_is_read_back_as_it_was_in_order(
    ledger: Ledger, records: VerdictLog
) -> None:
    entry_id = stored(ledger)
    given = [
        judgement(entry_id, asked=ODD_TEXT, at=3.0),
        judgement(entry_id, True, namespace="other", source="audit", at=2.0),
        judgement(10**9, True, source="shadow", at=1.0),
    ]
    for one in given:
        records.judge(one)
    assert records.judged() == given
    assert records.judged(namespace="default") == [given[0], given[2]]
    assert records.judged(since=2.0) == given[:2]
    assert records.judged(sources={"audit", "shadow"}) == given[1:]
    assert records.judged(sources=()) == []
    assert records.judged(last=2) == given[1:]
    assert records.judged(sources={"feedback", "audit"}, last=1) == given[1:2]
    assert records.judged("default", 2.0, ["feedback", "audit"]) == given[:1]


def doubts(ledger: Ledger) -> dict[int, float]:
    query = sa.select(entries.c.id, entries.c.doubt).where(entries.c.doubt > 0)
    return {row[0]: row[1] for row in ledger.read(query, {})}


def quarantined_for(ledger: Ledger, asked_key: bytes) -> set[int]:
    query = sa.select(quarantined.c.entry_id).where(quarantined.c.asked_key == asked_key)
    return {row[0] for row in ledger.read(query, {})}


def test_the_doubt_of_an_entry_comes_from_all_that_was_judged_of_it(
    ledger: Ledger, records: VerdictLog
) -> None:
    entry_id, other = stored(ledger), stored(ledger, "other")
    evidence = [(0.95, False), (0.9, True), (0.97, False)]
    for n, (probability, correct) in enumerate(evidence, start=1):
        records.judge(judgement(entry_id, correct, probability=probability))
        assert doubts(ledger) == {entry_id: doubt(evidence[:n])}
    records.judge(judgement(other, True))
    assert doubts(ledger).keys() == {entry_id}
    for _ in range(60):
        records.judge(judgement(entry_id, True))
    assert doubts(ledger) == {}


def test_a_wrong_answer_is_quarantined_for_the_request_it_was_given_to(
    ledger: Ledger, records: VerdictLog
) -> None:
    first, second, right = (stored(ledger, name) for name in ("first", "second", "right"))
    for _ in range(2):  # the same again is no error
        records.judge(judgement(first), KEY)
    records.judge(judgement(second), KEY)
    records.judge(judgement(right, True), KEY)
    records.judge(judgement(right))
    assert quarantined_for(ledger, KEY) == {first, second}
    assert quarantined_for(ledger, OTHER_KEY) == set()


def test_a_right_answer_does_not_lift_the_quarantine(ledger: Ledger, records: VerdictLog) -> None:
    entry_id = stored(ledger)
    for correct in (False, True):
        records.judge(judgement(entry_id, correct), KEY)
    assert quarantined_for(ledger, KEY) == {entry_id}


def test_of_an_entry_that_is_gone_only_the_judgement_is_kept(
    ledger: Ledger, records: VerdictLog
) -> None:
    gone = stored(ledger)
    stored(ledger)
    records.judge(judgement(gone), KEY)
    assert records.judged() == [judgement(gone)]
    assert quarantined_for(ledger, KEY) == set()
    assert ledger.read(sa.select(quarantined), {}) == []


def test_a_judgement_that_cannot_be_kept_leaves_nothing_of_itself(
    ledger: Ledger, records: VerdictLog
) -> None:
    entry_id = stored(ledger)
    with ledger.write() as connection:
        connection.exec_driver_sql("DROP TABLE semcache_quarantined")
    with pytest.raises(LedgerError, match="semcache_quarantined"):
        records.judge(judgement(entry_id), KEY)
    assert records.judged() == []
    assert doubts(ledger) == {}


def test_two_processes_that_judge_at_once_doubt_by_all_of_it(
    open_ledger: Callable[[], Ledger],
) -> None:
    both = [VerdictLog(open_ledger()), VerdictLog(open_ledger())]
    entry_id = stored(both[0]._ledger)

    def work(n: int) -> None:
        for _ in range(10):
            both[n].judge(judgement(entry_id, probability=0.9), bytes([n]) * 32)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))
    for records in both:
        ledger = records._ledger
        assert doubts(ledger) == {entry_id: doubt([(0.9, False)] * 20)}
        for n in range(2):
            assert quarantined_for(ledger, bytes([n]) * 32) == {entry_id}
        assert len(records.judged()) == 20


def test_what_is_stored_is_told_as_long_as_it_is_there(ledger: Ledger, records: VerdictLog) -> None:
    entry_id = stored(ledger, ODD_TEXT, namespace="acme")
    assert records.stored(entry_id) == ("acme", ODD_TEXT)
    ledger.entries.clear("acme")
    assert records.stored(entry_id) is None


# -- in any order ----------------------------------------------------------------------------------

WHO = st.integers(0, 1)
QUESTIONS = st.sampled_from(["one", "two", "three"])
PAIR: list[Ledger] = []


class TwoProcesses(RuleBasedStateMachine):
    """Two ledgers on one file, and what a single list of everything would say."""

    def __init__(self) -> None:
        super().__init__()
        for ledger in PAIR:
            ledger.entries.clear()
        self.records = [VerdictLog(ledger) for ledger in PAIR]
        self.ids = {question: stored(PAIR[0], question) for question in ("one", "two", "three")}
        self.noted: list[list[ServedHit]] = [[], []]
        self.written: list[ServedHit] = []
        self.judgements: list[Verdict] = []
        self.pairings: set[tuple[bytes, int]] = set()
        self.at = 0.0

    @rule(who=WHO, question=QUESTIONS)
    def serve(self, who: int, question: str) -> None:
        self.at += 1
        self.noted[who].append(hit(self.ids[question], self.at))
        self.records[who].served(self.noted[who][-1])

    @rule(who=WHO)
    def flush(self, who: int) -> None:
        self.records[who].flush()
        self.written += [one for one in self.noted[who] if one.entry_id in self.ids.values()]
        self.noted[who] = []

    @rule(who=WHO, question=QUESTIONS, correct=st.booleans(), key=st.sampled_from([KEY, None]))
    def judge(self, who: int, question: str, correct: bool, key: bytes | None) -> None:
        self.judgements.append(judgement(self.ids[question], correct, at=self.at))
        self.records[who].judge(self.judgements[-1], key)
        if key is not None and not correct:
            self.pairings.add((key, self.ids[question]))

    @rule(who=WHO, question=QUESTIONS)
    def replace(self, who: int, question: str) -> None:
        gone, self.ids[question] = self.ids[question], stored(PAIR[who], question)
        self.written = [one for one in self.written if one.entry_id != gone]
        self.pairings = {one for one in self.pairings if one[1] != gone}

    @invariant()
    def both_say_the_same(self) -> None:
        evidence: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        for one in self.judgements:
            evidence[one.entry_id].append((one.probability, one.correct))
        expected = {i: found for i in self.ids.values() if (found := doubt(evidence[i])) > 0}
        for records, noted in zip(self.records, self.noted, strict=True):
            known = sorted(self.written + noted, key=lambda one: one.at)
            for i in self.ids.values():
                assert records.served_of(i) == [one for one in known if one.entry_id == i]
            assert doubts(records._ledger) == expected
            assert quarantined_for(records._ledger, KEY) == {i for _, i in self.pairings}
            assert records.judged() == self.judgements


def test_two_processes_know_the_same_whatever_they_do(tmp_path: Path) -> None:
    PAIR[:] = [Ledger.open(tmp_path, None) for _ in range(2)]
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            TwoProcesses, settings=settings(max_examples=15, stateful_step_count=20, deadline=None)
        )
    finally:
        for ledger in PAIR:
            ledger.close()

"""A second opinion that may be wrong, late, missing or broken, and lookups that go on."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from contracts import VerifierContract
from fakes import ManualClock, named
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import SemcacheError
from semcache_core.decision.verifier import Verification, VerificationCounts, Verifier

ASKED, STORED, RESPONSE = "How do I lock my card?", "How can I lock my card?", "In the app."


@dataclass
class Judge:
    """Gives what the test says, or raises it, and remembers what it was asked."""

    verdict: Any = 1.0
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def verify(self, asked: str, stored: str, response: str) -> float:
        self.asked.append((asked, stored, response))
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        verdict: float = self.verdict
        return verdict


class Slow(Judge):
    """Gives its verdict when the test lets it."""

    def __init__(self, verdict: Any = 1.0) -> None:
        super().__init__(verdict)
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()

    def verify(self, asked: str, stored: str, response: str) -> float:
        self.entered.release()
        assert self.release.wait(60)
        return super().verify(asked, stored, response)


class FailsLate(Slow):
    """The first call waits for the test and then fails, all later ones answer at once."""

    def verify(self, asked: str, stored: str, response: str) -> float:
        if self.asked:
            return Judge.verify(self, asked, stored, response)
        self.asked.append((asked, stored, response))
        self.entered.release()
        assert self.release.wait(60)
        raise ValueError("late")


@pytest.fixture
def slow() -> Iterator[Slow]:
    judge = Slow()
    yield judge
    judge.release.set()


def agrees(verification: Verification, asked: str = ASKED) -> bool | None:
    return verification.agrees(asked, STORED, RESPONSE)


def eventually(condition: Callable[[], Any]) -> None:
    for _ in range(30_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("never happened")


def counts(**some: int) -> VerificationCounts:
    none = dict.fromkeys(VerificationCounts.__dataclass_fields__, 0)
    return VerificationCounts(**{**none, **some})


class TestContract(VerifierContract):
    @pytest.fixture
    def verifier(self) -> Verifier:
        return Judge(0.5)


# -- verdicts ------------------------------------------------------------------------------------


def test_the_verifier_is_told_both_questions_and_the_answer() -> None:
    judge = Judge()
    agrees(Verification(judge))
    assert judge.asked == [(ASKED, STORED, RESPONSE)]


@pytest.mark.parametrize(
    ("verdict", "accept", "agreed"),
    [
        (1.0, 0.9, True),
        (0.9, 0.9, True),
        (0.8999, 0.9, False),
        (0.0, 0.9, False),
        (0.6, 0.6, True),
        (1, 1, True),
        (True, 0.9, True),
        (np.float32(0.95), 0.9, True),
        (np.float64(0.2), 0.9, False),
        (Fraction(19, 20), 0.9, True),
    ],
)
def test_a_verdict_is_accepted_from_the_given_probability_on(
    verdict: Any, accept: float, agreed: bool
) -> None:
    assert agrees(Verification(Judge(verdict), accept=accept)) is agreed


def test_nine_tenths_are_asked_for_unless_told_otherwise() -> None:
    assert agrees(Verification(Judge(0.9))) is True
    assert agrees(Verification(Judge(0.89))) is False


# -- no opinion ----------------------------------------------------------------------------------

NO_PROBABILITY = [
    *(float("nan"), float("inf"), -0.01, 1.01, -1, 2, 10**400, None, "0.95", "YES", b"1", [1.0]),
    *(np.array([0.95]), np.nan, 1 + 0j, object()),
]


@pytest.mark.parametrize("given", NO_PROBABILITY, ids=named)
def test_what_is_no_number_from_0_to_1_is_no_opinion(given: Any) -> None:
    verification = Verification(Judge(given))
    assert agrees(verification) is None
    assert verification.counts() == counts(asked=1, failed=1, calls=1)


class Unprintable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr either")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("neither YES nor NO"),
        TimeoutError("of the client's own"),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        StopIteration(),
        Unprintable(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_any_kind_is_no_opinion(error: BaseException) -> None:
    verification = Verification(Judge(error))
    assert agrees(verification) is None
    assert verification.counts() == counts(asked=1, failed=1, calls=1)


def test_a_failure_is_logged_once_per_type(warnings_of: Any) -> None:
    judge = Judge()
    verification = Verification(judge)
    for number, error in enumerate((ValueError("a"), ValueError("b"), KeyError("c"))):
        judge.verdict = error
        agrees(verification, f"question {number}")
    judge.verdict = None
    agrees(verification)
    logged = warnings_of("the verifier failed")
    assert len(logged) == 3
    assert "ValueError('a')" in logged[0] and "KeyError('c')" in logged[1]
    assert "verify gave None" in logged[2] and "return the probability" in logged[2]


def test_a_failure_is_not_remembered() -> None:
    judge = Judge(ValueError("down"))
    verification = Verification(judge)
    assert agrees(verification) is None
    judge.verdict = 1.0
    assert agrees(verification) is True
    assert verification.counts() == counts(asked=2, failed=1, accepted=1, calls=2)


def test_without_a_thread_to_run_on_it_is_no_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    verification = Verification(Judge(), concurrency=1)

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert agrees(verification) is None
    assert agrees(verification) is True


# -- late, and too many --------------------------------------------------------------------------


def test_a_verifier_that_takes_too_long_is_no_opinion(slow: Slow, warnings_of: Any) -> None:
    verification = Verification(slow, timeout_s=0.01)
    assert agrees(verification) is None
    assert agrees(verification, "another question") is None
    assert verification.counts() == counts(asked=2, timed_out=2, calls=2)
    assert len(warnings_of("took more than 0.01 s")) == 1


def test_a_verdict_that_came_too_late_is_known_the_next_time(slow: Slow) -> None:
    verification = Verification(slow, timeout_s=0.01)
    assert agrees(verification) is None
    slow.release.set()
    eventually(lambda: agrees(verification))
    assert slow.asked == [(ASKED, STORED, RESPONSE)]


def test_with_all_threads_busy_there_is_no_opinion_at_once(slow: Slow) -> None:
    verification = Verification(slow, concurrency=2, timeout_s=600)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(agrees, verification, f"question {i}") for i in range(2)]
        for _ in waiting:
            assert slow.entered.acquire(timeout=30)
        assert threads.submit(agrees, verification, "question 2").result(30) is None
        assert verification.counts() == counts(asked=1, busy=1, calls=2)
        slow.release.set()
        assert [one.result(30) for one in waiting] == [True, True]
    assert agrees(verification, "question 2") is True


@pytest.mark.parametrize("verdict", [1.0, ValueError("no")])
def test_there_is_room_again_before_a_verdict_is_heard(verdict: Any) -> None:
    verification = Verification(Judge(verdict), concurrency=1)
    for number in range(300):
        agrees(verification, f"question {number}")
    assert verification.counts().busy == 0


def test_who_asks_what_is_being_asked_joins_that_call(slow: Slow) -> None:
    verification = Verification(slow, concurrency=1, timeout_s=600)
    with ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(agrees, verification) for _ in range(5)]
        assert slow.entered.acquire(timeout=30)
        slow.release.set()
        assert [one.result(30) for one in waiting] == [True] * 5
    assert verification.counts() == counts(asked=5, accepted=5, calls=1)


class ReadClock(ManualClock):
    """Knows how often it was looked at."""

    reads = 0

    def __call__(self) -> float:
        now = self.now
        self.reads += 1
        return now


def test_nobody_waits_for_a_call_whose_time_is_up(slow: Slow) -> None:
    clock = ReadClock()
    verification = Verification(slow, timeout_s=600, clock=clock)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(agrees, verification)
        eventually(lambda: clock.reads == 2)  # once for the deadline, once for how long to wait
        clock.now += 601
        assert threads.submit(agrees, verification).result(30) is None
        slow.release.set()
        assert first.result(30) is True


def test_a_call_that_fails_late_leaves_a_newer_verdict_alone() -> None:
    judge = FailsLate()
    verification = Verification(judge, timeout_s=600, remembered=1)
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(agrees, verification)
        assert judge.entered.acquire(timeout=30)
        agrees(verification, "so that the first is forgotten")
        assert agrees(verification) is True
        judge.verdict = 0.0
        judge.release.set()
        assert hanging.result(30) is None
    assert agrees(verification) is True


# -- what is remembered --------------------------------------------------------------------------


def test_a_question_asked_again_is_not_judged_again() -> None:
    for verdict, agreed in ((1.0, True), (0.0, False)):
        judge = Judge(verdict)
        verification = Verification(judge)
        assert [agrees(verification) for _ in range(3)] == [agreed] * 3
        assert len(judge.asked) == 1


@pytest.mark.parametrize("other", [("x", STORED, RESPONSE), (ASKED, "x", RESPONSE),
                                   (ASKED, STORED, "x"), (STORED, ASKED, RESPONSE)])  # fmt: skip
def test_another_question_or_answer_is_judged_on_its_own(other: tuple[str, str, str]) -> None:
    judge = Judge()
    verification = Verification(judge)
    agrees(verification)
    judge.verdict = 0.0
    assert verification.agrees(*other) is False
    assert agrees(verification) is True


def test_the_verdict_not_used_for_longest_is_forgotten_first() -> None:
    judge = Judge()
    verification = Verification(judge, remembered=2)
    for question in ("one", "two", "one", "three"):
        agrees(verification, question)
    judge.verdict = 0.0
    assert agrees(verification, "one") is True
    assert agrees(verification, "three") is True
    assert agrees(verification, "two") is False


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1.0, 0.5, None, ValueError("x")]))))
def test_whatever_comes_every_question_is_counted_once(course: list[tuple[int, Any]]) -> None:
    judge = Judge()
    verification = Verification(judge, remembered=2)
    known: list[tuple[int, bool]] = []  # the last first
    for question, verdict in course:
        judge.verdict = verdict
        agreed = agrees(verification, f"question {question}")
        remembered = dict(known).get(question)
        expected = verdict == 1.0 if isinstance(verdict, float) else None
        assert agreed is (expected if remembered is None else remembered)
        if agreed is not None:  # a failure takes no other verdict's place
            known = [(question, agreed), *(one for one in known if one[0] != question)][:2]
    found = verification.counts()
    assert found.asked == len(course) == found.accepted + found.refused + found.failed
    assert found.calls == len(judge.asked)


# -- processes -----------------------------------------------------------------------------------

BEGIN = """
import os, sys, threading
from semcache_core.decision.verifier import Verification

class Judge:
    hangs = True
    entered = threading.Semaphore(0)

    def verify(self, asked, stored, response):
        self.entered.release()
        if self.hangs:
            threading.Event().wait()
        return 1.0
"""


def run(script: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BEGIN + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_verifier_that_hangs_does_not_keep_the_interpreter_from_ending() -> None:
    done = run("""
print(Verification(Judge(), timeout_s=0.01).agrees("a", "b", "c"))
""")
    assert (done.returncode, done.stdout) == (0, "None\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_begins_anew_whatever_was_under_way() -> None:
    done = run("""
import signal
verification = Verification(Judge(), timeout_s=600, concurrency=1)
ask = lambda: verification.agrees("a", "b", "c")
threading.Thread(target=ask, daemon=True).start()
Judge.entered.acquire()
with verification._process.lock:
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        Judge.hangs = False
        print(ask(), verification.counts().calls, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print(verification.counts().calls, verification.agrees("other", "b", "c"), flush=True)
""")
    assert (done.returncode, done.stdout) == (0, "True 1\n1 None\n"), done.stderr


# -- what cannot be ------------------------------------------------------------------------------


class Async:
    async def verify(self, asked: str, stored: str, response: str) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("verifier", "says"),
    [
        (None, "verifier cannot be None; give an object with a method verify"),
        (lambda *_: 1.0, "give an object with a method"),
        (Judge, "give an object with a method"),
        (Async(), "Async.verify is async.* plain method"),
    ],
)
def test_what_is_no_verifier_is_refused(verifier: Any, says: str) -> None:
    with pytest.raises(SemcacheError, match=says):
        Verification(verifier)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("accept", value) for value in (0, -0.1, 1.01, float("nan"), "0.9", None)),
        *(("timeout_s", value) for value in (0, -1, float("inf"), float("nan"), "5", None)),
        *(("concurrency", value) for value in (0, -1, None)),
        *(("remembered", value) for value in (0, -1, None)),
    ],
)
def test_a_limit_that_is_none_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SemcacheError, match=f"{name} cannot be {value!r}; give "):
        Verification(Judge(), **{name: value})

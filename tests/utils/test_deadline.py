"""Calls that may hang are bounded in time and number."""

import threading
from concurrent.futures import wait

import pytest
from semcache_core._utils.deadline import Deadline


class Busy(Exception):
    pass


class Late(Exception):
    pass


def deadline(at_once: int, seconds: float, abandon_after: float = 600.0) -> Deadline:
    return Deadline(
        at_once, seconds, busy=Busy, late=Late, service="Chroma", abandon_after=abandon_after
    )


def test_gives_what_the_call_gives_and_raises_what_it_raises() -> None:
    calls = deadline(1, 10.0)
    assert calls.run(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        calls.run(lambda: 1 // 0)

    def late() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        calls.run(late)
    assert calls.run(lambda: 6) == 6


def test_a_call_without_an_answer_keeps_its_place_until_it_ends() -> None:
    calls, answered, left = deadline(1, 0.01), threading.Event(), threading.Event()

    def hang() -> None:
        answered.wait()

    with pytest.raises(Late, match=r"Chroma gave no answer within 0.01 s"):
        calls.run(hang)
    with pytest.raises(Busy, match="1 calls to Chroma have no answer yet"):
        calls.run(left.set)
    assert not left.is_set()
    answered.set()
    calls.seconds = 10.0
    assert calls.run(lambda: 7) == 7


def test_an_abandoned_call_makes_room_for_another() -> None:
    calls, never = deadline(1, 0.01, abandon_after=0.0), threading.Event()
    for _ in range(2):
        with pytest.raises(Late):  # it was made
            calls.run(never.wait)
    never.set()


def test_a_started_call_is_awaited_by_the_caller_and_none_is_started_without_a_place() -> None:
    calls, answered = deadline(1, 0.01), threading.Event()
    answer = calls.start(answered.wait)
    assert not wait([answer], 0.02).done  # the limit of seconds is for `run`
    with pytest.raises(Busy):
        calls.start(answered.wait)
    answered.set()
    assert answer.result(10.0)
    assert calls.start(lambda: 8).result(10.0) == 8  # its place was free before it was answered


def test_a_started_call_hands_on_what_it_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        deadline(1, 10.0).start(lambda: 1 // 0).result(10.0)


def test_a_thread_that_cannot_be_started_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = deadline(1, 10.0)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            calls.run(lambda: 1)
    assert calls.run(lambda: 2) == 2


def test_no_more_calls_at_once_than_allowed() -> None:
    calls, lock = deadline(3, 10.0), threading.Lock()
    now, most = 0, 0

    def call() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1

    threads = [
        threading.Thread(target=lambda: [calls.run(call) for _ in range(5)]) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 < most <= 3

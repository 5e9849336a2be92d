"""Calls that may hang: bounded in time and number."""

import threading

import pytest
from semcache_core._utils import deadline
from semcache_core._utils.deadline import Deadline
from semcache_core.errors import IndexBusyError, IndexStalledError


def test_gives_what_the_call_gives_and_raises_what_it_raises() -> None:
    calls = Deadline(1, 10.0)
    assert calls.run(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        calls.run(lambda: 1 // 0)

    def late() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        calls.run(late)
    assert calls.run(lambda: 6) == 6


def test_a_call_without_an_answer_keeps_its_place_until_it_ends() -> None:
    calls, answered, left = Deadline(1, 0.01), threading.Event(), threading.Event()

    def hang() -> None:
        answered.wait()

    with pytest.raises(IndexStalledError, match="no answer within"):
        calls.run(hang)
    with pytest.raises(IndexBusyError, match="1 calls to Chroma have no answer yet"):
        calls.run(left.set)
    assert not left.is_set()
    answered.set()
    calls._seconds = 10.0
    assert calls.run(lambda: 7) == 7


def test_a_call_given_up_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, never = Deadline(1, 0.01), threading.Event()
    with pytest.raises(IndexStalledError):
        calls.run(never.wait)
    monkeypatch.setattr(deadline, "GIVEN_UP_SECONDS", 0.0)
    with pytest.raises(IndexStalledError):  # it was made
        calls.run(never.wait)
    never.set()


def test_a_thread_that_cannot_be_started_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Deadline(1, 10.0)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            calls.run(lambda: 1)
    assert calls.run(lambda: 2) == 2


def test_no_more_calls_at_once_than_allowed() -> None:
    calls, lock = Deadline(3, 10.0), threading.Lock()
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

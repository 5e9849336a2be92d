"""Audits run behind the back of those who were served; no more than a few at a time."""

import asyncio
import os
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from background import Held, afinish, finish
from semcache_core import SemanticCache
from semcache_core.adapters import Audits
from semcache_core.adapters.audits import AT_ONCE


@pytest.fixture
def cache(bench: Any) -> SemanticCache:
    return bench.open(path=None)


@pytest.fixture
def audits(cache: SemanticCache) -> Audits:
    return Audits(cache)


def test_an_audit_runs_in_a_thread_that_keeps_no_process_alive(audits: Audits) -> None:
    ran_in: list[threading.Thread] = []
    audits.start(lambda: ran_in.append(threading.current_thread()))
    finish()
    assert ran_in[0].daemon and ran_in[0] is not threading.current_thread()


def test_nobody_waits_and_what_is_too_much_is_skipped_and_counted(
    audits: Audits, cache: SemanticCache, warnings_of: Any
) -> None:
    held = Held()
    for _ in range(AT_ONCE + 2):
        audits.start(held)
    for _ in range(AT_ONCE):
        assert held.begun.acquire(timeout=30)
    assert not held.begun.acquire(blocking=False)
    assert cache.stats().failures == {"audit": 2}
    assert len(warnings_of("2 audits are running already; lower audit_rate")) == 1
    held.go.set()
    finish()
    audits.start(held)
    finish()
    assert held.begun.acquire(blocking=False)
    assert cache.stats().failures == {"audit": 2}


def test_an_error_is_counted_and_makes_room_for_the_next(
    audits: Audits, cache: SemanticCache
) -> None:
    for _ in range(AT_ONCE + 1):
        audits.start(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        finish()
    assert cache.stats().failures == {"audit": AT_ONCE + 1}
    ran = threading.Event()
    audits.start(ran.set)
    finish()
    assert ran.is_set()


def test_a_thread_that_cannot_be_started_is_counted_and_makes_room_for_the_next(
    audits: Audits, cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        for _ in range(AT_ONCE + 1):
            audits.start(lambda: None)
    ran = threading.Event()
    audits.start(ran.set)
    finish()
    assert ran.is_set()
    assert cache.stats().failures == {"audit": AT_ONCE + 1}


def test_a_forked_child_does_not_wait_for_threads_that_it_does_not_have(
    audits: Audits, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, ran = Held(), threading.Event()
    for _ in range(AT_ONCE):
        audits.start(held)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    audits.start(ran.set)
    assert ran.wait(30)
    held.go.set()
    finish()


async def test_async_no_more_than_a_few_run_at_a_time(audits: Audits, cache: SemanticCache) -> None:
    begun, go = [], asyncio.Event()

    async def audit() -> None:
        begun.append(True)
        await go.wait()

    for _ in range(AT_ONCE + 1):
        audits.astart(audit)
    await asyncio.sleep(0)
    assert len(begun) == AT_ONCE
    go.set()
    await afinish()
    audits.astart(audit)
    await afinish()
    assert len(begun) == AT_ONCE + 1
    assert cache.stats().failures == {"audit": 1}


async def test_async_an_error_is_counted_and_reaches_nobody(
    audits: Audits, cache: SemanticCache
) -> None:
    async def audit() -> None:
        raise ConnectionError("down")

    audits.astart(audit)
    await afinish()
    assert cache.stats().failures == {"audit": 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_was_closed_over_its_audits_takes_no_room_from_the_next(
    audits: Audits, cache: SemanticCache
) -> None:
    ended = []

    async def endless() -> None:
        await asyncio.Event().wait()

    async def short() -> None:
        ended.append(True)

    async def start() -> None:
        audits.astart(endless)
        audits.astart(short)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    for _ in range(AT_ONCE + 1):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(start())
        loop.close()  # as apps do that do not know of asyncio.run
    assert len(ended) == AT_ONCE + 1
    assert len(audits._tasks) == 1  # those of closed loops are let go of
    assert cache.stats().failures == {}


async def test_nothing_of_the_apps_context_is_in_an_audit(audits: Audits) -> None:
    traced: ContextVar[str] = ContextVar("traced", default="nothing")
    seen: list[str] = []

    async def audit() -> None:
        seen.append(traced.get())

    traced.set("the app's run")
    audits.start(lambda: seen.append(traced.get()))
    finish()
    audits.astart(audit)
    await afinish()
    assert seen == ["nothing", "nothing"]

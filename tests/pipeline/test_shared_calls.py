"""One source for all who ask the same at once, however they read it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from semcache_core.pipeline.single_flight import (
    AsyncSingleFlight,
    Outcome,
    SharedCall,
    SingleFlight,
)


class Source:
    """Gives its items and then the text "done"; remembers how far it was read, and its close."""

    def __init__(self, *items: Any) -> None:
        self.items, self.given, self.closed = items, 0, False
        self.at: dict[int, Callable[[], Any]] = {}

    def __call__(self, outcome: Outcome) -> Generator[Any, None, None]:
        try:
            for place, item in enumerate(self.items):
                if place in self.at:
                    self.at[place]()
                if isinstance(item, BaseException):
                    raise item
                self.given += 1
                yield item
            outcome.text = "done"
        finally:
            self.closed = True

    async def slowly(self, outcome: Outcome) -> AsyncGenerator[Any, None]:
        try:
            for place, item in enumerate(self.items):
                if place in self.at:
                    await self.at[place]()
                if isinstance(item, BaseException):
                    raise item
                self.given += 1
                yield item
            outcome.text = "done"
        finally:
            await turns()
            self.closed = True


@contextmanager
def joined(calls: SingleFlight[Any], source: Source, key: str = "q") -> Iterator[SharedCall[Any]]:
    call, _ = calls.join(key, source)
    try:
        yield call
    finally:
        calls.leave(key, call)


def test_the_first_leads_and_the_others_get_the_same_call() -> None:
    calls: SingleFlight[int] = SingleFlight()
    first, second = Source(1), Source(2)
    call, leads = calls.join("q", first)
    assert leads and calls.join("q", second) == (call, False)
    assert calls.join("another", second)[1]
    assert list(call.items()) == [1]


def test_the_leader_is_not_read_ahead() -> None:
    source = Source(1, 2, 3)
    with joined(SingleFlight(), source) as call:
        items = call.items()
        assert source.given == 0
        assert next(items) == 1
        assert source.given == 1


def test_one_who_waits_reads_for_a_leader_on_the_same_thread() -> None:
    """A leader that has stopped reading, for good or for now, must not hold up anybody."""
    calls: SingleFlight[int] = SingleFlight()
    source = Source(1, 2, 3)
    with joined(calls, source) as led, joined(calls, source) as waited:
        items = led.items()
        assert next(items) == 1
        waited.wait()
        assert waited.outcome.text == "done"
        assert list(items) == [2, 3]
    assert source.given == 3


def test_a_leader_that_leaves_does_not_end_it_for_others() -> None:
    calls: SingleFlight[int] = SingleFlight()
    source = Source(1, 2)
    led, _ = calls.join("q", source)
    next(led.items())
    with joined(calls, source) as waited:
        calls.leave("q", led)
        assert calls.join("q", source) == (waited, False)
        calls.leave("q", waited)
        waited.wait()
        assert waited.outcome.text == "done"
    assert source.given == 2


def test_the_source_is_closed_when_the_last_one_leaves() -> None:
    calls: SingleFlight[int] = SingleFlight()
    source = Source(1, 2)
    call, _ = calls.join("q", source)
    calls.join("q", source)
    next(call.items())
    calls.leave("q", call)
    assert not source.closed
    calls.leave("q", call)
    assert source.closed and source.given == 1 and call.outcome.text is None
    assert calls.join("q", Source())[1]  # and a newcomer begins anew


def test_one_that_is_over_is_not_joined() -> None:
    calls: SingleFlight[int] = SingleFlight()
    with joined(calls, Source(1)) as call:
        assert list(call.items()) == [1]
        other, leads = calls.join("q", Source(2))
        assert leads and other is not call
    assert calls.join("q", Source(3)) == (other, False)  # leaving the old one left it there


def test_an_error_reaches_the_leader_after_its_items_and_is_told_to_the_others() -> None:
    calls: SingleFlight[int] = SingleFlight()
    error = ValueError("no")
    source = Source(1, error)
    with joined(calls, source) as led, joined(calls, source) as waited:
        waited.wait()
        assert waited.error is error and waited.outcome.text is None
        items = led.items()
        assert next(items) == 1
        with pytest.raises(ValueError) as raised:
            next(items)
        assert raised.value is error


def test_an_interrupt_is_raised_where_it_happened() -> None:
    calls: SingleFlight[int] = SingleFlight()
    source = Source(KeyboardInterrupt())
    with joined(calls, source) as led, joined(calls, source) as waited:
        with pytest.raises(KeyboardInterrupt):
            waited.wait()
        assert isinstance(led.error, KeyboardInterrupt) and led.over


def test_a_leader_gets_each_item_while_another_thread_reads() -> None:
    calls: SingleFlight[int] = SingleFlight()
    reading, go_on, end = (threading.Event() for _ in range(3))
    source = Source(1, 2, 3)
    source.at = {1: lambda: (reading.set(), go_on.wait()), 2: end.wait}
    led, waited = joined(calls, source), joined(calls, source)
    with ThreadPoolExecutor() as threads, led as leading, waited as other:
        waiting = threads.submit(other.wait)
        assert reading.wait(20)  # the other thread is inside the source
        items = leading.items()
        assert next(items) == 1
        last = threads.submit(next, items)
        go_on.set()
        assert last.result(20) == 2  # as soon as it is there, though the other reads on
        end.set()
        waiting.result(20)
    assert source.given == 3


def test_many_threads_read_one_source_once() -> None:
    calls: SingleFlight[int] = SingleFlight()
    source = Source(*range(50))
    together = threading.Barrier(8)

    def wait(_: int) -> str | None:
        with joined(calls, source) as call:
            together.wait()
            call.wait()
            return call.outcome.text

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(wait, range(8))) == ["done"] * 8
    assert source.given == 50


# -- asyncio ---------------------------------------------------------------------------------------


async def test_async_the_first_leads_and_is_not_read_ahead() -> None:
    calls: AsyncSingleFlight[int] = AsyncSingleFlight()
    source = Source(1, 2, 3)
    call, leads = calls.join("q", source.slowly)
    assert leads and calls.join("q", Source().slowly) == (call, False)
    items = call.items()
    assert await anext(items) == 1
    await turns()
    assert source.given == 1
    assert [item async for item in items] == [2, 3]
    assert call.outcome.text == "done"


async def test_async_one_who_waits_reads_for_a_leader_in_the_same_task() -> None:
    calls: AsyncSingleFlight[int] = AsyncSingleFlight()
    source = Source(1, 2, 3)
    led, _ = calls.join("q", source.slowly)
    waited, _ = calls.join("q", source.slowly)
    items = led.items()
    assert await anext(items) == 1
    await waited.wait()
    assert waited.outcome.text == "done"
    assert [item async for item in items] == [2, 3]


async def test_async_a_cancelled_leader_harms_no_other() -> None:
    calls: AsyncSingleFlight[int] = AsyncSingleFlight()
    source = Source(1, 2)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def halt() -> None:
        begun.set()
        await go_on.wait()

    source.at[0] = halt
    leader = asyncio.create_task(drained(calls, source))
    await begun.wait()
    others = [asyncio.create_task(waited_for(calls, source)) for _ in range(2)]
    await turns()
    leader.cancel()
    others[0].cancel()
    await asyncio.wait([leader, others[0]])
    assert leader.cancelled() and others[0].cancelled() and not source.closed
    go_on.set()
    assert await others[1] == "done"
    assert source.given == 2


async def test_async_the_source_is_cancelled_when_the_last_one_leaves() -> None:
    calls: AsyncSingleFlight[int] = AsyncSingleFlight()
    source = Source(1, 2)
    begun = asyncio.Event()

    async def halt() -> None:
        begun.set()
        await asyncio.Event().wait()

    source.at[1] = halt
    tasks = [asyncio.create_task(drained(calls, source)) for _ in range(2)]
    await begun.wait()
    for task in tasks:
        assert not source.closed
        task.cancel()
        await asyncio.wait([task])
    assert source.closed
    call, leads = calls.join("q", Source(7).slowly)
    assert leads and [item async for item in call.items()] == [7]


async def test_async_an_error_reaches_the_leader_and_is_told_to_the_others() -> None:
    calls: AsyncSingleFlight[int] = AsyncSingleFlight()
    error = ValueError("no")
    source = Source(1, error)
    led, _ = calls.join("q", source.slowly)
    waited, _ = calls.join("q", source.slowly)
    await waited.wait()
    assert waited.error is error and waited.outcome.text is None
    items = led.items()
    assert await anext(items) == 1
    with pytest.raises(ValueError) as raised:
        await anext(items)
    assert raised.value is error


async def test_async_one_that_is_over_is_not_joined() -> None:
    calls: AsyncSingleFlight[int] = AsyncSingleFlight()
    call, _ = calls.join("q", Source(1).slowly)
    await call.wait()
    other, leads = calls.join("q", Source(2).slowly)
    assert leads and other is not call
    await calls.leave("q", call)
    assert calls.join("q", Source(3).slowly) == (other, False)
    await calls.leave("q", other)
    await calls.leave("q", other)


def test_two_event_loops_share_a_call_that_one_of_them_streams() -> None:
    calls: AsyncSingleFlight[int] = AsyncSingleFlight()
    source, joined = Source(1, 2, 3), threading.Event()

    async def lead() -> list[int]:
        async def until_joined() -> None:
            await asyncio.to_thread(joined.wait, 20)

        source.at[1] = until_joined
        return await drained(calls, source)

    async def wait() -> list[int]:
        call, leads = calls.join("q", source.slowly)
        joined.set()
        await call.wait()
        await calls.leave("q", call)
        assert not leads and call.over
        return []

    with ThreadPoolExecutor() as threads:
        leader = threads.submit(asyncio.run, lead())
        while not calls._calls:
            threading.Event().wait(0.001)
        waiter = threads.submit(asyncio.run, wait())
        assert leader.result(30) == [1, 2, 3]
        assert waiter.result(30) == []


async def drained(calls: AsyncSingleFlight[int], source: Source) -> list[int]:
    call, leads = calls.join("q", source.slowly)
    try:
        if leads:
            return [item async for item in call.items()]
        await call.wait()
        return []
    finally:
        await calls.leave("q", call)


async def waited_for(calls: AsyncSingleFlight[int], source: Source) -> str | None:
    call, _ = calls.join("q", source.slowly)
    try:
        await call.wait()
        return call.outcome.text
    finally:
        await calls.leave("q", call)


async def turns() -> None:
    """Let all other tasks go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)

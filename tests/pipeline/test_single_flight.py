"""One computation per key, for threads and for asyncio."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from semcache_core.pipeline import single_flight
from semcache_core.pipeline.single_flight import AsyncSingleFlight, SingleFlight

KEY, OTHER = b"key", b"other"


def _until(condition: Any) -> None:
    for _ in range(30_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("never happened")


class Slow:
    """A computation that the test lets end."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.entered = threading.Event()
        self.release = threading.Event()
        self.error = error

    def __call__(self) -> str:
        self.calls += 1
        self.entered.set()
        assert self.release.wait(30)
        if self.error is not None:
            raise self.error
        return "value"


class TestThreads:
    def together(self, slow: Slow, n: int = 20) -> list[Any]:
        flight: SingleFlight[str] = SingleFlight()
        waiting = threading.Semaphore(0)

        def call() -> Any:
            waiting.release()
            try:
                return flight.run(KEY, slow)
            except BaseException as error:
                return error

        with ThreadPoolExecutor(n) as threads:
            first = threads.submit(call)
            assert slow.entered.wait(30)
            rest = [threads.submit(call) for _ in range(n - 1)]
            for _ in range(n):
                assert waiting.acquire(timeout=30)
            shared = flight._calls[KEY]
            _until(lambda: len(shared._changed._waiters) == n - 1)
            slow.release.set()
            found = [f.result(30) for f in (first, *rest)]
        assert flight._calls == {}
        return found

    def test_callers_at_once_share_one_computation(self) -> None:
        slow = Slow()
        assert self.together(slow) == ["value"] * 20
        assert slow.calls == 1

    def test_an_error_reaches_every_caller_as_itself(self) -> None:
        error = ValueError("no")
        slow = Slow(error)
        assert all(found is error for found in self.together(slow))
        assert slow.calls == 1

    def test_an_interrupt_is_the_first_callers_own(self) -> None:
        found = self.together(Slow(KeyboardInterrupt()), 3)
        assert isinstance(found[0], KeyboardInterrupt)
        assert all(isinstance(error, RuntimeError) for error in found[1:])

    def test_nothing_is_remembered(self) -> None:
        flight: SingleFlight[int] = SingleFlight()
        with pytest.raises(ZeroDivisionError):
            flight.run(KEY, lambda: 1 // 0)
        assert [flight.run(KEY, lambda: 1), flight.run(KEY, lambda: 2)] == [1, 2]

    def test_other_keys_do_not_wait(self) -> None:
        flight: SingleFlight[str] = SingleFlight()
        slow = Slow()
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(flight.run, KEY, slow)
            assert slow.entered.wait(30)
            assert flight.run(OTHER, lambda: "at once") == "at once"
            slow.release.set()
            assert running.result(30) == "value"


class AsyncSlow:
    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False
        self.error = error

    async def __call__(self) -> str:
        self.calls += 1
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return "value"


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class TestAsync:
    async def test_callers_at_once_share_one_computation(self) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlow()
        tasks = [asyncio.create_task(flight.run(KEY, slow)) for _ in range(20)]
        await slow.entered.wait()
        await _settle()
        slow.release.set()
        assert await asyncio.gather(*tasks) == ["value"] * 20
        assert slow.calls == 1
        assert flight._calls == {}

    async def test_an_error_reaches_every_caller_as_itself_and_is_not_remembered(self) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlow(ValueError("no"))
        slow.release.set()
        tasks = [asyncio.create_task(flight.run(KEY, slow)) for _ in range(5)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(error is slow.error for error in found)
        slow.error = None
        assert await flight.run(KEY, slow) == "value"

    @pytest.mark.parametrize("who", [0, 2])
    async def test_a_cancelled_caller_harms_no_other(self, who: int) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlow()
        tasks = [asyncio.create_task(flight.run(KEY, slow)) for _ in range(3)]
        await slow.entered.wait()
        tasks[who].cancel()
        await _settle()
        slow.release.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found.pop(who), asyncio.CancelledError)
        assert found == ["value"] * 2
        assert slow.calls == 1 and not slow.cancelled

    async def test_when_all_are_cancelled_the_computation_is_too(self) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlow()
        tasks = [asyncio.create_task(flight.run(KEY, slow)) for _ in range(3)]
        await slow.entered.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _settle()
        assert slow.cancelled
        assert flight._calls == {}

    async def test_a_newcomer_after_all_were_cancelled_begins_anew(self) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlow()
        task = asyncio.create_task(flight.run(KEY, slow))
        await slow.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.release.set()
        assert await flight.run(KEY, slow) == "value"
        assert slow.calls == 2
        assert flight._calls == {}

    def test_loops_in_several_threads_share_one_call(self) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlowInThreads()

        async def main() -> str:
            return await flight.run(KEY, slow)

        with ThreadPoolExecutor(8) as threads:
            first = threads.submit(asyncio.run, main())
            assert slow.entered.wait(30)
            rest = [threads.submit(asyncio.run, main()) for _ in range(7)]
            _until(lambda: [call.callers for call in flight._calls.values()] == [8])
            slow.release.set()
            assert [found.result(60) for found in (first, *rest)] == ["value"] * 8
        assert slow.calls == 1
        assert flight._calls == {}

    def test_an_error_reaches_the_callers_of_other_loops(self) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlowInThreads(ValueError("no luck"))

        async def main() -> str:
            return await flight.run(KEY, slow)

        with ThreadPoolExecutor(3) as threads:
            found = [threads.submit(asyncio.run, main()) for _ in range(3)]
            _until(lambda: [call.callers for call in flight._calls.values()] == [3])
            slow.release.set()
            for one in found:
                with pytest.raises(ValueError, match="no luck"):
                    one.result(60)
        assert slow.calls == 1

    def test_a_caller_of_another_loop_asks_again_where_the_leaders_loop_ends(self) -> None:
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        slow = AsyncSlowInThreads()

        async def main() -> str:
            return await flight.run(KEY, slow)

        async def ended_early() -> None:
            leader = asyncio.create_task(main())
            await asyncio.to_thread(slow.entered.wait, 30)
            await asyncio.to_thread(_until, lambda: _callers(flight) == 2)
            leader.cancel()  # as `asyncio.run` does in the end with what is left

        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(asyncio.run, ended_early())
            assert slow.entered.wait(30)
            second = threads.submit(asyncio.run, main())
            _until(lambda: slow.calls == 2)
            slow.release.set()  # the first loop ends only with its threads
            first.result(60)
            assert second.result(60) == "value"
        assert flight._calls == {}

    def test_a_loop_that_just_stops_holds_up_no_other(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(single_flight, "LEADER_CHECK_SECONDS", 0.01)
        flight: AsyncSingleFlight[str] = AsyncSingleFlight()
        go_on, loop = asyncio.Event(), asyncio.new_event_loop()

        async def pause() -> str:
            loop.stop()
            await go_on.wait()
            return "late"

        async def answer() -> str:
            return "value"

        leader = loop.create_task(flight.run(KEY, pause))
        loop.run_forever()
        call = next(iter(flight._calls.values()))

        async def wait_in_vain() -> bool:
            return await call.wait()

        assert asyncio.run(wait_in_vain()) is False
        assert asyncio.run(flight.run(KEY, answer)) == "value"
        loop.call_soon(go_on.set)  # as a notebook goes on with its loop
        assert loop.run_until_complete(leader) == "late"
        loop.close()


class AsyncSlowInThreads(Slow):
    """A computation of one event loop that another thread lets end."""

    async def __call__(self) -> str:  # type: ignore[override]
        return await asyncio.to_thread(super().__call__)


def _callers(flight: AsyncSingleFlight[str]) -> int:
    return sum(call.callers for call in flight._calls.values())

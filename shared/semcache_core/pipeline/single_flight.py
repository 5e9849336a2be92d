"""One computation per key: callers that ask for the same thing at once share the first's answer."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from semcache_core.types import Hit

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """For threads. The first caller computes; the others wait and get its value or its error.

    Nothing is remembered: the next call after the first has ended computes again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[bytes, Future[T]] = {}

    def run(self, key: bytes, compute: Callable[[], T]) -> T:
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not leads:
            return flight.result()
        try:
            value = compute()
        except BaseException as error:
            self._land(key)
            # KeyboardInterrupt and the like are the leader's own: the others see a plain error
            shared = error if isinstance(error, Exception) else RuntimeError(f"aborted: {error!r}")
            flight.set_exception(shared)
            raise
        self._land(key)
        flight.set_result(value)
        return value

    def _land(self, key: bytes) -> None:
        with self._lock:
            del self._flights[key]


class AsyncSingleFlight(Generic[T]):
    """For asyncio, per event loop. The computation is a task of its own, so a caller that is
    cancelled harms no other; when the last of them is gone, it is cancelled too.
    """

    def __init__(self) -> None:
        self._flights: dict[tuple[int, bytes], tuple[asyncio.Task[T], list[int]]] = {}

    async def run(self, key: bytes, compute: Callable[[], Awaitable[T]]) -> T:
        # two loops in two threads use different keys, and one dict operation is atomic
        place = (id(asyncio.get_running_loop()), key)
        if place not in self._flights:
            self._flights[place] = (asyncio.ensure_future(_call(compute)), [0])
        flight = task, waiting = self._flights[place]
        waiting[0] += 1
        try:
            return await asyncio.shield(task)
        finally:
            waiting[0] -= 1
            if not waiting[0]:
                task.cancel()  # does nothing to a task that has ended
            # by identity: after the last waiter left, a newcomer may have begun another flight
            if self._flights.get(place) is flight and (task.done() or not waiting[0]):
                del self._flights[place]


async def _call(compute: Callable[[], Awaitable[T]]) -> T:
    return await compute()


@dataclass
class Outcome:
    """How a flight ended, for those who waited: an answer as text, and the hit it came from.

    No text: it ended without an answer that can be handed on.
    """

    text: str | None = None
    hit: Hit | None = None


class SharedCall(Generic[T]):
    """For threads: `items` is for the leader, `wait` for the others.

    `source` is run by one thread at a time, whichever is the first to need the next item.
    """

    def __init__(self, source: Callable[[Outcome], Generator[T, None, None]]) -> None:
        self.outcome = Outcome()
        self.error: BaseException | None = None
        self.over = False
        self.aboard = 1
        self._source = source(self.outcome)
        self._ready: deque[T] = deque()
        self._pulling = False
        self._changed = threading.Condition()

    def items(self) -> Iterator[T]:
        """The items as they come; raises what the source raises."""
        while True:
            while not self._ready and not self.over:
                self._pull()
            if self._ready:
                yield self._ready.popleft()
            elif self.error is not None:
                raise self.error
            else:
                return

    def wait(self) -> None:
        """Until the source has ended, by an error too, which is then in `error`."""
        while not self.over:
            self._pull()

    def close(self) -> None:
        """Give up the source; when nobody is aboard any more."""
        self._source.close()

    def _pull(self) -> None:
        """One item more, fetched here or by another thread meanwhile."""
        with self._changed:
            if self._pulling and not self.over:
                self._changed.wait()
                return
            if self.over:
                return
            self._pulling = True
        try:
            item = next(self._source)
        except StopIteration:
            self._end(None)
        except BaseException as error:
            self._end(error)
            if not isinstance(error, Exception):  # such as KeyboardInterrupt: this thread's own
                raise
        else:
            with self._changed:
                self._ready.append(item)
                self._pulling = False
                self._changed.notify_all()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self.error, self.over, self._pulling = error, True, False
            self._changed.notify_all()


class SharedCalls(Generic[T]):
    """The flights of one process by what they ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, SharedCall[T]] = {}

    def join(
        self, key: str, source: Callable[[Outcome], Generator[T, None, None]]
    ) -> tuple[SharedCall[T], bool]:
        """The flight that asks `key`, and whether the caller leads it. Then `leave` it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and not flight.over:
                flight.aboard += 1
                return flight, False
            flight = self._flights[key] = SharedCall(source)
            return flight, True

    def leave(self, key: str, flight: SharedCall[T]) -> None:
        with self._lock:
            flight.aboard -= 1
            empty = not flight.aboard
            if empty and self._flights.get(key) is flight:
                del self._flights[key]
        if empty:
            flight.close()


class AsyncSharedCall(Generic[T]):
    """For asyncio, see `Flight`. The source runs in a task of its own: one who is cancelled harms
    no other, and a provider's stream is never continued in a task that did not begin it.
    """

    def __init__(self, source: Callable[[Outcome], AsyncGenerator[T, None]]) -> None:
        self.outcome = Outcome()
        self.error: BaseException | None = None
        self.over = False
        self.aboard = 1
        self._ready: deque[T] = deque()
        self._waiting = 0
        self._wanted, self._news = asyncio.Event(), asyncio.Event()
        self._task = asyncio.ensure_future(self._run(source(self.outcome)))

    async def items(self) -> AsyncIterator[T]:
        """The items as they come; raises what the source raises."""
        while True:
            if self._ready:
                yield self._ready.popleft()
            elif not self.over:
                self._wanted.set()
                await self._news.wait()
            elif self.error is not None:
                raise self.error
            else:
                return

    async def wait(self) -> None:
        """Until the source has ended, by an error too, which is then in `error`."""
        self._waiting += 1
        self._wanted.set()
        try:
            while not self.over:
                await self._news.wait()
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Give up the source; when nobody is aboard any more."""
        if not self.over:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, source: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    self._ready.append(item)
                    self._tell()
                    self._wanted.clear()
                    if not self._waiting:  # no further than the leader reads
                        await self._wanted.wait()
        except BaseException as error:  # noqa: BLE001 - the ones aboard raise it
            self.error = error
        finally:
            self.over = True
            self._tell()

    def _tell(self) -> None:
        self._news.set()  # wakes all who wait at this moment
        self._news.clear()


class AsyncSharedCalls(Generic[T]):
    """The flights of all event loops by what they ask."""

    def __init__(self) -> None:
        # two loops in two threads use different keys, and one dict operation is atomic
        self._flights: dict[tuple[int, str], AsyncSharedCall[T]] = {}

    def join(
        self, key: str, source: Callable[[Outcome], AsyncGenerator[T, None]]
    ) -> tuple[AsyncSharedCall[T], bool]:
        """The flight that asks `key`, and whether the caller leads it. Then `leave` it."""
        place = _place(key)
        flight = self._flights.get(place)
        if flight is not None and not flight.over:
            flight.aboard += 1
            return flight, False
        flight = self._flights[place] = AsyncSharedCall(source)
        return flight, True

    async def leave(self, key: str, flight: AsyncSharedCall[T]) -> None:
        place = _place(key)
        flight.aboard -= 1
        if flight.aboard:
            return
        if self._flights.get(place) is flight:
            del self._flights[place]
        await flight.close()


def _place(key: str) -> tuple[int, str]:
    return id(asyncio.get_running_loop()), key

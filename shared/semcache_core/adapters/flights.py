"""One call of the model for all who ask the same at once, whether they want it whole or streamed.

Unlike the core's single-flight, the one who leads may be reading a stream: it may read slowly, stop
in the middle, or ask the same again on the very same thread. So the stream belongs to all who are
aboard, and whoever needs more of it fetches more. It is closed when the last one leaves.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from semcache_core.types import Hit

T = TypeVar("T")


@dataclass
class Outcome:
    """How a flight ended, for those who waited: an answer as text, and the hit it came from.

    No text: it ended without an answer that can be handed on.
    """

    text: str | None = None
    hit: Hit | None = None


class Flight(Generic[T]):
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


class Flights(Generic[T]):
    """The flights of one process by what they ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Flight[T]] = {}

    def join(
        self, key: str, source: Callable[[Outcome], Generator[T, None, None]]
    ) -> tuple[Flight[T], bool]:
        """The flight that asks `key`, and whether the caller leads it. Then `leave` it."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None and not flight.over:
                flight.aboard += 1
                return flight, False
            flight = self._flights[key] = Flight(source)
            return flight, True

    def leave(self, key: str, flight: Flight[T]) -> None:
        with self._lock:
            flight.aboard -= 1
            empty = not flight.aboard
            if empty and self._flights.get(key) is flight:
                del self._flights[key]
        if empty:
            flight.close()


class AsyncFlight(Generic[T]):
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


class AsyncFlights(Generic[T]):
    """The flights of all event loops by what they ask."""

    def __init__(self) -> None:
        # two loops in two threads use different keys, and one dict operation is atomic
        self._flights: dict[tuple[int, str], AsyncFlight[T]] = {}

    def join(
        self, key: str, source: Callable[[Outcome], AsyncGenerator[T, None]]
    ) -> tuple[AsyncFlight[T], bool]:
        """The flight that asks `key`, and whether the caller leads it. Then `leave` it."""
        place = _place(key)
        flight = self._flights.get(place)
        if flight is not None and not flight.over:
            flight.aboard += 1
            return flight, False
        flight = self._flights[place] = AsyncFlight(source)
        return flight, True

    async def leave(self, key: str, flight: AsyncFlight[T]) -> None:
        place = _place(key)
        flight.aboard -= 1
        if flight.aboard:
            return
        if self._flights.get(place) is flight:
            del self._flights[place]
        await flight.close()


def _place(key: str) -> tuple[int, str]:
    return id(asyncio.get_running_loop()), key

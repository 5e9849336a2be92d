"""One computation per key: callers that ask for the same thing at once share the first's answer."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

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

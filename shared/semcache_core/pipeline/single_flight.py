"""One call for all callers that ask for the same thing at the same time.

The first caller is the leader; it starts a `SharedCall`. Callers that come before the call has
ended are waiters: they get the leader's outcome. Nothing is remembered after the end.

`SingleFlight` is for threads, `AsyncSingleFlight` for asyncio. `run` shares one value; `join` and
`leave` share a stream of items, which the leader reads while waiters wait for its end.
"""

import asyncio
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Iterator,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from semcache_core.types import Lookup

T = TypeVar("T")


@dataclass
class Outcome:
    """What a call hands to its waiters when it has ended: a value, or an answer with its lookup.

    Without a text, the call ended with no answer that can be shared.
    """

    text: str | None = None
    lookup: Lookup | None = None
    value: Any = None


Source: TypeAlias = Callable[[Outcome], Generator[T, None, None]]
"""Starts the work of a call: yields its items, and fills the outcome before it ends."""

AsyncSource: TypeAlias = Callable[[Outcome], AsyncGenerator[T, None]]


class SharedCall(Generic[T]):
    """A call that several threads share: `items` is for the leader, `wait` for the waiters.

    One thread at a time runs the source: the first one that needs the next item.
    """

    def __init__(self, source: Source[T]) -> None:
        self.outcome = Outcome()
        self.error: BaseException | None = None
        self.over = False
        self.callers = 1
        self._source = source(self.outcome)
        self._ready: deque[T] = deque()
        self._pulling = False
        self._changed = threading.Condition()

    def items(self) -> Iterator[T]:
        """Yield the items as they come; raise what the source raises."""
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
        """Run the source to its end, or wait for the thread that does; errors are in `error`."""
        while not self.over:
            self._pull()

    def is_under_way(self) -> bool:
        return not self.over

    def wait_for_leader(self) -> None:
        """Wait until the leader has run the source to its end; errors are in `error`."""
        with self._changed:
            while not self.over:
                self._changed.wait()

    def close(self) -> None:
        """Stop the source, once no caller is left."""
        self._source.close()

    def _pull(self) -> None:
        """Fetch one more item, or wait while another thread does."""
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
            if not isinstance(error, Exception):  # such as KeyboardInterrupt: for this thread only
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


class _Call(Protocol):
    callers: int

    def is_under_way(self) -> bool: ...


C = TypeVar("C", bound=_Call)


class _CallsUnderWay(Generic[C]):
    """The calls that callers on several threads may join, by key.

    A forked child needs an instance of its own: another thread may hold the lock at the fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Hashable, C] = {}

    def _join(self, key: Hashable, start: Callable[[], C]) -> tuple[C, bool]:
        """Return the call of `key`, and whether the caller leads it. The caller must leave it."""
        with self._lock:
            call = self._calls.get(key)
            if call is not None and call.is_under_way():
                call.callers += 1
                return call, False
            call = self._calls[key] = start()
            return call, True

    def _leave(self, key: Hashable, call: C) -> bool:
        """Leave a joined call; returns whether the caller was the last, who stops its source."""
        with self._lock:
            call.callers -= 1
            is_last = not call.callers
            if is_last and self._calls.get(key) is call:
                del self._calls[key]
        return is_last


class SingleFlight(_CallsUnderWay[SharedCall[T]], Generic[T]):
    """The shared calls of the threads of one process, by key."""

    def run(self, key: Hashable, create: Callable[[], T]) -> T:
        """Return the leader's value, or raise its error; only the leader calls `create`.

        Waiters get a RuntimeError where the leader was interrupted.
        """

        def source(outcome: Outcome) -> Generator[T, None, None]:
            outcome.value = create()
            yield from ()

        call, leads = self.join(key, source)
        try:
            if leads:
                call.wait()
            else:
                call.wait_for_leader()
        finally:
            self.leave(key, call)
        if call.error is None:
            value: T = call.outcome.value
            return value
        if isinstance(call.error, Exception):
            raise call.error
        raise RuntimeError(f"aborted: {call.error!r}")

    def join(self, key: Hashable, source: Source[T]) -> tuple[SharedCall[T], bool]:
        """Return the call of `key`, and whether the caller leads it. The caller must `leave` it."""
        return self._join(key, partial(SharedCall, source))

    def leave(self, key: Hashable, call: SharedCall[T]) -> None:
        """Leave a joined call; the last caller stops its source."""
        if self._leave(key, call):
            call.close()


LEADER_CHECK_SECONDS = 1.0
"""How often a waiter in another event loop looks whether the leader's loop still runs."""


class AsyncSharedCall(Generic[T]):
    """A call that several tasks share, in one event loop or in several; see `SharedCall`.

    The source runs in a task of its own, in the leader's loop: cancelling one caller harms no
    other, and a provider's stream is never continued in a task that did not begin it.
    """

    def __init__(self, source: AsyncSource[T]) -> None:
        self.outcome = Outcome()
        self.error: BaseException | None = None
        self.over = False
        self.callers = 1
        self._loop = asyncio.get_running_loop()
        self._elsewhere: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._ready: deque[T] = deque()
        self._waiters = 0
        self._wanted, self._news = asyncio.Event(), asyncio.Event()
        self._task = asyncio.ensure_future(self._run(source(self.outcome)))

    async def items(self) -> AsyncIterator[T]:
        """Yield the items as they come; raise what the source raises."""
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

    async def wait(self) -> bool:
        """Wait until the source has ended; errors are in `error`.

        False where the leader's loop is another one, and has stopped before: ask again.
        """
        if self.is_in_this_loop():
            self._count_waiter(1)
            try:
                while not self.over:
                    await self._news.wait()
            finally:
                self._count_waiter(-1)
            return True
        ended = self._told_when_over()
        self._in_its_loop(self._count_waiter, 1)
        try:
            while not ended.done() and self.is_under_way():
                await asyncio.wait([ended], timeout=LEADER_CHECK_SECONDS)
        finally:
            self._in_its_loop(self._count_waiter, -1)
        return self.over

    async def close(self) -> None:
        """Stop the source, once no caller is left, and wait until it has stopped.

        It is not waited for in another event loop than its own.
        """
        if self.over:
            return
        self._in_its_loop(self._task.cancel)
        if self.is_in_this_loop():
            await asyncio.wait([self._task])

    def is_in_this_loop(self) -> bool:
        return self._loop is asyncio.get_running_loop()

    def is_under_way(self) -> bool:
        """False when it is over, and when the leader's loop has stopped without ending it."""
        return not self.over and self._loop.is_running()

    def _count_waiter(self, more: int) -> None:
        self._waiters += more
        self._wanted.set()

    def _in_its_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        if self.is_in_this_loop():
            call(*arguments)
            return
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def _told_when_over(self) -> "asyncio.Future[None]":
        """A future of the present loop that is done when the call is over."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def end() -> None:
            if not ended.done():  # nor cancelled
                ended.set_result(None)

        def tell() -> None:
            with suppress(RuntimeError):  # this loop is closed: nobody waits any more
                loop.call_soon_threadsafe(end)

        with self._lock:
            if not self.over:
                self._elsewhere.append(tell)
                return ended
        ended.set_result(None)
        return ended

    async def _run(self, source: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    self._ready.append(item)
                    self._notify()
                    self._wanted.clear()
                    if not self._waiters:  # no further than the leader reads
                        await self._wanted.wait()
        except BaseException as error:  # noqa: BLE001 - the callers raise it
            self.error = error
        finally:
            with self._lock:
                self.over = True
            self._notify()
            for tell in self._elsewhere:
                tell()

    def _notify(self) -> None:
        self._news.set()  # wakes all who wait at this moment
        self._news.clear()


class AsyncSingleFlight(_CallsUnderWay[AsyncSharedCall[T]], Generic[T]):
    """The shared calls of all event loops of one process, by key; see `SingleFlight`."""

    async def run(self, key: Hashable, create: Callable[[], Awaitable[T]]) -> T:
        """Return the one value that `create` gives for all callers, or raise its error.

        When the last caller is cancelled, `create` is cancelled too.
        """

        async def source(outcome: Outcome) -> AsyncGenerator[T, None]:
            outcome.value = await create()
            no_items: tuple[T, ...] = ()
            for item in no_items:
                yield item

        while True:
            call, _ = self.join(key, source)
            try:
                ended = await call.wait()
            finally:
                await self.leave(key, call)
            if ended and call.error is None:
                value: T = call.outcome.value
                return value
            if ended and (isinstance(call.error, Exception) or call.is_in_this_loop()):
                assert call.error is not None
                raise call.error
            # the loop of the leader ended before its call: ask again, in this loop

    def join(self, key: Hashable, source: AsyncSource[T]) -> tuple[AsyncSharedCall[T], bool]:
        """Return the call of `key`, and whether the caller leads it. The caller must `leave` it."""
        return self._join(key, partial(AsyncSharedCall, source))

    async def leave(self, key: Hashable, call: AsyncSharedCall[T]) -> None:
        """Leave a joined call; the last caller stops its source."""
        if self._leave(key, call):
            await call.close()

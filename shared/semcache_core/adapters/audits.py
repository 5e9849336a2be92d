"""Audits: asks the model, in the background, a question that was just answered by a hit."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context

from semcache_core.cache import SemanticCache
from semcache_core.errors import SemcacheError

AT_ONCE = 2
"""The most audits at a time, in threads and in each event loop."""

_NAME = "semcache audit"


class Audits:
    """Runs audits in the background; no caller waits for one.

    While AT_ONCE are running, the next is skipped: a queue would grow without end where hits come
    faster than the model answers. An audit has an empty context, as frameworks find the callbacks
    of the app's run there: no handler, trace or stream shows it. Errors and skipped audits are
    counted in `stats().failures["audit"]`.
    """

    def __init__(self, cache: SemanticCache) -> None:
        self._cache = cache
        self._slots: dict[int, threading.Semaphore] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, audit: Callable[[], None]) -> None:
        """Run `audit` in a daemon thread."""
        with self._cache.failing_open("audit"):
            slots = self._of_this_process()
            if not slots.acquire(blocking=False):
                raise _skipped()
            run, arguments = Context().run, (self._run, audit, slots)
            try:
                threading.Thread(target=run, args=arguments, name=_NAME, daemon=True).start()
            except RuntimeError:  # no more threads, or the interpreter is going down
                slots.release()
                raise

    def astart(self, audit: Callable[[], Awaitable[None]]) -> None:
        """Run `audit` in a task of the running event loop, which ends with the loop."""
        with self._cache.failing_open("audit"):
            loop = asyncio.get_running_loop()
            if self._running_in(loop) >= AT_ONCE:
                raise _skipped()
            task = Context().run(asyncio.create_task, self._arun(audit), name=_NAME)
            self._tasks.add(task)  # the loop holds only a weak reference
            task.add_done_callback(self._tasks.discard)

    def _run(self, audit: Callable[[], None], slots: threading.Semaphore) -> None:
        try:
            with self._cache.failing_open("audit"):
                audit()
        finally:
            slots.release()

    async def _arun(self, audit: Callable[[], Awaitable[None]]) -> None:
        with self._cache.failing_open("audit"):
            await audit()

    def _of_this_process(self) -> threading.Semaphore:
        """A forked child has none of the threads that would give a slot back."""
        pid = os.getpid()
        return self._slots.get(pid) or self._slots.setdefault(pid, threading.Semaphore(AT_ONCE))

    def _running_in(self, loop: asyncio.AbstractEventLoop) -> int:
        own = 0
        for task in list(self._tasks):  # another loop's thread may add one meanwhile
            if task.get_loop().is_closed():  # it will never end
                self._tasks.discard(task)
            own += task.get_loop() is loop
        return own


def _skipped() -> SemcacheError:
    return SemcacheError(
        f"a hit was not audited, as {AT_ONCE} audits are running already; "
        "lower audit_rate where this happens often"
    )

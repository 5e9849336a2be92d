"""A cache in one process: opens the engine at first use, lets it go, and handles a fork."""

import asyncio
import contextvars
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from semcache_core.embedding.cpu import usable_cores
from semcache_core.errors import LedgerError, SemcacheError
from semcache_core.observability.gauges import Levels
from semcache_core.observability.metrics import Telemetry
from semcache_core.pipeline.counters import Counters
from semcache_core.pipeline.engine import Engine, EngineOptions, open_engine
from semcache_core.pipeline.explain import read_levels
from semcache_core.pipeline.single_flight import AsyncSingleFlight, SingleFlight
from semcache_core.storage.ledger import Ledger

T = TypeVar("T")

ASYNC_THREADS = 32
"""Threads for the async methods when each may wait for a remote embedder."""

RETRY_SECONDS = 10.0
"""Between two tries to open a ledger that was lost while the cache was open."""

_CLOSED = "this cache is closed; open a new SemanticCache"

_INHERITED: list[object] = []
"""What a forked child must never close, and so never drop."""


class Process:
    """What a cache holds in one process: the engine, threads, counts, calls under way.

    The engine is opened at first use, and again in a forked child or when another file takes the
    place of the ledger.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        named = options.settings.namespace_in_telemetry
        self.telemetry = Telemetry(weakref.WeakMethod(self.levels), named)
        self.counters = Counters(self.telemetry.failed)
        self.finalizer: weakref.finalize[..., Any] | None = None
        self._closed = False
        self._problem = ""
        self._begin()

    def _begin(self) -> None:
        """Start without an engine: when the cache is made, and in a forked child."""
        self.engine: Engine | None = None
        self.retry_at = 0.0
        self._opening = threading.Lock()
        own = self.options.embedder is None
        # Few for the shipped model: on two cores 4 threads made 299 lookups a second and stalled
        # the event loop by 17 ms at most, 32 made 189 and stalled it by 147 ms.
        self._threads = ThreadPoolExecutor(usable_cores() + 2 if own else ASYNC_THREADS, "semcache")
        self.flights: SingleFlight[str] = SingleFlight()
        self.async_flights: AsyncSingleFlight[str] = AsyncSingleFlight()

    def use(self) -> Engine:
        """The engine, opened if need be."""
        engine = self.engine
        if engine is not None and engine.ledger.displaced:
            self._let_go(engine)
            engine = self.engine
        if engine is None:
            engine = self._open()
        if not engine.background.started:
            engine.background.start()
        return engine

    def _open(self) -> Engine:
        with self._opening:
            if self._closed:
                raise SemcacheError(_CLOSED)
            if self.engine is None:
                self.engine = self._opened()
                if self.finalizer is not None:
                    self.finalizer.detach()
                # also when the cache is dropped, or the interpreter ends, without close()
                self.finalizer = weakref.finalize(self, self.engine.close)
            engine = self.engine
        if engine.decider is None:
            self.counters.warn_once("exact only", engine.why_exact_only)
        return engine

    def _opened(self) -> Engine:
        """A new engine. After a failure it waits: each try would read the model's files again."""
        if time.monotonic() < self.retry_at:
            raise LedgerError(self._problem)
        try:
            return open_engine(self.options, self.telemetry, self.counters)
        except LedgerError as error:
            self._problem, self.retry_at = str(error), time.monotonic() + RETRY_SECONDS
            raise

    def _let_go(self, engine: Engine) -> None:
        """Close an engine whose ledger's file is gone; the next use opens a new one."""
        with self._opening:
            if self.engine is engine:
                self.engine = None
                # closed before another is opened, as only one at a time may own the index
                engine.close()

    def close(self) -> None:
        """Write what is pending and close the files. Closing twice does nothing."""
        self.telemetry.close()
        with self._opening:
            self._closed = True
            self.engine = None
        self._threads.shutdown(wait=False)
        if self.finalizer is not None:
            self.finalizer()

    def levels(self) -> Levels | None:
        """The gauges' values; None while no engine is open. It opens none."""
        if (engine := self.engine) is None:
            return None
        with self.counters.failing_open("telemetry"):
            return read_levels(engine)
        return None

    async def in_thread(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run `call` on one of the cache's threads, with the caller's context variables."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        if self._closed:
            raise SemcacheError(_CLOSED)  # the threads would raise a bare RuntimeError
        return await loop.run_in_executor(self._threads, lambda: context.run(call, *args, **kwargs))

    def forget(self) -> None:
        """Start anew in a forked child.

        A child has none of its parent's threads, may have inherited held locks, and must not
        touch the parent's SQLite or Chroma. What it inherited is kept and never closed: closing
        a connection that another process made is what corrupts it.
        """
        if self.finalizer is not None and (detached := self.finalizer.detach()) is not None:
            _INHERITED.append(detached[1])
        _INHERITED.append(self.options.chroma_client)
        self.options = replace(self.options, chroma_client=None)
        self.counters.reset()
        self._begin()

    def watch_forks(self) -> None:
        """Register the fork hooks. They cannot be removed, so they must not keep `self` alive."""
        reference = weakref.ref(self)
        forking = threading.Lock()
        left: list[Ledger] = []

        def before() -> None:
            forking.acquire()
            if (process := reference()) is not None and (engine := process.engine) is not None:
                left.append(engine.ledger)
                engine.ledger.before_fork()

        def in_parent() -> None:
            while left:
                left.pop().after_fork()
            forking.release()

        def in_child() -> None:
            forking.release()
            _INHERITED.extend(left)
            left.clear()
            if (process := reference()) is not None:
                process.forget()

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)

"""One `get_or_create`: the stored answer, else a computed one that is then stored."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from semcache_core.hits import last_lookup
from semcache_core.types import Hit, Lookup, Request, Usage


class Cache(Protocol):
    """What a computation needs of a `SemanticCache`."""

    def failing_open(self, operation: str, /) -> AbstractContextManager[None]: ...

    def lookup(self, request: Request, /) -> Hit | None: ...

    async def alookup(self, request: Request, /) -> Hit | None: ...

    def update(self, request: Request, response: str, /, *, usage: Usage) -> int | None: ...

    async def aupdate(self, request: Request, response: str, /, *, usage: Usage) -> int | None: ...


@dataclass
class Computation:
    """`decided` is the lookup that the caller is shown. An error of the cache is a miss."""

    cache: Cache
    request: Request
    decided: Lookup | None = None

    @property
    def again(self) -> Request:
        """For the look after waiting: what was withheld by meaning stays withheld."""
        return replace(self.request, exact_only=True)

    def stored(self) -> Hit | None:
        hit = self._look(self.request)
        self.decided = last_lookup()
        return hit

    async def astored(self) -> Hit | None:
        hit = await self._alook(self.request)
        self.decided = last_lookup()
        return hit

    def create(self, compute: Callable[[], str]) -> str:
        # again: the call before this one may have ended between our lookup and now
        if (hit := self._look(self.again)) is not None:
            self.decided = last_lookup()
            return hit.response
        started = time.perf_counter()
        response = compute()
        usage = Usage(seconds=time.perf_counter() - started)
        with self.cache.failing_open("update"):
            self.cache.update(self.request, response, usage=usage)
        return response

    async def acreate(self, compute: Callable[[], Awaitable[str]]) -> str:
        if (hit := await self._alook(self.again)) is not None:
            self.decided = last_lookup()
            return hit.response
        started = time.perf_counter()
        response = await compute()
        usage = Usage(seconds=time.perf_counter() - started)
        with self.cache.failing_open("update"):
            await self.cache.aupdate(self.request, response, usage=usage)
        return response

    def _look(self, request: Request) -> Hit | None:
        with self.cache.failing_open("lookup"):
            return self.cache.lookup(request)
        return None

    async def _alook(self, request: Request) -> Hit | None:
        with self.cache.failing_open("lookup"):
            return await self.cache.alookup(request)
        return None

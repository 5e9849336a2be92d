"""One `get_or_create`: the stored answer, else a computed one that is then stored."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from semcache_core.hits import last_lookup
from semcache_core.types import Hit, Lookup, Request, Usage

T = TypeVar("T")


class Cache(Protocol):
    """What a computation needs of a `SemanticCache`."""

    def failing_open(self, operation: str, /) -> AbstractContextManager[None]: ...

    async def in_thread(self, call: Callable[..., T], /, *args: Any) -> T: ...

    def lookup(self, request: Request, /) -> Hit | None: ...

    async def alookup(self, request: Request, /) -> Hit | None: ...

    def update(self, request: Request, response: str, /, *, usage: Usage) -> int | None: ...

    async def aupdate(self, request: Request, response: str, /, *, usage: Usage) -> int | None: ...


@dataclass
class Computation:
    """`decided` is the lookup that the caller is shown. An error of the cache is a miss.

    `look_again` is a lookup whose miss is not counted: the one before it was a miss already.
    """

    cache: Cache
    request: Request
    look_again: Callable[[Request], Lookup]
    decided: Lookup | None = None

    def stored(self) -> Hit | None:
        hit = None
        with self.cache.failing_open("lookup"):
            hit = self.cache.lookup(self.request)
        self.decided = last_lookup()
        return hit

    async def astored(self) -> Hit | None:
        hit = None
        with self.cache.failing_open("lookup"):
            hit = await self.cache.alookup(self.request)
        self.decided = last_lookup()
        return hit

    def create(self, compute: Callable[[], str]) -> str:
        # the call before this one may have ended between our lookup and now
        with self.cache.failing_open("lookup"):
            if (hit := self._found(self.look_again(self._again))) is not None:
                return hit.response
        started = time.perf_counter()
        response = compute()
        usage = Usage(seconds=time.perf_counter() - started)
        with self.cache.failing_open("update"):
            self.cache.update(self.request, response, usage=usage)
        return response

    async def acreate(self, compute: Callable[[], Awaitable[str]]) -> str:
        with self.cache.failing_open("lookup"):
            decided = await self.cache.in_thread(self.look_again, self._again)
            if (hit := self._found(decided)) is not None:
                return hit.response
        started = time.perf_counter()
        response = await compute()
        usage = Usage(seconds=time.perf_counter() - started)
        with self.cache.failing_open("update"):
            await self.cache.aupdate(self.request, response, usage=usage)
        return response

    @property
    def _again(self) -> Request:
        """What was withheld by meaning stays withheld."""
        return replace(self.request, exact_only=True)

    def _found(self, decided: Lookup) -> Hit | None:
        if decided.hit is not None:
            self.decided = decided
        return decided.hit

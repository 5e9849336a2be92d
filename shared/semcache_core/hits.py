"""The hits that an app got: the last one, and all within a block."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from semcache_core.types import Hit

_MOST_PARENTS = 8


@dataclass(eq=False)
class _LastHit:
    """The last hit of one thread or task, which copies of its context share."""

    owner: object
    hit: Hit | None
    parents: "tuple[_LastHit, ...]" = ()


_LAST: ContextVar[_LastHit | None] = ContextVar("semcache_last_hit", default=None)
_TRACKED: ContextVar[tuple[list[Hit], ...]] = ContextVar("semcache_tracked_hits", default=())


def last_hit() -> Hit | None:
    """Return the hit that answered the last call of this thread or task; None: the model did.

    It is right, or None where it cannot be known, and never that of an earlier call. It is None
    after calls in other tasks or threads, such as LangChain's batches, or the `ainvoke` of a plain
    model with a cache; and after a chain, where the thread or task made no call before it. Use
    `track_hits` for these.
    """
    last = _LAST.get()
    return last.hit if last is not None and last.owner is _present() else None


def set_last_hit(hit: Hit | None) -> None:
    """Set what `last_hit()` returns in this thread or task.

    In a copy of the context, such as a step of a chain has, it is set for the whole thread or task.
    A task does not know whether what a task of its own asked was its last call, so it gets None.
    """
    last, present = _LAST.get(), _present()
    parents = () if last is None else (last, *last.parents)
    if last is not None and last.owner is present:
        last.hit, parents = hit, last.parents
    else:
        _LAST.set(_LastHit(present, hit, parents[:_MOST_PARENTS]))
    for parent in parents:
        parent.hit = None


@contextmanager
def track_hits() -> Iterator[list[Hit]]:
    """Collect the hits of all calls within this block, in the order in which they were served.

    Calls in tasks and threads count too that get a copy of this context, as those of LangChain,
    LlamaIndex, asyncio and `asyncio.to_thread` do. A call that the model answered adds nothing.
    """
    hits: list[Hit] = []
    token = _TRACKED.set((*_TRACKED.get(), hits))
    try:
        yield hits
    finally:
        _TRACKED.reset(token)


def hit_served(hit: Hit | None) -> None:
    """Set the last hit, and add it to all lists that collect hits here."""
    set_last_hit(hit)
    if hit is not None:
        for hits in _TRACKED.get():
            hits.append(hit)


def _present() -> object:
    """The present task, or the thread where there is none."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        task = None
    return threading.current_thread() if task is None else task

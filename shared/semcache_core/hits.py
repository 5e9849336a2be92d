"""What the cache decided for an app: the last lookup, and all hits within a block."""

import asyncio
import threading
from asyncio.events import _get_running_loop
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from semcache_core.types import Hit, Lookup, Why

_MOST_PARENTS = 8


SERVED: dict[str, Why] = {
    "exact": Why("exact", "the question is the same"),
    "semantic": Why("semantic", "a stored question is near enough"),
}
NOT_CACHED = Lookup(
    None,
    Why(
        "not_cached",
        "this call is not cached: an argument or a message hides its fields, a tool of "
        "uncached_tools was called, or its tenant is unknown; the log says which",
    ),
)
BYPASS = Lookup(None, Why("bypass", "this call was asked to bypass the cache"))
REFRESH = Lookup(None, Why("refresh", "this call was asked to refresh what is stored"))
FAILED = Lookup(
    None,
    Why("failed", "the cache failed, so the model was asked; see the log and stats().failures"),
)


@dataclass(eq=False)
class _Last:
    """The last lookup of one thread or task, which copies of its context share."""

    owner: object
    lookup: Lookup | None
    parents: "tuple[_Last, ...]" = ()


_LAST: ContextVar[_Last | None] = ContextVar("semcache_last_lookup", default=None)
_TRACKED: ContextVar[tuple[list[Hit], ...]] = ContextVar("semcache_tracked_hits", default=())


def last_lookup() -> Lookup | None:
    """Return what the cache decided in the last call of this thread or task, hit or miss, and why.

    It is right, or None where it cannot be known, and never that of an earlier call. It is None
    after calls in other tasks or threads, such as LangChain's batches, or the `ainvoke` of a plain
    model with a cache; and after a chain, where the thread or task made no call before it.
    """
    last = _LAST.get()
    return last.lookup if last is not None and last.owner is _present() else None


def last_hit() -> Hit | None:
    """Return the hit that answered the last call of this thread or task; None: the model did.

    None also where `last_lookup()` is not known. Use `track_hits` for calls in chains, batches,
    other tasks and threads.
    """
    lookup = last_lookup()
    return None if lookup is None else lookup.hit


def set_last_lookup(lookup: Lookup | None) -> None:
    """Set what `last_lookup()` returns in this thread or task.

    In a copy of the context, such as a step of a chain has, it is set for the whole thread or task.
    A task does not know whether what a task of its own asked was its last call, so it gets None.
    """
    last, present = _LAST.get(), _present()
    if last is not None and last.owner is present:
        last.lookup, parents = lookup, last.parents
    else:
        parents = () if last is None else (last, *last.parents)
        _LAST.set(_Last(present, lookup, parents[:_MOST_PARENTS]))
    for parent in parents:
        parent.lookup = None


def set_last_hit(hit: Hit | None) -> None:
    """Set what `last_hit()` returns in this thread or task; without a hit, nothing is known."""
    set_last_lookup(None if hit is None else Lookup(hit, SERVED[hit.kind]))


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


def call_answered(lookup: Lookup | None) -> None:
    """Set the last lookup, and add its hit to all lists that collect hits here."""
    set_last_lookup(lookup)
    if lookup is not None and lookup.hit is not None:
        for hits in _TRACKED.get():
            hits.append(lookup.hit)


def _present() -> object:
    """The present task, or the thread where there is none."""
    loop = _get_running_loop()  # unlike the public one, it raises nothing, which takes longer
    task = None if loop is None else asyncio.current_task(loop)
    return threading.current_thread() if task is None else task

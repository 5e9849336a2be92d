"""How one call uses the cache: as always, past it, or past what is stored."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from semcache_core.types import CallMode, Request

_MODE: ContextVar[CallMode] = ContextVar("semcache_call_mode", default="normal")


def refreshing() -> AbstractContextManager[None]:
    """Ask the model in calls within this block, and store its answers in place of older ones.

    For an app that could not use the answer it got. It concerns this thread or task, and tasks and
    threads that it starts with a copy of its context.
    """
    return _in_mode("refresh")


def bypassing() -> AbstractContextManager[None]:
    """Ask the model in calls within this block, and neither read nor write the cache."""
    return _in_mode("bypass")


def mode_of(request: Request) -> CallMode:
    """The mode of the request itself, else that of the present block."""
    return _MODE.get() if request.mode == "normal" else request.mode


@contextmanager
def _in_mode(mode: CallMode) -> Iterator[None]:
    token = _MODE.set(mode)
    try:
        yield
    finally:
        _MODE.reset(token)

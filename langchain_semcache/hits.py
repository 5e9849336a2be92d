"""How an app learns that an answer came from the cache: in the answer, by `last_hit()`, and by a
callback event.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.outputs import ChatGeneration, Generation
from semcache_core import Hit

METADATA_KEY = "semcache"
EVENT = "semcache_hit"

_last: ContextVar[Hit | None] = ContextVar("semcache_last_hit", default=None)


def last_hit() -> Hit | None:
    """The hit that answered the last call of this thread or task; None if the model answered.

    A task that another one starts has a context of its own: what it was answered with cannot be
    seen outside. So it is with `astream_events`, batches, steps of a chain, and LangChain's
    `ainvoke` of a plain model with a cache: there only `response_metadata["semcache"]` tells.
    """
    return _last.get()


def note(hit: Hit | None) -> None:
    """Make `hit` what `last_hit()` gives from here on."""
    _last.set(hit)


def described(hit: Hit | None) -> dict[str, str | float | int | None]:
    """What an app and its traces may see of a hit: no question and no answer of another caller.

    Without a hit, it is of an answer that the model just gave to another one who asked the same.
    """
    if hit is None:
        return {"kind": "shared", "probability": 1.0, "age_s": 0.0, "entry_id": None}
    return {
        "kind": hit.kind,
        "probability": hit.probability,
        "age_s": hit.age_s,
        "entry_id": hit.entry_id,
    }


def mark(generations: Sequence[Generation], hit: Hit | None) -> None:
    """Say in each message's `response_metadata["semcache"]` where the answer came from."""
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            generation.message.response_metadata[METADATA_KEY] = described(hit)


@dataclass(frozen=True)
class Run:
    """Who hears of what happens in a LangChain run, and how they know the run."""

    id: UUID
    handlers: list[BaseCallbackHandler]
    tags: list[str] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def announce(self, hit: Hit) -> None:
        """A custom event `semcache_hit` for handlers, tracers and `astream_events`."""
        handle_event(*self._event(hit), **self._known_by())

    async def aannounce(self, hit: Hit) -> None:
        """See `announce`."""
        await ahandle_event(*self._event(hit), **self._known_by())

    def _event(self, hit: Hit) -> tuple[Any, ...]:
        return self.handlers, "on_custom_event", "ignore_custom_event", EVENT, described(hit)

    def _known_by(self) -> dict[str, Any]:
        return {"run_id": self.id, "tags": self.tags, "metadata": dict(self.metadata)}

"""How LangChain tells an app of a hit, besides `last_hit()`: in the answer, and by an event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.outputs import ChatGeneration, Generation
from semcache_core import Hit
from semcache_core.adapters import described

METADATA_KEY = "semcache"
EVENT = "semcache_hit"


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

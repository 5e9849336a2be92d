"""How an app sees a hit: by an event, and in the answer."""

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from semcache_core import Hit
from semcache_core.adapters import described

MARK = "semcache"
"""Where `raw` of a served response holds the hit."""

_dispatcher = get_dispatcher(__name__)


class SemcacheHitEvent(BaseEvent):
    """The event of a hit, without the question and the answer.

    The model's own events, which count tokens and draw traces, come with its own answers only.
    """

    kind: str
    """"exact" or "semantic"."""

    probability: float
    """The probability that the answer is right."""

    age_s: float
    """Seconds since it was stored."""

    entry_id: int
    """For `SemanticCache.feedback`."""

    @classmethod
    def class_name(cls) -> str:
        return "SemcacheHitEvent"


def announce(hit: Hit) -> None:
    """Send the event of a hit to LlamaIndex's event handlers, within the span of the call."""
    _dispatcher.event(SemcacheHitEvent.model_validate(described(hit)))


def marked(hit: Hit | None) -> dict[str, object]:
    """Return `raw` of a served response. The provider's `raw` is an object of its own, with the
    costs of that call, and is not stored.
    """
    return {MARK: described(hit)}

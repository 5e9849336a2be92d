"""How an app learns that an answer came from the cache: by an event, and in the answer."""

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]
from semcache_core import Hit
from semcache_core.adapters import described

MARK = "semcache"
"""Where `raw` of a served response tells of the hit."""

_dispatcher = get_dispatcher(__name__)


class SemcacheHitEvent(BaseEvent):
    """An answer came from the cache. It names no question and no answer.

    The model's own events, by which tokens are counted and traces drawn, come with its own answers
    only: of a hit there is nothing but this one.
    """

    kind: str
    """"exact" or "semantic"."""

    probability: float
    """That the answer is right."""

    age_s: float
    """Seconds since it was stored."""

    entry_id: int
    """For `SemanticCache.feedback`."""

    @classmethod
    def class_name(cls) -> str:
        return "SemcacheHitEvent"


def announce(hit: Hit) -> None:
    """Tell LlamaIndex's event handlers of a hit, within the span of the call."""
    _dispatcher.event(
        SemcacheHitEvent(
            kind=hit.kind,
            probability=hit.probability,
            age_s=hit.age_s,
            entry_id=hit.entry_id,
        )
    )


def marked(hit: Hit | None) -> dict[str, object]:
    """`raw` of a served response. What a provider said there is not stored: it is an object of its
    own, and says what that call cost.
    """
    return {MARK: described(hit)}

"""What an app learns of a hit: by `last_hit()`, and by what an answer and an event say of it."""

from contextvars import ContextVar

from semcache_core.types import Hit

_last: ContextVar[Hit | None] = ContextVar("semcache_last_hit", default=None)


def last_hit() -> Hit | None:
    """The hit that answered the last call of this thread or task; None if the model answered.

    A task that another one starts has a context of its own: what it was answered with cannot be
    seen outside. There only the answer itself tells. So it is with LangChain's `astream_events`,
    batches, steps of a chain, and the `ainvoke` of a plain model with a cache.
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

"""Spans: one lookup or update in a trace of the app's own."""

from types import TracebackType
from typing import Any, Literal, TypeAlias

from opentelemetry import context, trace
from typing_extensions import Self

from semcache_core.types import Hit

Stage: TypeAlias = Literal["find", "embed", "retrieve", "judge", "verify"]
"""Of a lookup: the exact key, the question as a vector, candidates, their weighing, a verifier."""


class Span:
    """A span that is recorded, and current while it lasts: what an embedder asks over a network
    then shows below it.
    """

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def looked_up(self, hit: Hit | None, nearest: float | None) -> None:
        """How a lookup ended; `nearest` is the cosine of the nearest entry, where there is one."""
        described: dict[str, Any] = {"semcache.result": "miss" if hit is None else hit.kind}
        if hit is not None and hit.kind == "semantic":
            described["semcache.probability"] = round(hit.probability, 3)
            described["semcache.audited"] = hit.audited
            nearest = hit.similarity
        if nearest is not None:
            described["semcache.similarity"] = round(nearest, 3)
        self._span.set_attributes(described)

    def updated(self, result: str) -> None:
        self._span.set_attribute("semcache.result", result)

    def event(self, stage: Stage, seconds: float) -> None:
        self._span.add_event(stage, {"semcache.duration": seconds})

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Of an error only the kind is told: its text may hold the question."""
        context.detach(self._token)
        if kind is not None:
            self._span.set_attribute("error.type", kind.__qualname__)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


class NoSpan:
    """In place of a span that nobody records."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


NO_SPAN = NoSpan()

"""Spans: one lookup or update in the app's own trace."""

import time
from contextlib import nullcontext
from typing import Any, Literal, TypeAlias

from opentelemetry import context, trace
from typing_extensions import Self

from semcache_core.types import Hit

Stage: TypeAlias = Literal["find", "embed", "retrieve", "judge", "verify"]
"""A stage of a lookup: the exact key, the embedding, the candidates, their scores, a verifier."""

Stages: TypeAlias = list[tuple[Stage, float]]
"""The stages of one lookup so far, and when each ended, by `time.perf_counter`."""


class Span:
    """A span that is recorded. It is current while it lasts, so that spans of a remote embedder
    lie below it.
    """

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def looked_up(self, hit: Hit | None, nearest: float | None) -> None:
        """Record how a lookup ended; `nearest` is the cosine of the nearest entry, if any."""
        described: dict[str, Any] = {"semcache.result": "miss" if hit is None else hit.kind}
        if hit is not None and hit.kind == "semantic":
            described["semcache.probability"] = round(hit.probability, 3)
            described["semcache.audited"] = hit.audited
            nearest = hit.similarity
        if nearest is not None:
            described["semcache.similarity"] = round(nearest, 3)
        self._span.set_attributes(described)

    def updated(self, result: str) -> None:
        """Record whether the answer was stored or refused."""
        self._span.set_attribute("semcache.result", result)

    def event(self, stage: Stage, seconds: float, ended: float) -> None:
        """Record a stage that took `seconds` and `ended` by `time.perf_counter`."""
        ago = int((time.perf_counter() - ended) * 1e9)
        self._span.add_event(stage, {"semcache.duration": seconds}, time.time_ns() - ago)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Record only the type of an error: its text may hold the question."""
        context.detach(self._token)
        if kind is not None:
            self._span.set_attribute("error.type", kind.__qualname__)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


NO_SPAN: nullcontext[None] = nullcontext()
"""In place of a span that nobody records."""

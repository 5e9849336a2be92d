"""Counters and histograms of one cache for OpenTelemetry. No question or answer is recorded.

Every call does nothing until the app sets up an SDK.
"""

import math
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import get_args

from opentelemetry import metrics, trace

from semcache_core.costs import Saved
from semcache_core.observability.gauges import Gauges, Levels
from semcache_core.observability.tracing import NO_SPAN, Span, Stage, Stages
from semcache_core.types import Reason

BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
"""Bounds in seconds, from an exact hit to a slow verifier. OpenTelemetry's defaults are made for
milliseconds: they would put every lookup into the first bucket.
"""

_COUNTERS = {
    "lookups": ("{lookup}", "Lookups by result"),
    "updates": ("{update}", "Answers to store"),
    "failures": ("{failure}", "Errors the app did not see"),
    "withheld": ("{hit}", "Hits by meaning that were not served, to ask the model"),
    "audits": ("{hit}", "Hits by meaning that were sampled for an audit"),
    "judgements": ("{judgement}", "Answers found right or wrong, by who judged"),
    "evictions": ("{entry}", "Entries that went by themselves, by reason"),
    "saved.tokens": ("{token}", "Tokens that hits saved, where known"),
    "saved.cost": ("{cost}", "What hits saved, in the unit of the prices"),
    "saved.seconds": ("s", "Time of the model that hits saved, where known"),
}
"""Their units and descriptions."""


class Telemetry:
    """Metrics and spans of one cache, under the meter and the tracer `semcache`.

    `levels` gives the values of the gauges, see `Gauges`. With `namespaces`, lookups and updates
    carry the tenant's name.
    """

    def __init__(
        self,
        levels: "weakref.WeakMethod[Callable[[], Levels | None]]",
        namespaces: bool = False,
    ) -> None:
        self._namespaces = namespaces
        self._tracer: trace.Tracer | None = None
        self._look_at = -math.inf
        meter = metrics.get_meter("semcache")
        self._counters = {
            name: meter.create_counter(f"semcache.{name}", unit, description)
            for name, (unit, description) in _COUNTERS.items()
        }
        time_of = partial(
            meter.create_histogram, unit="s", explicit_bucket_boundaries_advisory=BUCKETS
        )
        self._duration = time_of("semcache.lookup.duration", description="Time a lookup took")
        self._stages = time_of(
            "semcache.stage.duration", description="Time a stage of a lookup took"
        )
        self._gauges = Gauges(levels, meter)

    # -- lookups and updates -------------------------------------------------------------------

    def span(self, name: str, started: float, namespace: str) -> "Span | nullcontext[None]":
        """A context manager that gives the span, or None where nobody records it.

        `started` is a time by `time.perf_counter`.
        """
        tracer = self._tracer
        if tracer is None and started >= self._look_at:
            tracer = self._look_for_tracer(started)
        if tracer is None:
            return NO_SPAN
        span = tracer.start_span(name, attributes=self._named(namespace))
        return Span(span) if span.is_recording() else NO_SPAN

    def looked_up(self, result: str, seconds: float, namespace: str) -> None:
        """`result` is exact, semantic or miss."""
        attributes = _OF_RESULT[result]
        self._duration.record(seconds, attributes)
        self._counters["lookups"].add(
            1, {**attributes, **self._named(namespace)} if self._namespaces else attributes
        )

    def stages(self, started: float, stages: Stages, span: Span | None) -> None:
        """Record the stages of a lookup, of which the first began at `started`."""
        for stage, ended in stages:
            seconds, started = ended - started, ended
            self._stages.record(seconds, _OF_STAGE[stage])
            if span is not None:
                span.event(stage, seconds, ended)

    def updated(self, result: str, namespace: str, span: Span | None) -> None:
        """`result` is stored or refused."""
        self._counters["updates"].add(1, {"semcache.result": result, **self._named(namespace)})
        if span is not None:
            span.updated(result)

    def _look_for_tracer(self, now: float) -> trace.Tracer | None:
        """The app's tracer, if there is one by now. Asked for once a second, as the question takes
        a twentieth of the time of an exact lookup.
        """
        self._look_at = now + 1.0
        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            self._tracer = provider.get_tracer("semcache")
        return self._tracer

    def _named(self, namespace: str) -> dict[str, str]:
        return {"semcache.namespace": namespace} if self._namespaces else {}

    # -- other events --------------------------------------------------------------------------

    def failed(self, operation: str) -> None:
        """Count an error that the app did not see."""
        self._counters["failures"].add(1, {"semcache.operation": operation})

    def sampled(self, source: str, withheld: bool) -> None:
        """Count a hit by meaning that was sampled, and whether it was withheld for that."""
        if withheld:
            self._counters["withheld"].add(1, {"semcache.source": source})
        if source == "audit":
            self._counters["audits"].add(1)

    def judged(self, source: str, correct: bool) -> None:
        """Count a verdict on a served answer; `source` says who gave it."""
        self._counters["judgements"].add(
            1, {"semcache.source": source, "semcache.correct": correct}
        )

    def evicted(self, reason: Reason, count: int) -> None:
        self._counters["evictions"].add(count, {"semcache.reason": reason})

    def saved(self, saved: Saved) -> None:
        """Count what hits saved, when they are written to the ledger."""
        if saved.tokens_in is not None:
            self._counters["saved.tokens"].add(saved.tokens_in, _INPUT)
        if saved.tokens_out is not None:
            self._counters["saved.tokens"].add(saved.tokens_out, _OUTPUT)
        if saved.cost is not None:
            self._counters["saved.cost"].add(saved.cost)
        if saved.seconds is not None:
            self._counters["saved.seconds"].add(saved.seconds)

    def close(self) -> None:
        self._gauges.close()


_OF_RESULT = {result: {"semcache.result": result} for result in ("exact", "semantic", "miss")}
_OF_STAGE: dict[Stage, dict[str, str]] = {
    stage: {"semcache.stage": stage} for stage in get_args(Stage)
}
_INPUT, _OUTPUT = {"gen_ai.token.type": "input"}, {"gen_ai.token.type": "output"}

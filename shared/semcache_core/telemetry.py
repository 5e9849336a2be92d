"""OpenTelemetry instruments. Without an SDK installed by the app, each call does nothing."""

from opentelemetry import metrics


class Telemetry:
    """Counters and a histogram under the meter `semcache`; never a question or an answer."""

    def __init__(self) -> None:
        meter = metrics.get_meter("semcache")
        self._lookups = meter.create_counter(
            "semcache.lookups", unit="{lookup}", description="Lookups by result"
        )
        self._duration = meter.create_histogram(
            "semcache.lookup.duration", unit="s", description="Time a lookup took"
        )
        self._failures = meter.create_counter(
            "semcache.failures", unit="{failure}", description="Errors the app did not see"
        )

    def looked_up(self, result: str, seconds: float) -> None:
        """`result` is exact, semantic or miss."""
        attributes = {"semcache.result": result}
        self._lookups.add(1, attributes)
        self._duration.record(seconds, attributes)

    def failed(self, operation: str) -> None:
        self._failures.add(1, {"semcache.operation": operation})

"""OpenTelemetry: results and failures are counted, and no text leaves the process."""

from typing import Any

import pytest
from conftest import Bench
from fakes import FailingEmbedder
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from semcache_core import Request


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives what was recorded: {metric: {attributes: count}}."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)

    def read() -> dict[str, dict[Any, Any]]:
        data: Any = reader.get_metrics_data()
        return {
            metric.name: {
                tuple(point.attributes.items()): getattr(point, "value", None) or point.count
                for point in metric.data.data_points
            }
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    yield read
    provider.shutdown()


def test_lookups_are_counted_by_result(recorded: Any, bench: Bench) -> None:
    cache = bench.open()
    cache.update(Request("one two three"), "a")
    for question in ("one two three", "three two one", "else", "one three two", "other"):
        cache.lookup(Request(question))
    found = recorded()
    expected = {
        (("semcache.result", "exact"),): 1,
        (("semcache.result", "semantic"),): 2,
        (("semcache.result", "miss"),): 2,
    }
    assert found["semcache.lookups"] == expected
    assert found["semcache.lookup.duration"] == expected


def test_failures_are_counted_by_operation(recorded: Any, bench: Bench) -> None:
    cache = bench.open(embedder=FailingEmbedder(error=OSError("down")))
    assert cache.get_or_create(Request("q"), lambda: "a") == "a"
    assert recorded()["semcache.failures"] == {(("semcache.operation", "update"),): 1}


def test_no_question_and_no_answer_is_recorded(recorded: Any, bench: Bench) -> None:
    cache = bench.open()
    cache.update(Request("secretquestion", "secretscope", "secrettenant"), "secretanswer")
    cache.lookup(Request("secretquestion", "secretscope", "secrettenant"))
    assert "secret" not in repr(recorded())

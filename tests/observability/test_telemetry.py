"""OpenTelemetry: what happens is counted, timed and traced, and no text leaves the process."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import Async, FailingEmbedder, Sync
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import REGISTRY, generate_latest
from semcache_core import Prices, Request, SemanticCache, SemcacheError, Usage
from semcache_core.errors import LedgerError
from semcache_core.observability.gauges import READ_EVERY_SECONDS, Gauges, Levels
from semcache_core.request import key_of
from semcache_core.storage.ledger import Ledger
from semcache_core.testing import engine_of, run_background_round
from semcache_core.types import EMPTY, Generation

Metrics = Callable[[], dict[str, dict[Any, Any]]]
Spans = Callable[[], list[ReadableSpan]]
BY_MEANING = "three two one"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    """A function that gives what was recorded: {metric: {attributes: value or count}}."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)

    def read() -> dict[str, dict[Any, Any]]:
        data: Any = reader.get_metrics_data()
        return {
            metric.name: {
                tuple(point.attributes.items()): getattr(point, "value", None)
                if hasattr(point, "value")
                else point.count
                for point in metric.data.data_points
            }
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    yield read
    provider.shutdown()


def _provider(exporter: InMemorySpanExporter, **options: Any) -> TracerProvider:
    provider = TracerProvider(**options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """A function that gives the spans that have ended."""
    exporter = InMemorySpanExporter()
    provider = _provider(exporter)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield lambda: list(exporter.get_finished_spans())
    provider.shutdown()


def _gauge(found: dict[str, dict[Any, Any]], name: str) -> dict[str, float]:
    """A gauge's values by ledger, or by estimate where there is one."""
    by: dict[str, float] = {}
    for attributes, value in found.get(f"semcache.{name}", {}).items():
        named = dict(attributes)
        by[named.get("semcache.estimate", named["semcache.ledger"])] = value
    return by


class TestCounters:
    def test_lookups_are_counted_and_timed_by_result(self, recorded: Metrics, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("one two three"), "a")
        for question in ("one two three", BY_MEANING, "else", "one three two", "other"):
            cache.lookup(Request(question))
        found = recorded()
        expected = {
            (("semcache.result", "exact"),): 1,
            (("semcache.result", "semantic"),): 2,
            (("semcache.result", "miss"),): 2,
        }
        assert found["semcache.lookups"] == expected
        assert found["semcache.lookup.duration"] == expected

    def test_stages_are_timed_as_far_as_a_lookup_went(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open()
        cache.update(Request("one two three"), "a")
        cache.lookup(Request("one two three"))  # exact: no stage but the only one
        cache.lookup(Request("one", "another scope"))
        cache.lookup(Request(BY_MEANING))
        assert recorded()["semcache.stage.duration"] == {
            (("semcache.stage", "find"),): 2,
            (("semcache.stage", "embed"),): 1,
            (("semcache.stage", "retrieve"),): 1,
            (("semcache.stage", "judge"),): 1,
        }

    def test_a_verifier_that_is_asked_is_a_stage(self, recorded: Metrics, bench: Bench) -> None:
        class Agreeing:
            def verify(self, asked: str, stored: str, response: str) -> float:
                return 1.0

        cache = bench.open(verifier=Agreeing())
        cache.update(Request("a b c d e f"), "a")
        hit = cache.lookup(Request("a b c d e z"))
        assert hit is not None
        assert recorded()["semcache.stage.duration"][(("semcache.stage", "verify"),)] == 1

    def test_updates_are_counted_by_whether_they_were_stored(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open(admit=lambda request, response: response != "no")
        for response in ("a", "b", "no"):
            cache.update(Request(response), response)
        assert recorded()["semcache.updates"] == {
            (("semcache.result", "stored"),): 2,
            (("semcache.result", "refused"),): 1,
        }

    def test_failures_are_counted_by_operation(self, recorded: Metrics, bench: Bench) -> None:
        cache = bench.open(embedder=FailingEmbedder(error=OSError("down")))
        assert cache.get_or_create(Request("q"), lambda: "a") == "a"
        found = recorded()
        assert found["semcache.failures"] == {(("semcache.operation", "update"),): 1}
        assert "semcache.updates" not in found

    def test_an_audit_that_withholds_is_counted_and_so_is_its_judgement(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open(audit_rate=1.0)
        cache.update(Request("one two three"), "a")
        assert cache.lookup(Request(BY_MEANING)) is None
        cache.update(Request(BY_MEANING), "something else entirely")
        found = recorded()
        assert found["semcache.withheld"] == {(("semcache.source", "audit"),): 1}
        assert found["semcache.audits"] == {(): 1}
        judged = (("semcache.source", "audit"), ("semcache.correct", False))
        assert found["semcache.judgements"] == {judged: 1}

    def test_an_audit_behind_the_user_withholds_nothing(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open(audit_rate=1.0)
        cache.update(Request("one two three"), "a")
        assert cache.lookup(Request(BY_MEANING), audits=True) is not None
        cache.audited(Request(BY_MEANING), "a")
        found = recorded()
        assert "semcache.withheld" not in found
        assert found["semcache.audits"] == {(): 1}
        judged = (("semcache.source", "audit"), ("semcache.correct", True))
        assert found["semcache.judgements"] == {judged: 1}

    def test_shadow_mode_withholds_and_audits_nothing(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open(shadow=True)
        cache.update(Request("one two three"), "a")
        cache.lookup(Request(BY_MEANING))
        found = recorded()
        assert found["semcache.withheld"] == {(("semcache.source", "shadow"),): 1}
        assert "semcache.audits" not in found

    def test_feedback_is_a_judgement(self, recorded: Metrics, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("one two three"), "a")
        hit = cache.lookup(Request(BY_MEANING))
        assert hit is not None
        cache.feedback(hit.entry_id, correct=False)
        judged = (("semcache.source", "feedback"), ("semcache.correct", False))
        assert recorded()["semcache.judgements"] == {judged: 1}

    def test_what_hits_save_is_counted_where_it_is_known(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open(prices=Prices({"m": (1_000_000, 0)}))
        cache.update(Request("one"), "a", usage=Usage("m", 10, 20, 1.5))
        cache.update(Request("two"), "a")
        for question in ("one", "one", "two"):
            cache.lookup(Request(question))
        run_background_round(cache)
        found = recorded()
        assert found["semcache.saved.tokens"] == {
            (("gen_ai.token.type", "input"),): 20,
            (("gen_ai.token.type", "output"),): 40,
        }
        assert found["semcache.saved.cost"] == {(): 20}
        assert found["semcache.saved.seconds"] == {(): 3.0}

    def test_evictions_are_counted_by_reason(self, recorded: Metrics, bench: Bench) -> None:
        cache = bench.open(max_entries=2)
        cache.update(Request("short"), "a", ttl=5)
        cache.update(Request("long"), "a")
        bench.clock.now += 10
        for question in ("third", "fourth", "fifth"):
            cache.update(Request(question), "a")
        cache.update(Request("short again"), "a", ttl=5)
        bench.clock.now += 10
        run_background_round(cache)
        assert recorded()["semcache.evictions"] == {
            (("semcache.reason", "expired"),): 2,
            (("semcache.reason", "space"),): 3,
        }


class TestNamespaces:
    def test_no_tenant_is_named_unless_asked_for(
        self, recorded: Metrics, spans: Spans, bench: Bench
    ) -> None:
        cache = bench.open()
        cache.update(Request("one", namespace="acme"), "a")
        cache.lookup(Request("one", namespace="acme"))
        assert "acme" not in repr(recorded()) + repr([s.attributes for s in spans()])

    def test_a_tenant_is_named_where_it_is_asked_for(
        self, recorded: Metrics, spans: Spans, bench: Bench
    ) -> None:
        cache = bench.open(namespace_in_telemetry=True)
        cache.update(Request("one", namespace="acme"), "a")
        cache.lookup(Request("one", namespace="acme"))
        found, named = recorded(), ("semcache.namespace", "acme")
        assert found["semcache.lookups"] == {(("semcache.result", "exact"), named): 1}
        assert found["semcache.updates"] == {(("semcache.result", "stored"), named): 1}
        assert all(named in (s.attributes or {}).items() for s in spans())


class TestGauges:
    @pytest.fixture(autouse=True)
    def _no_caches_of_other_tests(self) -> None:
        """One that was dropped without `close` is shown until it is collected."""
        gc.collect()

    def test_they_show_the_ledger(self, recorded: Metrics, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("one two three"), "a")
        cache.update(Request("gone"), "a", ttl=5)
        bench.clock.now += 10
        cache.lookup(Request(BY_MEANING))
        found = recorded()
        file = str(bench.path / "ledger.sqlite3")
        assert _gauge(found, "entries") == {file: 1}
        assert _gauge(found, "entries.size") == {file: engine_of(cache).ledger.space().bytes}
        assert _gauge(found, "disk.size")[file] == cache.sizes()["bytes"] > 0
        assert _gauge(found, "index.lag") == {file: 0}
        wrong = _gauge(found, "wrong_hits")
        assert wrong["bound"] == 0.02
        assert wrong["claimed"] == pytest.approx(cache.stats().claimed_error)
        assert wrong.keys() == {"bound", "claimed"}

    def test_what_audits_measured_is_shown_with_its_interval(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open(audit_rate=1.0)
        cache.update(Request("one two three"), "a")
        cache.lookup(Request(BY_MEANING), audits=True)
        cache.audited(Request(BY_MEANING), "a")
        wrong, measured = _gauge(recorded(), "wrong_hits"), cache.stats().measured
        assert measured.n == 1
        shown = wrong["measured"], wrong["measured_low"], wrong["measured_high"]
        assert shown == (0.0, measured.low, measured.high)

    def test_what_another_process_measured_is_shown(self, recorded: Metrics, bench: Bench) -> None:
        with bench.open(audit_rate=1.0) as cache:
            cache.update(Request("one two three"), "a")
            cache.lookup(Request(BY_MEANING), audits=True)
            cache.audited(Request(BY_MEANING), "something else entirely")
        bench.open()
        assert _gauge(recorded(), "wrong_hits")["measured"] == 1.0

    @pytest.mark.usefixtures("still")
    def test_lag_is_what_the_index_lacks_where_one_is_due(
        self, recorded: Metrics, bench: Bench
    ) -> None:
        cache = bench.open(scan_limit=3)
        for question in ("one", "two", "three"):
            cache.update(Request(question), "a")
            cache.update(Request(question, "small scope"), "a")
        ledger, fingerprint = engine_of(cache).ledger, engine_of(cache).embedder.fingerprint
        assert ledger.index_state(fingerprint).not_indexed(3) == 0
        fourth = cache.update(Request("four"), "a")
        assert _gauge(recorded(), "index.lag") == {str(bench.path / "ledger.sqlite3"): 4}
        assert fourth is not None
        partition = key_of(Request("four"), "default").partition
        ledger.index_state(fingerprint).advance(partition, EMPTY, Generation(0, fourth - 2, 2))
        assert ledger.index_state(fingerprint).not_indexed(3) == 1
        assert (
            ledger.index_state(fingerprint).not_indexed(10) == 1
        )  # what the index holds it must follow
        assert ledger.index_state("another model").not_indexed(0) == 0

    def test_quick_collections_read_the_ledger_once(
        self, recorded: Metrics, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = bench.open()
        now = [100.0]
        monkeypatch.setattr(cache._process.telemetry._gauges, "_clock", lambda: now[0])
        reads: list[float] = []
        count = Ledger.count
        monkeypatch.setattr(
            Ledger, "count", lambda self, **told: reads.append(now[0]) or count(self, **told)
        )
        for now[0] in (100.0, 100.0 + READ_EVERY_SECONDS - 1, 100.0 + READ_EVERY_SECONDS):
            recorded()
        assert reads == [100.0, 100.0 + READ_EVERY_SECONDS]

    def test_a_closed_cache_reports_nothing(self, recorded: Metrics, bench: Bench) -> None:
        cache = bench.open()
        assert _gauge(recorded(), "entries")
        cache.close()
        assert _gauge(recorded(), "entries") == {}

    def test_a_gauge_does_not_keep_a_cache_alive(self, recorded: Metrics, tmp_path: Path) -> None:
        dropped = weakref.ref(SemanticCache(path=tmp_path))
        gc.collect()
        assert dropped() is None
        assert _gauge(recorded(), "entries") == {}

    def test_every_ledger_is_shown_and_each_once(self, recorded: Metrics, bench: Bench) -> None:
        first, same = bench.open(), bench.open()
        other = bench.open(path=bench.directory / "other")
        bench.open(path=None)
        for cache in (first, other, other):
            cache.update(Request(f"one {id(cache)} {cache.stats().updates}"), "a")
        file = "ledger.sqlite3"
        shown = {str(bench.path / file): 1, str(bench.directory / "other" / file): 2, "memory": 0}
        assert _gauge(recorded(), "entries") == shown
        same.close()  # the first is still open
        assert _gauge(recorded(), "entries") == shown

    def test_a_broken_ledger_fails_open_and_is_counted(
        self, recorded: Metrics, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = bench.open()

        def broken(*_: object, **__: object) -> int:
            raise LedgerError("disk gone")

        monkeypatch.setattr(Ledger, "count", broken)
        assert _gauge(recorded(), "entries") == {}
        assert cache.stats().failures == {"telemetry": 1}
        assert recorded()["semcache.failures"] == {(("semcache.operation", "telemetry"),): 1}


class TestSpans:
    def test_a_lookup_by_meaning_tells_its_evidence_and_stages(
        self, spans: Spans, bench: Bench
    ) -> None:
        cache = bench.open()
        cache.update(Request("one two three"), "a")
        hit = cache.lookup(Request(BY_MEANING))
        update, lookup = spans()
        assert hit is not None
        assert (update.name, lookup.name) == ("semcache.update", "semcache.lookup")
        assert update.attributes == {"semcache.result": "stored"}
        assert lookup.attributes == {
            "semcache.result": "semantic",
            "semcache.similarity": round(hit.similarity, 3),
            "semcache.probability": round(hit.probability, 3),
            "semcache.audited": False,
        }
        assert [event.name for event in lookup.events] == ["find", "embed", "retrieve", "judge"]
        durations = [(event.attributes or {})["semcache.duration"] for event in lookup.events]
        assert all(isinstance(one, float) and one >= 0 for one in durations)

    def test_an_exact_hit_and_an_empty_scope_tell_no_similarity(
        self, spans: Spans, bench: Bench
    ) -> None:
        cache = bench.open()
        cache.update(Request("one"), "a")
        cache.lookup(Request("one"))
        cache.lookup(Request("one", "elsewhere"))
        told = [s.attributes for s in spans()[1:]]
        assert told == [{"semcache.result": "exact"}, {"semcache.result": "miss"}]

    def test_a_miss_tells_how_near_the_nearest_was(self, spans: Spans, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("one two three"), "a")
        nearest = cache.explain(Request("one two four")).candidates[0]
        assert cache.lookup(Request("one two four")) is None
        assert spans()[1].attributes == {
            "semcache.result": "miss",
            "semcache.similarity": round(nearest.similarity, 3),
        }

    def test_a_refused_answer_is_told(self, spans: Spans, bench: Bench) -> None:
        bench.open(admit=lambda request, response: False).update(Request("one"), "a")
        assert spans()[0].attributes == {"semcache.result": "refused"}

    def test_of_an_error_only_the_kind_is_told(self, spans: Spans, bench: Bench) -> None:
        cache = bench.open(embedder=FailingEmbedder(error=SemcacheError("secret")))
        with pytest.raises(SemcacheError):
            cache.update(Request("secret"), "a")
        (update,) = spans()
        assert update.attributes == {"error.type": "SemcacheError"}
        assert update.status.status_code is trace.StatusCode.ERROR
        assert "secret" not in update.to_json()

    @pytest.mark.parametrize("form", [Sync, Async])
    async def test_it_lies_below_the_span_of_its_caller_and_above_the_embedders(
        self, form: type[Sync], spans: Spans, bench: Bench
    ) -> None:
        class Remote(FailingEmbedder):
            def embed(self, texts: list[str]) -> Any:
                with tracer.start_as_current_span("http"):
                    return super().embed(texts)

        tracer = trace.get_tracer_provider().get_tracer("app")
        cache = bench.open(embedder=Remote())
        cache.update(Request("one two three"), "a")
        with tracer.start_as_current_span("app"):
            await form(cache)("lookup", Request(BY_MEANING))
            assert trace.get_current_span().get_span_context().is_valid
        http, lookup, app = spans()[-3:]
        assert (http.name, lookup.name, app.name) == ("http", "semcache.lookup", "app")
        assert http.parent is not None and lookup.parent is not None and lookup.context is not None
        assert http.parent.span_id == lookup.context.span_id
        assert lookup.parent == app.context
        assert not trace.get_current_span().get_span_context().is_valid

    def test_nothing_is_told_where_nobody_records(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exporter = InMemorySpanExporter()
        provider = _provider(exporter, sampler=ALWAYS_OFF)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
        cache = bench.open()
        cache.update(Request("one"), "a")
        assert cache.lookup(Request("one")) is not None
        assert exporter.get_finished_spans() == ()

    def test_tracing_that_is_set_up_after_the_cache_is_found(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = bench.open()
        ticks = iter(range(0, 10**6, 2))
        monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
        cache.lookup(Request("one"))
        exporter = InMemorySpanExporter()
        provider = _provider(exporter)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
        cache.lookup(Request("one"))
        assert [span.name for span in exporter.get_finished_spans()] == ["semcache.lookup"]

    def test_to_explain_leaves_no_trace(
        self, recorded: Metrics, spans: Spans, bench: Bench
    ) -> None:
        cache = bench.open()
        cache.update(Request("one two three"), "a")
        cache.explain(Request(BY_MEANING))
        assert [span.name for span in spans()] == ["semcache.update"]
        assert not recorded().keys() & {"semcache.lookups", "semcache.stage.duration"}


def test_no_question_answer_scope_or_tenant_is_recorded(
    recorded: Metrics, spans: Spans, bench: Bench
) -> None:
    cache = bench.open(audit_rate=0.5, prices=Prices({"secretmodel": (1, 1)}))
    asked = ("secret question one", "secret one question", "secret question two", "secretly else")
    for question in asked:
        request = Request(question, "secretscope", "secrettenant", tags=("secrettag",))
        if cache.lookup(request) is None:
            cache.update(request, "secretanswer", usage=Usage("secretmodel", 1, 1))
    told = repr(recorded()) + "".join(span.to_json() for span in spans())
    assert "semcache.lookup" in told
    assert "secret" not in told


def test_a_prometheus_page_shows_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = MeterProvider([PrometheusMetricReader()])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    cache = bench.open()
    cache.update(Request("one"), "a", cost=5.0)
    cache.lookup(Request("one"))
    run_background_round(cache)
    page = generate_latest(REGISTRY).decode()
    provider.shutdown()  # and off the registry
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
    file = bench.path / "ledger.sqlite3"
    found = {
        name.split("{")[0]: value
        for name, value in values.items()
        if 'semcache_result="exact"' in name or f'semcache_ledger="{file}"' in name
    }
    assert float(found["semcache_lookups_total"]) == 1
    assert float(found["semcache_lookup_duration_seconds_count"]) == 1
    assert float(found["semcache_entries"]) == 1
    assert float(found["semcache_disk_size_bytes"]) > 0
    assert any(name.startswith("semcache_saved_cost") for name in values)


def test_without_a_cache_behind_it_there_is_nothing_to_show() -> None:
    class Owner:
        def levels(self) -> Levels | None:
            return Levels("l", 1, 1, 0, {})

    owner = Owner()
    gauges = Gauges(weakref.WeakMethod(owner.levels), metrics.get_meter("test"))
    del owner
    gc.collect()
    assert gauges.levels() is None

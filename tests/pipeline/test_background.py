"""The background thread: what it does each round, and that nothing ends it but `stop`."""

import gc
import threading
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Bench
from fakes import ManualClock, WordEmbedder
from semcache_core import Request, Saved
from semcache_core.errors import LedgerError
from semcache_core.pipeline.background import HitCounter
from semcache_core.storage.schema import Traffic
from semcache_core.testing import engine_of, run_background_round


class FakeLedger:
    def __init__(self) -> None:
        self.touched: list[dict[int, tuple[int, float]]] = []
        self.traffic: list[Traffic] = []
        self.entries = self
        self.broken = False

    def touch(self, used: dict[int, tuple[int, float]], traffic: Traffic) -> Saved:
        if self.broken:
            raise LedgerError("disk full")
        self.touched.append(used)
        self.traffic.append(traffic)
        return Saved()


def test_hits_are_summed_up_and_flushed_once() -> None:
    touches, ledger = HitCounter(), FakeLedger()
    for entry_id, at in ((1, 5.0), (2, 6.0), (1, 4.0)):
        touches.add(entry_id, at)
    touches.flush(ledger)  # type: ignore[arg-type]
    touches.flush(ledger)  # type: ignore[arg-type]
    assert ledger.touched == [{1: (2, 5.0), 2: (1, 6.0)}, {}]


def test_lookups_are_written_as_counted_since_the_last_time_even_after_an_error() -> None:
    counted = Counter({"miss": 7})  # counted before, and by another ledger
    touches, ledger = HitCounter(counted=counted.copy, max_error_rate=0.1), FakeLedger()
    counted.update(["miss", "exact", "exact", "update"])
    ledger.broken = True
    with pytest.raises(LedgerError):
        touches.flush(ledger)  # type: ignore[arg-type]
    ledger.broken = False
    counted.update(["semantic"])
    touches.flush(ledger)  # type: ignore[arg-type]
    touches.flush(ledger)  # type: ignore[arg-type]
    assert ledger.traffic == [Traffic(2, 1, 1, 0.1), Traffic(0, 0, 0, 0.1)]


@pytest.mark.usefixtures("still")
class TestRound:
    def test_drops_what_has_expired(self, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("short"), "a", ttl=10)
        cache.update(Request("long"), "a", ttl=100)
        bench.clock.now += 10
        run_background_round(cache)
        assert engine_of(cache).ledger.count() == 1

    def test_writes_the_hits(self, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("q"), "a")
        for _ in range(3):
            assert cache.lookup(Request("q"))
        assert cache.sizes()["hits_ever"] == 0
        run_background_round(cache)
        assert cache.sizes()["hits_ever"] == 3

    @pytest.mark.parametrize("error", [LedgerError("disk full"), ZeroDivisionError("disk full")])
    def test_an_error_is_logged_once_and_the_next_round_tries_again(
        self,
        error: Exception,
        bench: Bench,
        monkeypatch: pytest.MonkeyPatch,
        warnings_of: Any,
    ) -> None:
        cache = bench.open()
        cache.update(Request("short"), "a", ttl=10)
        bench.clock.now += 10
        background = engine_of(cache).background
        with monkeypatch.context() as patched:

            def fail(now: float) -> int:
                raise error

            patched.setattr(engine_of(cache).ledger.entries, "delete_expired", fail)
            background.round()
            background.round()
        assert len(warnings_of("disk full")) == 1
        background.round()
        assert engine_of(cache).ledger.count() == 0

    def test_hits_that_could_not_be_written_are_written_later(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = bench.open()
        cache.update(Request("q"), "a")
        cache.lookup(Request("q"))
        with monkeypatch.context() as patched:

            def fail(*_: Any) -> None:
                raise LedgerError("locked")

            patched.setattr(engine_of(cache).ledger.entries, "touch", fail)
            run_background_round(cache)
        cache.lookup(Request("q"))
        run_background_round(cache)
        assert cache.sizes()["hits_ever"] == 2

    def test_closing_writes_the_last_hits(self, bench: Bench) -> None:
        cache = bench.open()
        cache.update(Request("q"), "a")
        cache.lookup(Request("q"))
        cache.close()
        assert bench.open().sizes()["hits_ever"] == 1

    @pytest.mark.parametrize("by", ["a round", "closing"])
    def test_hits_by_meaning_are_written_with_what_was_asked(self, by: str, bench: Bench) -> None:
        cache = bench.open()
        entry_id = cache.update(Request("one two three"), "a")
        assert cache.lookup(Request("three two one")) is not None
        reader = engine_of(bench.open()).verdicts
        assert reader.last_served(entry_id or 0) is None
        if by == "a round":
            run_background_round(cache)
        else:
            cache.close()
        served = reader.last_served(entry_id or 0)
        assert served is not None and served.asked == "three two one"

    def test_one_entry_a_round_is_looked_at_for_what_it_answered(self, bench: Bench) -> None:
        cache = bench.open()
        background, looked_at = engine_of(cache).background, list[int]()
        background._hubs = SimpleNamespace(check=looked_at.append)  # type: ignore[assignment]
        for words in (["one", "two"], ["red", "blue"]):
            cache.update(Request(" ".join(words)), "a")
            assert cache.lookup(Request(" ".join(reversed(words)))) is not None
        for seen in (1, 2, 2):
            background.round()
            assert len(looked_at) == seen
        assert sorted(looked_at) == [1, 2]

    def test_an_embedder_that_fails_there_holds_up_nothing_else(
        self, bench: Bench, warnings_of: Any
    ) -> None:
        cache = bench.open()
        cache.update(Request("one two"), "a", ttl=10)
        cache.lookup(Request("two one"))

        def fail(entry_id: int) -> None:
            raise LedgerError("the embedder is down")

        background = engine_of(cache).background
        background._hubs = SimpleNamespace(check=fail)  # type: ignore[assignment]
        bench.clock.now += 10
        background.round()
        assert engine_of(cache).ledger.count() == 0
        assert len(warnings_of("the embedder is down")) == 1


def _upkeep_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name == "semcache-background"}


def test_the_thread_starts_with_the_first_use_and_ends_with_close(bench: Bench) -> None:
    before = _upkeep_threads()
    cache = bench.open()
    (thread,) = _upkeep_threads() - before
    cache.close()
    assert not thread.is_alive()


def test_the_thread_works_by_itself(bench: Bench) -> None:
    swept = threading.Event()
    cache = bench.open()
    cache.update(Request("q"), "a", ttl=10)
    ledger = engine_of(cache).ledger
    original = ledger.entries.delete_expired

    def delete_expired(now: float) -> int:
        gone = original(now)
        if gone:
            swept.set()
        return gone

    ledger.entries.delete_expired = delete_expired  # type: ignore[method-assign]
    bench.clock.now += 10
    assert swept.wait(30)


def test_a_dropped_cache_is_closed_without_close(bench: Bench) -> None:
    before = _upkeep_threads()
    cache = bench.open()
    bench.opened.clear()
    cache.update(Request("q"), "a")
    cache.lookup(Request("q"))
    (thread,) = _upkeep_threads() - before
    gone = weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not thread.is_alive()
    assert bench.open().sizes()["hits_ever"] == 1


def test_a_cache_may_be_collected_within_its_own_round(bench: Bench) -> None:
    """The garbage collector runs in whichever thread allocates, also in the upkeep's own."""
    dropped = threading.Event()
    finished = threading.Event()

    class Clock(ManualClock):
        def __call__(self) -> float:
            if threading.current_thread().name == "semcache-background" and armed:
                close = armed.pop()
                close()
                dropped.set()
            return self.now

    armed: list[Any] = []
    cache = bench.open(clock=Clock(), embedder=WordEmbedder())
    ledger = engine_of(cache).ledger
    original = ledger.close

    def close() -> None:
        original()
        finished.set()

    ledger.close = close  # type: ignore[method-assign]
    assert cache._process.finalizer is not None
    armed.append(cache._process.finalizer)
    assert dropped.wait(30)
    assert finished.wait(30)

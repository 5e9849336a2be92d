"""The cache against a dictionary: whatever is done in whatever order, both remember the same."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import ManualClock, WordEmbedder, calibrated
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from semcache_core import Request, SemanticCache
from semcache_core.upkeep import Upkeep

QUESTIONS = [f"alpha{n} beta{n} gamma{n}" for n in range(12)]
PERMUTED = [f"gamma{n} alpha{n} beta{n}" for n in range(12)]
NAMESPACES = ["default", "other"]
SCOPES = ["", "s"]
MAX_ENTRIES = 20

number = st.integers(0, len(QUESTIONS) - 1)
namespace = st.sampled_from(NAMESPACES)
scope = st.sampled_from(SCOPES)


@dataclass
class Remembered:
    response: str
    entry_id: int
    created: float
    expires: float | None
    used: float
    exact_only: bool
    tag: str


class CacheAsDict(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.artefact = calibrated(self.directory / "artefact")
        self.clock = ManualClock()
        self.model: dict[tuple[str, str, int], Remembered] = {}
        self.responses = 0
        self.cache = self.open()

    def open(self) -> SemanticCache:
        return SemanticCache(
            path=self.directory / "cache",
            embedder=WordEmbedder(),
            artefact=self.artefact,
            clock=self.clock,
            max_entries=MAX_ENTRIES,
            scan_limit=3,
        )

    def live(self, n: int, namespace: str, scope: str) -> Remembered | None:
        held = self.model.get((namespace, scope, n))
        if held is None or (held.expires is not None and held.expires <= self.clock.now):
            return None
        return held

    @rule(
        n=number,
        namespace=namespace,
        scope=scope,
        ttl=st.none() | st.sampled_from([5.0, 50.0]),
        exact_only=st.sampled_from([False, False, False, True]),
        tag=st.sampled_from(["red", "blue"]),
    )
    def update(
        self, n: int, namespace: str, scope: str, ttl: float | None, exact_only: bool, tag: str
    ) -> None:
        self.clock.now += 1  # so that no two entries were last used at one time
        self.responses += 1
        response = f"{namespace} {scope} {n} {self.responses}"
        request = Request(QUESTIONS[n], scope, namespace, exact_only=exact_only)
        entry_id = self.cache.update(request, response, ttl=ttl, tags=[tag])
        assert all(entry_id > held.entry_id for held in self.model.values())
        now = self.clock.now
        expires = None if ttl is None else now + ttl
        key = (namespace, scope, n)
        self.model[key] = Remembered(response, entry_id, now, expires, now, exact_only, tag)
        while len(self.model) > MAX_ENTRIES:
            del self.model[min(self.model, key=lambda k: self.model[k].used)]

    @rule(n=number, namespace=namespace, scope=scope, by_meaning=st.booleans())
    def lookup(self, n: int, namespace: str, scope: str, by_meaning: bool) -> None:
        self.clock.now += 1
        expected = self.live(n, namespace, scope)
        if by_meaning and expected is not None and expected.exact_only:
            expected = None
        question = (PERMUTED if by_meaning else QUESTIONS)[n]
        hit = self.cache.lookup(Request(question, scope, namespace))
        if expected is None:
            assert hit is None
            return
        assert hit is not None
        assert hit.kind == ("semantic" if by_meaning else "exact")
        assert (hit.response, hit.entry_id) == (expected.response, expected.entry_id)
        assert hit.age_s == self.clock.now - expected.created
        expected.used = self.clock.now

    @rule(n=number, namespace=namespace)
    def lookup_elsewhere(self, n: int, namespace: str) -> None:
        assert self.cache.lookup(Request(QUESTIONS[n], "never used", namespace)) is None
        assert self.cache.lookup(Request(PERMUTED[n], "", "nobody")) is None

    @rule(seconds=st.sampled_from([1.0, 5.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def upkeep(self) -> None:
        self.cache._use().upkeep.round()
        self.drop_expired()

    @precondition(lambda self: self.model)
    @rule()
    def index_all(self) -> None:
        self.cache._use().retrieval.found_large.set()
        self.upkeep()

    @rule(namespace=namespace)
    def clear(self, namespace: str) -> None:
        assume(len(self.model) > 8)
        gone = self.cache.clear(namespace)
        keys = [key for key in self.model if key[0] == namespace]
        # expired ones may or may not have been swept: the model sweeps only in upkeep
        assert gone == len(keys)
        for key in keys:
            del self.model[key]

    @rule(namespace=namespace, tag=st.sampled_from(["red", "blue"]))
    def invalidate(self, namespace: str, tag: str) -> None:
        assume(len(self.model) > 5)
        keys = [k for k, held in self.model.items() if k[0] == namespace and held.tag == tag]
        assert self.cache.invalidate(tags=[tag], namespace=namespace) == len(keys)
        for key in keys:
            del self.model[key]

    @rule(rebuild=st.sampled_from([False, False, True]))
    def reopen(self, rebuild: bool) -> None:
        self.cache.close()
        self.cache = self.open()
        if rebuild:
            assert self.cache.rebuild() == 0
            self.drop_expired()

    def drop_expired(self) -> None:
        now = self.clock.now
        for key, held in list(self.model.items()):
            if held.expires is not None and held.expires <= now:
                del self.model[key]

    @invariant()
    def holds_as_many(self) -> None:
        if hasattr(self, "cache"):
            live = sum(self.live(n, ns, s) is not None for ns, s, n in self.model)
            assert self.cache.stats().entries == live

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            shutil.rmtree(self.directory)


def test_the_cache_remembers_what_a_dictionary_would(monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(Upkeep, "start", lambda self: None)
    run_state_machine_as_test(
        CacheAsDict,
        settings=settings(
            max_examples=45,
            stateful_step_count=40,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

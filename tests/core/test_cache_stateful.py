"""The cache against a dictionary: whatever is done in whatever order, both remember the same."""

import math
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import ManualClock, WordEmbedder, calibrated
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from semcache_core import Hit, Request, SemanticCache
from semcache_core.pipeline.background import BackgroundWorker
from semcache_core.quality.entry_trust import doubt
from semcache_core.testing import engine_of, run_background_round
from state_machines import run_machine

pytestmark = pytest.mark.slow

QUESTIONS = [f"alpha{n} beta{n} gamma{n}" for n in range(12)]
PERMUTED = [
    [f"gamma{n} alpha{n} beta{n}", f"beta{n} gamma{n} alpha{n}"] for n in range(12)
]  # two ways to say the same
SAID_OTHERWISE = 4.0  # log-odds at a cosine of 1 by the calibration of the tests ...
NEEDED = 2.0  # ... and at .90, from where on it serves
NAMESPACES = ["default", "other"]
SCOPES = ["", "s"]
MAX_ENTRIES = 20

number = st.integers(0, len(QUESTIONS) - 1)
namespace = st.sampled_from(NAMESPACES)
scope = st.sampled_from(SCOPES)
wording = st.sampled_from([0, 1])


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
        self.quarantined: set[tuple[int, int]] = set()  # entry and wording
        self.judged: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        self.responses = 0
        self.cache = self.open()

    def place(self) -> dict[str, Any]:
        """Where this run keeps its entries: the same at every call."""
        return {"path": self.directory / "cache"}

    def open(self) -> SemanticCache:
        return SemanticCache(
            **self.place(),
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

    @rule(n=number, namespace=namespace, scope=scope)
    def lookup(self, n: int, namespace: str, scope: str) -> None:
        expected = self.live(n, namespace, scope)
        hit = self.found(Request(QUESTIONS[n], scope, namespace), expected)
        assert hit is None or hit.kind == "exact"

    @rule(n=number, namespace=namespace, scope=scope, way=wording)
    def lookup_by_meaning(self, n: int, namespace: str, scope: str, way: int) -> None:
        self.found_by_meaning(n, namespace, scope, way)

    def found_by_meaning(self, n: int, namespace: str, scope: str, way: int) -> Hit | None:
        expected = self.live(n, namespace, scope)
        if expected is not None and not self.serves_by_meaning(expected, way):
            expected = None
        hit = self.found(Request(PERMUTED[n][way], scope, namespace), expected)
        assert hit is None or hit.kind == "semantic"
        return hit

    def serves_by_meaning(self, held: Remembered, way: int) -> bool:
        known_wrong = (held.entry_id, way) in self.quarantined
        enough = SAID_OTHERWISE - doubt(self.judged[held.entry_id]) >= NEEDED
        return enough and not held.exact_only and not known_wrong

    def found(self, request: Request, expected: Remembered | None) -> Hit | None:
        self.clock.now += 1
        hit = self.cache.lookup(request)
        assert (hit is None) == (expected is None)
        if hit is not None and expected is not None:
            assert (hit.response, hit.entry_id) == (expected.response, expected.entry_id)
            assert hit.age_s == self.clock.now - expected.created
            expected.used = self.clock.now
        return hit

    @rule(
        n=number,
        namespace=namespace,
        scope=scope,
        way=wording,
        correct=st.booleans(),
        named=st.booleans(),
    )
    def judge(
        self, n: int, namespace: str, scope: str, way: int, correct: bool, named: bool
    ) -> None:
        hit = self.found_by_meaning(n, namespace, scope, way)
        if hit is None:
            return
        request = Request(PERMUTED[n][way], scope, namespace)
        self.cache.feedback(hit.entry_id, correct, request=request if named else None)
        probability = 1 / (1 + math.exp(-SAID_OTHERWISE))
        self.judged[hit.entry_id].append((probability, correct))
        if not correct:
            self.quarantined.add((hit.entry_id, way))

    @rule(n=number, namespace=namespace, scope=scope)
    def complain_of_its_own_answer(self, n: int, namespace: str, scope: str) -> None:
        assume(len(self.model) > 5)
        held = self.live(n, namespace, scope)
        if held is not None:
            self.cache.feedback(held.entry_id, request=Request(QUESTIONS[n], scope, namespace))
            del self.model[namespace, scope, n]

    @rule(n=number, namespace=namespace)
    def lookup_elsewhere(self, n: int, namespace: str) -> None:
        assert self.cache.lookup(Request(QUESTIONS[n], "never used", namespace)) is None
        assert self.cache.lookup(Request(PERMUTED[n][0], "", "nobody")) is None

    @rule(seconds=st.sampled_from([1.0, 5.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def upkeep(self) -> None:
        run_background_round(self.cache)
        self.drop_expired()

    @precondition(lambda self: self.model)
    @rule()
    def index_all(self) -> None:
        engine_of(self.cache).retriever.count_requested.set()
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


def run(machine: type[CacheAsDict], monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    monkeypatch.setattr(BackgroundWorker, "start", lambda self: None)
    run_machine(machine, examples, 40)


def test_the_cache_remembers_what_a_dictionary_would(monkeypatch: pytest.MonkeyPatch) -> None:
    run(CacheAsDict, monkeypatch, 45)

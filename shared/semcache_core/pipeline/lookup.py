"""A lookup: by the exact key, then by meaning; then a hit may be withheld or sampled."""

import time
from dataclasses import replace
from functools import partial

from semcache_core.decision.decide import Decision
from semcache_core.hits import BYPASS, REFRESH, SERVED
from semcache_core.observability.tracing import Stages
from semcache_core.pipeline.engine import Engine
from semcache_core.quality.verdicts import Source
from semcache_core.request import Key, key_of, mode_of, why_exact
from semcache_core.types import Hit, Lookup, Request, Why

EMPTY_SCOPE = Why(
    "empty_scope", "nothing is stored for this namespace and scope that may answer by meaning"
)
_UNREADABLE = Why(
    "unreadable",
    "the question is longer than what was calibrated, or has characters the model has no token for",
)
_OTHER_LANGUAGE = Why(
    "other_language",
    "the question is not in English, the language of the shipped model; see the guide on training",
)
_NO_QUESTION = Why("exact_only", "an empty question is never matched by meaning")
_WITHHELD = {
    "shadow": Why("withheld", "a stored question is near enough, but shadow mode serves nothing"),
    "audit": Why("withheld", "a stored question is near enough; the model is asked as an audit"),
}


def lookup(
    engine: Engine, request: Request, started: float, audits: bool = False, again: bool = False
) -> Lookup:
    """Look for the stored answer to this request, and count; see `SemanticCache.lookup`.

    `started` is when the call began, by `time.perf_counter`. A call past the cache is not counted,
    nor is a miss `again`: the lookup just before it was one.
    """
    if (mode := mode_of(request)) != "normal":
        return REFRESH if mode == "refresh" else BYPASS
    key, now = key_of(request, engine.settings.namespace), engine.clock()
    telemetry, stages = engine.telemetry, Stages()
    with telemetry.span("semcache.lookup", started, key.namespace) as span:
        try:
            decision = decide(engine, request, key, now, stages)
        finally:
            if stages:
                telemetry.stages(started, stages, span)
        hit, cause = hit_of(decision, now), decision.cause
        if hit is not None and decision.served is not None:
            hit = _unless_withheld(engine, key, request, decision, hit, now, audits)
            if hit is None:
                cause = _WITHHELD["shadow" if engine.settings.shadow else "audit"]
        elif hit is None and decision.near:
            engine.comparer.remember(key, decision.near, decision.held_back, "shadow")
        if hit is not None:
            engine.hit_counter.add(hit.entry_id, now)
        if span is not None:
            span.looked_up(hit, decision.near[0].similarity if decision.near else None)
    result = "miss" if hit is None else hit.kind
    if hit is not None or not again:
        engine.counters.add(result)
        telemetry.looked_up(result, time.perf_counter() - started, key.namespace)
    return Lookup(hit, cause)


def decide(engine: Engine, request: Request, key: Key, now: float, stages: Stages) -> Decision:
    """Find the entry to serve, by the exact key or by meaning; ended stages are appended."""
    entry = engine.ledger.lookups.find(key.exact, now)
    if entry is not None:
        return Decision(SERVED["exact"], entry=entry)
    stages.append(("find", time.perf_counter()))
    decider, embedder = engine.decider, engine.embedder
    if decider is None or is_only_exact(engine, request):
        # of the request only texts: the app may keep the cause longer than the cache
        asked = replace(request, parts=None)
        return Decision(partial(_why_only_exact, asked, engine.why_exact_only))
    if not engine.ledger.lookups.has_vectors(key.partition, embedder.fingerprint, now):
        return Decision(EMPTY_SCOPE)
    if not embedder.reads(request.question, engine.max_tokens):
        known = embedder.knows_language(request.question)
        return Decision(_UNREADABLE if known else _OTHER_LANGUAGE)
    with engine.gate:
        vector = engine.vector_cache.embed(embedder, request.question, key.namespace)
        stages.append(("embed", time.perf_counter()))
        return decider.decide(request, key, vector, now, stages)


def is_only_exact(engine: Engine, request: Request) -> bool:
    """Whether this request is only matched exactly."""
    return request.exact_only or engine.decider is None or not request.question.strip()


def _why_only_exact(request: Request, no_threshold: str) -> Why:
    if request.exact_only:
        reason = f"this request asks for an exact match only: {why_exact(request)}"
        return Why("exact_only", reason)
    if not request.question.strip():
        return _NO_QUESTION
    return Why("no_threshold", no_threshold)


def hit_of(decision: Decision, now: float) -> Hit | None:
    """The decision as a hit; None for a miss."""
    if (entry := decision.entry) is None:
        return None
    served = decision.served
    return Hit(
        response=entry.response,
        kind="exact" if served is None else "semantic",
        probability=1.0 if served is None else served.probability,
        similarity=1.0 if served is None else served.neighbour.similarity,
        question=entry.question,
        entry_id=entry.id,
        age_s=max(0.0, now - entry.created),
    )


def _unless_withheld(
    engine: Engine,
    key: Key,
    request: Request,
    decision: Decision,
    hit: Hit,
    now: float,
    audits: bool,
) -> Hit | None:
    """A hit by meaning; None where the model is to be asked in its place.

    All hits are withheld in shadow mode. A sampled one is withheld too, unless the caller `audits`.
    """
    assert decision.served is not None
    shadow, rate = engine.settings.shadow, engine.settings.audit_rate
    if shadow or (rate and engine.monitor.sampled(rate)):
        source: Source = "shadow" if shadow else "audit"
        withheld = shadow or not audits
        engine.comparer.remember(key, decision.near, decision.served, source)
        engine.telemetry.sampled(source, withheld)
        if withheld:
            engine.counters.add(f"withheld {source}")
            return None
        hit = replace(hit, audited=True)
    if engine.admission.redact is None or engine.admission.storable(request.question):
        engine.comparer.log_hit(key, request.question, decision.served, now)
    return hit

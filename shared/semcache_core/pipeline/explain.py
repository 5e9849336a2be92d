"""What `explain()` and `stats()` return, and the values of the gauges."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from semcache_core._utils.intervals import Measured
from semcache_core.costs import Saved
from semcache_core.decision.decide import Decision
from semcache_core.decision.guard import differences, read
from semcache_core.decision.scoring import sigmoid
from semcache_core.decision.verifier import VerificationCounts
from semcache_core.errors import LedgerError
from semcache_core.hits import BYPASS, REFRESH
from semcache_core.observability.gauges import Levels, estimates
from semcache_core.pipeline.engine import Engine
from semcache_core.pipeline.lookup import decide, hit_of, is_only_exact
from semcache_core.request import ANY_ORDER, DOCUMENTS, Key, key_of, mode_of, part_digests
from semcache_core.storage.lookups import RecentEntry
from semcache_core.types import Candidate, Hit, LookupCode, Request, Vector, Why

RECENT = 2000
"""Entries of a namespace among which `explain` looks for the same question, newest first."""
ALIKE = 0.5
"""P(same answer) without a rival, from which on two questions are called about the same."""

_LENGTHS = 0.2
"""How far the lengths of two texts with the same words may be apart."""
_MOST_READ = 20
"""Of the nearest by their vectors so many are read by the guard."""
ORDER_OF_TEXT = "order of the text"
_SHADOW = "shadow mode serves nothing by meaning"
_ELSEWHERE: tuple[LookupCode, ...] = (
    *("below_threshold", "empty_scope", "exact_only", "expired", "no_threshold", "unreadable"),
)
"""Misses that may be due to a part of the scope."""
_NEAR: tuple[LookupCode, ...] = (
    *("below_threshold", "deciding_word", "reported_wrong", "rival_answer"),
)
"""Misses that a higher error bound may turn into hits."""


@dataclass(frozen=True)
class Elsewhere:
    """About the same question, stored for the same tenant with another scope.

    `differs` names the parts of the scope that differ from those asked for: "system prompt",
    "history", "documents", "tools", "model", a parameter such as "temperature"; "scope" where they
    are not known. `similarity` is 1 for the same words.
    """

    question: str
    similarity: float
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Why a request hits or misses; `print` it to read it.

    `threshold` is the probability that `max_error_rate` asks for, None when only exact repeats
    are served. `candidates` are the nearest live entries, best first; empty where the lookup
    ended before it came to them. `scope_is_empty` says that this was for want of any entry with
    this namespace and scope; `hint` is what an adapter makes of that. `code` and `served_from` are
    those of `Why`. `elsewhere` is the nearest stored request that only its scope keeps from
    answering.
    """

    question: str
    hit: Hit | None
    reason: str
    threshold: float | None
    max_error_rate: float
    candidates: tuple[Candidate, ...]
    scope_is_empty: bool = False
    hint: str = ""
    code: LookupCode | None = None
    served_from: float | None = None
    elsewhere: Elsewhere | None = None

    def __str__(self) -> str:
        verdict = "miss" if self.hit is None else f"{self.hit.kind} hit"
        lines = [f'"{self.question}"', f"  {verdict}: {self.reason}"]
        if self.threshold is not None:
            # the audit may have raised it beyond any probability
            served = f"served at P(same answer) >= {self.threshold:.3f}"
            if self.threshold > 1:
                served = "nothing is served by meaning for now"
            lines.append(f"  {served}, for at most {self.max_error_rate:.1%} wrong")
        for candidate in self.candidates[:3]:
            evidence = [f"similarity {candidate.similarity:.3f}"]
            if candidate.margin:
                evidence.append(f"margin {candidate.margin:.3f}")
            evidence.extend(candidate.differences)
            lines.append(
                f"  {candidate.probability:.3f} ({', '.join(evidence)}) "
                f'"{candidate.entry.question}"'
            )
        if self.code in _NEAR:
            lines.append(
                "  no max_error_rate of the calibration would serve the nearest"
                if self.served_from is None
                else f"  the nearest would be served from max_error_rate={self.served_from:g} on"
            )
        if self.elsewhere is not None:
            lines.append(
                f"  stored with another {', '.join(self.elsewhere.differs)}: "
                f'"{self.elsewhere.question}" (similarity {self.elsewhere.similarity:.3f})'
            )
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


@dataclass(frozen=True)
class CacheStats:
    """Counts since this process opened the cache; `entries` is the live ones on its path, None
    when the ledger cannot be read.

    `failures` maps an operation to how often it failed open. `threshold` is the probability served
    at now, above the calibrated one where the audit raised it. `indexed_scopes` is how many scopes
    are searched through Chroma rather than scanned. `withheld` are hits by meaning that were not
    served, so that the model's answer shows whether they were right; `refused` are answers that
    `admit`, `redact` or a limit kept out. `claimed_error` is the mean of 1 - P over the last hits
    by meaning on this path, `measured` what the audits found; both are shares of the served.
    `saved` is what the hits of entries saved whose cost, tokens or seconds are known.
    `bytes` is what all entries take, as `max_bytes` counts it.
    """

    entries: int | None
    exact_hits: int
    semantic_hits: int
    misses: int
    updates: int
    failures: dict[str, int]
    max_error_rate: float
    threshold: float | None
    indexed_scopes: int
    withheld: int
    refused: int
    feedback: int
    claimed_error: float | None
    measured: Measured
    verification: VerificationCounts | None
    saved: Saved = field(default_factory=Saved)
    bytes: int | None = None
    max_bytes: int | None = None

    @property
    def lookups(self) -> int:
        return self.exact_hits + self.semantic_hits + self.misses

    @property
    def hit_rate(self) -> float:
        """Share of lookups that were hits; 0 before the first."""
        return (self.exact_hits + self.semantic_hits) / self.lookups if self.lookups else 0.0


def explain(engine: Engine, request: Request) -> Explanation:
    """Decide as a lookup does, and count nothing; see `SemanticCache.explain`."""
    key, now = key_of(request, engine.settings.namespace), engine.clock()
    decision, elsewhere = _decided(engine, request, key, now), None
    why = decision.why
    if decision.entry is None and why.code in _ELSEWHERE:
        recent = engine.ledger.lookups.recent(
            key.namespace, engine.embedder.fingerprint, RECENT, now
        )
        why = _refined(engine, key, why, recent)
        elsewhere = _elsewhere(engine, request, key, recent)
    return Explanation(
        question=request.question,
        hit=hit_of(decision, now),
        reason=why.reason,
        threshold=engine.served_at(),
        max_error_rate=engine.settings.max_error_rate,
        candidates=tuple(_candidates(engine, decision, key, now)),
        scope_is_empty=why.code == "empty_scope",
        code=why.code,
        served_from=why.served_from,
        elsewhere=elsewhere,
    )


def _decided(engine: Engine, request: Request, key: Key, now: float) -> Decision:
    if (mode := mode_of(request)) != "normal":
        return Decision((REFRESH if mode == "refresh" else BYPASS).cause)
    decision = decide(engine, request, key, now, [])
    if engine.settings.shadow and decision.served is not None:
        why = Why("withheld", f"{decision.reason}, but {_SHADOW}")
        return replace(decision, cause=why, entry=None)
    return decision


def _refined(engine: Engine, key: Key, why: Why, recent: Sequence[RecentEntry]) -> Why:
    """Say more than a lookup, which spends no statement on it."""
    if engine.ledger.lookups.has_expired(key.exact):
        return Why("expired", "the same question was stored here, and its answer has expired")
    if why.code != "empty_scope":
        return why
    if not recent:
        return replace(why, reason=f"nothing is stored for the namespace {key.namespace!r} yet")
    here = [entry for entry in recent if entry.partition == key.partition]
    if here and all(entry.exact_only for entry in here):
        return Why(
            "only_exact_entries",
            "what is stored here answers its own question only, as answers that call tools do",
        )
    if here:
        return Why(
            "only_exact_entries",
            "what is stored here has no vector of this embedding model, so it is only matched "
            "exactly; after a change of the model, call rebuild()",
        )
    return why


def _elsewhere(
    engine: Engine, request: Request, key: Key, recent: Sequence[RecentEntry]
) -> Elsewhere | None:
    """The stored request with about the same question whose scope differs in the fewest parts."""
    others = [entry for entry in recent if request.exact_only or entry.partition != key.partition]
    alike = _same_words(request, others) or _alike(engine, request, key, others)
    if not alike:
        return None
    asked = None if request.parts is None else part_digests(request.parts())
    found = [
        Elsewhere(entry.question, similarity, _differing(asked, entry, key))
        for similarity, entry in alike
    ]
    return max(found, key=lambda one: (one.similarity, -len(one.differs)))


def _differing(asked: Mapping[str, str] | None, stored: RecentEntry, key: Key) -> tuple[str, ...]:
    """The names of the parts in which the scopes of two requests differ."""
    if stored.partition == key.partition:
        return (ORDER_OF_TEXT,)
    if asked is None or stored.parts is None:
        return ("scope",)
    both = {**stored.parts, **asked}
    names = [name for name in both if asked.get(name) != stored.parts.get(name)]
    if DOCUMENTS in names and ANY_ORDER not in names and ANY_ORDER in both:
        names[names.index(DOCUMENTS)] = f"order of the {DOCUMENTS}"
    return tuple(name for name in names if name != ANY_ORDER) or ("scope",)


def _same_words(request: Request, others: Sequence[RecentEntry]) -> list[tuple[float, RecentEntry]]:
    """Those with the same words; in any order where the text may hold documents."""
    ordered = not request.exact_only
    asked, length = _words(request.question, ordered), len(request.question)
    return [
        (1.0, entry)
        for entry in others
        if abs(len(entry.question) - length) <= _LENGTHS * length
        and _words(entry.question, ordered) == asked
    ]


def _words(text: str, ordered: bool) -> list[str]:
    words = re.findall(r"\w+", text.casefold()) or [text]
    return words if ordered else sorted(words)


def _alike(
    engine: Engine, request: Request, key: Key, others: Sequence[RecentEntry]
) -> list[tuple[float, RecentEntry]]:
    """Those whose question has about the same meaning, with their similarity."""
    if engine.decider is None or is_only_exact(engine, request):
        return []
    if not engine.embedder.reads(request.question, engine.max_tokens):
        return []
    weights = engine.decider.weights
    with engine.gate:
        vector = engine.vector_cache.embed(engine.embedder, request.question, key.namespace)
    near = sorted(_similarities(vector, others), key=lambda one: -one[0])[:_MOST_READ]
    asked = read(request.question)
    return [
        (similarity, entry)
        for similarity, entry in near
        if sigmoid(
            weights.log_odds(similarity, weights.widest, differences(asked, read(entry.question)))
        )
        >= ALIKE
    ]


def _similarities(
    vector: Vector, others: Sequence[RecentEntry]
) -> Iterator[tuple[float, RecentEntry]]:
    for entry in others:
        if entry.vector is not None and len(entry.vector) == len(vector):
            yield float(entry.vector @ vector), entry


def _candidates(engine: Engine, decision: Decision, key: Key, now: float) -> Iterator[Candidate]:
    for one in decision.scores or ():
        entry = engine.ledger.lookups.get(one.neighbour.entry_id, key.partition, now)
        if entry is not None:
            yield Candidate(
                entry,
                one.neighbour.similarity,
                one.probability,
                one.margin,
                tuple(difference.words for difference in one.differences),
            )


def read_stats(engine: Engine) -> CacheStats:
    """The counts of this process; the ledger's where it can be read, see `SemanticCache.stats`."""
    entries: int | None = None
    size: int | None = None
    claimed: float | None = None
    measured = engine.monitor.measured()
    with suppress(LedgerError):  # what hits saved is known when they are written
        engine.hit_counter.flush(engine.ledger)
    with suppress(LedgerError):  # what failed matters most when the ledger is broken
        entries = engine.ledger.count(now=engine.clock())
        size = engine.ledger.space().bytes
        claimed = engine.verdicts.claimed_error()
        measured = engine.measured()
    counts = engine.counters.counted()
    return CacheStats(
        entries=entries,
        exact_hits=counts["exact"],
        semantic_hits=counts["semantic"],
        misses=counts["miss"],
        updates=counts["update"],
        failures=engine.counters.failures(),
        max_error_rate=engine.settings.max_error_rate,
        threshold=engine.served_at(),
        indexed_scopes=len(engine.retriever.indexed),
        withheld=counts["withheld audit"] + counts["withheld shadow"],
        refused=counts["refused"],
        feedback=counts["feedback"],
        claimed_error=claimed,
        measured=measured,
        verification=engine.verification.counts() if engine.verification else None,
        saved=engine.hit_counter.saved,
        bytes=size,
        max_bytes=engine.settings.max_bytes,
    )


def read_levels(engine: Engine) -> Levels:
    """The values of the gauges. Raises LedgerError."""
    ledger, settings = engine.ledger, engine.settings
    claimed = engine.verdicts.claimed_error()
    return Levels(
        ledger=ledger.name,
        entries=ledger.count(now=engine.clock()),
        bytes=ledger.space().bytes,
        disk=ledger.bytes_on_disk(),
        index_lag=ledger.index_state(engine.embedder.fingerprint).not_indexed(settings.scan_limit),
        wrong=estimates(settings.max_error_rate, claimed, engine.measured()),
    )

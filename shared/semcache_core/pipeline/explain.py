"""What `explain()` and `stats()` return, and the values of the gauges."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from semcache_core._utils.intervals import Measured
from semcache_core.costs import Saved
from semcache_core.decision.decide import Decision
from semcache_core.decision.verifier import VerificationCounts
from semcache_core.errors import LedgerError
from semcache_core.observability.gauges import Levels, estimates
from semcache_core.pipeline.engine import Engine
from semcache_core.pipeline.lookup import EMPTY_SCOPE, decide, hit_of
from semcache_core.request import Key, key_of
from semcache_core.types import Candidate, Hit, Request

_SHADOW = "shadow mode serves nothing by meaning"


@dataclass(frozen=True)
class Explanation:
    """Why a request hits or misses; `print` it to read it.

    `threshold` is the probability that `max_error_rate` asks for, None when only exact repeats
    are served. `candidates` are the nearest live entries, best first; empty where the lookup
    ended before it came to them. `scope_is_empty` says that this was for want of any entry with
    this namespace and scope; `hint` is what an adapter makes of that.
    """

    question: str
    hit: Hit | None
    reason: str
    threshold: float | None
    max_error_rate: float
    candidates: tuple[Candidate, ...]
    scope_is_empty: bool = False
    hint: str = ""

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
    decision = decide(engine, request, key, now, [])
    if engine.settings.shadow and decision.served is not None:
        decision = replace(decision, cause=f"{decision.reason}, but {_SHADOW}", entry=None)
    reason = decision.reason
    return Explanation(
        question=request.question,
        hit=hit_of(decision, now),
        reason=reason,
        threshold=engine.served_at(),
        max_error_rate=engine.settings.max_error_rate,
        candidates=tuple(_candidates(engine, decision, key, now)),
        scope_is_empty=reason == EMPTY_SCOPE,
    )


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

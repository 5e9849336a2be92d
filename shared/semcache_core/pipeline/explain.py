"""What a cache tells about itself: why a lookup ended as it did, and its counts."""

from dataclasses import dataclass, field

from semcache_core._utils.intervals import Measured
from semcache_core.costs import Saved
from semcache_core.decision.verifier import VerificationCounts
from semcache_core.types import Candidate, Hit


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

"""What `explain` and `stats` say to a reader."""

from pathlib import Path

import pytest
from semcache_core import CacheStats, Candidate, Entry, Explanation, Hit, Request, SemanticCache
from semcache_core.errors import LedgerError
from semcache_core.quality.monitor import ErrorMonitor
from semcache_core.storage.ledger import Ledger


def _explanation(**changes: object) -> Explanation:
    fields: dict[str, object] = {
        "question": "asked?",
        "hit": None,
        "reason": "because",
        "threshold": 0.9,
        "max_error_rate": 0.02,
        "candidates": (),
    }
    return Explanation(**{**fields, **changes})  # type: ignore[arg-type]


def test_names_the_question_the_verdict_and_the_reason() -> None:
    lines = str(_explanation()).splitlines()
    assert lines[0] == '"asked?"'
    assert lines[1] == "  miss: because"
    assert lines[2] == "  served at P(same answer) >= 0.900, for at most 2.0% wrong"


@pytest.mark.parametrize("kind", ["exact", "semantic"])
def test_names_the_kind_of_a_hit(kind: str) -> None:
    hit = Hit("r", kind, 1.0, 1.0, "q", 1, 0.0)  # type: ignore[arg-type]
    assert f"{kind} hit: because" in str(_explanation(hit=hit))


def test_shows_the_three_nearest() -> None:
    nearest = tuple(
        Candidate(Entry(n, f"stored {n}", "r", 0.0, None), 0.8 - n / 10, 0.5 - n / 10)
        for n in range(5)
    )
    shown = str(_explanation(candidates=nearest)).splitlines()[3:]
    assert shown == [
        '  0.500 (similarity 0.800) "stored 0"',
        '  0.400 (similarity 0.700) "stored 1"',
        '  0.300 (similarity 0.600) "stored 2"',
    ]


def test_without_a_threshold_none_is_claimed() -> None:
    assert "served at" not in str(_explanation(threshold=None))


def test_shows_the_margin_and_what_the_guard_saw_where_there_is_any() -> None:
    near = Candidate(
        Entry(1, "stored", "r", 0.0, None), 0.8, 0.5, 0.025, ("a negation", "other names: a, b")
    )
    shown = str(_explanation(candidates=(near,))).splitlines()[3]
    assert shown == (
        '  0.500 (similarity 0.800, margin 0.025, a negation, other names: a, b) "stored"'
    )


def _stats(**changes: object) -> CacheStats:
    fields: dict[str, object] = {
        "entries": 0,
        "exact_hits": 0,
        "semantic_hits": 0,
        "misses": 0,
        "updates": 0,
        "failures": {},
        "max_error_rate": 0.02,
        "threshold": None,
        "indexed_scopes": 0,
        "withheld": 0,
        "refused": 0,
        "feedback": 0,
        "claimed_error": None,
        "measured": ErrorMonitor(0.02, None).measured(),
        "verification": None,
    }
    return CacheStats(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_hit_rate_is_of_all_lookups_and_zero_before_the_first() -> None:
    assert _stats().hit_rate == 0
    stats = _stats(exact_hits=1, semantic_hits=2, misses=5)
    assert (stats.lookups, stats.hit_rate) == (8, 3 / 8)


def test_stats_can_be_read_while_the_ledger_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> int:
        raise LedgerError("disk gone")

    with SemanticCache(path=tmp_path) as cache:
        monkeypatch.setattr(Ledger, "count", broken)
        cache.lookup(Request("still counted"))
        assert (cache.stats().entries, cache.stats().misses) == (None, 1)

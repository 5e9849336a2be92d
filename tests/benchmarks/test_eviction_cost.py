"""The benchmark of limits measures evictions, under every policy."""

import json
from pathlib import Path

import pytest
import run
from cases import eviction
from semcache_core.storage.ledger import Ledger


def test_every_policy_evicts_beside_a_ledger_without_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {}
    close = Ledger.close

    def closing(ledger: Ledger) -> None:
        assert ledger.file is not None
        left[ledger.file.parent.name] = ledger.space()
        close(ledger)

    monkeypatch.setattr(Ledger, "close", closing)
    monkeypatch.setattr(eviction, "WRITES", 10)
    out = tmp_path / "eviction.json"
    run.main(["eviction", "--entries=40", "--rounds=2", f"--out={out}"])
    found = json.loads(out.read_text())
    assert {"hardware", "versions"} <= set(found)
    assert found["settings"] == {"entries": 40, "rounds": 2, "seed": 7}
    asked = {(row["subject"], row["operation"]): row["n"] for row in found["rows"]}
    policies = ("no limit", "lru", "lfu", "cost")
    assert asked == {(p, o): n for p in policies for o, n in (("insert", 20), ("touch", 2))}
    assert {name: space.ranked_by for name, space in left.items()} == {
        name: "lru" if name == "no limit" else name for name in policies
    }
    assert left.pop("no limit").entries == 60
    assert {space.entries for space in left.values()} == {40}

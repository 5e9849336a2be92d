"""The benchmark of many entries runs, and finds what it stored."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not part of this package", allow_module_level=True)
# as when a script in that folder is run
sys.path.append(str(BENCHMARKS))

import scale  # noqa: E402
from filling import ANSWER  # noqa: E402


def test_every_size_is_asked_in_turn_and_what_it_takes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "CHUNK", 250)  # the stored questions lie in several of them
    out, kept = tmp_path / "scale.json", tmp_path / "kept"
    few = ["--rounds", "1", "--calls", "2", "--first-hits", "1"]
    scale.main([*few, "--sizes", "420,600", "--directory", str(kept), "--out", str(out)])
    results = json.loads(out.read_text())
    assert [made["entries"] for made in results["made"]] == [420, 600]
    for made in results["made"]:
        taken = made["bytes"] / made["entries"] - len(ANSWER.encode())
        assert 1500 < made["per_entry_less_response"] == pytest.approx(taken, abs=0.1)
    # a lookup that ends otherwise than it should is counted: these found what was stored for them
    assert sum(row["unexpected"] for row in results["rows"]) == 0
    asked = {(row["operation"], row["entries"]) for row in results["rows"] if row["n"] == 2}
    operations = ("exact hit", "semantic hit", "miss")
    assert {(way, size) for way in operations for size in (420, 600)} <= asked
    first = [row["operation"] for row in results["reopened"][0]["first_hit"]]
    assert first == ["exact hit", "semantic hit"]

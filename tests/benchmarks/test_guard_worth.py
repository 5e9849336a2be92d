"""What the guard is worth: counted per rule, of what is near enough to be served."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from semcache_core.training.pairs import Pair, write_pairs

PAPER = Path(__file__).parents[2] / "benchmarks" / "paper"
if not PAPER.is_dir():
    pytest.skip("the benchmarks are not part of this package", allow_module_level=True)
# as when a script in that folder is run
sys.path.append(str(PAPER))

import guard  # noqa: E402

QUESTIONS = (
    "How do I lock my card?",
    "How can I lock my card?",
    "How do I unlock my card?",
    "Is a top up of 20 euros free?",
)


def test_near_pairs_are_counted_by_what_they_differ_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # near whatever the shipped model makes of them
    monkeypatch.setattr(guard, "similarities_of", lambda embedder, pairs: np.ones(len(pairs)))
    lock, also_lock, unlock, top_up = QUESTIONS
    pairs = [Pair(lock, also_lock, 1), Pair(lock, unlock, 0), Pair(lock, top_up, 0)]
    write_pairs(tmp_path / "qqp_test.jsonl", pairs)
    write_pairs(tmp_path / "mqp_dev.jsonl", [*pairs, Pair(unlock, lock, 1)])
    with (tmp_path / "banking77_test.csv").open("w", newline="") as file:
        rows = [("text", "category"), (lock, "lock"), (also_lock, "lock"), (top_up, "top up")]
        csv.writer(file).writerows(rows)
    out = tmp_path / "guard.json"
    guard.main(["--data", str(tmp_path), "--out", str(out)])
    found = {name: of["0.9"] for name, of in json.loads(out.read_text())["sets"].items()}
    prevented = {"right_lost": 0, "wrong_prevented": 1}
    assert found["QQP"] == {
        **{"right": 1, "wrong": 2, "right_lost": 0, "wrong_prevented": 2},
        "rules": {"other numbers": prevented, "the opposite": prevented},
    }
    assert found["medical"]["rules"]["the opposite"] == {"right_lost": 1, "wrong_prevented": 1}
    assert (found["Banking77"]["right"], found["Banking77"]["wrong"]) == (2, 1)
    assert found["edits"]["right"] == found["rewrites"]["wrong"] == 0
    assert found["edits"]["wrong_prevented"] > 0
    printed = capsys.readouterr().out
    assert "| the opposite | 1 / 0 | 1 / 1 |" in printed

"""What the guard is worth: counted per rule, of what is near enough to be served."""

import csv
import json
from pathlib import Path

import guard
import numpy as np
import pytest
from semcache_core.decision.calibration import Calibration, Threshold
from semcache_core.decision.guard import Difference
from semcache_core.decision.scoring import Weights, sigmoid
from semcache_core.training.data.records import Pair, write_pairs

QUESTIONS = (
    "How do I lock my card?",
    "How can I lock my card?",
    "How do I unlock my card?",
    "Is a top up of 20 euros free?",
)


WEIGHTS = Weights(0.0, 4.0, ((0.1, 10.0),), {"number": -1.5, "opposite": -3.0, "unit": -3.0})


def calibrated(embedder: Path) -> Calibration:
    """At a cosine of 1 the log-odds are 5: an opposite decides at both bounds, a number at 2 %."""
    rows = (
        Threshold(0.02, sigmoid(4.0), 0.5, 500, 1),
        Threshold(0.05, sigmoid(3.0), 0.5, 500, 10),
    )
    return Calibration("made up", 384, 0.1, 8.0, 40, rows, "nothing", WEIGHTS, 0.95)


def test_near_pairs_are_counted_by_what_they_differ_in_and_by_what_it_weighs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # near whatever the shipped model makes of them
    monkeypatch.setattr(guard, "similarities_of", lambda embedder, pairs: np.ones(len(pairs)))
    monkeypatch.setattr(guard, "load_calibration", calibrated)
    lock, also_lock, unlock, top_up = QUESTIONS
    pairs = [Pair(lock, also_lock, 1), Pair(lock, unlock, 0), Pair(lock, top_up, 0)]
    write_pairs(tmp_path / "qqp_test.jsonl", pairs)
    write_pairs(tmp_path / "mqp_dev.jsonl", [*pairs, Pair(unlock, lock, 1)])
    with (tmp_path / "banking77_test.csv").open("w", newline="") as file:
        rows = [("text", "category"), (lock, "lock"), (also_lock, "lock"), (top_up, "top up")]
        csv.writer(file).writerows(rows)
    out = tmp_path / "guard.json"
    guard.main(["--data", str(tmp_path), "--out", str(out)])
    sets = json.loads(out.read_text())["sets"]
    found = {name: of["by rule"] for name, of in sets.items()}
    prevented = {"right_lost": 0, "wrong_prevented": 1}
    assert found["QQP"] == {
        **{"right": 1, "wrong": 2, "right_lost": 0, "wrong_prevented": 2},
        "rules": {"number": prevented, "opposite": prevented},
    }
    assert found["medical"]["rules"]["opposite"] == {"right_lost": 1, "wrong_prevented": 1}
    assert (found["Banking77"]["right"], found["Banking77"]["wrong"]) == (2, 1)
    assert found["edits"]["right"] == found["rewrites"]["wrong"] == 0
    assert found["edits"]["wrong_prevented"] > 0
    strict, loose = (sets["QQP"]["by weight"][bound] for bound in ("2 %", "5 %"))
    assert strict == {"right": 1, "wrong": 2, "right_lost": 0, "wrong_prevented": 2}
    assert loose == {"right": 1, "wrong": 2, "right_lost": 0, "wrong_prevented": 1}
    printed = capsys.readouterr().out
    assert "| opposite | 1 / 0 | 1 / 1 |" in printed
    assert "| all rules, by weight, at 5 % | 1 / 0 | 1 / 1 |" in printed


def near(right: bool, similarity: float, *rules: str) -> guard.Near:
    return guard.Near(right, similarity, tuple(Difference(rule, "") for rule in rules))


def test_what_the_similarity_alone_would_not_have_served_is_not_counted() -> None:
    far = near(False, 0.7, "opposite")
    of = guard.by_weight([far, near(True, 1.0)], WEIGHTS, sigmoid(4.0))
    assert of == {"right": 1, "wrong": 0, "right_lost": 0, "wrong_prevented": 0}


def test_without_a_threshold_for_a_bound_it_has_no_row() -> None:
    one = {"by rule": guard.by_rule([near(False, 1.0, "unit")]), "by weight": {}}
    printed = guard.table({"thresholds": {}, "sets": {"some": one}})
    assert printed.splitlines()[2:] == [
        "| unit | 1 / 0 |",
        "| all rules | 1 / 0 |",
        "| of so many wrong / right | 1 / 0 |",
    ]

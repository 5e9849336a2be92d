"""The study of the second opinion, end to end on made-up data with a tiny model."""

import csv
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import cross_encoder
import numpy as np
import pytest
from semcache_core.decision.cross_encoder import CrossEncoderVerifier
from semcache_core.training.data.records import Pair, write_pairs
from tiny_models import toy_pairs, word_model

pytestmark = pytest.mark.usefixtures("one_thread")


def measured(right: list[int], first: list[float], second: list[float]) -> dict[str, Any]:
    arrays = (np.array(right, bool), np.array(first), np.array(second))
    return cross_encoder.measure(*arrays, 0.8, Namespace(seed=0, resamples=20))


def test_a_perfect_second_opinion_serves_all_that_is_asked_about() -> None:
    nobody = float("nan")
    found = measured(
        [1, 1, 1, 0, 0, 1], [0.9, 0.5, 0.4, 0.6, 0.3, 0.1], [0.0, 0.95, 0.9, 0.1, 0.89, nobody]
    )
    assert (found["pairs"], found["positives"], found["asked"]) == (6, 4, 4)
    assert found["as_set"]["alone"] == {"right": 1, "wrong": 0}
    assert found["as_set"]["together"] == {"right": 3, "wrong": 0}
    assert found["best_alone"]["value"] == 0.25
    assert found["best_together"]["value"] == 0.75


def test_a_bad_second_opinion_is_not_hidden() -> None:
    found = measured([1, 0, 0], [0.9, 0.7, 0.5], [0.0, 0.95, 0.97])
    assert found["as_set"]["together"] == {"right": 1, "wrong": 2}
    assert found["best_together"]["value"] == 1.0  # nobody has to be agreed with
    aucs = found["auc_of_asked"]
    assert (aucs["shipped model"]["value"], aucs["cross-encoder"]["value"]) == (1.0, 0.0)


def test_what_nobody_is_asked_about_is_never_served() -> None:
    assert cross_encoder.best_together(np.array([0.1]), np.array([np.nan]), np.array([True])) == 0


def test_the_study_trains_and_measures_and_keeps_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    word_model(tmp_path / "bert").save(str(tmp_path / "tiny"))
    tested = toy_pairs(30, seed=1)
    leak = Pair(tested[0].prompt, "filler1 key1", 1)
    write_pairs(tmp_path / "qqp_train.jsonl", [*toy_pairs(60, seed=2), leak])
    write_pairs(tmp_path / "mqp_dev.jsonl", tested)
    with (tmp_path / "banking77_test.csv").open("w", newline="") as file:
        rows = [(pair.prompt, pair.prompt.split()[0]) for pair in toy_pairs(20, seed=3)]
        csv.writer(file).writerows([("text", "category"), *rows])
    out, kept = tmp_path / "out.json", tmp_path / "kept"
    trained, trained_on = cross_encoder.trained, []

    def seen(pairs: list[Pair], given: Namespace) -> Any:
        trained_on.extend(pairs)
        return trained(pairs, given)

    monkeypatch.setattr(cross_encoder, "trained", seen)
    arguments = ["--steps", "3", "--batch-size", "8", "--resamples", "20", "--least", "0"]
    base = ["--base", str(tmp_path / "tiny"), "--data", str(tmp_path)]
    cross_encoder.main([*arguments, *base, "--out", str(out), "--keep", str(kept)])
    results = json.loads(out.read_text())
    assert (results["base"], results["options"]["steps"]) == ("tiny", 3)
    assert str(tmp_path) not in out.read_text()
    assert leak not in trained_on and results["train"]["rows"] == len(trained_on) == 60
    assert results["sets"]["medical"]["pairs"] == 30
    assert results["sets"]["medical"]["call"]["n"] == 30
    assert results["sets"]["Banking77"]["pairs"] == 20
    assert 0 <= CrossEncoderVerifier(kept).verify("key1", "key2", "") <= 1
    assert "| medical |" in capsys.readouterr().out


def test_missing_data_ends_it_by_the_text_of_the_error(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit, match=r"banking77_test.csv cannot be read"):
        cross_encoder.main(["--data", str(tmp_path), "--out", str(out)])
    assert not out.exists()

"""Probabilities, thresholds, and calibration files that are refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import WordEmbedder, calibrated, calibration
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import SemanticCache, SemcacheError
from semcache_core.decision.calibration import FILE_NAME, FORMATS, Threshold, load_calibration
from semcache_core.decision.scoring import Weights

WEIGHTS = Weights(-9.5, 12.25, ((0.05, 20.0), (0.15, 0.0)), {"number": -1.5, "name": 0.0})


def test_survives_saving_and_loading(tmp_path: Path) -> None:
    calibration().save(tmp_path)
    assert load_calibration(tmp_path) == calibration()
    assert [f.name for f in tmp_path.iterdir()] == [FILE_NAME]


def test_weights_and_limits_survive_saving_and_loading(tmp_path: Path) -> None:
    rows = (Threshold(0.02, 0.9, 0.3, 300, 2, upper=0.018), Threshold(0.05, 0.8, 0.5, 500, 9))
    made = replace(calibration(), thresholds=rows, weights=WEIGHTS, confidence=0.95)
    made.save(tmp_path)
    assert load_calibration(tmp_path) == made
    assert load_calibration(tmp_path).judged_by == WEIGHTS
    assert json.loads((tmp_path / FILE_NAME).read_text())["format"] == 2


def test_format_1_is_read_and_judged_by_the_similarity_alone(tmp_path: Path) -> None:
    _write(tmp_path, format=1)
    read = load_calibration(tmp_path)
    assert (read.weights, read.confidence, read.thresholds[0].upper) == (None, None, None)
    assert read.judged_by == Weights.of_similarity(read.lam, read.c)


@given(st.floats(-1.01, 1.01))
def test_the_probability_is_the_sigmoid(similarity: float) -> None:
    of = calibration()
    expected = 1 / (1 + math.exp(-(similarity / of.lam - of.c)))
    assert of.probability(similarity) == pytest.approx(expected)


def test_extreme_similarities_do_not_overflow() -> None:
    assert calibration().probability(-1e6) == 0
    assert calibration().probability(1e6) == 1


def test_a_higher_similarity_never_has_a_lower_probability() -> None:
    found = [calibration().probability(s / 100) for s in range(-100, 101)]
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("bound", "row"),
    [
        (0.0005, None),
        (0.001, 0),
        (0.0199, 0),
        (0.02, 1),
        (0.05, 1),
        (0.0999, 1),
        (0.1, 2),
        (0.9, 2),
    ],
)
def test_a_bound_between_two_rows_gets_the_stricter_row(bound: float, row: int | None) -> None:
    expected = None if row is None else calibration().thresholds[row].probability
    assert calibration().threshold(bound) == expected


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    _write(tmp_path, thresholds=[vars(row) for row in reversed(calibration().thresholds)])
    assert load_calibration(tmp_path) == calibration()


def _data() -> dict[str, Any]:
    rows = [dict(vars(row)) for row in calibration().thresholds]
    return {
        "format": FORMATS[-1],
        "fingerprint": WordEmbedder.fingerprint,
        "dimension": 64,
        "lambda": 0.05,
        "c": 16.0,
        "max_tokens": 40,
        "thresholds": rows,
        "calibrated_on": "nothing: a test double",
    }


def _write(directory: Path, **changes: Any) -> None:
    directory.mkdir(exist_ok=True)
    (directory / FILE_NAME).write_text(json.dumps({**_data(), **changes}))


def _row(**changes: Any) -> list[dict[str, Any]]:
    return [{**_data()["thresholds"][1], **changes}]


def _weights(**changes: Any) -> dict[str, Any]:
    as_written = {**vars(WEIGHTS), "margins": [list(pair) for pair in WEIGHTS.margins]}
    return {"weights": {**as_written, **changes}}


def test_weights_of_this_form_are_read(tmp_path: Path) -> None:
    _write(tmp_path, **_weights())
    assert load_calibration(tmp_path).weights == WEIGHTS


@pytest.mark.parametrize("share", [0, 1])
def test_a_limit_and_a_confidence_may_be_0_and_1(share: float, tmp_path: Path) -> None:
    _write(tmp_path, thresholds=_row(upper=share), confidence=share)
    assert load_calibration(tmp_path).confidence == share
    assert load_calibration(tmp_path).thresholds[0].upper == share


@pytest.mark.parametrize(
    "changes",
    [
        {"lambda": float("nan")},
        {"lambda": 0},
        {"lambda": -0.05},
        {"lambda": float("inf")},
        {"lambda": "wide"},
        {"lambda": 10**400},
        {"c": float("nan")},
        {"c": None},
        {"format": 3},
        {"format": 0},
        {"max_tokens": float("inf")},
        {"dimension": float("inf")},
        {"thresholds": None},
        {"thresholds": 5},
        {"thresholds": [[]]},
        {"thresholds": _row(max_error_rate=float("nan"))},
        {"thresholds": _row(max_error_rate=0)},
        {"thresholds": _row(max_error_rate=1)},
        {"thresholds": _row(probability=float("nan"))},
        {"thresholds": _row(probability=1.5)},
        {"thresholds": _row(probability=-0.1)},
        {"thresholds": _row(probability="high")},
        {"thresholds": _row(upper=1.01)},
        {"thresholds": _row(upper=-0.01)},
        {"thresholds": _row(upper=float("nan"))},
        {"confidence": 1.5},
        {"confidence": -0.5},
        {"confidence": float("nan")},
        {"confidence": "sure"},
        {"weights": 5},
        {"weights": []},
        {"weights": {}},
        _weights(intercept=float("nan")),
        _weights(intercept=float("inf")),
        _weights(similarity=float("nan")),
        _weights(similarity=0),
        _weights(similarity=-1),
        _weights(similarity="much"),
        _weights(margins=[[0.05, float("nan")]]),
        _weights(margins=[[float("nan"), 1]]),
        _weights(margins=[[0, 1]]),
        _weights(margins=[[-0.05, 1]]),
        _weights(margins=[[0.05, -1]]),
        _weights(margins=[[0.05]]),
        _weights(margins=[0.05]),
        _weights(margins=None),
        _weights(rules={"number": 0.5}),
        _weights(rules={"number": float("nan")}),
        _weights(rules={"number": float("-inf")}),
        _weights(rules=["number"]),
        _weights(rules=[5]),
        _weights(rules=None),
    ],
    ids=str,
)
def test_a_malformed_calibration_is_refused_by_name(changes: Any, tmp_path: Path) -> None:
    _write(tmp_path, **changes)
    with pytest.raises(SemcacheError) as raised:
        load_calibration(tmp_path)
    assert str(tmp_path / FILE_NAME) in str(raised.value)
    assert "calibrate it anew" in str(raised.value)


def test_what_is_wrong_with_a_weight_is_said(tmp_path: Path) -> None:
    for changes, said in (
        (_weights(rules={"number": 0.5}), "rule"),
        (_weights(margins=[[0.05, -1]]), "margin"),
        (_weights(similarity=float("nan")), "not finite"),
    ):
        _write(tmp_path, **changes)
        with pytest.raises(SemcacheError, match=said):
            load_calibration(tmp_path)


@pytest.mark.parametrize("name", ["intercept", "similarity", "margins", "rules"])
def test_a_missing_weight_is_refused_by_name(name: str, tmp_path: Path) -> None:
    changes = _weights()
    del changes["weights"][name]
    _write(tmp_path, **changes)
    with pytest.raises(SemcacheError, match=name):
        load_calibration(tmp_path)


@pytest.mark.parametrize("name", sorted(_data()))
def test_a_missing_field_is_refused_by_name(name: str, tmp_path: Path) -> None:
    data = _data()
    del data[name]
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(SemcacheError, match=name):
        load_calibration(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b'"x"', b"5"]
)
def test_what_is_not_a_json_object_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(SemcacheError, match=FILE_NAME):
        load_calibration(tmp_path)


def test_a_missing_calibration_is_refused_with_what_belongs_there(tmp_path: Path) -> None:
    for directory in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(SemcacheError, match=r"is missing.*model\.onnx, tokenizer\.json"):
            load_calibration(directory)


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SemcacheError, match="file"):
        load_calibration(tmp_path / "file")


def test_a_calibration_of_another_model_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    artefact = calibrated(tmp_path / "artefact", fingerprint="f" * 64)
    with pytest.raises(SemcacheError) as raised:
        SemanticCache(path=tmp_path / "new", embedder=WordEmbedder(), artefact=artefact)
    assert "f" * 12 in str(raised.value)
    assert WordEmbedder.fingerprint[:12] in str(raised.value)
    assert str(artefact) in str(raised.value)
    assert not (tmp_path / "new").exists()

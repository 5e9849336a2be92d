"""Every command that reads JSON lines reads CSV with the same names."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import refused, run
from semcache_core.evaluation.replay import read_stream
from semcache_core.training.data.records import read_mined, read_pairs, read_questions
from semcache_core.transfer.jsonl import EntriesFile

Rows = list[dict[str, Any]]

QUESTIONS: Rows = [
    {"question": "How do I reset my PIN, please?", "answer": "Click.", "answer_id": "7"},
    {"question": "5", "answer": ["one", "two"], "answer_id": "x"},
]
PAIRS: Rows = [
    {
        "prompt": "How do I\nreset it?",
        "other": "1",
        "same_answer": 1,
        "domain": "d",
        "split": "test",
    },
    {"prompt": "a", "other": "b", "same_answer": 0.25, "split": "train"},
]
MINED: Rows = [
    {**PAIRS[0], "similarity": 0.5, "prompt_answers": ["a", "b"], "other_answer_id": "9"},
    {**PAIRS[1], "similarity": -1, "other_answers": ["c"], "my_own": "kept"},
]
ENTRIES: Rows = [
    {"question": "What is a ledger?", "response": "A book.", "tags": ["a", "b"], "tokens_in": 5},
    {"question": "5", "response": "true", "exact_only": True, "created": 17.5, "namespace": "n"},
]


def read_entries(file: Path) -> list[Any]:
    with EntriesFile(file) as source:
        assert source.check() == len(ENTRIES)
        return [entry for entry, _ in source]


def write_lines(file: Path, rows: Rows) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_csv(file: Path, rows: Rows) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, names, delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        for row in rows:
            lists = {n: json.dumps(v) for n, v in row.items() if isinstance(v, list)}
            writer.writerow(row | lists)
    return file


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("read", "rows"),
    [
        (read_questions, QUESTIONS),
        (read_stream, QUESTIONS),
        (read_pairs, PAIRS),
        (read_mined, MINED),
        (read_entries, ENTRIES),
    ],
    ids=["questions", "stream", "pairs", "mined", "entries"],
)
def test_a_csv_file_is_read_as_json_lines_with_the_same_values(
    read: Callable[[Path], Any], rows: Rows, suffix: str, tmp_path: Path
) -> None:
    expected = read(write_lines(tmp_path / "file.jsonl", rows))
    assert read(write_csv(tmp_path / f"file.{suffix}", rows)) == expected


def test_a_bad_row_is_named_by_file_and_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"prompt": "a", "other": "b", "same_answer": 1, "question": "q", "response": "r"}
    bad = write_csv(tmp_path / "bad.csv", [{**good, "answer_id": "i"}, dict.fromkeys(good, " ")])
    out = tmp_path / "out"
    for command in (
        ["mine", bad, "--out", out],
        ["label", bad, "--answers", "--out", out],
        ["train", bad, "--out", out],
        ["calibrate", bad, "--artefact", out],
        ["score", bad],
        ["evaluate", bad, "--report", out / "report"],
        ["simulate", bad],
    ):
        assert f"{bad}, line 3: " in refused(capsys, monkeypatch, *command), command
    assert not (out / "calibration.json").exists()


def test_a_log_in_csv_is_imported(tmp_path: Path) -> None:
    log, path = write_csv(tmp_path / "log.csv", ENTRIES), tmp_path / "cache"
    assert "2 of 2 entries stored in a new cache" in run("import", log, "--path", path)
    listed = json.loads(run("inspect", "--path", path, "--full", "--json"))["entries"]
    assert [(e["question"], e["response"], e["tags"]) for e in reversed(listed)] == [
        ("What is a ledger?", "A book.", ["a", "b"]),
        ("5", "true", []),
    ]


def test_pairs_in_csv_are_labelled_and_scored(tmp_path: Path) -> None:
    rows = [
        {"prompt": "block my card", "other": "find it", "prompt_answer_id": "1"},
        {"prompt": "a card", "other": "the card", "prompt_answer_id": "2"},
    ]
    for row, other in zip(rows, ("2", "2"), strict=True):
        row["other_answer_id"] = other
    pairs, labelled = write_csv(tmp_path / "pairs.csv", rows), tmp_path / "labelled.jsonl"
    run("label", pairs, "--answers", "--out", labelled)
    assert [pair.same_answer for pair in read_pairs(labelled)] == [0.0, 1.0]
    assert run("score", pairs) == run("score", labelled)


def test_json_lines_are_not_written_into_a_file_that_is_read_as_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_csv(tmp_path / "log.csv", QUESTIONS)
    mined, path = write_csv(tmp_path / "mined.csv", MINED), tmp_path / "cache"
    run("import", write_csv(tmp_path / "entries.csv", ENTRIES), "--path", path)
    before = mined.read_bytes()
    for command in (
        ["mine", log, "--out", tmp_path / "out.csv"],
        ["label", mined, "--answers"],
        ["export", tmp_path / "out.csv", "--path", path],
    ):
        assert "ends in .jsonl" in refused(capsys, monkeypatch, *command), command
    assert mined.read_bytes() == before and not (tmp_path / "out.csv").exists()

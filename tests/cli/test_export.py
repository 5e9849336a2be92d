"""`semcache export`: entries for another cache; what was judged, for training."""

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from commands import refused, run
from conftest import Bench
from fakes import WordEmbedder
from semcache_core import Request, SemanticCache
from semcache_core.quality.verdicts import Verdict, VerdictLog
from semcache_core.storage.ledger import Ledger
from semcache_core.training.data.records import Pair, read_pairs
from semcache_core.transfer import transfer


def judge(path: Path, *judged: tuple[str, str, bool], **changes: Any) -> None:
    ledger = Ledger.open(path, None)
    fields: dict[str, Any] = {"namespace": "default", "source": "feedback"}
    for at, (asked, stored, correct) in enumerate(judged):
        of = {**fields, **changes, "asked": asked, "stored": stored, "correct": correct}
        VerdictLog(ledger).judge(
            Verdict(entry_id=1, similarity=0.9, probability=0.95, at=float(at), **of)
        )
    ledger.close()


def export(*arguments: object) -> str:
    return run("export", *arguments)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    judge(tmp_path / "cache", ("a?", "b?", True), ("a?", "c?", False))
    return tmp_path / "cache"


def test_what_was_judged_is_written_as_pairs_and_counted(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "pairs.jsonl"
    printed = export(file, "--feedback", "--path", path)
    assert f"2 pairs of 2 judgements, 1 with the same answer, in {file}" in printed
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"prompt": "a?", "other": "b?", "same_answer": 1},
        {"prompt": "a?", "other": "c?", "same_answer": 0},
    ]
    assert read_pairs(file) == [Pair("a?", "b?", 1.0), Pair("a?", "c?", 0.0)]
    assert [one.name for one in file.parent.iterdir()] == ["pairs.jsonl"]


def test_of_the_same_two_questions_the_last_judgement_counts(path: Path, tmp_path: Path) -> None:
    judge(path, ("b?", "a?", False), ("a?", "c?", False), namespace="other")
    printed = export(tmp_path / "pairs.jsonl", "--feedback", "--path", path)
    assert "2 pairs of 4 judgements, 0 with the same answer" in printed
    read = read_pairs(tmp_path / "pairs.jsonl")
    assert {(frozenset((p.prompt, p.other)), p.same_answer) for p in read} == {
        (frozenset(("a?", "b?")), 0.0),
        (frozenset(("a?", "c?")), 0.0),
    }


def test_a_namespace_is_exported_by_itself(path: Path, tmp_path: Path) -> None:
    judge(path, ("x?", "y?", True), namespace="acme")
    export(tmp_path / "pairs.jsonl", "--feedback", "--path", path, "--namespace", "acme")
    assert read_pairs(tmp_path / "pairs.jsonl") == [Pair("x?", "y?", 1.0)]


@pytest.mark.parametrize("odd", ["a lone \ud800", "line\nbreak and \u2028", "Grüße, 你好", "\0"])
def test_any_question_is_read_back(odd: str, tmp_path: Path) -> None:
    judge(tmp_path, (odd, "b?", True))
    export(tmp_path / "pairs.jsonl", "--feedback", "--path", tmp_path)
    assert read_pairs(tmp_path / "pairs.jsonl") == [Pair(odd, "b?", 1.0)]


def test_a_blank_question_which_training_refuses_is_left_out(path: Path, tmp_path: Path) -> None:
    judge(path, (" \n", "b?", True), ("a?", "", True))
    export(tmp_path / "pairs.jsonl", "--feedback", "--path", path)
    assert len(read_pairs(tmp_path / "pairs.jsonl")) == 2


def test_where_nothing_was_judged_the_file_is_empty_and_it_is_said(tmp_path: Path) -> None:
    judge(tmp_path)
    file = tmp_path / "pairs.jsonl"
    assert f"nothing was judged; {file} is empty" in export(file, "--feedback", "--path", tmp_path)
    assert file.read_bytes() == b""


def test_a_file_that_is_there_is_replaced_only_when_told(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("mine")
    arguments = (file, "--feedback", "--path", path)
    error = refused(capsys, monkeypatch, "export", *arguments)
    assert f"{file} is there already" in error and "--force" in error
    assert file.read_text() == "mine"
    export(*arguments, "--force")
    assert len(read_pairs(file)) == 2


def test_a_failure_leaves_what_was_there(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("mine")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = refused(capsys, monkeypatch, "export", file, "--feedback", "--path", path, "--force")
    assert f"{file} cannot be written" in error and "No space left" in error
    assert file.read_text() == "mine"
    assert {one.name for one in tmp_path.iterdir()} == {"cache", "pairs.jsonl"}


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    export(tmp_path / "link.jsonl", "--feedback", "--path", path, "--force")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(read_pairs(tmp_path / "real.jsonl")) == 2


def test_pairs_have_no_vectors(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "pairs.jsonl"
    error = refused(capsys, monkeypatch, "export", file, "--feedback", "--vectors", "--path", path)
    assert "judged pairs have no vectors" in error
    assert not file.exists()


def test_a_mistyped_path_is_an_error_and_not_a_new_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, missing = tmp_path / "pairs.jsonl", tmp_path / "nowhere"
    error = refused(capsys, monkeypatch, "export", file, "--feedback", "--path", missing)
    assert str(missing) in error
    assert not missing.exists() and not file.exists()


@pytest.mark.parametrize("what", [["--feedback"], []])
def test_the_file_can_be_read_by_its_owner_alone(
    what: list[str], path: Path, tmp_path: Path
) -> None:
    export(tmp_path / "out.jsonl", *what, "--path", path)
    assert stat.S_IMODE((tmp_path / "out.jsonl").stat().st_mode) == 0o600


class TestEntries:
    @pytest.fixture
    def filled(self, tmp_path: Path) -> Path:
        with SemanticCache(path=tmp_path / "filled") as cache:
            cache.update(Request("What is a ledger?"), "A book.")
            cache.update(Request("What is a ledger?", namespace="acme"), "A table.", ttl=1e6)
        return tmp_path / "filled"

    def test_are_written_of_all_namespaces_or_one(self, filled: Path, tmp_path: Path) -> None:
        file = tmp_path / "entries.jsonl"
        assert export(file, "--path", filled) == f"2 entries, 0 with their vectors, in {file}\n"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert (lines[0]["version"], lines[0]["fingerprint"]) == (1, None)
        assert [line["response"] for line in lines[1:]] == ["A book.", "A table."]
        printed = export(file, "--path", filled, "--namespace", "acme", "--force")
        assert printed.startswith("1 entries")

    def test_are_written_with_vectors_of_whatever_model_made_them(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.open(clock=time.time).update(Request("a"), "1")
        file = tmp_path / "entries.jsonl"
        assert "1 entries, 1 with" in export(file, "--path", bench.path, "--vectors")
        header, line = map(json.loads, file.read_text().splitlines())
        assert header["fingerprint"] == WordEmbedder.fingerprint
        assert line["vector"]

    def test_of_an_empty_cache_are_none_with_vectors_too(self, tmp_path: Path) -> None:
        SemanticCache(path=tmp_path / "empty").close()
        arguments = (tmp_path / "e.jsonl", "--path", tmp_path / "empty", "--vectors")
        assert export(*arguments).startswith("0 entries")

    def test_that_are_too_long_are_told(
        self, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "MAX_LINE_BYTES", 1)
        printed = export(tmp_path / "e.jsonl", "--path", filled)
        assert "2 entries are too long for a file and were left out" in printed


def test_it_has_help() -> None:
    assert "--feedback" in export("--help")

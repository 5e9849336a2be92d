"""`semcache import`: an export or a log becomes entries."""

import json
from pathlib import Path

import pytest
from commands import refused, run
from semcache_core import Request, SemanticCache

LINE = '{"question": "What is a ledger?", "response": "A book."}\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log.jsonl"
    file.write_text(LINE)
    return file


def answer(path: Path, request: Request) -> str | None:
    with SemanticCache(path=path) as cache:
        hit = cache.lookup(request)
    return None if hit is None else hit.response


def test_what_was_exported_is_served_from_a_new_cache(log: Path, tmp_path: Path) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "entries.jsonl"
    with SemanticCache(path=here) as cache:
        cache.update(Request("How do I reset my password?", "s", namespace="acme"), "Click.")
    run("export", file, "--path", here, "--vectors")
    printed = run("import", file, "--path", there)
    assert f"1 of 1 entries stored in a new cache at {there}: 0 were there" in printed
    assert "0 embedded" in printed
    asked = Request("How can I reset my password?", "s", namespace="acme")
    assert answer(there, asked) == "Click."
    assert f"0 of 1 entries stored in {there}: 1 were there" in run("import", file, "--path", there)


def test_a_log_is_embedded_unless_told_otherwise(log: Path, tmp_path: Path) -> None:
    asked = Request("what is a ledger")
    assert "1 embedded" in run("import", log, "--path", tmp_path / "one")
    assert answer(tmp_path / "one", asked) == "A book."
    assert "0 embedded" in run("import", log, "--path", tmp_path / "two", "--no-embed")
    assert answer(tmp_path / "two", asked) is None
    run("rebuild", "--path", tmp_path / "two")
    assert answer(tmp_path / "two", asked) == "A book."


def test_the_namespace_is_for_lines_that_name_none(log: Path, tmp_path: Path) -> None:
    named = {"question": "a", "response": "1", "namespace": "globex"}
    log.write_text(LINE + json.dumps(named))
    run("import", log, "--path", tmp_path / "cache", "--namespace", "acme")
    for request in (Request("What is a ledger?", namespace="acme"), Request("a", "", "globex")):
        assert answer(tmp_path / "cache", request) is not None


def test_a_wrong_line_is_named_and_nothing_of_the_file_is_stored(
    log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "a", "response": "b"}')
    log.write_text(LINE + '{"question": "a", "response": 5}\n')
    error = refused(capsys, monkeypatch, "import", log, "--path", tmp_path / "cache")
    assert f"semcache: {log}, line 2: response is 5; give a text" in error
    assert not (tmp_path / "cache").exists()
    run("import", other, "--path", tmp_path / "cache")
    assert (
        refused(capsys, monkeypatch, "import", log, "--path", tmp_path / "cache").strip()
        == error.strip()
    )
    assert answer(tmp_path / "cache", Request("What is a ledger?")) is None


@pytest.mark.parametrize("content", [None, '{"format": "semcache entries", "version": 9}'])
def test_a_file_that_cannot_be_read_makes_no_cache(
    content: str | None,
    log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log.unlink() if content is None else log.write_text(content)
    error = refused(capsys, monkeypatch, "import", log, "--path", tmp_path / "cache")
    assert str(log) in error
    assert not (tmp_path / "cache").exists()


def test_it_has_help() -> None:
    assert "--no-embed" in run("import", "--help")

"""The benchmark of a shared index asks an own one, and another process's."""

import json
from pathlib import Path

import pytest
import run


def test_an_own_index_and_another_process_s_are_both_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMCACHE_SCAN_LIMIT", "100")  # the owner, a process of its own, has it too
    out = tmp_path / "sharing.json"
    run.main(["sharing", "--entries", "600", "--rounds", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    whole = {row["operation"]: row for row in rows if row["part"] == "whole"}
    assert [row["n"] for row in whole.values()] == [90, 90]
    assert sum(row["unexpected"] for row in rows) <= 4  # an approximate index

"""The benchmark of many scopes runs, and asks every one of them."""

import json
from pathlib import Path

import pytest
import run
from cases import scopes


def test_scopes_are_asked_beside_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = scopes.asked
    monkeypatch.setattr(
        scopes, "asked", lambda cache, scope: asked.append(scope) or ask(cache, scope)
    )
    out = tmp_path / "scopes.json"
    run.main(["scopes", "--entries", "600", "--calls", "5", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["entries"], row["scopes"]) for row in rows] == [(600, 600), (600, 6)]
    assert [row["miss, again"]["n"] for row in rows] == [5, 5]
    assert len(asked) == 600 + 6 + 4 * 5

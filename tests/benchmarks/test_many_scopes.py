"""The benchmark of many scopes runs, and asks every one of them."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not part of this package", allow_module_level=True)
# as when a script in that folder is run
sys.path.append(str(BENCHMARKS))

import many_scopes  # noqa: E402


def test_many_scopes_are_asked_beside_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = many_scopes.asked
    monkeypatch.setattr(
        many_scopes, "asked", lambda cache, scope: asked.append(scope) or ask(cache, scope)
    )
    out = tmp_path / "scopes.json"
    many_scopes.main(["--entries", "600", "--calls", "5", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["entries"], row["scopes"]) for row in rows] == [(600, 600), (600, 6)]
    assert [row["miss, again"]["n"] for row in rows] == [5, 5]
    assert len(asked) == 600 + 6 + 4 * 5

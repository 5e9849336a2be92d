"""The soak finds what it is there to find."""

import json
import sys
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("open files and memory are read as Linux shows them", allow_module_level=True)
import run
from cases import soak
from semcache_core import SemanticCache


def test_a_run_of_seconds_loses_nothing_and_says_what_it_took(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    run.main(["soak", "--minutes=0.05", "--processes=2", f"--out={out}"])
    found = json.loads(out.read_text())
    assert [one["process"] for one in found["processes"]] == [0, 1]
    assert {"hardware", "versions", "settings"} <= set(found)
    for what in ("lookup", "update"):
        assert found["calls"][what]["n"] > 0
        assert 0 < found["calls"][what]["p50_ms"] <= found["calls"][what]["p95_ms"]
    for one in found["processes"]:
        assert min(one["rss_mib"]) > 10 and one["files_max"] > 3


def test_an_answer_that_is_lost_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "lost", lambda *_: ["entry 3 of process 0 is answered by None"])
    out = tmp_path / "soak.json"
    with pytest.raises(SystemExit, match="entry 3 of process 0"):
        run.main(["soak", "--minutes=0.01", "--processes=1", f"--out={out}"])
    assert not out.exists()


def test_what_was_acknowledged_and_is_gone_or_altered_is_named(tmp_path: Path) -> None:
    with SemanticCache(path=tmp_path / "cache") as cache:
        for n in range(4):
            cache.update(soak.own(0, n), f"0 {n}")
        cache.update(soak.own(0, 1), "another")
        cache.forget(soak.own(0, 2))
    altered, gone = soak.lost(tmp_path / "cache", {0: 4})
    assert altered.startswith("entry 1 of process 0") and gone.startswith("entry 2 of process 0")


def test_a_call_that_raises_is_a_problem_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with SemanticCache(path=None) as cache:
        worker = soak.Worker(cache, 0, 7)
        monkeypatch.setattr(worker, "_lookup", lambda: 1 / 0)
        monkeypatch.setattr(soak, "UPDATES", 0)
        worker.step()
    assert worker.problems == ["ZeroDivisionError('division by zero')"]


def test_memory_that_grows_shows_as_its_slope() -> None:
    samples = [{"at": 60.0 * minute, "rss_mib": 100 + 2.5 * minute} for minute in range(5)]
    assert soak.slope(samples, "rss_mib") == pytest.approx(2.5)
    assert soak.slope(samples[:1], "rss_mib") == 0

"""The soak finds what it is there to find."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("open files and memory are read as Linux shows them", allow_module_level=True)
import soak
from semcache_core import SemanticCache


def test_a_run_of_seconds_loses_nothing_and_says_what_it_took(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    soak.main(["--minutes=0.05", "--processes=2", f"--out={out}"])
    found = json.loads(out.read_text())
    assert (found["died"], found["lost"]) == (0, 0)
    assert len(found["processes"]) == 2
    assert {"hardware", "versions", "settings"} <= set(found)
    for what in ("lookup", "update"):
        assert found["calls"][what]["n"] > 0
        assert 0 < found["calls"][what]["p50_ms"] <= found["calls"][what]["p95_ms"]
    for one in found["processes"]:
        assert one["failures"] == {} and one["problems"] == []
        assert min(one["rss_mib"]) > 10 and one["files_max"] > 3


def test_what_was_acknowledged_and_is_gone_or_altered_is_counted(tmp_path: Path) -> None:
    with SemanticCache(path=tmp_path / "cache") as cache:
        for n in range(4):
            cache.update(soak.own(0, n), f"0 {n}")
        cache.update(soak.own(0, 1), "another")
        cache.forget(soak.own(0, 2))
    assert soak.lost(tmp_path / "cache", {0: 4}) == 2


@pytest.mark.parametrize(
    ("changed", "process"),
    [
        ({"died": 1}, {}),
        ({"lost": 1}, {}),
        ({}, {"errors": 1}),
        ({}, {"lost or wrong": 1}),
        ({}, {"failures": {"lookup": 2}}),
    ],
)
def test_any_failure_makes_a_run_unsound(changed: dict[str, Any], process: dict[str, Any]) -> None:
    clean: dict[str, Any] = {"failures": {}}
    assert soak.is_sound({"died": 0, "lost": 0, "processes": [clean]})
    found = {"died": 0, "lost": 0, "processes": [clean, {**clean, **process}], **changed}
    assert not soak.is_sound(found)


def test_memory_that_grows_shows_as_its_slope() -> None:
    samples = [{"at": 60.0 * minute, "rss_mib": 100 + 2.5 * minute} for minute in range(5)]
    assert soak.slope(samples, "rss_mib") == pytest.approx(2.5)
    assert soak.slope(samples[:1], "rss_mib") == 0


def test_latencies_are_a_fair_sample_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "KEPT_TIMES", 100)
    times = soak.Times(random.Random(1))
    for n in range(10_000):
        times.add(float(n))
    assert (times.n, len(times.kept)) == (10_000, 100)
    assert 4000 < sum(times.kept) / 100 < 6000

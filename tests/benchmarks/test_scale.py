"""The benchmark of many entries runs, and finds what it stored."""

import json
from pathlib import Path

import pytest
import run
from harness import fill
from semcache_core import Request


def test_every_size_is_filled_reopened_and_asked_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scale.json"
    few = ["--rounds", "1", "--calls", "2", "--first-hits", "1"]
    run.main(["scale", *few, "--sizes", "420,600", "--out", str(out)])
    results = json.loads(out.read_text())
    assert [made["entries"] for made in results["made"]] == [420, 600]
    for made in results["made"]:
        assert made["bytes"] / made["entries"] > 1500 + results["response_bytes"]
    # a lookup that ends otherwise than it should is counted: these found what was stored for them
    assert sum(row["unexpected"] for row in results["rows"]) == 0
    asked = {(row["operation"], row["entries"]) for row in results["rows"] if row["n"] == 2}
    operations = ("exact hit", "semantic hit", "miss", "put")
    assert asked == {(way, size) for way in operations for size in (420, 600)}
    for again in results["reopened"]:
        assert [row["unexpected"] for row in again["first_hit"]] == [0]


def test_a_ledger_filled_in_parts_holds_every_stored_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "CHUNK", 250)  # the stored questions lie in several of them
    artefact = fill.artefact_for_timing(tmp_path / "artefact")
    things = fill.stock(7, artefact)
    fill.fill(tmp_path / "cache", things, fill.Layout(600, ("one", "other")), 7)
    with fill.opened(tmp_path / "cache", artefact) as cache:
        assert cache.stats().entries == 600
        for i, text in enumerate(things.questions.stored):
            hit = cache.lookup(Request(text, ("one", "other")[i % 2]))
            assert hit is not None and hit.kind == "exact"

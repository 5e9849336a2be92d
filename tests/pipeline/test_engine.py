"""What is checked before a cache opens, and what it says when it can only match exactly."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import WordEmbedder
from semcache_core import Request, SemanticCache, SemcacheError
from semcache_core.decision.calibration import FILE_NAME
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, MODEL_FILE, TOKENIZER_FILE


def test_the_shipped_model_matches_by_meaning(tmp_path: Path) -> None:
    with SemanticCache(path=tmp_path / "cache", max_error_rate=0.1) as cache:
        cache.update(Request("How do I reset my password?"), "Click here.")
        hit = cache.lookup(Request("how do i reset my password"))
        assert hit is not None and hit.kind == "semantic"
        assert cache.lookup(Request("Where is Basel?")) is None


@pytest.mark.parametrize("missing", [MODEL_FILE, TOKENIZER_FILE, FILE_NAME])
def test_an_artefact_without_one_of_its_files_is_refused_before_anything_is_written(
    missing: str, tmp_path: Path
) -> None:
    artefact = tmp_path / "artefact"
    shutil.copytree(DEFAULT_ARTEFACT, artefact)
    (artefact / missing).unlink()
    with pytest.raises(SemcacheError) as raised:
        SemanticCache(path=tmp_path / "new", artefact=artefact)
    assert str(artefact / missing) in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_a_changed_model_file_is_refused(tmp_path: Path) -> None:
    artefact = tmp_path / "artefact"
    shutil.copytree(DEFAULT_ARTEFACT, artefact)
    with (artefact / TOKENIZER_FILE).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(SemcacheError, match="is for the model"):
        SemanticCache(path=tmp_path / "new", artefact=artefact)
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_cut_off_is_not_said_to_be_another(tmp_path: Path) -> None:
    artefact = tmp_path / "artefact"
    shutil.copytree(DEFAULT_ARTEFACT, artefact)
    model = artefact / MODEL_FILE
    model.write_bytes(model.read_bytes()[: 2**20])
    with pytest.raises(SemcacheError, match="holds no usable model"):
        SemanticCache(path=tmp_path / "new", artefact=artefact)
    assert not (tmp_path / "new").exists()


def test_an_embedder_without_a_calibration_only_matches_exactly_and_says_why_once(
    bench: Bench, warnings_of: Any
) -> None:
    embedder = WordEmbedder()
    cache = bench.open(embedder=embedder, artefact=None)
    cache.update(Request("one two three"), "a")
    assert cache.lookup(Request("one two three")) is not None
    assert cache.lookup(Request("three two one")) is None
    assert embedder.calls == []
    assert len(warnings_of("no calibration of its own")) == 1
    assert "calibrate" in cache.explain(Request("three two one")).reason


def test_a_bound_that_no_threshold_meets_only_matches_exactly_and_says_why_once(
    bench: Bench, warnings_of: Any
) -> None:
    embedder = WordEmbedder()
    for rate in (0.001, 0.0005):
        cache = bench.open(embedder=embedder, max_error_rate=rate, path=bench.directory / f"{rate}")
        cache.update(Request("one two three"), "a")
        for _ in range(3):
            assert cache.lookup(Request("one two three")) is not None
            assert cache.lookup(Request("three two one")) is None
        assert cache.stats().threshold is None
        assert len(warnings_of(f"within {rate:.2%}")) == 1
        assert "raise max_error_rate" in cache.explain(Request("three two one")).reason
    assert embedder.calls == []


def test_entries_of_another_model_are_only_found_exactly(bench: Bench) -> None:
    from fakes import calibrated

    class Other(WordEmbedder):
        fingerprint = "0" * 64

    cache = bench.open()
    cache.update(Request("one two three"), "a")
    cache.close()
    artefact = calibrated(bench.directory / "other", fingerprint="0" * 64)
    other = bench.open(embedder=Other(), artefact=artefact)
    assert other.lookup(Request("three two one")) is None
    assert other.lookup(Request("one two three")) is not None


def test_what_is_no_embedder_is_refused_before_anything_is_written(bench: Bench) -> None:
    with pytest.raises(SemcacheError, match="embedder cannot be"):
        bench.open(embedder=object())
    assert not bench.path.exists()

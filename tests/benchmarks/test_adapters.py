"""The adapters' benchmark runs, and measures what its rows say."""

import json
from pathlib import Path

import pytest
import run
from cases import adapters
from harness.corpus import questions
from harness.fill import artefact_for_timing

from llamaindex_semcache import CachedLLM, last_hit


def test_each_subject_is_asked_in_each_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adapters, "AT_ONCE", 8)
    monkeypatch.setattr(adapters, "DISTINCT", 4)
    out = tmp_path / "adapters.json"
    run.main(["adapters", "--rounds", "1", "--each", "2", "--out", str(out)])
    results = json.loads(out.read_text())
    assert all(row["n"] == 2 for row in results["rows"])
    ways = {(row["subject"], row["operation"]) for row in results["rows"]}
    cached = {"SemanticLLMCache", "CachedChatModel", "CachedLLM", "query engine, CachedLLM"}
    for subject in cached | {"LangChain alone", "LlamaIndex alone", "query engine alone"}:
        assert {(subject, way) for way in ("exact hit", "semantic hit", "miss")} <= ways
    assert len(ways) == 7 * 3 + 2
    calls = {run["through"]: run["model_calls"] for run in results["at_once"]}
    assert (calls["LangChain alone"], calls["CachedChatModel"]) == (8, 4)
    assert (calls["LlamaIndex alone"], calls["CachedLLM"]) == (8, 4)
    assert "| CachedLLM | miss |" in capsys.readouterr().out


def test_a_query_engine_hits_and_misses_as_its_rows_say(tmp_path: Path) -> None:
    artefact = artefact_for_timing(tmp_path / "artefact")
    made = questions(7)
    row, paraphrase = made.paraphrases[0]
    with adapters.SemanticCache(path=None, artefact=artefact) as cache:
        engine = adapters.engine(CachedLLM(llm=adapters.InstantLLM(), cache=cache))
        kinds = []
        for text in (made.stored[row], made.stored[row], paraphrase, made.strangers[0]):
            engine.query(text)
            kinds.append(getattr(last_hit(), "kind", None))
    assert kinds == [None, "exact", "semantic", None]

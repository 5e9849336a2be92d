"""The command line, through its own parser."""

import json
import sys
from pathlib import Path

import pytest
from semcache_core import Request, SemanticCache, cli
from typer.testing import CliRunner

FIGURES = {
    "requests",
    "exact_hits",
    "semantic_hits",
    "misses",
    "wrong_hits",
    "model_calls_saved",
    "hit_p50_ms",
    "hit_p95_ms",
    "miss_overhead_p50_ms",
    "seconds",
}


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with SemanticCache(path=tmp_path) as cache:
        cache.update(Request("What is a ledger?"), "A book.")
        cache.update(Request("What is a ledger?", namespace="acme"), "A table.")
    return tmp_path


def run(*arguments: object, ok: bool = True) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert (result.exit_code == 0) is ok, result.output
    return result.stdout


def test_demo_json_is_one_object_whose_counts_add_up() -> None:
    figures = json.loads(run("demo", "--requests", 120, "--delay-ms", 0, "--json"))
    assert figures.keys() >= FIGURES
    assert figures["requests"] == 120
    assert figures["exact_hits"] + figures["semantic_hits"] + figures["misses"] == 120
    assert figures["model_calls_saved"] == figures["exact_hits"] + figures["semantic_hits"]
    assert figures["failures"] == {}
    assert len(figures["explained"]) == 3


@pytest.mark.slow
def test_demo_answers_paraphrases_from_the_cache_within_the_bound() -> None:
    figures = json.loads(run("demo", "--requests", 800, "--delay-ms", 0, "--json"))
    assert figures["misses"] < figures["distinct_questions"]
    assert figures["semantic_hits"] > 0
    assert figures["wrong_hits"] <= figures["max_error_rate"] * figures["semantic_hits"]


@pytest.mark.slow
def test_demo_with_the_same_seed_gives_the_same_counts() -> None:
    once, again = (
        json.loads(run("demo", "--requests", 150, "--delay-ms", 0, "--seed", 3, "--json"))
        for _ in range(2)
    )
    counts = ("exact_hits", "semantic_hits", "misses", "wrong_hits")
    assert [once[name] for name in counts] == [again[name] for name in counts]


def test_demo_prints_progress_a_table_and_three_explanations() -> None:
    result = CliRunner().invoke(cli.app, ["demo", "--requests", "200", "--delay-ms", "0"])
    printed = result.stdout
    assert "questions asked: 200/200" in result.stderr
    assert "semantic hits" in printed
    assert printed.count("served at P(same answer) >=") == 3


def test_demo_restores_the_cache_that_was_set_before() -> None:
    from langchain_core.globals import get_llm_cache

    run("demo", "--requests", 5, "--delay-ms", 0)
    assert get_llm_cache() is None


def test_demo_keeps_the_cache_where_it_is_told(tmp_path: Path) -> None:
    run("demo", "--requests", 50, "--delay-ms", 0, "--path", tmp_path)
    again = json.loads(run("demo", "--requests", 50, "--delay-ms", 0, "--path", tmp_path, "--json"))
    assert again["exact_hits"] + again["semantic_hits"] == 50


def test_demo_names_a_model_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["semcache", "demo", "--model", "nosuchprovider:x"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "nosuchprovider:x" in capsys.readouterr().err


def test_demo_without_langchain_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core", None)
    monkeypatch.setattr(sys, "argv", ["semcache", "demo"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert 'pip install "semcache-core[langchain]"' in capsys.readouterr().err


def test_stats_counts_entries_of_all_namespaces(filled: Path) -> None:
    figures = json.loads(run("stats", "--path", filled, "--json"))
    assert (figures["entries"], figures["namespaces"]) == (2, 2)
    assert figures["bytes"] > 0
    assert "entries" in run("stats", "--path", filled)


def test_stats_counts_hits_of_earlier_processes(filled: Path) -> None:
    with SemanticCache(path=filled) as cache:
        cache.lookup(Request("What is a ledger?"))
    assert json.loads(run("stats", "--path", filled, "--json"))["hits_ever"] == 1


def test_clear_forgets_one_namespace_or_all(filled: Path) -> None:
    assert run("clear", "--path", filled, "--namespace", "acme", "--yes").startswith("1 entries")
    assert run("clear", "--path", filled, "--yes").startswith("1 entries")


def test_clear_asks_first_and_keeps_everything_on_no(filled: Path) -> None:
    result = CliRunner().invoke(cli.app, ["clear", "--path", str(filled)], input="n\n")
    assert result.exit_code != 0
    assert json.loads(run("stats", "--path", filled, "--json"))["entries"] == 2


def test_rebuild_keeps_every_answer(filled: Path) -> None:
    run("rebuild", "--path", filled)
    assert json.loads(run("stats", "--path", filled, "--json"))["entries"] == 2


@pytest.mark.parametrize(
    "command", [["stats"], ["clear", "--yes"], ["rebuild"], ["explain", "q"], ["forget", "q"]]
)
def test_a_mistyped_path_is_an_error_and_not_a_new_cache(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = tmp_path / "nowhere"
    monkeypatch.setattr(sys, "argv", ["semcache", *command, "--path", str(missing)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert str(missing) in capsys.readouterr().err
    assert not missing.exists()


@pytest.mark.parametrize("command", ["demo", "stats", "clear", "rebuild"])
def test_every_command_has_help(command: str) -> None:
    assert "Usage" in run(command, "--help")

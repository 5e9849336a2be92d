"""`semcache inspect`: which answers are stored."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from semcache_core import Request, SemanticCache, cli
from typer.testing import CliRunner

Q, PARAPHRASE = "how to reset my password", "my password how to reset"
HARMFUL = "\x1b[2J\x07\u202e [bold]loud[/bold]"


@pytest.fixture
def cache(bench: Bench) -> SemanticCache:
    cache = bench.open(clock=time.time)
    cache.update(Request(Q, "s", writer="w"), "Click.", tags=["b", "a"], cost=0.5)
    cache.update(Request("Who is on call", namespace="acme"), "Eve.", ttl=86_400 * 3.2)
    cache.update(Request("RESET the router", exact_only=True), "Unplug it.")
    return cache


@pytest.fixture
def path(cache: SemanticCache, bench: Bench) -> Path:
    return bench.path


def inspect(*arguments: object) -> str:
    result = CliRunner().invoke(
        cli.app, ["inspect", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def entries(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(inspect("--json", *arguments))["entries"]
    return found


def ids(*arguments: object) -> list[int]:
    return [one["id"] for one in entries(*arguments)]


def test_entries_are_listed_the_last_stored_first(path: Path) -> None:
    assert ids("--path", path) == [3, 2, 1]
    assert ids("--path", path, "--limit", 2) == [3, 2]
    assert ids("--path", path, "--namespace", "acme") == [2]
    assert ids("--path", path, "--scope", "s") == [1]
    assert ids("--path", path, "--question", "Reset") == [3, 1]
    assert ids("--path", path, "--question", "Reset", "--limit", 1) == [3]


def test_each_is_told_without_its_response(path: Path) -> None:
    found = entries("--path", path)
    assert {**found[2], "age_s": None} == {
        "id": 1, "namespace": "default", "scope": "s", "question": Q, "age_s": None, "hits": 0,
        "expires_in_s": None, "kind": "by meaning", "tags": ["a", "b"], "doubt": 0.0,
    }  # fmt: skip
    assert [one["kind"] for one in found] == ["exact only", "by meaning", "by meaning"]
    assert 0 < found[1]["expires_in_s"] <= 86_400 * 3.2
    assert 0 <= found[0]["age_s"] < 3600
    printed = inspect("--path", path)
    for shown in (
        Q,
        "Who is on call",
        "acme",
        "in 3 d",
        "never",
        "by meaning",
        "exact only",
        "a, b",
    ):
        assert shown in printed
    assert "Click." not in printed


def test_responses_are_told_when_they_are_asked_for(path: Path) -> None:
    assert [one["response"] for one in entries("--path", path, "--full")] == [
        "Unplug it.", "Eve.", "Click.",
    ]  # fmt: skip
    assert "Unplug it." in inspect("--path", path, "--full")


def test_a_long_question_is_cut_in_the_table_only(cache: SemanticCache, path: Path) -> None:
    cache.update(Request("x" * 61), "1")
    assert f"{'x' * 57}..." in inspect("--path", path, "--limit", 1)
    assert entries("--path", path, "--limit", 1)[0]["question"] == "x" * 61


@pytest.mark.parametrize("more", [[], ["--full"], ["--entry", "4"]])
def test_what_is_stored_gives_a_terminal_no_orders(
    more: list[str], cache: SemanticCache, path: Path
) -> None:
    cache.update(Request(HARMFUL + "\ud800", namespace=HARMFUL), HARMFUL, tags=[HARMFUL])
    printed = inspect("--path", path, *more)
    assert not set("\x1b\x07\u202e") & set(printed)
    assert r"\x1b[2J\x07\u202e [bold]loud[/bold]" in printed


def test_where_nothing_meets_the_conditions_it_is_said(path: Path) -> None:
    assert "nothing is stored that meets this" in inspect("--path", path, "--question", "nowhere")
    assert entries("--path", path, "--question", "nowhere") == []


class TestOneEntry:
    @pytest.fixture(autouse=True)
    def _judged(self, cache: SemanticCache) -> None:
        hit = cache.lookup(Request(PARAPHRASE, "s"))
        assert hit is not None
        cache.feedback(hit.entry_id, correct=False, request=Request(PARAPHRASE, "s"))

    def test_is_told_in_full_with_what_was_judged_of_it(self, path: Path) -> None:
        one = json.loads(inspect("--path", path, "--entry", 1, "--json"))
        (judgement,) = one.pop("judgements")
        assert judgement["asked"] == PARAPHRASE
        assert (judgement["correct"], judgement["source"]) == (False, "feedback")
        assert one["doubt"] > 0
        assert {name: one[name] for name in ("response", "cost", "writer", "never_for")} == {
            "response": "Click.", "cost": 0.5, "writer": "w", "never_for": 1,
        }  # fmt: skip

    def test_is_printed_with_its_judgements(self, path: Path) -> None:
        printed = inspect("--path", path, "--entry", 1)
        for shown in ("Click.", PARAPHRASE, "feedback", "+00:00"):
            assert shown in printed

    def test_may_have_no_judgement(self, path: Path) -> None:
        assert "nothing was judged of it" in inspect("--path", path, "--entry", 2)
        assert json.loads(inspect("--path", path, "--entry", 2, "--json"))["judgements"] == []


def test_an_entry_of_a_year_that_no_calendar_has_is_shown(bench: Bench) -> None:
    bench.open().update(Request("a"), "1", ttl=1e300)
    assert "1e+300" in inspect("--path", bench.path, "--entry", 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--path", "nowhere"], "no cache at nowhere"), (["--entry", "99"], "no live entry 99")],
)
def test_what_is_not_there_is_an_error(
    arguments: list[str],
    said: str,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEMCACHE_PATH", str(path))
    monkeypatch.setattr(sys, "argv", ["semcache", "inspect", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_inspecting_loads_no_model_and_counts_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    inspect("--path", path)
    assert [one["hits"] for one in entries("--path", path)] == [0, 0, 0]

"""`semcache explain`, `feedback`, `forget` and `invalidate`: what the cache's own methods do."""

import json
from pathlib import Path

import pytest
from commands import refused, run
from conftest import Bench
from semcache_core import Request, SemanticCache, cli
from typer.testing import CliRunner

KEYS = "How do I reset my password?"
REWORDED = "How can I reset my password?"


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A cache that served at a bound of 10 %: entry 1 of the default tenant, 2 of another."""
    path = tmp_path / "cache"
    with SemanticCache(path=path, max_error_rate=0.1) as cache:
        cache.update(Request(KEYS), "Click.", tags=("help",))
        cache.update(Request(KEYS, scope="be brief", namespace="acme"), "Ask.", tags=("help", "x"))
        assert cache.lookup(Request(REWORDED)) is not None
    return path


def answers(path: Path) -> list[str]:
    """The stored responses, oldest first."""
    listed = json.loads(run("inspect", "--path", path, "--full", "--json"))["entries"]
    return [entry["response"] for entry in reversed(listed)]


def test_explain_decides_as_the_app_that_served(used: Path) -> None:
    printed = run("explain", REWORDED, "--path", used)
    assert "semantic hit" in printed and "at most 10.0% wrong" in printed and KEYS in printed
    assert "at most 5.0% wrong" in run(
        "explain", REWORDED, "--path", used, "--max-error-rate", 0.05
    )


def test_explain_asks_in_the_place_of_an_entry(used: Path) -> None:
    assert "miss" in run("explain", REWORDED, "--path", used, "--namespace", "acme")
    found = json.loads(run("explain", REWORDED, "--path", used, "--entry", 2, "--json"))
    assert (found["hit"]["entry_id"], found["hit"]["response"]) == (2, "Ask.")
    assert found["text"].startswith(f'"{REWORDED}"')
    named = ("--namespace", "acme", "--scope", "be brief")
    assert "exact hit" in run("explain", KEYS, "--path", used, *named)


def test_explain_changes_nothing(used: Path) -> None:
    before = run("stats", "--path", used, "--json")
    run("explain", REWORDED, "--path", used)
    figures, now = json.loads(before), json.loads(run("stats", "--path", used, "--json"))
    for name in ("entries", "exact_hits", "semantic_hits", "misses", "max_error_rate"):
        assert figures[name] == now[name]


def test_explain_shows_nothing_that_a_terminal_would_obey(used: Path) -> None:
    with SemanticCache(path=used) as cache:
        cache.update(Request("ring \a", scope="bells"), "Ding.")
    printed = run("explain", "ring \a", "--path", used, "--scope", "bells")
    assert "exact hit" in printed
    assert "\a" not in printed and "\\x07" in printed


def test_explain_names_the_other_model_that_embedded_the_entries(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.open() as cache:
        cache.update(Request("one two"), "a")
    error = refused(capsys, monkeypatch, "explain", "one two", "--path", bench.path)
    assert "another model" in error and "--artefact" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "q", "--entry", "1", "--namespace", "acme"], "leave out --namespace"),
        (["explain", "q", "--max-error-rate", "0"], "max_error_rate cannot be 0"),
        (["explain", "q", "--entry", "9"], "there is no live entry 9"),
        (["feedback", "9", "--wrong"], "there is no live entry 9"),
        (["feedback", "1", "--wrong", "--question", "never asked"], "never asked"),
        (["forget", "--yes"], "either the stored question or --entry"),
        (["forget", KEYS, "--entry", "1", "--yes"], "either the stored question or --entry"),
        (["forget", REWORDED, "--yes"], "nothing is stored for exactly"),
        (["forget", "--entry", "9", "--yes"], "there is no live entry 9"),
        (["invalidate", "--yes"], "give --tag or --older-than"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_goes(
    arguments: list[str],
    said: str,
    used: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert said in refused(capsys, monkeypatch, *arguments, "--path", used)
    assert answers(used) == ["Click.", "Ask."]


def test_a_wrong_answer_is_not_given_to_that_question_again(used: Path) -> None:
    printed = run("feedback", 1, "--wrong", "--question", REWORDED, "--path", used)
    assert printed == "noted: the answer of entry 1 was wrong\n"
    assert "miss" in run("explain", REWORDED, "--path", used)
    assert answers(used) == ["Click.", "Ask."]
    judged = json.loads(run("inspect", "--entry", 1, "--path", used, "--json"))["judgements"]
    assert [(one["asked"], one["correct"]) for one in judged] == [(REWORDED, False)]


def test_without_a_question_feedback_is_about_the_last_one_answered_by_meaning(used: Path) -> None:
    run("feedback", 1, "--right", "--path", used)
    judged = json.loads(run("inspect", "--entry", 1, "--path", used, "--json"))["judgements"]
    assert [(one["asked"], one["correct"]) for one in judged] == [(REWORDED, True)]


def test_feedback_says_right_or_wrong(used: Path) -> None:
    result = CliRunner().invoke(cli.app, ["feedback", "1", "--path", str(used)])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    "named",
    [["--entry", "2"], [KEYS, "--namespace", "acme", "--scope", "be brief"]],
    ids=["by id", "by question"],
)
def test_forget_deletes_one_answer(named: list[str], used: Path) -> None:
    assert run("forget", *named, "--yes", "--path", used) == "1 entry forgotten\n"
    assert answers(used) == ["Click."]


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["--tag", "x"], ["Click."]),
        (["--tag", "x", "--tag", "help"], []),
        (["--tag", "help", "--namespace", "acme"], ["Click."]),
        (["--tag", "help", "--older-than", "3600"], ["Click.", "Ask."]),
        (["--older-than", "-1"], []),
    ],
)
def test_invalidate_deletes_what_meets_all_conditions(
    conditions: list[str], left: list[str], used: Path
) -> None:
    printed = run("invalidate", *conditions, "--yes", "--path", used)
    assert printed == f"{2 - len(left)} entries forgotten\n"
    assert answers(used) == left


@pytest.mark.parametrize("command", [["forget", "--entry", "1"], ["invalidate", "--tag", "help"]])
def test_deleting_asks_first_and_keeps_everything_on_no(command: list[str], used: Path) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--path", str(used)], input="n\n")
    assert result.exit_code != 0
    assert answers(used) == ["Click.", "Ask."]

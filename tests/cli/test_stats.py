"""`semcache stats`: once, and watching, for people, programs and logs."""

import importlib
import json
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from rich.console import Console
from semcache_core import Prices, Request, SemanticCache, Usage, cli
from semcache_core.search.chroma import ChromaIndex
from semcache_core.testing import run_background_round
from typer.testing import CliRunner

# the package's attribute of this name is the command itself
command = importlib.import_module("semcache_core.cli.stats")

Looks = Callable[[int, Callable[[int], None]], None]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["stats", *(str(a) for a in arguments)])
    assert result.exit_code == code, result.output
    return result.output


class Time:
    """The time module, but for `sleep`."""

    time, strftime, localtime = time.time, time.strftime, time.localtime

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Has a watcher look so many times; `between` is called with 1, 2, ... before each next one."""

    def end_after(times: int, between: Callable[[int], None] = lambda look: None) -> None:
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == times:
                raise KeyboardInterrupt
            between(len(waited))

        monkeypatch.setattr(command, "time", Time(sleep))

    return end_after


@pytest.fixture
def used(bench: Bench) -> Path:
    """A cache with two entries of two tenants, four hits, two of them by meaning."""
    with bench.open(prices=Prices({"m": (1_000_000, 0)}), audit_rate=1.0, clock=time.time) as cache:
        cache.update(Request("one two three"), "a", usage=Usage("m", 10, 20, 1.5))
        cache.update(Request("one two three", namespace="acme"), "b")
        for question in ("one two three", "one two three", "three two one", "two three one"):
            assert cache.lookup(Request(question), audits=True) is not None
        cache.audited(Request("three two one"), "a")
    return bench.path


def test_json_is_one_object_of_all_figures(used: Path) -> None:
    figures = json.loads(run("--path", used, "--json"))
    assert figures["saved"] == {
        "tokens_in": 40,
        "tokens_out": 80,
        "cost": 40.0,
        "seconds": 6.0,
    }
    assert (figures["entries"], figures["namespaces"], figures["hits_ever"]) == (2, 2, 4)
    assert figures["bytes"] >= (used / "ledger.sqlite3").stat().st_size
    assert figures["max_error_rate"] == 0.02
    assert 0 < figures["claimed_error"] < 0.02
    assert (figures["measured"]["n"], figures["measured"]["wrong"]) == (1, 0)


def test_the_table_shows_them_too(used: Path) -> None:
    printed = re.sub(r"\s+", " ", run("--path", used))
    for shown in (
        *("entries │ 2", "namespaces │ 2", "hits ever │ 4", "40 in, 80 out", "40.00", "6.0"),
        *("wrong, at most │ 2.0%", "wrong, measured │ 0.0% (0.0% to 79.3%, 1 audited)"),
    ):
        assert shown in printed


def test_lookups_are_counted_by_result_over_all_processes(used: Path, bench: Bench) -> None:
    with bench.open(clock=time.time) as cache:
        assert cache.lookup(Request("nine ten")) is None
    figures = json.loads(run("--path", used, "--json"))
    assert (figures["exact_hits"], figures["semantic_hits"], figures["misses"]) == (2, 2, 1)
    assert figures["hit_rate"] == 0.8
    printed = re.sub(r"\s+", " ", run("--path", used))
    for shown in ("exact hits │ 2", "semantic hits │ 2", "misses │ 1", "hit rate │ 80.0%"):
        assert shown in printed


def test_a_lookup_itself_writes_no_count(bench: Bench, still: None) -> None:
    cache = bench.open()
    for _ in range(3):
        cache.lookup(Request("one"))
    assert json.loads(run("--path", bench.path, "--json"))["misses"] == 0
    run_background_round(cache)
    assert json.loads(run("--path", bench.path, "--json"))["misses"] == 3


def ask(bench: Bench, question: str, **options: Any) -> None:
    with bench.open(clock=time.time, **options) as cache:
        cache.lookup(Request(question))


def test_the_bound_is_of_the_app_that_served_by_meaning(
    used: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMCACHE_MAX_ERROR_RATE", "0.05")
    ask(bench, "two one three", max_error_rate=0.1)
    assert json.loads(run("--path", used, "--json"))["max_error_rate"] == 0.1
    assert re.search(r"at most\s+│ 10.0%", run("--path", used))
    ask(bench, "one two three", max_error_rate=0.3)  # served, but not by meaning
    assert json.loads(run("--path", used, "--json"))["max_error_rate"] == 0.1


def test_until_one_has_served_the_bound_is_of_the_app_that_looked_up_else_of_the_setting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMCACHE_MAX_ERROR_RATE", "0.05")
    bench.open().close()
    assert json.loads(run("--path", bench.path, "--json"))["max_error_rate"] == 0.05
    ask(bench, "one", max_error_rate=0.1)
    assert json.loads(run("--path", bench.path, "--json"))["max_error_rate"] == 0.1


@pytest.mark.parametrize("planted", ["'many'", "-5", "1 << 62", "x'00'", "0.5"])
def test_counts_that_another_program_wrote_count_as_none(
    planted: str, used: Path, bench: Bench
) -> None:
    with closing(sqlite3.connect(used / "ledger.sqlite3")) as connection, connection:
        connection.execute(f"UPDATE semcache_meta SET value = {planted} WHERE name = 'misses'")
    assert json.loads(run("--path", used, "--json"))["misses"] == 0
    ask(bench, "nine ten")
    assert json.loads(run("--path", used, "--json"))["misses"] == 1


def test_what_is_not_known_is_not_shown_as_nothing(bench: Bench) -> None:
    bench.open().close()
    figures = json.loads(run("--path", bench.path, "--json"))
    assert set(figures["saved"].values()) == {None}
    assert (figures["claimed_error"], figures["measured"]["error"]) == (None, None)
    assert (figures["misses"], figures["hit_rate"]) == (0, None)
    printed = run("--path", bench.path)
    assert "- in, - out" in printed and "nothing audited" in printed


def test_what_entries_take_is_shown_with_the_limit_where_one_is_set(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = json.loads(run("--path", used, "--json"))
    taken = figures["entries_bytes"]
    assert figures["max_bytes"] is None and 2_000 < taken < 10_000
    assert re.search(rf"taken\s+│ {taken:,}\s+│", run("--path", used))
    monkeypatch.setenv("SEMCACHE_MAX_BYTES", "5000000")
    assert f"{taken:,} of 5,000,000" in run("--path", used)


def test_expired_entries_are_not_counted(bench: Bench) -> None:
    with bench.open(clock=lambda: 0.0) as cache:
        cache.update(Request("long gone"), "a", ttl=1)
        cache.update(Request("still here"), "a")
        assert json.loads(run("--path", bench.path, "--json"))["entries"] == 1


def test_watching_in_json_is_an_object_a_line_and_sees_what_changes(
    bench: Bench, looks: Looks
) -> None:
    cache = bench.open()
    looks(3, lambda look: cache.update(Request(f"question {look}"), "a") and None)
    lines = run("--path", bench.path, "--watch", "--json").splitlines()
    assert [json.loads(line)["entries"] for line in lines] == [0, 1, 2]


def test_watching_without_a_terminal_is_a_line_a_look(used: Path, looks: Looks) -> None:
    looks(2)
    lines = run("--path", used, "--watch").splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"\d\d:\d\d:\d\d entries 2; namespaces 2; hits ever 4; bytes ", line)
        assert line.endswith("wrong, measured 0.0% (0.0% to 79.3%, 1 audited)")


def test_watching_on_a_terminal_is_one_table_that_changes(
    bench: Bench, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open()
    looks(2, lambda look: cache.update(Request(f"question {look}"), "a") and None)
    screen = Console(force_terminal=True, width=80, record=True)
    monkeypatch.setattr(command, "Console", lambda: screen)
    printed = run("--path", bench.path, "--watch")
    assert "\x1b[" in printed  # the cursor goes back up
    shown = re.findall(r"entries\s+│ (\d)", printed)
    assert shown[0] == "0" and shown[-1] == "1"


@pytest.mark.parametrize(("given", "waited"), [([], 2.0), (["7.5"], 7.5)])
def test_the_seconds_between_looks_may_follow_the_option(
    given: list[str], waited: float, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.open().close()
    seen: list[float] = []

    def sleep(seconds: float) -> None:
        seen.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "time", Time(sleep))
    run("--path", bench.path, "--watch", *given)
    assert seen == [waited]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["5"], "--watch 5"),
        (["--watch", "0"], "0.1"),
        (["--watch", "often"], "valid"),
    ],
)
def test_seconds_that_make_no_sense_are_refused(
    arguments: list[str], said: str, bench: Bench
) -> None:
    bench.open().close()
    assert said in run("--path", bench.path, *arguments, code=2)


def test_a_look_takes_the_index_from_nobody(
    bench: Bench, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.open(scan_limit=1) as cache:
        for question in ("one", "two", "three"):
            cache.update(Request(question), "a")

    def opened(*_: Any) -> None:
        raise AssertionError("the index was opened")

    monkeypatch.setattr(ChromaIndex, "__init__", opened)
    monkeypatch.setattr(SemanticCache, "__init__", opened)
    monkeypatch.setenv("SEMCACHE_SCAN_LIMIT", "1")
    looks(2)
    assert run("--path", bench.path, "--watch").count("entries 3") == 2

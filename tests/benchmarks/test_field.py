"""The comparison with other caches runs without them, and with one that speaks its protocol."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import run
from cases.field import counted
from harness.pipe import Piped
from rivals.report import plot
from semcache_core.evaluation.replay import Arrival

TOY = """
import sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from rivals.orders import Rival, run

class Toy(Rival):
    '''Knows questions by the last two words; fails at lookups that say so.'''
    def load(self): print("a library that prints")
    def memory(self): return super().memory() | {{"server_rss_mib": 3.0, "server_used_mib": 1.0}}
    def fill(self, directory, size, seed, answer):
        from harness.corpus import questions
        texts = [self.key(text) for text in questions(seed).stored]
        (Path(directory) / "stored").write_text("\\n".join(texts))
    def open(self, directory, setting):
        found = Path(directory) / "stored"
        self.known = dict.fromkeys(found.read_text().splitlines(), "x") if found.exists() else {{}}
        self.setting = setting
    def key(self, text): return " ".join(text.strip("?").split()[-2:])
    def get(self, asked):
        if "boom" in asked: raise KeyError(asked)
        return self.known.get(self.key(asked))
    async def aget(self, asked): return self.get(asked)
    def put(self, asked, answered): self.known[self.key(asked)] = answered

run(Toy())
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """An executable that takes the place of an interpreter, whatever script it is handed."""
    script, interpreter = tmp_path / "toy.py", tmp_path / "toy"
    script.write_text(TOY.format(benchmarks=str(run.HERE)))
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
    interpreter.chmod(0o755)
    return interpreter


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    lines = [
        {"question": "How do I change my PIN?", "answer_id": "pin"},
        {"question": "Where is my card?", "answer_id": "card"},
        {"question": "How do I change my PIN?", "answer_id": "pin"},
        {"question": "Where is my car? my card", "answer_id": "car"},
        {"question": "Is it on its way?", "answer_id": "card"},
    ]
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


FEW = ["--rounds", "1", "--slow-rounds", "1", "--calls", "2", "--together", "4", "--sizes", "410"]


def test_all_are_asked_the_same_and_one_without_its_interpreter_is_left_out(
    tmp_path: Path, toy: Path, stream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "field.json"
    given = ["--out", str(out), "--gptcache", str(toy), "--stream", str(stream)]
    run.main(["field", *FEW, *given])
    printed = capsys.readouterr().out
    results = json.loads(out.read_text())
    ours = {"SemanticCache", "SemanticLLMCache"}
    asked = {(row["subject"], row["operation"]): row for row in results["rows"]}
    for name in (*ours, "GPTCache", "InMemoryCache"):
        assert {(name, each) for each in ("exact hit", "miss", "put")} <= set(asked)
        assert asked[name, "exact hit"]["n"] == 2
        assert asked[name, "exact hit"]["unexpected"] == asked[name, "miss"]["unexpected"] == 0
    assert ("InMemoryCache", "semantic hit") not in asked
    assert {asked[name, "semantic hit"]["unexpected"] for name in ours} == {0}
    assert {row["by"] for row in results["throughput"]} == {
        *("1 thread", "8 threads", "32 threads", "64 tasks")
    }
    assert {row["subject"] for row in results["first_hit"]} == {*ours, "GPTCache"}
    taken = {row["subject"]: row["per_entry"] for row in results["disk"]}
    assert taken["SemanticCache"] > results["response_bytes"]
    assert taken["InMemoryCache"] == 0
    plot(results, tmp_path / "field.svg")
    assert (tmp_path / "field.svg").read_text().startswith("<?xml")
    rows = [line for line in printed.splitlines() if line.startswith("| GPTCache")]
    assert any("| 3 (1 in use) |" in row for row in rows)

    arms = {(arm["subject"], arm["setting"]): arm for arm in results["streams"][0]["arms"]}
    assert {setting for name, setting in arms if name == "SemanticCache"} == {0.01, 0.02, 0.05, 0.1}
    repeat = arms["InMemoryCache", None]
    assert (repeat["right"], repeat["wrong"], repeat["missed"], repeat["new"]) == (1, 0, 1, 3)
    toys = arms["GPTCache", 0.8]
    assert (toys["right"], toys["wrong"], toys["missed"], toys["new"]) == (1, 1, 1, 2)
    assert toys["default"] and not arms["GPTCache", 0.9]["default"]


def test_a_process_that_cannot_do_it_says_why_and_goes_on(toy: Path, tmp_path: Path) -> None:
    with Piped("Toy", [str(toy)]) as process:
        with pytest.raises(RuntimeError, match="Toy could not do 'lookups'"):
            process.ask("lookups", texts=["asked before it is open"])
        process.ask("first", directory=str(tmp_path), setting=None, text="x y")
        done: dict[str, Any] = process.ask("threads", n=2, texts=["a b", "boom boom", "c d"])
        assert (done["served"], done["missed"], done["failed_with"]) == (0, 2, ["failed: KeyError"])
        done = process.ask("tasks", n=3, texts=["a b", "boom boom"])
        assert (done["missed"], done["n"]) == (1, 2)


def test_a_process_that_ends_is_noticed(tmp_path: Path) -> None:
    with (
        Piped("Ended", [sys.executable, "-c", "input()"]) as process,
        pytest.raises(RuntimeError, match="the Ended process has ended"),
    ):
        process.ask("versions")


def test_a_wrong_answer_is_wrong_even_where_the_right_one_was_not_there() -> None:
    stream = [Arrival(text, answer) for text, answer in zip("abcde", "12113", strict=True)]
    found = counted(stream, [None, "1", None, "1", None])
    assert found == {
        **{"right": 1, "wrong": 1, "missed": 1, "new": 2},
        **{"served": 0.4, "error": 0.5},
    }


def test_nothing_served_has_no_error() -> None:
    assert counted([Arrival("a", "1")], [None])["error"] is None

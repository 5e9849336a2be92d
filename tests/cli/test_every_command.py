"""What all commands have in common: help, a version, completion, no need of torch."""

import csv
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import semcache_core
import typer.main
from commands import run
from semcache_core import cli
from semcache_core.cli.demo import sample_questions

import langchain_semcache
import llamaindex_semcache

PACKAGES = [semcache_core, langchain_semcache, llamaindex_semcache]
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def semcache(*arguments: str, **environment: str) -> str:
    """What `python -m semcache_core` prints, which is to succeed."""
    command = [sys.executable, "-m", "semcache_core", *arguments]
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_all_its_arguments_and_options_have_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help and command.help.strip()
    visible = [one for one in command.params if not getattr(one, "hidden", False)]
    assert [one.name for one in visible if not (one.help or "").strip()] == []


def test_the_option_for_the_version_prints_it() -> None:
    assert run("--version") == f"semcache {metadata.version('semcache-core')}\n"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_package_reads_its_version_when_it_is_asked(package: ModuleType) -> None:
    assert "__version__" not in vars(package)  # which would be a file to read at each import
    assert package.__version__ == metadata.version("semcache-core")
    assert "__version__" in package.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


@pytest.mark.slow
def test_the_command_is_a_module_too() -> None:
    assert semcache("--version") == f"semcache {metadata.version('semcache-core')}\n"


@pytest.mark.slow
def test_a_shell_completes_commands() -> None:
    asked = {"COMP_WORDS": "semcache st", "COMP_CWORD": "1"}
    completed = semcache(**asked, _SEMCACHE_COMPLETE="complete_bash")
    assert completed.split() == ["stats"]


WITHOUT_TORCH = """
import json, sys
from pathlib import Path

NEEDED_BY_TRAIN = {"torch", "sentence_transformers", "transformers", "peft"}

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NEEDED_BY_TRAIN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

# a None in sys.modules would not do: scipy reads the names there
sys.meta_path.insert(0, NotInstalled())
from semcache_core.cli import app
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT
from semcache_core.training.calibration import calibrate
from typer.testing import CliRunner

calibrate.SEEDS = (0, 1)  # two thirds of the time

def run(*arguments, codes=(0,)):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code in codes, (arguments, done.output, done.exception)
    return done.stdout

Path("artefact").mkdir()
for file in DEFAULT_ARTEFACT.iterdir():
    Path("artefact", file.name).write_bytes(file.read_bytes())
run("mine", "log.csv", "--out", "mined.jsonl")
run("label", "mined.jsonl", "--answers", "--out", "pairs.jsonl")
run("score", "pairs.jsonl")
figures = run("evaluate", "pairs.jsonl", "--json", codes=(0, 1))  # 1: a bound is broken
assert json.loads(figures)["n"] > 0
assert json.loads(run("simulate", "log.csv", "--json"))["arms"]
lines = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
for line in lines:  # all of them, or too few are left
    line.pop("split")
Path("all.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
run("calibrate", "all.jsonl", "--artefact", "artefact")
assert not NEEDED_BY_TRAIN & set(sys.modules)
"""


@pytest.mark.slow
def test_only_train_needs_torch(tmp_path: Path) -> None:
    with (tmp_path / "log.csv").open("w", encoding="utf-8", newline="") as lines:
        rows = [(one.question, one.intent) for one in sample_questions()]
        csv.writer(lines).writerows([("question", "answer_id"), *rows])
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

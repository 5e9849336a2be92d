"""What all commands have in common: help, a version, completion, no need of torch."""

import os
import subprocess
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest
import semcache_core
import typer.main
from commands import run
from semcache_core import cli

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

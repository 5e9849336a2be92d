"""`semcache` as it is called in a terminal."""

import sys

import pytest
from semcache_core import cli
from typer.testing import CliRunner


def run(*arguments: object) -> str:
    """What the command prints, which is to succeed."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> str:
    """What the console script says on standard error before it ends with 2."""
    monkeypatch.setattr(sys, "argv", ["semcache", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    return capsys.readouterr().err

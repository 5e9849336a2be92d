"""The `semcache` command."""

import sys
from typing import Annotated

import typer

import semcache_core
from semcache_core.cli.answers import explain, feedback, forget
from semcache_core.cli.demo import demo
from semcache_core.cli.evaluation import evaluate, score, simulate
from semcache_core.cli.stats import stats
from semcache_core.cli.store import clear, inspect, invalidate, rebuild
from semcache_core.cli.training import calibrate, label, mine, train
from semcache_core.cli.transfer import export, import_
from semcache_core.errors import SemcacheError

app = typer.Typer(
    name="semcache",
    no_args_is_help=True,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"semcache {semcache_core.__version__}")
        raise typer.Exit


@app.callback()
def semcache(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """A semantic response cache for LangChain and LlamaIndex."""


_COMMANDS = (
    demo,
    *(mine, label, train, calibrate),
    *(score, evaluate, simulate),
    *(stats, inspect, explain, feedback),
    *(forget, invalidate, clear, rebuild, export),
)
for _command in _COMMANDS:
    app.command()(_command)
app.command("import")(import_)


def main() -> None:
    """The console script: an expected error is one line and exit code 2, not a traceback."""
    try:
        app(prog_name="semcache")  # by `python -m semcache_core` too
    except SemcacheError as error:
        typer.echo(f"semcache: {error}", err=True)
        sys.exit(2)

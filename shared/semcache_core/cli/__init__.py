"""The `semcache` command."""

import sys

import typer

from semcache_core.cli.demo import demo
from semcache_core.cli.store import clear, rebuild, stats
from semcache_core.errors import SemcacheError

app = typer.Typer(
    name="semcache",
    help="A semantic response cache for LangChain and LlamaIndex.",
    no_args_is_help=True,
    add_completion=False,
)
for _command in (demo, stats, clear, rebuild):
    app.command()(_command)


def main() -> None:
    """The console script: an expected error is one line and exit code 2, not a traceback."""
    try:
        app()
    except SemcacheError as error:
        typer.echo(f"semcache: {error}", err=True)
        sys.exit(2)

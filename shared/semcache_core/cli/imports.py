"""Entries of another cache, or of a log, taken into this one."""

from pathlib import Path
from typing import Annotated

import typer

from semcache_core.cache import SemanticCache
from semcache_core.cli.options import DEFAULT_PATH, PathOption, is_cache
from semcache_core.cli.progress import Steps
from semcache_core.transfer.jsonl import EntriesFile


def import_(
    file: Annotated[
        Path, typer.Argument(help='An export, or JSON lines: {"question", "response"}.')
    ],
    path: PathOption = DEFAULT_PATH,
    namespace: Annotated[
        str, typer.Option(help="Of the lines of a log that name none.")
    ] = "default",
    embed: Annotated[
        bool,
        typer.Option(
            "--embed/--no-embed",
            help="Make the vectors that are missing; else only take those in FILE, of any model.",
        ),
    ] = True,
) -> None:
    """Store the answers in FILE; what is here already stays where it is as new or newer.

    All of FILE is checked before anything of it is stored. Stopped and begun again, it goes on.
    """
    EntriesFile(file).close()  # what cannot be read is said before a new cache is made
    directory = path.expanduser()
    is_new = not is_cache(directory)
    with SemanticCache(path=directory, namespace=namespace) as cache, Steps() as steps:
        done = cache.import_entries(
            file, embed=embed, progress=lambda n, total: steps.show("importing", n, total)
        )
    where = f"a new cache at {directory}" if is_new else str(directory)
    typer.echo(
        f"{done.stored:,} of {done.read:,} entries stored in {where}: {done.present:,} were there, "
        f"{done.expired:,} have expired; {done.embedded:,} embedded"
    )

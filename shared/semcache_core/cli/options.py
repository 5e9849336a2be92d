"""Options and checks that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from semcache_core.errors import SemcacheError

PathOption = Annotated[
    Path, typer.Option("--path", help="Directory of the cache.", envvar="SEMCACHE_PATH")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and no table.")]
DEFAULT_PATH = Path("~/.cache/semcache")


def existing(path: Path) -> Path:
    """`path` if a cache is there: a mistyped path must not become a new, empty cache."""
    directory = path.expanduser()
    if not (directory / "ledger.sqlite3").exists():
        raise SemcacheError(f"no cache at {directory}; give the directory that the app uses")
    return directory

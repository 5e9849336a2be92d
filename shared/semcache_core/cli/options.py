"""Options, checks and tables that several commands share."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from semcache_core._utils.csv_rows import is_csv
from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.errors import ArtefactError, SemcacheError
from semcache_core.settings import default_path
from semcache_core.storage.entries import ListedEntry
from semcache_core.storage.ledger import FILE_NAME, Ledger
from semcache_core.transfer.entries import Listing

PathOption = Annotated[
    Path, typer.Option("--path", help="Directory of the cache.", envvar="SEMCACHE_PATH")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and no table.")]
ArtefactOption = Annotated[
    Path | None,
    typer.Option("--artefact", help="The directory of the artefact; without it, the shipped one."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DEFAULT_PATH = default_path()


def is_cache(directory: Path) -> bool:
    return (directory / FILE_NAME).exists()


def existing(path: Path) -> Path:
    """`path` if a cache is there: a mistyped path must not become a new, empty cache."""
    directory = path.expanduser()
    if not is_cache(directory):
        raise SemcacheError(f"no cache at {directory}; give the directory that the app uses")
    return directory


def for_json_lines(file: Path) -> Path:
    """`file`; SemcacheError where it would be read as CSV, although JSON lines go into it."""
    if is_csv(file):
        raise SemcacheError(
            f"{file} would be read as CSV, but JSON lines are written; name a file that ends in "
            ".jsonl"
        )
    return file


def live_entry(ledger: Ledger, entry_id: int, now: float) -> ListedEntry:
    """The entry with this id; SemcacheError where there is none, or it has expired."""
    if (found := Listing(ledger).get(entry_id, now)) is None:
        raise SemcacheError(f"there is no live entry {entry_id}; `semcache inspect` lists ids")
    return found


def loaded(artefact: Path | None) -> tuple[OnnxEmbedder, Calibration]:
    """Model and calibration of an artefact directory, which must belong together."""
    directory = artefact or DEFAULT_ARTEFACT
    calibration = load_calibration(directory)
    embedder = OnnxEmbedder.load(directory)
    if embedder.fingerprint != calibration.fingerprint:
        raise ArtefactError(
            f"the calibration in {directory} is for the model {calibration.fingerprint[:12]}..., "
            f"the model there is {embedder.fingerprint[:12]}...; restore its files, or train anew"
        )
    return embedder, calibration


def table_of(rows: Iterable[Sequence[str]], columns: Sequence[str], title: str = "") -> Table:
    """A table to print; without heads where all `columns` are empty."""
    table = Table(*columns, title=title or None, show_header=any(columns), title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def printable(text: str) -> str:
    """`text` in one line, and without what a terminal would obey: an answer may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same for each line of it."""
    return "\n".join(map(printable, text.split("\n")))

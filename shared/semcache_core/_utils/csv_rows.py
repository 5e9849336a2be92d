"""Reads CSV files wherever JSON lines are read: the names in the first line are the JSON keys."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TextIO, Union, get_args, get_origin

from semcache_core.errors import SemcacheError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class CsvRow(dict[str, Any]):
    """The cells of one row that are not empty, as text, by the name of their column."""

    def __init__(self, columns: Sequence[str], cells: Sequence[str]) -> None:
        pairs = zip(columns, cells, strict=True)
        super().__init__({name: cell for name, cell in pairs if name and cell})
        self.columns = [name for name in columns if name]

    def how_to_add(self, name: str) -> str:
        """What to do about a value that is missing."""
        if name in self.columns:
            return "fill in its cell"
        return f"give a column that name; the columns are {', '.join(self.columns)}"


def is_csv(file: str | Path) -> bool:
    """Whether the name of the file ends in .csv or .tsv."""
    return Path(file).suffix.lower() in _DELIMITERS


def csv_rows(file: str | Path, error: type[SemcacheError]) -> Iterator[tuple[str, CsvRow]]:
    """Each row of a file in UTF-8, with its place as "FILE, line N"; empty rows are skipped.

    Cells are separated by tabs in a .tsv file, by commas in any other. Raises `error` for a file
    that cannot be read, and for a row with more or fewer cells than the first one.
    """
    path = Path(file)
    columns: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for where, cells in _records(lines, path, error):
                if columns:
                    yield where, _row(columns, cells, where, error)
                else:
                    columns = _columns(cells, where, error)
    except (OSError, ValueError) as problem:  # not UTF-8, or a name with a NUL
        raise error(f"{path} cannot be read: {problem}; give a CSV file in UTF-8") from None


def _records(
    lines: TextIO, path: Path, error: type[SemcacheError]
) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each record, which may span lines; empty ones are skipped."""
    reader = csv.reader(lines, delimiter=_DELIMITERS.get(path.suffix.lower(), ","), strict=True)
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            raise error(
                f"{where} is not CSV ({problem}); quote cells with commas, quotes or line breaks, "
                "or write JSON lines"
            ) from None
        if any(cells):
            yield where, cells


def _columns(cells: Sequence[str], where: str, error: type[SemcacheError]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise error(f"{where} names the column {twice[0]!a} twice; leave one of them out")
    return names


def _row(
    columns: Sequence[str], cells: Sequence[str], where: str, error: type[SemcacheError]
) -> CsvRow:
    if len(cells) != len(columns):
        raise error(
            f"{where} has {len(cells)} cells, the first line names {len(columns)} columns; quote "
            "cells with commas"
        )
    return CsvRow(columns, cells)


def cell_value(cell: str, annotation: Any) -> object:
    """A cell as the JSON value of a field with this annotation; the cell itself where it is none.

    For a list it may be JSON or one text: `["a", "b"]` or `a`.
    """
    if _takes(annotation, str):
        return cell
    is_list = _takes(annotation, tuple)
    try:
        # in lower case, as spreadsheets write TRUE
        value = json.loads(cell if is_list else cell.lower())
    except (ValueError, RecursionError):
        value = cell
    return [cell] if is_list and not isinstance(value, list) else value


def _takes(annotation: Any, kind: type) -> bool:
    """Whether a value of this annotation may be of this kind."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType, Annotated):
        return any(_takes(one, kind) for one in get_args(annotation))
    return origin is kind

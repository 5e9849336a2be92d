"""The JSON of a run: what it was measured on, its settings, and the Markdown tables made of it."""

import argparse
import importlib
import json
import os
import platform
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from operator import getitem, itemgetter
from pathlib import Path
from typing import Any

Results = dict[str, Any]
Cell = str | Callable[[Results], str]
PACKAGES = ("numpy", "onnxruntime", "tokenizers", "chromadb", "sqlalchemy", "langchain-core")
NOT_SETTINGS = {"url", "redis_server", "base"}
"""Options that say where something lies on one machine, as those do that are paths."""


def hardware() -> dict[str, Any]:
    """The processor and the memory; nothing that identifies one machine."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
    }


def versions(*more: str) -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu_model() -> str:
    """The name that Linux gives; a virtual machine may hide it, so family and model too."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    return f"{fields.get('model name', platform.machine())} (family {family}, model {model})"


def finish(
    options: argparse.Namespace,
    measured: Mapping[str, Any],
    table: Callable[[Results], str],
    *packages: str,
) -> None:
    """Write the figures with settings, machine and versions to `options.out`; print their table.

    `load_average` is of the last minute; above 1, other programs may have used the machine.
    """
    results = {
        "settings": {
            name: value
            for name, value in vars(options).items()
            if name not in NOT_SETTINGS and isinstance(value, str | int | float)
        },
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions(*packages),
        **measured,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


def read_json(path: Path) -> Results:
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def columns(shown: Mapping[str, Cell], rows: Iterable[Results]) -> str:
    """A table of `rows`; a cell is a format string over a row, or a function of the row."""
    cells = [[_cell(row, cell) for cell in shown.values()] for row in rows]
    return markdown(shown, cells)


def _cell(row: Results, cell: Cell) -> str:
    return cell.format_map(row) if isinstance(cell, str) else cell(row)


def short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def shortened(*path: str) -> Callable[[Results], str]:
    """A cell of `columns`: the number under these keys, in three digits."""
    return lambda row: short(reduce(getitem, path, row))  # type: ignore[arg-type]


def latency_table(results: Results) -> str:
    """Every row with its median and 95th percentile, by operation; empty columns are left out."""
    possible: dict[str, Cell] = {
        "what": "{subject}",
        "operation": "{operation}",
        "entries": lambda row: f"{row['entries']:,}" if row.get("entries") else "",
        "part": lambda row: "" if row.get("part") in (None, "whole") else str(row["part"]),
        "p50 ms": shortened("p50_ms"),
        "p95 ms": shortened("p95_ms"),
        "mean ms": lambda row: short(row["mean_ms"]) if "mean_ms" in row else "",
        "n": "{n:,}",
        "not as expected": lambda row: str(row.get("unexpected") or ""),
    }
    rows = sorted(results["rows"], key=itemgetter("operation", "entries", "subject"))
    shown = {name: cell for name, cell in possible.items() if any(_cell(row, cell) for row in rows)}
    return columns(shown, rows)


def measured_on(results: Results) -> str:
    """One sentence: machine and versions."""
    on, found = results["hardware"], results["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB. {packages}."


def with_tables(page: Path, package: str = "") -> str:
    """The text of `page`, each table between `<!-- table NAME -->` and `<!-- end -->` made anew.

    NAME is that of a file in results/, which is also the module in `package` with its `table`;
    where there are several, of the file and a key of the module's `TABLES`.
    """

    def written(found: re.Match[str]) -> str:
        name, _, part = found[1].partition(" ")
        module = importlib.import_module(package + name)
        table = module.TABLES[part] if part else module.table
        results = read_json(page.with_name("results") / f"{name}.json")
        return f"<!-- table {found[1]} -->\n\n{table(results)}\n\n<!-- end -->"

    marked = r"<!-- table (.+?) -->\n.*?<!-- end -->"
    return re.sub(marked, written, page.read_text(encoding="utf-8"), flags=re.DOTALL)


def say(what: str) -> None:
    """Progress, with the seconds since the start."""
    print(f"{time.perf_counter() - _STARTED:6.0f} s  {what}", file=sys.stderr, flush=True)


_STARTED = time.perf_counter()

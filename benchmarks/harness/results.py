"""The JSON of a run: what it was measured on, its settings, and the Markdown tables made of it."""

import argparse
import json
import os
import platform
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Results = dict[str, Any]
PACKAGES = ("numpy", "onnxruntime", "tokenizers", "chromadb", "sqlalchemy", "langchain-core")
NOT_SETTINGS = {"out", "directory", "against", "url", "data"}
"""Options that say where something lies on one machine."""


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


def rss_mib() -> float:
    """Memory of this process in use now, shared pages included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def described(options: argparse.Namespace, measured: Mapping[str, Any]) -> Results:
    """The figures of a run with its settings, the machine and the versions.

    `load_average` is of the last minute; above 1, other programs may have used the machine.
    """
    settings = {
        name: value
        for name, value in vars(options).items()
        if name not in NOT_SETTINGS and isinstance(value, str | int | float)
    }
    return {
        "settings": settings,
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions(),
        **measured,
    }


def write_json(path: Path, results: Results) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Results:
    results: Results = json.loads(path.read_text(encoding="utf-8"))
    return results


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def latency_table(results: Results) -> str:
    """Every row of a run with its median and 95th percentile; empty columns are left out."""
    columns: dict[str, Callable[[Results], str]] = {
        "what": lambda row: str(row.get("subject", row.get("ledger", ""))),
        "operation": lambda row: str(row["operation"]),
        "entries": lambda row: f"{row['entries']:,}" if row.get("entries") else "",
        "part": lambda row: str(row.get("part") or ""),
        "p50 ms": lambda row: short(row["p50_ms"]),
        "p95 ms": lambda row: short(row["p95_ms"]),
        "mean ms": lambda row: short(row["mean_ms"]) if "mean_ms" in row else "",
        "n": lambda row: f"{row['n']:,}",
        "not as expected": lambda row: str(row.get("unexpected") or ""),
    }
    shown = {
        name: [cell(row) for row in results["rows"]]
        for name, cell in columns.items()
        if any(cell(row) for row in results["rows"])
    }
    return markdown(shown, zip(*shown.values(), strict=True))


def measured_on(results: Results) -> str:
    """One sentence: machine and versions."""
    on, found = results["hardware"], results["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"{on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB. {packages}."


def replace_tables(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """`text` with each table between `<!-- table NAME -->` and `<!-- end -->` written anew."""

    def written(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n\n{tables[found[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- table (.+?) -->\n.*?<!-- end -->", written, text, flags=re.DOTALL)


def say(what: str) -> None:
    """Progress, with the seconds since the start."""
    print(f"{time.perf_counter() - _STARTED:6.0f} s  {what}", file=sys.stderr, flush=True)


_STARTED = time.perf_counter()

"""The tables of README.md, made of the JSON in results/."""

from collections.abc import Callable
from pathlib import Path

from cases import (
    adapters,
    call_paths,
    compaction,
    eviction,
    hosts,
    latency,
    scale,
    scopes,
    sharing,
)
from footprint import table as footprint_table
from harness.results import Results, latency_table, measured_on, read_json, replace_tables
from rivals import report
from soak import table as soak_table

HERE = Path(__file__).parent
README = HERE / "README.md"

SHOWN: dict[str, tuple[str, Callable[[Results], str]]] = {
    "call_paths": ("call_paths", call_paths.table),
    "field latency": ("field", latency_table),
    "field rates": ("field", report.rates),
    "field cold start": ("field", report.cold_starts),
    "field space": ("field", report.space),
    "field answers": (
        "field",
        lambda results: "\n\n".join(map(report.answers, results["streams"])),
    ),
    "field machine": ("field", report.measured_on),
    "footprint": ("footprint", footprint_table),
    "soak": ("soak", soak_table),
    "scale machine": ("scale", measured_on),
    **{
        name: (name, case.table)
        for name, case in {
            "adapters": adapters,
            "compaction": compaction,
            "eviction": eviction,
            "hosts": hosts,
            "latency": latency,
            "scale": scale,
            "scopes": scopes,
            "sharing": sharing,
        }.items()
    },
}
"""By the name in README.md: the results file, and how its table is made."""


def with_tables(text: str) -> str:
    """`text` with every table written anew; one whose JSON does not exist yet says so."""

    def shown(name: str) -> str:
        file, table = SHOWN[name]
        path = HERE / "results" / f"{file}.json"
        return table(read_json(path)) if path.exists() else "Not measured yet."

    return replace_tables(text, {name: lambda name=name: shown(name) for name in SHOWN})


def write_tables() -> None:
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")

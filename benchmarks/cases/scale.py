"""Lookups, updates, disk, memory and reopening at up to a million entries in one scope.

It takes hours: the index of a million is built entry by entry.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness.fill import ANSWER, artefact_for_timing
from harness.results import Results, columns, latency_table, measured_on
from rivals.contenders import our

from cases.field import Field

PATIENCE_SECONDS = 60
"""While an index is opened, a lookup is a miss: so long a reopened cache is asked again."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="10000,100000,1000000", help="entries, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=60, help="of each kind in a round")
    parser.add_argument("--first-hits", type=int, default=7, help="processes that reopen each size")


def measure(options: argparse.Namespace) -> Results:
    sizes = [int(size) for size in options.sizes.split(",")]
    made = []
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as name, ExitStack() as stack:
        field = Field(Path(name), options.seed, PATIENCE_SECONDS)
        subject = our("SemanticLLMCache", artefact_for_timing(field.directory / "artefact"))
        for size in sizes:
            started = time.perf_counter()
            found = field.filled(subject, size)
            made.append({**found, "fill_s": round(time.perf_counter() - started, 1)})
        reopened = [
            {"entries": size, "first_hit": field.first_hits([subject], size, options.first_hits)}
            for size in sizes
        ]
        asked = [field.opened(subject, size, stack) for size in sizes]
        samples = field.calls(asked, options.rounds, options.calls)
        memory = [each.memory() for each in asked]
    about = {"response_bytes": len(ANSWER.encode()), "made": made, "reopened": reopened}
    return {**about, "memory": memory, "rows": samples.rows()}


def table(results: Results) -> str:
    """Latency of whole calls; then space and reopening."""
    rows = [
        {
            **made,
            "per_entry": made["bytes"] / made["entries"],
            "seconds": made["fill_s"] + made.get("index_s", 0.0),
            "first_s": again["first_hit"][-1]["p50_ms"] / 1000,
        }
        for made, again in zip(results["made"], results["reopened"], strict=True)
    ]
    shown = {
        "entries": "{entries:,}",
        "bytes per entry on disk": "{per_entry:,.0f}",
        "filled and indexed in": "{seconds:,.0f} s",
        "import to first hit": "{first_s:.1f} s",
    }
    whole = [{**row, "subject": ""} for row in results["rows"] if _is_whole(row)]
    return latency_table({"rows": whole}) + "\n\n" + columns(shown, rows)


def _is_whole(row: Results) -> bool:
    return row["part"] == "whole" and row["operation"] != "miss, first in its scope"


TABLES = {"machine": measured_on}

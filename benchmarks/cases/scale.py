"""Lookups, updates, disk, memory and reopening at up to a million entries in one scope.

It takes hours: the index of a million is built entry by entry.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from field import Plan, filled, first_hits, opened, turns
from harness.fill import ANSWER, artefact_for_timing
from harness.results import Results, latency_table, markdown, say
from harness.timing import Samples
from rivals.contenders import our

PATIENCE_SECONDS = 60
"""While an index is opened, a lookup is a miss: so long a reopened cache is asked again."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="10000,100000,1000000", help="entries, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=60, help="of each kind in a round")
    parser.add_argument("--first-hits", type=int, default=7, help="processes that reopen each size")


def measure(options: argparse.Namespace) -> Results:
    sizes = tuple(int(size) for size in options.sizes.split(","))
    plan = Plan(sizes, options.seed, options.rounds, options.calls, 0, options.first_hits)
    plan = replace(plan, patience=PATIENCE_SECONDS)
    made, samples = [], Samples()
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        subject = our("SemanticLLMCache", artefact_for_timing(directory / "artefact"))
        for size in sizes:
            started = time.perf_counter()
            found = filled(plan, directory, subject, size)
            made.append({**found, "fill_s": round(time.perf_counter() - started, 1)})
        reopened = [
            {"entries": size, "first_hit": [{"operation": "semantic hit", **row}]}
            for size in sizes
            for row in first_hits(replace(plan, sizes=(size,)), directory, [subject])
        ]
        asked = list(opened(plan, directory, [subject], stack))
        for i, each in turns(plan.rounds, plan.seed, asked):
            each.round(samples, plan.calls)
            say(f"round {i}: {each.size}")
        memory = [each.memory() for each in asked]
    rows = [{**row, "subject": "semcache"} for row in samples.rows()]
    about = {"response_bytes": len(ANSWER.encode()), "made": made, "reopened": reopened}
    return {**about, "memory": memory, "rows": rows}


def table(results: Results) -> str:
    """Latency of whole calls; then space and reopening."""
    rows = []
    for made, again in zip(results["made"], results["reopened"], strict=True):
        (first,) = [row for row in again["first_hit"] if row["operation"] == "semantic hit"]
        seconds = sum(made.get(part, 0.0) for part in ("fill_s", "index_s"))
        rows.append(
            (
                f"{made['entries']:,}",
                f"{made['bytes'] / made['entries']:,.0f}",
                f"{seconds:,.0f} s",
                f"{first['p50_ms'] / 1000:.1f} s",
            )
        )
    whole = [{**row, "subject": "", "part": ""} for row in results["rows"] if _is_whole(row)]
    head = ("entries", "bytes per entry on disk", "filled and indexed in", "import to first hit")
    return latency_table({"rows": whole}) + "\n\n" + markdown(head, rows)


def _is_whole(row: Results) -> bool:
    return row["part"] == "whole" and row["operation"] != "miss, first in its scope"

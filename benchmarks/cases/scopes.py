"""A hundred thousand scopes beside a thousand: lookups, memory and the count of scopes."""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness.fill import Layout, artefact_for_timing, fill, opened, stock
from harness.results import Results, markdown, rss_mib, short
from harness.timing import summary
from semcache_core import Request, SemanticCache
from semcache_core.testing import engine_of

SCAN_LIMIT = 20_000
STRANGER = "Which lighthouse keeper painted the northern stairs?"
FIRST, AGAIN = "miss, first in its scope", "miss, again"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=300)


def measure(options: argparse.Namespace) -> Results:
    rows = []
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        artefact = artefact_for_timing(Path(directory) / "artefact")
        things = stock(options.seed, artefact)
        for scopes in (options.entries, options.entries // 100):
            layout = Layout(options.entries, tuple(f"scope {i}" for i in range(scopes)))
            path = Path(directory) / str(scopes)
            fill(path, things, layout, options.seed)
            rows.append(measured(path, artefact, layout, options.calls, options.seed))
    return {"rows": rows}


def measured(path: Path, artefact: Path, layout: Layout, calls: int, seed: int) -> dict[str, Any]:
    """Some scopes are timed; then every scope is asked, to see the memory that this takes."""
    order = np.random.default_rng(seed).permutation(len(layout.scopes))
    with opened(path, artefact) as cache:
        parts, before = engine_of(cache), rss_mib()
        started = time.perf_counter()
        parts.ledger.index_state(parts.retriever.fingerprint).large_partitions(SCAN_LIMIT)
        counted = time.perf_counter() - started
        first = [asked(cache, layout.scopes[i]) for i in order[:calls]]
        again = [asked(cache, layout.scopes[i]) for i in order[:calls]]
        for scope in layout.scopes:
            asked(cache, scope)
        return {
            "entries": layout.size,
            "scopes": len(layout.scopes),
            "upkeep_counts_scopes_ms": round(counted * 1e3, 1),
            FIRST: summary(first),
            AGAIN: summary(again),
            "mib_for_scopes_asked": round(rss_mib() - before, 1),
        }


def asked(cache: SemanticCache, scope: str) -> float:
    """Seconds of one miss by meaning; the question is always the same, so it is embedded once."""
    started = time.perf_counter()
    if cache.lookup(Request(STRANGER, scope)) is not None:
        raise RuntimeError("was to be a miss")
    return time.perf_counter() - started


def table(results: Results) -> str:
    head = ("entries", "scopes", "first miss, p50 ms", "again", "counting scopes, ms", "MiB more")
    return markdown(
        head,
        [
            (
                f"{row['entries']:,}",
                f"{row['scopes']:,}",
                *(short(row[which]["p50_ms"]) for which in (FIRST, AGAIN)),
                short(row["upkeep_counts_scopes_ms"]),
                short(row["mib_for_scopes_asked"]),
            )
            for row in results["rows"]
        ],
    )

"""A hundred thousand scopes beside a thousand: lookups, memory and the count of scopes."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness.fill import Layout, artefact_for_timing, fill, opened, stock
from harness.pipe import rss_mib
from harness.results import Results, columns, shortened
from harness.timing import summary, timed
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
            with opened(path, artefact) as cache:
                rows.append(measured(cache, layout, options.calls, options.seed))
    return {"rows": rows}


def measured(cache: SemanticCache, layout: Layout, calls: int, seed: int) -> dict[str, Any]:
    """Some scopes are timed; then every scope is asked, to see the memory that this takes."""
    order = np.random.default_rng(seed).permutation(len(layout.scopes))[:calls]
    engine, before = engine_of(cache), rss_mib()
    state = engine.ledger.index_state(engine.retriever.fingerprint)
    (counted,) = timed(state.large_partitions, [SCAN_LIMIT])
    first = [asked(cache, layout.scopes[i]) for i in order]
    again = [asked(cache, layout.scopes[i]) for i in order]
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
    found = []
    seconds = timed(lambda request: found.append(cache.lookup(request)), [Request(STRANGER, scope)])
    if found != [None]:
        raise RuntimeError("was to be a miss")
    return seconds[0]


def table(results: Results) -> str:
    shown = {
        "entries": "{entries:,}",
        "scopes": "{scopes:,}",
        "first miss, p50 ms": shortened(FIRST, "p50_ms"),
        "again": shortened(AGAIN, "p50_ms"),
        "counting scopes, ms": shortened("upkeep_counts_scopes_ms"),
        "MiB more": shortened("mib_for_scopes_asked"),
    }
    return columns(shown, results["rows"])

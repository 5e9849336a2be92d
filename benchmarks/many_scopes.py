"""A hundred thousand scopes beside one: lookups, memory, upkeep, disk. See README.md.

python benchmarks/many_scopes.py
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from corpus import questions
from filling import Layout, artefact_for_timing, fill, opened, stock
from semcache_core import Request, SemanticCache
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT
from timing import hardware, rss_mib, summary, versions

OUT = Path(__file__).parent / "results" / "many_scopes.json"
SCAN_LIMIT = 20_000
STRANGER = "Which lighthouse keeper painted the northern stairs?"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        artefact = artefact_for_timing(DEFAULT_ARTEFACT, Path(directory) / "artefact")
        things = stock(questions(options.seed), artefact)
        for scopes in (options.entries, options.entries // 100):
            layout = Layout(options.entries, tuple(f"scope {i}" for i in range(scopes)))
            path = Path(directory) / str(scopes)
            fill(path, things, layout, options.seed)
            rows.append(measured(path, artefact, layout, options.calls, options.seed))
    settings = {name: getattr(options, name) for name in ("entries", "calls", "seed")}
    results = {"settings": settings, "hardware": hardware(), "versions": versions(), "rows": rows}
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def measured(path: Path, artefact: Path, layout: Layout, calls: int, seed: int) -> dict[str, Any]:
    """Some scopes timed; then every scope asked, which would fill a memory without a bound."""
    order = np.random.default_rng(seed).permutation(len(layout.scopes))
    with opened(path, artefact) as cache:
        parts, before = cache._use(), rss_mib()
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
            "miss, first in its scope": summary(first),
            "miss, again": summary(again),
            "mib_for_scopes_asked": round(rss_mib() - before, 1),
        }


def asked(cache: SemanticCache, scope: str) -> float:
    """Seconds of one miss by meaning; the question is the same, so it is embedded once."""
    started = time.perf_counter()
    if cache.lookup(Request(STRANGER, scope)) is not None:
        raise RuntimeError("was to be a miss")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

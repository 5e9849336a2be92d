"""Gain of copying the live entries of a Chroma collection full of dead ones: disk, query time."""

import argparse
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from harness.corpus import unit
from harness.fill import entry
from harness.results import Results, columns, shortened
from harness.timing import summary, timed
from semcache_core import Request
from semcache_core.search import compaction
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.retriever import CANDIDATES, Retriever
from semcache_core.search.sync import IndexSync
from semcache_core.storage.entries import ImportedEntry
from semcache_core.storage.eviction import Limits
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import removed
from semcache_core.types import Matrix

MODEL, DIMENSION = "f" * 64, 384
BATCH = 1000
_REMOVED = sa.select(removed).limit(1)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--live", type=int, default=5_000)
    parser.add_argument("--added", type=int, default=40_000)
    parser.add_argument("--queries", type=int, default=500)


def measure(options: argparse.Namespace) -> Results:
    rng, stopping = np.random.default_rng(options.seed), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="semcache-bench-") as name,
        closing(Ledger.open(path := Path(name), None)) as ledger,
    ):
        retriever = Retriever(ledger, MODEL, 0, 2**40, DIMENSION)
        with closing(IndexSync(ledger, retriever, 0, EmbeddedIndex(path), None)) as sync:
            sync._compaction._look_at = float("inf")  # not before the old one is measured
            for start in range(0, options.added, BATCH):
                new = _entries(start, unit(rng.normal(size=(BATCH, DIMENSION))))
                ledger.entries.insert_newer(new, 0.0, Limits(max_entries=options.live))
                sync.step(0, stopping)
            while ledger.read(_REMOVED, {}):
                sync.step(0, stopping)
            queries = unit(rng.normal(size=(options.queries, DIMENSION)))
            before = _state(path, retriever, queries)
            started = time.perf_counter()
            sync.rebuild(stopping)
            seconds = time.perf_counter() - started
            compaction.RETIRE_SECONDS = 0.0
            sync.step(0, stopping)
            after = _state(path, retriever, queries)
    return {"before": before, "after": after, "renewal_s": round(seconds, 1)}


def _state(path: Path, retriever: Retriever, queries: Matrix) -> dict[str, Any]:
    index: Any = retriever.index
    ((partition, live),) = retriever.indexed.items()
    seconds = timed(lambda query: index.nearest(partition, query, CANDIDATES, live), queries)
    files = [f for f in (path / "chroma").rglob("*") if f.is_file()]
    vectors = sum(f.stat().st_size for f in files if f.parent != path / "chroma")
    whole = sum(f.stat().st_size for f in files)
    mib = {"chroma_mib": round(whole / 2**20, 1), "of_it_hnsw_mib": round(vectors / 2**20, 1)}
    return mib | {"query": summary(seconds)}


def _entries(start: int, rows: Matrix) -> list[ImportedEntry]:
    return [
        entry(Request(f"question {i}"), row, MODEL, ImportedEntry, response="a", created=float(i))
        for i, row in enumerate(rows, start=start)
    ]


def table(results: Results) -> str:
    shown = {
        "": "{when}",
        "Chroma's files": "{chroma_mib} MiB",
        "of it the graph": "{of_it_hnsw_mib} MiB",
        "query p50 ms": shortened("query", "p50_ms"),
        "p95 ms": shortened("query", "p95_ms"),
    }
    return columns(shown, [{"when": when, **results[when]} for when in ("before", "after")])

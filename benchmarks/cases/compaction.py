"""Gain of copying the live entries of a Chroma collection full of dead ones: disk, query time."""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from harness.fill import entry
from harness.results import Results, markdown, short
from harness.timing import summary, timed
from semcache_core.search import compaction
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.retriever import CANDIDATES, Retriever
from semcache_core.search.sync import IndexSync
from semcache_core.storage.entries import ImportedEntry
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
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as name:
        path = Path(name)
        ledger = Ledger.open(path, None)
        retrieval = Retriever(ledger, MODEL, 0, 2**40)
        indexer = IndexSync(ledger, retrieval, 0, EmbeddedIndex(path), None)
        indexer._compaction._look_at = float("inf")  # not before the old collection is measured
        try:
            for start in range(0, options.added, BATCH):
                rows = _unit(rng.normal(size=(BATCH, DIMENSION)))
                ledger.entries.insert_newer(_entries(start, rows), 0.0, max_entries=options.live)
                indexer.step(0, threading.Event())
            while ledger.read(_REMOVED, {}):
                indexer.step(0, threading.Event())
            queries = _unit(rng.normal(size=(options.queries, DIMENSION)))
            before = _state(path, retrieval, queries)
            started = time.perf_counter()
            indexer.rebuild(threading.Event())
            seconds = time.perf_counter() - started
            compaction.RETIRE_SECONDS = 0.0
            indexer.step(0, threading.Event())
            after = _state(path, retrieval, queries)
        finally:
            indexer.close()
            ledger.close()
    return {"before": before, "after": after, "renewal_s": round(seconds, 1)}


def _state(path: Path, retrieval: Retriever, queries: Matrix) -> dict[str, Any]:
    index: Any = retrieval.index
    ((partition, live),) = retrieval.indexed.items()
    seconds = timed(lambda query: index.nearest(partition, query, CANDIDATES, live), queries)
    files = [f for f in (path / "chroma").rglob("*") if f.is_file()]
    vectors = sum(f.stat().st_size for f in files if f.parent != path / "chroma")
    whole = sum(f.stat().st_size for f in files)
    mib = {"chroma_mib": round(whole / 2**20, 1), "of_it_hnsw_mib": round(vectors / 2**20, 1)}
    return mib | {"query": summary(seconds)}


def _unit(rows: Any) -> Matrix:
    unit: Matrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _entries(start: int, rows: Matrix) -> list[ImportedEntry]:
    return [
        entry(f"question {i}", row, MODEL, ImportedEntry, response="a", created=float(i))
        for i, row in enumerate(rows, start=start)
    ]


def table(results: Results) -> str:
    head = ("", "Chroma's files", "of it the graph", "query p50 ms", "p95 ms")
    return markdown(
        head,
        [
            (
                when,
                f"{found['chroma_mib']} MiB",
                f"{found['of_it_hnsw_mib']} MiB",
                short(found["query"]["p50_ms"]),
                short(found["query"]["p95_ms"]),
            )
            for when in ("before", "after")
            for found in (results[when],)
        ],
    )

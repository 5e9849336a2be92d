"""What it pays to make a collection full of dead entries anew: bytes on disk, query time."""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from semcache_core.search import compaction
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.retriever import CANDIDATES, Retriever
from semcache_core.search.sync import IndexSync
from semcache_core.storage.entries import ImportedEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import removed
from semcache_core.types import Matrix
from timing import hardware, summary, timed, versions

RESULTS = Path(__file__).parent / "results" / "generations.json"
PARTITION, MODEL, DIMENSION = b"p" * 32, "f" * 64, 384
BATCH = 1000
_REMOVED = sa.select(removed).limit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--live", type=int, default=5_000)
    parser.add_argument("--added", type=int, default=40_000)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    measured = measure(arguments.live, arguments.added, arguments.n, arguments.seed)
    about = {"hardware": hardware(), "versions": versions(), "seed": arguments.seed}
    text = json.dumps(about | measured, indent=1) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


def measure(live: int, added: int, n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="semcache-generations-") as name:
        path = Path(name)
        ledger = Ledger.open(path, None)
        retrieval = Retriever(ledger, MODEL, 0, 2**40)
        indexer = IndexSync(ledger, retrieval, 0, EmbeddedIndex(path), None)
        indexer._compaction._look_at = float("inf")  # only when the old one has been measured
        try:
            for start in range(0, added, BATCH):
                rows = _unit(rng.normal(size=(BATCH, DIMENSION)))
                ledger.entries.insert_newer(_arrivals(start, rows), 0.0, max_entries=live)
                indexer.step(0, threading.Event())
            while ledger.read(_REMOVED, {}):
                indexer.step(0, threading.Event())
            queries = _unit(rng.normal(size=(n, DIMENSION)))
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
    return {
        "live": live,
        "added": added,
        "before": before,
        "after": after,
        "renewal_s": round(seconds, 1),
    }


def _state(path: Path, retrieval: Retriever, queries: Matrix) -> dict[str, Any]:
    index: Any = retrieval.index
    live = retrieval.indexed[PARTITION]
    seconds = timed(lambda query: index.nearest(PARTITION, query, CANDIDATES, live), queries)
    files = [f for f in (path / "chroma").rglob("*") if f.is_file()]
    vectors = sum(f.stat().st_size for f in files if f.parent != path / "chroma")
    whole = sum(f.stat().st_size for f in files)
    mib = {"chroma_mib": round(whole / 2**20, 1), "of_it_hnsw_mib": round(vectors / 2**20, 1)}
    return mib | {"query": summary(seconds)}


def _unit(rows: Any) -> Matrix:
    unit: Matrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _arrivals(start: int, rows: Matrix) -> list[ImportedEntry]:
    return [
        ImportedEntry(
            exact=i.to_bytes(32, "big"),
            partition=PARTITION,
            namespace="n",
            scope="",
            exact_only=False,
            question="q",
            response="a",
            created=float(i),
            expires=None,
            cost=None,
            tags=(),
            fingerprint=MODEL,
            vector=row,
        )
        for i, row in enumerate(rows, start=start)
    ]


if __name__ == "__main__":
    main()

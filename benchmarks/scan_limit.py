"""From how many entries per scope on is Chroma faster than a scan in memory?"""

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from corpus import Matrix, clustered
from filling import NAMESPACE, Stock, add_rows
from semcache_core.request import key_of
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.retriever import Retriever
from semcache_core.search.sync import IndexSync
from semcache_core.storage.ledger import Ledger
from semcache_core.types import EMPTY, Request
from timing import summary, timed

SIZES = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
PLENTY = 2**40
SCOPE = "scope"
NEAR = 0.3
"""Length of the noise on a stored vector: a cosine of 1 / sqrt(1 + .3 ** 2) = .96."""


def scan_limit(
    stock: Stock, n: int, sizes: tuple[int, ...], seed: int, rounds: int
) -> list[dict[str, Any]]:
    """`Retriever.nearest` at growing sizes, once forced to scan and once forced to use Chroma.

    Each of `n` queries lies as near to one of the first entries as a paraphrase does.
    """
    filler = clustered(stock.centres, max(sizes), seed)
    queries = clustered(filler[: sizes[0]], n, seed + 1, NEAR)
    partition = key_of(Request("", SCOPE), NAMESPACE).partition
    rows = []
    with tempfile.TemporaryDirectory(prefix="semcache-scan-") as name:
        ledger = Ledger.open(Path(name), None)
        indexed = Retriever(ledger, stock.fingerprint, 0, PLENTY)
        indexer = IndexSync(ledger, indexed, 0, EmbeddedIndex(Path(name)), None)
        try:
            for start, size in zip((0, *sizes), sizes, strict=False):
                requests = [Request(f"filler {i}", SCOPE) for i in range(start, size)]
                add_rows(ledger, requests, filler[start:size], stock.fingerprint, start)
                started = time.perf_counter()
                indexer.step(size, threading.Event())
                row = {"entries": size, "index_s": round(time.perf_counter() - started, 1)}
                if indexed.indexed.get(partition, EMPTY).through != size:
                    raise RuntimeError(f"{indexed.indexed} was to hold {size} entries")
                scanned = Retriever(ledger, stock.fingerprint, PLENTY, PLENTY)
                rows.append(row | _compare(scanned, indexed, partition, queries, rounds))
        finally:
            indexer.close()
            ledger.close()
    return rows


def _compare(
    scanned: Retriever, indexed: Retriever, partition: bytes, queries: Matrix, rounds: int
) -> dict[str, Any]:
    now = time.time()
    seconds: dict[str, list[float]] = {"scan": [], "chroma": []}
    (first,) = timed(lambda v: scanned.nearest(partition, v, now), queries[:1])
    each = len(queries) // rounds
    for start in range(0, each * rounds, each):
        for name, retrieval in (("scan", scanned), ("chroma", indexed)):
            some = queries[start : start + each]
            seconds[name] += timed(lambda v, r=retrieval: r.nearest(partition, v, now), some)
    return {
        "first_scan_ms": round(first * 1e3, 1),
        **{f"{name}_{k}": v for name, each in seconds.items() for k, v in summary(each).items()},
        "chroma_recall_of_nearest": _recall(scanned, indexed, partition, queries, now),
    }


def _recall(
    scanned: Retriever, indexed: Retriever, partition: bytes, queries: Matrix, now: float
) -> float:
    """Share of queries for which Chroma finds the entry that is really the nearest."""
    same = sum(
        scanned.nearest(partition, v, now)[0][0] == indexed.nearest(partition, v, now)[0][0]
        for v in queries
    )
    return round(same / len(queries), 4)

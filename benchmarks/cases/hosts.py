"""Time and space of a ledger on PostgreSQL, beside one on SQLite, in turns.

`--url postgresql+psycopg://user@host/an_empty_database`; it needs the extra `postgres`.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from harness.corpus import clustered
from harness.fill import entry
from harness.results import Results, markdown, versions
from harness.timing import summary, timed
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import metadata

DIMENSION, FINGERPRINT, CANDIDATES = 384, "f" * 64, 16
RESPONSE_BYTES, NOW = 1000, 100.0
WRITERS = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="of a database without a ledger")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=200, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)


def measure(options: argparse.Namespace) -> Results:
    """Fill a ledger on each, then ask both in turns."""
    count, more = options.entries, options.rounds * options.calls
    new = entries(count + 2 * more, options.seed)
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        ledgers = {
            "sqlite": Ledger.open(Path(directory), None),
            "postgres": Ledger.open(None, options.url),
        }
        for ledger in ledgers.values():
            store(ledger, new[:count])
        postgres = ledgers["postgres"]
        sizes = bytes_of(postgres)
        rows = measured(ledgers, new, options)
        together = at_once(options.url, new[count + more :])
        for ledger in ledgers.values():
            ledger.close()
    return {
        "dimension": DIMENSION,
        "response_bytes": RESPONSE_BYTES,
        "versions": {
            **versions(),
            "psycopg": version("psycopg"),
            "postgres": server(options.url),
        },
        "rows": rows,
        "puts_a_second": together,
        "bytes_per_entry": {name: round(size / count, 1) for name, size in sizes.items()},
    }


def entries(count: int, seed: int) -> list[NewEntry]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((500, DIMENSION), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = clustered(centres, count, seed)
    # of random letters: a response that compresses well would be stored in fewer bytes
    letters = rng.integers(97, 123, (count, RESPONSE_BYTES), dtype=np.uint8)
    return [
        entry(
            f"What does the customer with the number {i} ask for most of the time?",
            vector,
            FINGERPRINT,
            response=letters[i].tobytes().decode("ascii"),
            created=NOW,
            answer_digest=i.to_bytes(32, "big"),
        )
        for i, vector in enumerate(vectors)
    ]


def store(ledger: Ledger, new: list[NewEntry]) -> None:
    for one in new:
        ledger.entries.insert(one)


def measured(
    ledgers: dict[str, Ledger], new: list[NewEntry], options: argparse.Namespace
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(options.seed)
    count, calls = options.entries, options.calls
    partition, last = new[0].partition, count + options.rounds * calls
    samples: dict[tuple[str, str], list[float]] = {}
    for n in range(options.rounds):
        asked = [new[i] for i in rng.integers(0, count, calls)]
        ids = [rng.integers(1, count, CANDIDATES).tolist() for _ in range(calls)]
        puts = new[count + n * calls : count + (n + 1) * calls]
        for name, ledger in ledgers.items():
            operations: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
                "find an exact key": (lambda e, on=ledger: on.find(e.exact, NOW), asked),
                "is there any vector": (
                    lambda e, on=ledger: on.has_vectors(partition, FINGERPRINT, NOW),
                    asked,
                ),
                "what was stored since": (
                    lambda e, on=ledger: on.vectors_after(partition, FINGERPRINT, last),
                    asked,
                ),
                "check 16 candidates": (
                    lambda i, on=ledger: on.live(i, partition, FINGERPRINT, NOW),
                    ids,
                ),
                "put": (lambda e, on=ledger: on.insert(e), puts),
            }
            for operation, (call, arguments) in operations.items():
                samples.setdefault((name, operation), []).extend(timed(call, arguments))
    return [
        {"ledger": name, "operation": operation, **summary(seconds)}
        for (name, operation), seconds in samples.items()
    ]


def at_once(url: str, new: list[NewEntry]) -> dict[str, float]:
    """Puts a second by one writer, and by several that each have connections of their own."""
    rates = {}
    half = len(new) // 2
    for writers, share in ((1, new[:half]), (WRITERS, new[half:])):
        own = [Ledger.open(None, url) for _ in range(writers)]
        threads = [
            threading.Thread(target=store, args=(one, share[n::writers]))
            for n, one in enumerate(own)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rates[str(writers)] = round(len(share) / (time.perf_counter() - started), 1)
        for one in own:
            one.close()
    return rates


def bytes_of(ledger: Ledger) -> dict[str, int]:
    """The rows of each table with their large values, and its indexes."""
    sizes: dict[str, int] = {}
    for name in metadata.tables:
        both = sa.select(
            sa.func.pg_table_size(sa.func.to_regclass(name)),
            sa.func.pg_indexes_size(sa.func.to_regclass(name)),
        )
        rows, indexes = ledger.read(both, {})[0]
        if name in ("semcache_entries", "semcache_vectors"):
            sizes |= {f"{name} rows": int(rows), f"{name} indexes": int(indexes)}
    return {**sizes, "all": ledger.bytes_on_disk()}


def server(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = str(connection.exec_driver_sql("SHOW server_version").scalar_one())
    engine.dispose()
    return found.split()[0]


def table(results: Results) -> str:
    by = {(row["ledger"], row["operation"]): row for row in results["rows"]}
    rows = []
    for operation in dict.fromkeys(row["operation"] for row in results["rows"]):
        cells = (by[name, operation] for name in ("sqlite", "postgres"))
        shown = (f"{cell['p50_ms']:.3f} / {cell['p95_ms']:.3f} ms" for cell in cells)
        rows.append((operation, *shown))
    rates = (
        (f"puts a second, {n} writers", "", f"{a:,.0f}")
        for n, a in results["puts_a_second"].items()
    )
    sizes = (
        (f"bytes per entry, {name}", "", f"{size:,.0f}")
        for name, size in results["bytes_per_entry"].items()
    )
    head = ("operation", "SQLite p50 / p95", "PostgreSQL p50 / p95")
    return markdown(head, [*rows, *rates, *sizes])

"""What a ledger on PostgreSQL costs: time for each operation, bytes for each entry; see README.md.

python benchmarks/many_hosts.py --url postgresql+psycopg://user@host/an_empty_database
python benchmarks/many_hosts.py --table
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from corpus import clustered
from semcache_core.request import key_of
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import metadata
from semcache_core.types import Request
from timing import hardware, summary, timed, versions

OUT = Path(__file__).parent / "results" / "many_hosts.json"
DIMENSION, FINGERPRINT, CANDIDATES = 384, "f" * 64, 16
RESPONSE_BYTES, NOW = 1000, 100.0
CALLS, ROUNDS, WRITERS = 200, 5, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", help="of a database without a ledger")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="only print the JSON's table")
    options = parser.parse_args()
    if not options.table:
        results = run(options.url, options.entries, options.seed)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(json.loads(options.out.read_text())))


def run(url: str, count: int, seed: int) -> dict[str, Any]:
    """Fill a ledger on each, then ask both in turns."""
    new = entries(count + 2 * ROUNDS * CALLS, seed)
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        ledgers = {"sqlite": Ledger.open(Path(directory), None), "postgres": Ledger.open(None, url)}
        for ledger in ledgers.values():
            fill(ledger, new[:count])
        postgres = ledgers["postgres"]
        sizes = bytes_of(postgres)
        rows = measured(ledgers, new, count, seed)
        together = at_once(postgres, new[count + ROUNDS * CALLS :])
        for ledger in ledgers.values():
            ledger.close()
    return {
        "format": 1,
        "settings": {
            "entries": count,
            "seed": seed,
            "dimension": DIMENSION,
            "response_bytes": RESPONSE_BYTES,
            "calls": CALLS,
            "rounds": ROUNDS,
        },
        "hardware": hardware(),
        "versions": {**versions(), "psycopg": version("psycopg"), "postgres": server(url)},
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
    made = []
    for i, vector in enumerate(vectors):
        question = f"What does the customer with the number {i} ask for most of the time?"
        key = key_of(Request(question), "default")
        response = letters[i].tobytes().decode("ascii")
        made.append(
            NewEntry(
                exact=key.exact,
                partition=key.partition,
                namespace=key.namespace,
                scope="",
                exact_only=False,
                question=question,
                response=response,
                created=NOW,
                expires=None,
                cost=None,
                tags=(),
                fingerprint=FINGERPRINT,
                vector=vector,
                answer_digest=key.exact,
            )
        )
    return made


def fill(ledger: Ledger, new: list[NewEntry]) -> None:
    for one in new:
        ledger.entries.insert(one)


def measured(
    ledgers: dict[str, Ledger], new: list[NewEntry], count: int, seed: int
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    partition, last = new[0].partition, count + ROUNDS * CALLS
    samples: dict[tuple[str, str], list[float]] = {}
    for n in range(ROUNDS):
        asked = [new[i] for i in rng.integers(0, count, CALLS)]
        ids = [rng.integers(1, count, CANDIDATES).tolist() for _ in range(CALLS)]
        puts = new[count + n * CALLS : count + (n + 1) * CALLS]
        for name, ledger in ledgers.items():
            operations: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
                "find an exact key": (lambda e, on=ledger: on.lookups.find(e.exact, NOW), asked),
                "is there any vector": (
                    lambda e, on=ledger: on.lookups.has_vectors(partition, FINGERPRINT, NOW),
                    asked,
                ),
                "what was stored since": (
                    lambda e, on=ledger: on.lookups.vectors_after(partition, FINGERPRINT, last),
                    asked,
                ),
                "check 16 candidates": (
                    lambda i, on=ledger: on.lookups.live(i, partition, FINGERPRINT, NOW),
                    ids,
                ),
                "put": (lambda e, on=ledger: on.entries.insert(e), puts),
            }
            for operation, (call, arguments) in operations.items():
                samples.setdefault((name, operation), []).extend(timed(call, arguments))
    return [
        {"ledger": name, "operation": operation, **summary(seconds)}
        for (name, operation), seconds in samples.items()
    ]


def at_once(ledger: Ledger, new: list[NewEntry]) -> dict[str, float]:
    """Puts a second by one, and by several that each have connections of their own."""
    rates = {}
    half = len(new) // 2
    for writers, share in ((1, new[:half]), (WRITERS, new[half:])):
        url = ledger._database._engine.url  # type: ignore[attr-defined]
        own = [Ledger.open(None, url.render_as_string(False)) for _ in range(writers)]
        threads = [
            threading.Thread(target=fill, args=(one, share[n::writers]))
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
    """Of each table: its rows with what is kept beside them, and its indexes."""
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
        told = str(connection.exec_driver_sql("SHOW server_version").scalar_one())
    engine.dispose()
    return told.split()[0]


def table(results: dict[str, Any]) -> str:
    by = {(row["ledger"], row["operation"]): row for row in results["rows"]}
    lines = ["| operation | SQLite p50 / p95 | PostgreSQL p50 / p95 |", "|---|---|---|"]
    for operation in dict.fromkeys(row["operation"] for row in results["rows"]):
        cells = (by[name, operation] for name in ("sqlite", "postgres"))
        shown = " | ".join(f"{cell['p50_ms']:.3f} / {cell['p95_ms']:.3f} ms" for cell in cells)
        lines.append(f"| {operation} | {shown} |")
    lines += ["", f"puts a second, by writers: {results['puts_a_second']}"]
    return "\n".join([*lines, f"bytes per entry: {results['bytes_per_entry']}"])


if __name__ == "__main__":
    main()

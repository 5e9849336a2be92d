"""Time and space of a ledger on PostgreSQL, beside one on SQLite, in turns.

`--url postgresql+psycopg://user@host/an_empty_database`; it needs the extra `postgres`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from harness.corpus import clustered, unit
from harness.fill import entry
from harness.results import Results, columns, markdown, versions
from harness.timing import Samples, What, timed
from semcache_core import Request
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.lookups import Lookups
from semcache_core.storage.schema import entries, vectors

DIMENSION, FINGERPRINT, CANDIDATES = 384, "f" * 64, 16
RESPONSE_BYTES, NOW = 1000, 100.0
WRITERS = 8
CHECK = "check 16 candidates"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="of a database without a ledger")
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=200, help="of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)


def measure(options: argparse.Namespace) -> Results:
    """Fill a ledger on each, then ask both in turns."""
    count, more = options.entries, options.rounds * options.calls
    new = new_entries(count + 2 * more, options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory,
        closing(Ledger.open(Path(directory), None)) as sqlite,
        closing(Ledger.open(None, options.url)) as postgres,
    ):
        for ledger in (sqlite, postgres):
            store(ledger, new[:count])
        sizes = bytes_of(postgres)
        server = postgres.read(sa.select(sa.func.current_setting("server_version")), {})[0][0]
        rows = measured({"sqlite": sqlite, "postgres": postgres}, new, options)
        together = at_once(options.url, new[count + more :])
    found = {"psycopg": version("psycopg"), "postgres": server.split()[0]}
    return {
        "dimension": DIMENSION,
        "response_bytes": RESPONSE_BYTES,
        "versions": versions() | found,
        "rows": rows,
        "puts_a_second": together,
        "bytes_per_entry": {name: round(size / count, 1) for name, size in sizes.items()},
    }


def new_entries(count: int, seed: int) -> list[NewEntry]:
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((500, DIMENSION), dtype=np.float32))
    # of random letters: a response that compresses well would be stored in fewer bytes
    letters = rng.integers(97, 123, (count, RESPONSE_BYTES), dtype=np.uint8)
    return [
        entry(
            Request(f"What does the customer with the number {i} ask for most of the time?"),
            vector,
            FINGERPRINT,
            response=letters[i].tobytes().decode("ascii"),
            created=NOW,
            answer_digest=i.to_bytes(32, "big"),
        )
        for i, vector in enumerate(clustered(centres, count, seed))
    ]


def store(ledger: Ledger, new: list[NewEntry]) -> None:
    for one in new:
        ledger.entries.insert(one)


def measured(
    ledgers: dict[str, Ledger], new: list[NewEntry], options: argparse.Namespace
) -> list[dict[str, Any]]:
    rng, samples = np.random.default_rng(options.seed), Samples()
    count, calls = options.entries, options.calls
    for n in range(options.rounds):
        asked = [new[i] for i in rng.integers(0, count, calls)]
        ids = [rng.integers(1, count, CANDIDATES).tolist() for _ in range(calls)]
        puts = new[count + n * calls : count + (n + 1) * calls]
        for name, ledger in ledgers.items():
            last = count + options.rounds * calls
            for operation, call in reads(ledger.lookups, new[0].partition, last).items():
                arguments = ids if operation == CHECK else asked
                samples.add(What(name, operation), timed(call, arguments))
            samples.add(What(name, "put"), timed(ledger.entries.insert, puts))
    return samples.rows()


def reads(lookups: Lookups, partition: bytes, last: int) -> dict[str, Callable[[Any], Any]]:
    """By operation: of an entry or, for CHECK, of the ids of candidates."""
    return {
        "find an exact key": lambda entry: lookups.find(entry.exact, NOW),
        "is there any vector": lambda _: lookups.has_vectors(partition, FINGERPRINT, NOW),
        "what was stored since": lambda _: lookups.vectors_after(partition, FINGERPRINT, last),
        CHECK: lambda ids: lookups.live(ids, partition, FINGERPRINT, NOW),
    }


def at_once(url: str, new: list[NewEntry]) -> dict[str, float]:
    """Puts a second by one writer, and by several that each have connections of their own."""
    rates = {}
    half = len(new) // 2
    for writers, share in ((1, new[:half]), (WRITERS, new[half:])):
        with ExitStack() as stack:
            own = [stack.enter_context(closing(Ledger.open(None, url))) for _ in range(writers)]
            pool = stack.enter_context(ThreadPoolExecutor(writers))
            started = time.perf_counter()
            list(pool.map(store, own, [share[n::writers] for n in range(writers)]))
            rates[str(writers)] = round(len(share) / (time.perf_counter() - started), 1)
    return rates


def bytes_of(ledger: Ledger) -> dict[str, int]:
    """The rows of both large tables with their large values, and their indexes."""
    sizes: dict[str, int] = {}
    for name in (entries.name, vectors.name):
        table = sa.func.to_regclass(name)
        both = sa.select(sa.func.pg_table_size(table), sa.func.pg_indexes_size(table))
        rows, indexes = ledger.read(both, {})[0]
        sizes |= {f"{name} rows": int(rows), f"{name} indexes": int(indexes)}
    return {**sizes, "all": ledger.bytes_on_disk()}


def table(results: Results) -> str:
    by = {(row["subject"], row["operation"]): row for row in results["rows"]}
    rows = [
        {"operation": operation, "sqlite": row, "postgres": by["postgres", operation]}
        for (subject, operation), row in by.items()
        if subject == "sqlite"
    ]
    times = {
        title: f"{{{name}[p50_ms]:.3f}} / {{{name}[p95_ms]:.3f}} ms"
        for title, name in (("SQLite p50 / p95", "sqlite"), ("PostgreSQL p50 / p95", "postgres"))
    }
    figures = [(f"puts a second, {n} writers", f) for n, f in results["puts_a_second"].items()]
    figures += [(f"bytes per entry, {n}", f) for n, f in results["bytes_per_entry"].items()]
    on_postgres = markdown(("PostgreSQL", ""), [(name, f"{f:,.0f}") for name, f in figures])
    return columns({"operation": "{operation}"} | times, rows) + "\n\n" + on_postgres

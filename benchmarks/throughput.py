"""Lookups per second by threads and by asyncio tasks, and how long the event loop stands still.

Each operation runs in a process of its own (this file, started by `lookup.py`), so that a process
that only sees exact hits never opens the model.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import questions
from filling import opened
from semcache_core import Request, SemanticCache
from timing import rss_mib

OPERATIONS = ("exact hit", "semantic hit", "miss")
MOST_UNEXPECTED = 0.02
THREADS = (1, 8, 32)
TASKS = 32
TICK = 0.001


def throughput(
    path: Path, artefact: Path, scope: str, seed: int, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """One row per operation and number of threads or tasks."""
    rows: list[dict[str, Any]] = []
    for operation in OPERATIONS:
        order = {"path": path, "artefact": artefact, "scope": scope, "operation": operation}
        settings = {"seed": seed, "seconds": seconds, "rounds": rounds}
        arguments = [f"--{name}={value}" for name, value in {**order, **settings}.items()]
        done = subprocess.run(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
        )
        rows += json.loads(done.stdout)
    return rows


def _requests(operation: str, scope: str, seed: int) -> Iterator[Request]:
    made = questions(seed)
    texts = {
        "exact hit": made.stored,
        "semantic hit": [text for _, text in made.paraphrases],
        "miss": made.strangers,
    }[operation]
    return itertools.cycle([Request(text, scope) for text in texts])


def _on_threads(cache: SemanticCache, requests: Iterator[Request], n: int, seconds: float) -> float:
    """Lookups per second of `n` threads together."""
    counts = [0] * n
    start, until = threading.Barrier(n + 1), [0.0]

    def work(me: int) -> None:
        start.wait()
        while time.perf_counter() < until[0]:
            cache.lookup(next(requests))  # itertools.cycle: safe to share, each takes another one
            counts[me] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    until[0] = started + seconds
    start.wait()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


async def _on_tasks(
    cache: SemanticCache, requests: Iterator[Request], n: int, seconds: float
) -> tuple[float, list[float]]:
    """Lookups per second of `n` tasks together, and how late each tick of the event loop was."""
    late: list[float] = []
    count = 0
    started = time.perf_counter()
    until = started + seconds

    async def ticker() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - due)

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < until:
            await cache.alookup(next(requests))
            count += 1

    ticking = asyncio.create_task(ticker())
    await asyncio.gather(*(work() for _ in range(n)))
    rate = count / (time.perf_counter() - started)
    ticking.cancel()
    return rate, late


def _measure(
    cache: SemanticCache, requests: Iterator[Request], seconds: float, rounds: int
) -> tuple[dict[str, list[float]], list[float]]:
    rates: dict[str, list[float]] = {}
    late: list[float] = []
    for _ in range(rounds):
        for n in THREADS:
            rate = _on_threads(cache, requests, n, seconds)
            rates.setdefault(f"{n} threads" if n > 1 else "1 thread", []).append(rate)
        rate, ticks = asyncio.run(_on_tasks(cache, requests, TASKS, seconds))
        rates.setdefault(f"{TASKS} tasks", []).append(rate)
        late += ticks
    return rates, late


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("path", "artefact"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("scope", "operation"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    for name in ("seed", "rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    order = parser.parse_args()
    requests = _requests(order.operation, order.scope, order.seed)
    with opened(order.path, order.artefact) as cache:
        for request in itertools.islice(requests, 50):
            cache.lookup(request)
        rates, late = _measure(cache, requests, order.seconds, order.rounds)
        stats = cache.stats()
        served = {
            "exact hit": stats.exact_hits,
            "semantic hit": stats.semantic_hits,
            "miss": stats.misses,
        }
    others = sum(n for operation, n in served.items() if operation != order.operation)
    if others > MOST_UNEXPECTED * sum(served.values()):
        raise SystemExit(f"{order.operation} was to be measured, but the lookups were {served}")
    rows: list[dict[str, Any]] = [
        {"operation": order.operation, "by": by, "per_second": round(statistics.median(each), 1)}
        for by, each in rates.items()
    ]
    rows[-1] |= {
        "loop_late_max_ms": round(max(late) * 1e3, 2),
        "loop_late_p99_ms": round(statistics.quantiles(late, n=100)[98] * 1e3, 2),
        "ticks": len(late),
        "rss_mib": rss_mib(),
    }
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

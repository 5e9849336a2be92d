"""Cost of a limit to a write: each policy at its limit, beside the same ledger without one.

Copies of one ledger, as full as its limit allows, take turns in random order. In each round every
copy writes the hits of some entries and then stores new ones, each of which has to make room. Only
`Entries.insert` and `Entries.touch` are timed; an `update` also runs the model. The mean counts
most: most writes evict nothing, and one in many evicts for all of them.
"""

import argparse
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
from harness.fill import E, entry
from harness.results import Results, latency_table
from harness.timing import Samples, What, timed
from semcache_core import Request
from semcache_core.storage.entries import ImportedEntry, NewEntry
from semcache_core.storage.eviction import UNLIMITED, Limits
from semcache_core.storage.ledger import Ledger

AT_ONCE = 2000
DIMENSION = 384
HITS = 200
WRITES = 200
TEXT = "Open Settings, choose Account, and follow the steps there. " * 8
_VECTOR = np.full(DIMENSION, DIMENSION**-0.5, np.float32)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)


def measure(options: argparse.Namespace) -> Results:
    drawn, samples = random.Random(options.seed), Samples()
    size = options.entries
    with tempfile.TemporaryDirectory() as directory, ExitStack() as opened:
        subjects = {
            name: (opened.enter_context(closing(ledger)).entries, limits, _new_entries(name))
            for name, ledger, limits in _subjects(Path(directory), size, options.seed)
        }
        for _ in range(options.rounds):
            for name in drawn.sample(sorted(subjects), len(subjects)):
                entries, limits, new = subjects[name]
                hits = {drawn.randint(1, size): (1, 1e9 + drawn.random()) for _ in range(HITS)}
                samples.add(What(name, "touch", size), timed(entries.touch, [hits]))
                seconds = timed(partial(entries.insert, limits=limits), islice(new, WRITES))
                samples.add(What(name, "insert", size), seconds)
    means = {what: statistics.fmean(seconds) for what, seconds in samples.seconds.items()}
    return {
        "rows": [
            {**row, "mean_ms": round(1000 * means[what], 4)}
            for row, what in zip(samples.rows(), sorted(means), strict=True)
        ]
    }


def _subjects(directory: Path, size: int, seed: int) -> Iterator[tuple[str, Ledger, Limits]]:
    first = directory / "no limit"
    with closing(Ledger.open(first, None)) as ledger:
        _fill(ledger, size, seed)
        taken = ledger.space().bytes
    limits = {policy: Limits(size, taken, policy) for policy in ("lru", "lfu", "cost")}
    for name in limits:
        shutil.copytree(first, directory / name)
    for name, limit in {"no limit": UNLIMITED, **limits}.items():
        ledger = Ledger.open(directory / name, None)
        through: int | None = 0
        while through is not None:
            through = ledger.entries.rank(limit.policy, through)
        yield name, ledger, limit


def _fill(ledger: Ledger, size: int, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    took, used = drawn.gamma(2.0, 3.0, size).tolist(), (1e6 + drawn.random(size)).tolist()
    for start in range(0, size, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, size))
        new = [_entry(ImportedEntry, f"stored {n}", used[n], took[n]) for n in numbers]
        ledger.entries.insert_newer(new, 1e6)


def _new_entries(name: str) -> Iterator[NewEntry]:
    for n in count():
        yield _entry(NewEntry, f"{name} {n}", 2e9 + n, 1.0 + n % 9)


def _entry(kind: type[E], question: str, created: float, seconds: float) -> E:
    more = {"response": TEXT, "tags": ("account",), "created": created, "seconds": seconds}
    return entry(Request(question), _VECTOR, "0" * 64, kind, **more)


def table(results: Results) -> str:
    return latency_table(results)

"""Cost of a limit to a write: each policy at its limit, beside the same ledger without one.

Copies of one ledger, as full as its limit allows, take turns in random order. In each round every
copy writes the hits of some entries and then stores new ones, each of which has to make room. Only
`Ledger.insert` and `Ledger.touch` are timed; an `update` also runs the model. The mean counts most:
most writes evict nothing, and one in many evicts for all of them.
"""

import argparse
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from harness.fill import entry
from harness.results import Results, latency_table
from harness.timing import Samples, What, timed
from semcache_core.storage.entries import ImportedEntry, NewEntry
from semcache_core.storage.eviction import UNLIMITED, Limits
from semcache_core.storage.ledger import Ledger

AT_ONCE = 2000
DIMENSION = 384
HITS = 200
WRITES = 200
TEXT = "Open Settings, choose Account, and follow the steps there. " * 8


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)


def measure(options: argparse.Namespace) -> Results:
    drawn, samples = random.Random(options.seed), Samples()
    size = options.entries
    with tempfile.TemporaryDirectory() as directory, ExitStack() as opened:
        subjects = {
            name: (opened.enter_context(closing(ledger)), limits, _new_entries(name))
            for name, ledger, limits in _subjects(Path(directory), size, options.seed)
        }
        for _ in range(options.rounds):
            for name in drawn.sample(sorted(subjects), len(subjects)):
                ledger, limits, new = subjects[name]
                hits = {drawn.randint(1, size): (1, 1e9 + drawn.random()) for _ in range(HITS)}
                samples.add(What(name, "touch", size), timed(ledger.entries.touch, [hits]))
                entries = [next(new) for _ in range(WRITES)]
                seconds = timed(
                    lambda e, to=ledger, within=limits: to.entries.insert(e, within), entries
                )
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
    limits = {
        "lru": Limits(size, taken),
        "lfu": Limits(size, taken, "lfu"),
        "cost": Limits(size, taken, "cost"),
    }
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
    for start in range(0, size, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, size))
        seconds, used = drawn.gamma(2.0, 3.0, len(numbers)), drawn.random(len(numbers))
        ledger.entries.insert_newer(
            [
                _entry(ImportedEntry, f"stored {n}", 1e6 + float(at), float(took))
                for n, at, took in zip(numbers, used, seconds, strict=True)
            ],
            1e6,
        )


def _new_entries(name: str) -> Iterator[NewEntry]:
    number = 0
    while True:
        yield _entry(NewEntry, f"{name} {number}", 2e9 + number, 1.0 + number % 9)
        number += 1


_VECTOR = np.full(DIMENSION, DIMENSION**-0.5, np.float32)


def _entry(kind: type[NewEntry], question: str, created: float, seconds: float) -> Any:
    more = {"response": TEXT, "tags": ("account",), "created": created, "seconds": seconds}
    return entry(question, _VECTOR, "0" * 64, kind, **more)


def table(results: Results) -> str:
    return latency_table(results)

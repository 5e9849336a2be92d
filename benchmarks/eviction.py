"""What a limit costs a write: each policy at its limit, beside the same ledger without one.

python benchmarks/eviction.py

Copies of one ledger with as many entries as its limit allows take turns in rounds, in a random
order: in each round every one writes the hits of some entries, then stores new ones, each of which
has to make room. `Entries.insert` and `Entries.touch` alone: an `update` also runs the model. The
mean counts most, as most writes evict nothing and every so many evict for all of them.
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from semcache_core import Request
from semcache_core.request import key_of
from semcache_core.storage.entries import ImportedEntry, NewEntry
from semcache_core.storage.eviction import UNLIMITED, Limits
from semcache_core.storage.ledger import Ledger
from timing import Samples, What, hardware, timed, versions

RESULTS = Path(__file__).with_name("results")
AT_ONCE = 2000
DIMENSION = 384
HITS = 200
WRITES = 200


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=RESULTS / "eviction.json", help="the JSON")
    made.add_argument("--entries", type=int, default=100_000)
    made.add_argument("--rounds", type=int, default=20)
    made.add_argument("--seed", type=int, default=0, help="draws vectors, hits and turns")
    arguments = made.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        rows = measured(Path(directory), arguments.entries, arguments.rounds, arguments.seed)
    results = {
        "hardware": hardware(),
        "versions": versions(),
        **{name: value for name, value in vars(arguments).items() if name != "out"},
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))


def measured(directory: Path, size: int, rounds: int, seed: int) -> list[dict[str, Any]]:
    drawn = random.Random(seed)
    samples = Samples()
    with ExitStack() as opened:
        subjects = {
            name: (opened.enter_context(closing(ledger)), limits, _new_entries(name))
            for name, ledger, limits in _subjects(directory, size, seed)
        }
        for _ in range(rounds):
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
    return [
        {**row, "mean_ms": round(1000 * means[what], 4)}
        for row, what in zip(samples.rows(), sorted(means), strict=True)
    ]


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
    key = key_of(Request(question), "default")
    return kind(
        exact=key.exact,
        partition=key.partition,
        namespace="default",
        scope="",
        exact_only=False,
        question=question,
        response="Open Settings, choose Account, and follow the steps there. " * 8,
        created=created,
        expires=None,
        cost=None,
        tags=("account",),
        fingerprint="0" * 64,
        vector=_VECTOR,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()

"""Many processes on one path for long: is anything lost or leaked?

python benchmarks/soak.py [--minutes M] [--processes N] [--seed S] [--out FILE]

Each process makes 90 % lookups and 10 % updates with the shipped model, all on one path. At the end
another process reads back every acknowledged answer. Memory and open files are sampled each minute
(ten times in a shorter run); slopes count from the fourth sample on, when all is open and warm.
Linux only. Exits with 1 if an answer was lost or wrong, or anything failed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness.corpus import TARGETS, questions
from harness.pipe import rss_mib
from harness.results import Results, columns, described, shortened, write_json
from harness.timing import summary
from semcache_core import Request, SemanticCache

RESULTS = Path(__file__).parent / "results"
UPDATES = 0.1
REWRITTEN = 0.5
"""Of the updates, so many store an entry anew that all write; the rest are the process's own."""
SAMPLES = 10
WARM = 3
"""So many samples are taken while models and connections are still being opened."""
OWN = 200
"""So many entries of its own a process writes, over and over: what is stored stops growing within
the first minutes, so memory that still grows is a leak.
"""
KEPT_TIMES = 20_000
"""Latencies of so many calls are kept, by reservoir sampling: a list of all would be the leak."""


class Times:
    """A fair sample of what was timed, in seconds (Vitter 1985, algorithm R)."""

    def __init__(self, chooser: random.Random) -> None:
        self._chooser = chooser
        self.n = 0
        self.kept: list[float] = []

    def add(self, seconds: float) -> None:
        self.n += 1
        if len(self.kept) < KEPT_TIMES:
            self.kept.append(seconds)
        elif (place := self._chooser.randrange(self.n)) < KEPT_TIMES:
            self.kept[place] = seconds


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def own(name: int, n: int) -> Request:
    """An entry that one process alone writes; found by its words, whatever else is stored."""
    return Request(f"What was noted by writer {name} under number {n}?", scope=f"writer {name}")


class Worker:
    """One process: asks and stores until its time is over, and says what it saw."""

    def __init__(self, path: Path, name: int, seconds: float, seed: int) -> None:
        self._chooser = random.Random(f"{seed} {name}")
        self._name, self._seconds = name, seconds
        self._cache = SemanticCache(path=path, max_entries=None)
        made = questions(seed)
        self._asked = [text for _, text in made.paraphrases] + made.strangers
        self._shared = made.stored[:TARGETS]
        self._times = {what: Times(self._chooser) for what in ("lookup", "update")}
        self._counts: Counter[str] = Counter()
        self._acknowledged = 0
        self._problems: list[str] = []

    def run(self) -> dict[str, Any]:
        samples: list[dict[str, float]] = []
        started = time.perf_counter()
        every = min(60.0, self._seconds / SAMPLES)
        while (past := time.perf_counter() - started) < self._seconds:
            if past >= every * len(samples):
                samples.append({"at": past, "rss_mib": rss_mib(), "files": open_files()})
            self._step()
        failed = self._cache.stats().failures
        self._cache.close()
        return {
            "name": self._name,
            "acknowledged": self._acknowledged,
            "counts": dict(self._counts),
            "failures": failed,
            "problems": self._problems[:10],
            "samples": samples,
            "seconds": time.perf_counter() - started,
            "times": {what: one.kept for what, one in self._times.items()},
        }

    def _step(self) -> None:
        what = "update" if self._chooser.random() < UPDATES else "lookup"
        started = time.perf_counter()
        try:
            self._update() if what == "update" else self._lookup()
        except Exception as error:  # noqa: BLE001 - the run reports it
            self._counts["errors"] += 1
            self._problems.append(repr(error))
        self._times[what].add(time.perf_counter() - started)
        self._counts[what] += 1

    def _update(self) -> None:
        if self._chooser.random() < REWRITTEN:
            text = self._chooser.choice(self._shared)
            self._cache.update(Request(text), f"shared: {text}")
        else:
            version = self._acknowledged
            self._cache.update(own(self._name, version % OWN), f"{self._name} {version}")
            self._acknowledged += 1

    def _lookup(self) -> None:
        if self._acknowledged and self._chooser.random() < 0.2:
            n, version = self._chooser.choice(list(latest(self._acknowledged)))
            hit = self._cache.lookup(own(self._name, n))
            if hit is None or hit.response != f"{self._name} {version}":
                self._counts["lost or wrong"] += 1
                self._problems.append(f"own entry {n}, version {version}, is answered by {hit}")
            return
        text = self._chooser.choice(self._asked if self._chooser.random() < 0.5 else self._shared)
        hit = self._cache.lookup(Request(text))
        self._counts["miss" if hit is None else hit.kind] += 1


def latest(acknowledged: int) -> Iterator[tuple[int, int]]:
    """The number of each entry that a process has written, and its last version."""
    for version in range(max(0, acknowledged - OWN), acknowledged):
        yield version % OWN, version


def lost(path: Path, acknowledged: dict[int, int]) -> int:
    """How many acknowledged entries are not there, or not as they were stored."""
    with SemanticCache(path=path) as cache:
        return sum(
            (hit := cache.lookup(own(name, n))) is None or hit.response != f"{name} {version}"
            for name, written in acknowledged.items()
            for n, version in latest(written)
        )


def slope(samples: list[dict[str, float]], of: str) -> float:
    """Of a straight line through the samples, per minute."""
    if len(samples) < 2:
        return 0.0
    at = np.array([one["at"] / 60 for one in samples])
    return float(np.polyfit(at, [one[of] for one in samples], 1)[0])


def row(told: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one process."""
    warm = told["samples"][WARM:] or told["samples"][-1:]
    return {
        "process": told["name"],
        "acknowledged": told["acknowledged"],
        **told["counts"],
        "failures": told["failures"],
        "problems": told["problems"],
        "rss_mib": [one["rss_mib"] for one in told["samples"]],
        "rss_mib_per_minute": round(slope(warm, "rss_mib"), 3),
        "files_max": max(one["files"] for one in told["samples"]),
        "files_per_minute": round(slope(warm, "files"), 3),
    }


def soak(path: Path, processes: int, minutes: float, seed: int) -> dict[str, Any]:
    """Run the processes and read back what they stored."""
    common = [f"--path={path}", f"--minutes={minutes}", f"--seed={seed}"]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, f"--worker={name}", *common],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in range(processes)
    ]
    ended = [(one.communicate()[0], one.returncode) for one in started]
    told = [json.loads(said) for said, code in ended if code == 0]
    calls = {
        what: {
            **summary([s for one in told for s in one["times"][what]]),
            "per_second": round(sum(one["counts"][what] / one["seconds"] for one in told), 1),
            "n": sum(one["counts"][what] for one in told),
        }
        for what in ("lookup", "update")
        if told
    }
    return {
        "died": sum(code != 0 for _, code in ended),
        "lost": lost(path, {one["name"]: one["acknowledged"] for one in told}),
        "calls": calls,
        "processes": [row(one) for one in told],
    }


def table(results: Results) -> str:
    shown = {
        "call": "{call}",
        "n": "{n:,}",
        "a second": "{per_second:g}",
        "p50 ms": shortened("p50_ms"),
        "p95 ms": shortened("p95_ms"),
    }
    return columns(shown, [{"call": name, **one} for name, one in results["calls"].items()])


def is_sound(found: dict[str, Any]) -> bool:
    wrong = sum(
        one.get("errors", 0) + one.get("lost or wrong", 0) + len(one["failures"])
        for one in found["processes"]
    )
    return not (found["died"] or found["lost"] or wrong)


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--minutes", type=float, default=10)
    made.add_argument("--processes", type=int, default=8)
    made.add_argument("--seed", type=int, default=7)
    made.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    made.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    order = made.parse_args(argv)
    if order.worker is not None:
        worker = Worker(order.path, order.worker, order.minutes * 60, order.seed)
        print(json.dumps(worker.run()))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cache"
        found = soak(path, order.processes, order.minutes, order.seed)
    write_json(order.out, described(order, found))
    print(json.dumps({"died": found["died"], "lost": found["lost"], **found["calls"]}, indent=2))
    if not is_sound(found):
        raise SystemExit(f"the cache failed under load: see {order.out}")


if __name__ == "__main__":
    main()

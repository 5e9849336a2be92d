"""Many processes on one path for long: is anything lost or leaked?

Each process makes 90 % lookups and 10 % updates with the shipped model, all on one path. At the end
every acknowledged answer is read back. Memory and open files are sampled each minute (ten times in
a shorter run); slopes count from the fourth sample on, when all is open and warm. Linux only. The
run fails, and writes nothing, if a process dies, an answer is lost or wrong, or anything failed.
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness.corpus import TARGETS, questions
from harness.pipe import rss_mib
from harness.results import Results, columns, shortened
from harness.timing import summary, timed
from semcache_core import Request, SemanticCache

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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=8)


def measure(options: argparse.Namespace) -> Results:
    spawned = multiprocessing.get_context("spawn")
    work = partial(worked, seconds=60 * options.minutes, seed=options.seed)
    with (
        tempfile.TemporaryDirectory() as path,
        ProcessPoolExecutor(options.processes, spawned) as pool,
    ):
        started = [pool.submit(work, path, name) for name in range(options.processes)]
        ended = [one.result() for one in started]
        missing = lost(path, {one["process"]: one["acknowledged"] for one in ended})
    if problems := [problem for one in ended for problem in one["problems"]] + missing:
        raise SystemExit("\n".join(["the cache failed under load:", *problems[:20]]))
    calls = {
        what: {
            **summary([second for one in ended for second in one["times"][what]]),
            "per_second": round(sum(len(one["times"][what]) / one["seconds"] for one in ended), 1),
        }
        for what in ("lookup", "update")
    }
    return {"calls": calls, "processes": [row(one) for one in ended]}


def worked(path: str, name: int, seconds: float, seed: int) -> dict[str, Any]:
    """The work of one process, until its time is over, and what it saw."""
    samples: list[dict[str, float]] = []
    every = min(60.0, seconds / SAMPLES)
    with SemanticCache(path=path, max_entries=None) as cache:
        worker = Worker(cache, name, seed)
        started = time.perf_counter()
        while (past := time.perf_counter() - started) < seconds:
            if past >= every * len(samples):
                files = len(os.listdir("/proc/self/fd"))
                samples.append({"at": past, "rss_mib": rss_mib(), "files": files})
            worker.step()
        failures = [f"{count} failures of {what}" for what, count in cache.stats().failures.items()]
    return {
        "process": name,
        "acknowledged": worker.acknowledged,
        "counts": dict(worker.counts),
        "problems": worker.problems + failures,
        "samples": samples,
        "seconds": seconds,
        "times": worker.times,
    }


@dataclass
class Worker:
    """Asks and stores. `times` are seconds, in arrays: a list of floats would look like a leak."""

    cache: SemanticCache
    name: int
    seed: int
    acknowledged: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        made = questions(self.seed)
        self._chooser = random.Random(f"{self.seed} {self.name}")
        self._asked = [text for _, text in made.paraphrases] + made.strangers
        self._shared = made.stored[:TARGETS]
        self.times = {"lookup": array("d"), "update": array("d")}

    def step(self) -> None:
        what = "update" if self._chooser.random() < UPDATES else "lookup"
        call = self._update if what == "update" else self._lookup
        try:
            self.times[what].extend(timed(lambda _: call(), [None]))
        except Exception as error:  # noqa: BLE001 - the run reports it
            self.problems.append(repr(error))

    def _update(self) -> None:
        if self._chooser.random() < REWRITTEN:
            text = self._chooser.choice(self._shared)
            self.cache.update(Request(text), f"shared: {text}")
        else:
            version = self.acknowledged
            self.cache.update(own(self.name, version % OWN), f"{self.name} {version}")
            self.acknowledged += 1

    def _lookup(self) -> None:
        if self.acknowledged and self._chooser.random() < 0.2:
            n, version = self._chooser.choice(list(latest(self.acknowledged)))
            self.problems += wrong(self.cache, self.name, n, version)
            return
        text = self._chooser.choice(self._asked if self._chooser.random() < 0.5 else self._shared)
        hit = self.cache.lookup(Request(text))
        self.counts["miss" if hit is None else hit.kind] += 1


def own(name: int, n: int) -> Request:
    """An entry that one process alone writes; found by its words, whatever else is stored."""
    return Request(f"What was noted by writer {name} under number {n}?", scope=f"writer {name}")


def latest(acknowledged: int) -> Iterator[tuple[int, int]]:
    """The number of each entry that a process has written, and its last version."""
    for version in range(max(0, acknowledged - OWN), acknowledged):
        yield version % OWN, version


def wrong(cache: SemanticCache, name: int, n: int, version: int) -> list[str]:
    """A line if this entry is not answered as it was stored last."""
    hit = cache.lookup(own(name, n))
    if hit is not None and hit.response == f"{name} {version}":
        return []
    return [f"entry {n} of process {name}, version {version}, is answered by {hit}"]


def lost(path: str | Path, acknowledged: dict[int, int]) -> list[str]:
    """A line for each acknowledged entry that is not there, or not as it was stored."""
    with SemanticCache(path=path) as cache:
        return [
            line
            for name, written in acknowledged.items()
            for n, version in latest(written)
            for line in wrong(cache, name, n, version)
        ]


def row(ended: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one process."""
    samples = ended["samples"]
    return {
        **{name: ended[name] for name in ("process", "acknowledged")},
        **ended["counts"],
        "rss_mib": [one["rss_mib"] for one in samples],
        "rss_mib_per_minute": slope(samples[WARM:], "rss_mib"),
        "files_max": max(one["files"] for one in samples),
        "files_per_minute": slope(samples[WARM:], "files"),
    }


def slope(samples: list[dict[str, float]], of: str) -> float:
    """Of a straight line through the samples, per minute."""
    if len(samples) < 2:
        return 0.0
    minutes = [one["at"] / 60 for one in samples]
    return round(float(np.polyfit(minutes, [one[of] for one in samples], 1)[0]), 3)


def table(results: Results) -> str:
    shown = {
        "call": "{call}",
        "n": "{n:,}",
        "a second": "{per_second:g}",
        "p50 ms": shortened("p50_ms"),
        "p95 ms": shortened("p95_ms"),
    }
    return columns(shown, [{"call": name, **one} for name, one in results["calls"].items()])

"""Samples of one measurement over many rounds, and the machine and versions they were taken on."""

import os
import platform
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

PACKAGES = ("numpy", "onnxruntime", "tokenizers", "chromadb", "sqlalchemy", "langchain-core")


@dataclass(frozen=True, order=True)
class What:
    """One row of the results; a number that says nothing is 0.

    `part` is the whole call, or all of it but the forward pass.
    """

    subject: str
    operation: str
    entries: int = 0
    scopes: int = 0
    part: str = "whole"


@dataclass
class Samples:
    """Seconds per call, gathered round by round under what was measured."""

    seconds: dict[What, list[float]] = field(default_factory=lambda: defaultdict(list))
    unexpected: Counter[What] = field(default_factory=Counter)

    def add(self, what: What, seconds: Iterable[float]) -> None:
        self.seconds[what].extend(seconds)

    def missed(self, what: What) -> None:
        """A call ended otherwise than it was to, as an approximate index may let it."""
        self.unexpected[what] += 1

    def rows(self) -> list[dict[str, Any]]:
        """Median and 95th percentile in ms, with the number of calls; sorted."""
        return [
            {**vars(what), **summary(self.seconds[what]), "unexpected": self.unexpected[what]}
            for what in sorted(self.seconds)
        ]


def summary(seconds: list[float]) -> dict[str, Any]:
    p50, p95 = np.percentile(np.array(seconds) * 1e3, [50, 95])
    return {"n": len(seconds), "p50_ms": round(float(p50), 4), "p95_ms": round(float(p95), 4)}


def timed(call: Callable[[T], Any], arguments: Iterable[T]) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - started)
    return seconds


def hardware() -> dict[str, Any]:
    """What the figures depend on; nothing that tells one machine from its twin."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _cpu_model() -> str:
    """As Linux names it; family and model too, as a virtual machine may hide the product name."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    return f"{fields.get('model name', platform.machine())} (family {family}, model {model})"


def rss_mib() -> float:
    """Memory of this process in use now, shared pages included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)

"""Seconds of calls, gathered over rounds."""

import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, order=True)
class What:
    """One row of the results; `part` is the whole call, or all of it but the forward pass."""

    subject: str
    operation: str
    entries: int = 0
    part: str = "whole"


@dataclass
class Samples:
    """Seconds per call, gathered round by round under what was measured."""

    seconds: dict[What, list[float]] = field(default_factory=lambda: defaultdict(list))
    unexpected: Counter[What] = field(default_factory=Counter)
    """Calls that ended otherwise than they were to, as an approximate index may let them."""

    def add(self, what: What, seconds: Iterable[float]) -> None:
        self.seconds[what].extend(seconds)

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


def import_seconds(module: str, python: Path | str = sys.executable, **process: Any) -> float:
    """Seconds that an import takes in a process of its own; `process` as for `subprocess.run`."""
    script = f"import time; start = time.perf_counter(); import {module}; "
    command = [python, "-c", script + "print(time.perf_counter() - start)"]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, **process).stdout)

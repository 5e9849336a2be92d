"""Time of an import, of opening, of hits and of an update at 1,000 entries.

With `--against DIR` the same is measured in turns with another checkout of the project. Each side
runs in processes of its own, and `ratio` is this checkout's time over the other's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from harness.corpus import questions
from harness.pipe import Piped
from harness.results import Results, markdown, say, short
from harness.timing import summary

BENCHMARKS = Path(__file__).parents[1]
HERE, OTHER = "this checkout", "the other"
IMPORTS = ("semcache_core", "langchain_semcache", "llamaindex_semcache")
IMPORT = """
import sys, time
started = time.perf_counter()
__import__(sys.argv[1])
print(time.perf_counter() - started)
"""
PROBED = 800
"""Paraphrases that are asked once beforehand; those that every side serves are timed."""
REMEMBERED = 256
"""Vectors of so many questions are kept by a cache: fewer paraphrases would not be embedded."""

Seconds = dict[tuple[str, str], list[list[float]]]
"""By operation and side: the seconds of each call, round by round."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=20, help="of each kind in a round")
    parser.add_argument("--imports", type=int, default=15, help="rounds of imports")


def measure(options: argparse.Namespace) -> Results:
    sides = {HERE: BENCHMARKS.parent}
    if options.against is not None:
        sides[OTHER] = options.against.resolve()
    rng = np.random.default_rng(options.seed)
    seconds: Seconds = defaultdict(list)
    for _ in range(options.imports + 1):
        for side in rng.permutation(sorted(sides)):
            for module in IMPORTS:
                taken = import_seconds(sides[side], module)
                seconds[f"import {module}", str(side)].append([taken])
    for each in seconds.values():
        del each[0]  # the first one may compile
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        call_in_turns(options, sides, Path(directory), rng, seconds)
    return {"rows": rows(seconds), "ratios": ratios(seconds, rng) if options.against else []}


def import_seconds(checkout: Path, module: str) -> float:
    command = [sys.executable, "-c", IMPORT, module]
    # not in the project's root, which would come first on the path
    done = subprocess.run(
        command, env=environment(checkout), cwd=BENCHMARKS, capture_output=True, check=True
    )
    return float(done.stdout)


def environment(checkout: Path) -> dict[str, str]:
    """The variables of a process that imports semcache from `checkout`."""
    path = os.pathsep.join(map(str, (checkout / "shared", checkout, BENCHMARKS)))
    return {**os.environ, "PYTHONPATH": path}


def call_in_turns(
    options: argparse.Namespace,
    sides: dict[str, Path],
    directory: Path,
    rng: np.random.Generator,
    seconds: Seconds,
) -> None:
    script = str(BENCHMARKS / "cases" / "latency_process.py")
    made = questions(options.seed)
    probed = [text for _, text in made.paraphrases[:PROBED]]
    with ExitStack() as stack:
        asked = {}
        for n, (side, checkout) in enumerate(sides.items()):
            process = Piped(side, [sys.executable, script], environment(checkout))
            asked[side] = stack.enter_context(process)
            own = {"checkout": str(checkout), "directory": str(directory / str(n))}
            process.ask("fill", **own, entries=options.entries, seed=options.seed)
            say(f"filled {side}")
        served = [set(process.ask("served", texts=probed)["texts"]) for process in asked.values()]
        alike = [text for text in probed if all(text in those for those in served)]
        if len(alike) <= REMEMBERED:
            raise RuntimeError(f"only {len(alike)} of {PROBED} paraphrases are hits on every side")
        exact, semantic = cycle(made.stored[: options.entries]), cycle(alike)
        for number in range(options.rounds):
            texts = {
                "exact": list(islice(exact, options.calls)),
                "semantic": list(islice(semantic, options.calls)),
            }
            for side in rng.permutation(sorted(asked)):
                timed = asked[side].ask("calls", number=number, **texts)
                for operation, taken in timed.items():
                    seconds[operation, str(side)].append(taken)


def rows(seconds: Seconds) -> list[dict[str, Any]]:
    return [
        {"operation": operation, "subject": side, **summary([s for each in every for s in each])}
        for (operation, side), every in seconds.items()
    ]


def ratios(seconds: Seconds, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The median over rounds of the ratio of a round's medians, with a 95 % bootstrap interval."""

    def found() -> Iterator[dict[str, Any]]:
        for operation in dict.fromkeys(operation for operation, _ in seconds):
            here = [float(np.median(each)) for each in seconds[operation, HERE]]
            other = [float(np.median(each)) for each in seconds[operation, OTHER]]
            of_rounds = np.array(here) / np.array(other)
            drawn = rng.choice(of_rounds, (2000, len(of_rounds)))
            low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
            yield {
                "operation": operation,
                "ratio": round(float(np.median(of_rounds)), 4),
                "low": round(float(low), 4),
                "high": round(float(high), 4),
                "rounds": len(of_rounds),
            }

    return list(found())


def table(results: Results) -> str:
    p50 = {(row["operation"], row["subject"]): row["p50_ms"] for row in results["rows"]}
    p95 = {(row["operation"], row["subject"]): row["p95_ms"] for row in results["rows"]}
    ratio = {
        row["operation"]: f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        for row in results["ratios"]
    }
    head = ["operation", "p50 ms", "p95 ms"]
    head += ["the other's p50 ms", "its p95 ms", "ratio (95 % interval)"] if ratio else []
    return markdown(
        head,
        [
            [
                operation,
                *(
                    short(times[operation, side])
                    for side in ((HERE, OTHER) if ratio else (HERE,))
                    for times in (p50, p95)
                ),
                *([ratio[operation]] if ratio else []),
            ]
            for operation in dict.fromkeys(row["operation"] for row in results["rows"])
        ],
    )

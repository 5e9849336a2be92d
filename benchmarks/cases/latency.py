"""Time of an import, of opening, of hits and of an update at 1,000 entries.

With `--against DIR` the same is measured in turns with another checkout of the project. Each side
runs in processes of its own, and `ratio` is this checkout's time over the other's. The processes
use public names alone, so that they run with any version of the project.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import semcache_core
from harness.corpus import questions
from harness.pipe import Piped, serve
from harness.results import Results, columns, say, shortened
from harness.timing import import_seconds, summary, timed
from semcache_core import Request, SemanticCache

BENCHMARKS = Path(__file__).parents[1]
HERE, OTHER = "this checkout", "the other"
IMPORTS = ("semcache_core", "langchain_semcache", "llamaindex_semcache")
ANSWER = "Open Settings, choose Account, and follow the steps there. " * 6
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
    for number in range(options.imports + 1):
        for side in rng.permutation(sorted(sides)).tolist():
            for module in IMPORTS:
                # not in the project's root, which would come first on the path
                taken = import_seconds(module, env=environment(sides[side]), cwd=BENCHMARKS)
                if number:  # the first one may compile
                    seconds[f"import {module}", side].append([taken])
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        call_in_turns(options, sides, Path(directory), rng, seconds)
    rows = [
        {"operation": operation, "subject": side, **summary([s for each in every for s in each])}
        for (operation, side), every in seconds.items()
    ]
    return {"rows": rows, "ratios": ratios(seconds, rng) if options.against else []}


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
    made = questions(options.seed)
    probed = [text for _, text in made.paraphrases[:PROBED]]
    with ExitStack() as stack:
        asked = {}
        for n, (side, checkout) in enumerate(sides.items()):
            process = Piped(side, [sys.executable, __file__], environment(checkout))
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
            for side in rng.permutation(sorted(asked)).tolist():
                for operation, taken in asked[side].ask("calls", number=number, **texts).items():
                    seconds[operation, side].append(taken)


def ratios(seconds: Seconds, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The median over rounds of the ratio of a round's medians, with a 95 % bootstrap interval."""
    found = []
    for operation in dict.fromkeys(operation for operation, _ in seconds):
        here, other = (
            np.array([np.median(each) for each in seconds[operation, side]])
            for side in (HERE, OTHER)
        )
        of_rounds = here / other
        drawn = rng.choice(of_rounds, (2000, len(of_rounds)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        figures = {"ratio": np.median(of_rounds), "low": low, "high": high}
        rounded = {name: round(float(figure), 4) for name, figure in figures.items()}
        found.append({"operation": operation, **rounded, "rounds": len(of_rounds)})
    return found


def table(results: Results) -> str:
    """A row per operation, with the other checkout beside this one where it was measured."""
    by = {(row["operation"], row["subject"]): row for row in results["rows"]}
    ratio = {row["operation"]: row for row in results["ratios"]}
    rows = [
        {
            "operation": operation,
            "here": row,
            "other": by.get((operation, OTHER)),
            "ratio": ratio.get(operation),
        }
        for (operation, side), row in by.items()
        if side == HERE
    ]
    shown = {
        "operation": "{operation}",
        "p50 ms": shortened("here", "p50_ms"),
        "p95 ms": shortened("here", "p95_ms"),
    }
    if ratio:
        shown |= {
            "the other's p50 ms": shortened("other", "p50_ms"),
            "its p95 ms": shortened("other", "p95_ms"),
            "ratio (95 % interval)": "{ratio[ratio]:.3f} ({ratio[low]:.3f} to {ratio[high]:.3f})",
        }
    return columns(shown, rows)


class Orders:
    """What the process of one side does; all times are in seconds."""

    _cache: SemanticCache

    def fill(self, checkout: str, directory: str, entries: int, seed: int) -> None:
        if not Path(semcache_core.__file__).is_relative_to(checkout):
            raise RuntimeError(f"was to import from {checkout}, and has {semcache_core.__file__}")
        made = questions(seed)
        self._cache = SemanticCache(path=directory, max_error_rate=0.1)
        for text in [*made.stored, *made.new][:entries]:
            self._cache.update(Request(text), ANSWER)
        self._new = cycle(made.new)

    def served(self, texts: list[str]) -> dict[str, Any]:
        return {"texts": [text for text in texts if self._cache.lookup(Request(text)) is not None]}

    def calls(self, number: int, exact: list[str], semantic: list[str]) -> dict[str, Any]:
        """One round: opening, lookups of both kinds, updates in a scope of this round."""
        with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
            opening = timed(self._open, [directory])
            self._opened.close()
        again = "semantic hit, embedded before"
        taken: dict[str, list[float]] = {"open a new cache": opening}
        taken |= {"exact hit": timed(self._hit, exact), "semantic hit": [], again: []}
        for text in semantic:
            taken["semantic hit"] += timed(self._hit, [text])
            taken[again] += timed(self._hit, [text])
        new = [Request(text, f"round {number}") for text in islice(self._new, len(exact))]
        taken["update"] = timed(lambda request: self._cache.update(request, ANSWER), new)
        return taken

    def _open(self, directory: str) -> None:
        self._opened = SemanticCache(path=directory, max_error_rate=0.1)
        self._opened.stats()

    def _hit(self, text: str) -> None:
        if self._cache.lookup(Request(text)) is None:
            raise RuntimeError(f"was to be a hit: {text}")


if __name__ == "__main__":
    serve(Orders())

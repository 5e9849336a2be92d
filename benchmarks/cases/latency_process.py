"""One side of the case `latency`: a process with a cache of the checkout on its PYTHONPATH.

It uses public names alone, so that it runs with any version of the project.
"""

import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import semcache_core
from harness.corpus import questions
from harness.pipe import serve
from semcache_core import Request, SemanticCache

ANSWER = "Open Settings, choose Account, and follow the steps there. " * 6


class Orders:
    """What `latency` asks for; all times are in seconds."""

    _cache: SemanticCache

    def fill(self, checkout: str, directory: str, entries: int, seed: int) -> dict[str, Any]:
        if not Path(semcache_core.__file__).is_relative_to(checkout):
            raise RuntimeError(f"was to import from {checkout}, and has {semcache_core.__file__}")
        made = questions(seed)
        self._cache = SemanticCache(path=directory, max_error_rate=0.1)
        for text in [*made.stored, *made.new][:entries]:
            self._cache.update(Request(text), ANSWER)
        self._new = cycle(made.new)
        return {}

    def served(self, texts: list[str]) -> dict[str, Any]:
        return {"texts": [text for text in texts if self._cache.lookup(Request(text)) is not None]}

    def calls(self, number: int, exact: list[str], semantic: list[str]) -> dict[str, Any]:
        """One round: opening, lookups of both kinds, updates in a scope of this round."""
        again = "semantic hit, embedded before"
        taken: dict[str, list[float]] = {"open a new cache": [opened()], "exact hit": []}
        taken["exact hit"] = timed(self._hit, exact)
        taken |= {"semantic hit": [], again: []}
        for text in semantic:
            taken["semantic hit"] += timed(self._hit, [text])
            taken[again] += timed(self._hit, [text])
        new = [Request(text, f"round {number}") for text in islice(self._new, len(exact))]
        taken["update"] = timed(lambda request: self._cache.update(request, ANSWER), new)
        return taken

    def _hit(self, text: str) -> None:
        if self._cache.lookup(Request(text)) is None:
            raise RuntimeError(f"was to be a hit: {text}")


def opened() -> float:
    """Seconds until a cache at a new path is ready to be asked."""
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        started = time.perf_counter()
        cache = SemanticCache(path=directory, max_error_rate=0.1)
        cache.stats()
        taken = time.perf_counter() - started
        cache.close()
        return taken


def timed(call: Callable[[Any], Any], arguments: Iterable[Any]) -> list[float]:
    seconds = []
    for argument in arguments:
        started = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    serve(Orders())

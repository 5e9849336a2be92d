"""The orders that the case `field` gives to a cache, ours or another, in a process of its own.

Standard library alone: a rival imports what it needs in `load`, which is part of its cold start.
"""

import asyncio
import os
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.pipe import late_ticks, rss_mib, serve


class Rival(ABC):
    """A cache under test, asked with text and answering with text unless it says otherwise.

    `setting` is its threshold in its own unit, None for its default. `packages` are those whose
    versions are reported. `prepare` starts the servers that an app finds running. `know` embeds
    questions beforehand, for `replay`, which is not timed. `asked` and `answered` make a question
    and an answer as the app has them when it calls the cache. All times are in seconds.
    """

    packages: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()  # a client may be bound to the loop it was made in

    @abstractmethod
    def load(self) -> None: ...
    @abstractmethod
    def fill(self, directory: str, size: int, seed: int, answer: str) -> None: ...
    @abstractmethod
    def open(self, directory: str, setting: float | None) -> None: ...
    @abstractmethod
    def get(self, asked: Any) -> str | None: ...
    @abstractmethod
    async def aget(self, asked: Any) -> str | None: ...
    @abstractmethod
    def put(self, asked: Any, answered: Any) -> None: ...

    def prepare(self, directory: str) -> None:  # noqa: B027 - most caches need no server
        pass

    def know(self, texts: list[str]) -> None:
        self.load()

    def asked(self, text: str) -> Any:
        return text

    def answered(self, answer: str) -> Any:
        return answer

    def close(self) -> None:  # noqa: B027
        pass

    def end(self) -> None:
        self.close()

    def versions(self) -> dict[str, Any]:
        return {package: version(package) for package in self.packages}

    def first(
        self, directory: str, setting: float | None, text: str, patience: float = 0.0
    ) -> dict[str, Any]:
        """The cold start, from the import to the first answer.

        A miss is asked again for `patience` seconds: an index may still be opening.
        """
        started = time.perf_counter()
        self.load()
        loaded = time.perf_counter()
        self.open(directory, setting)
        opened = time.perf_counter()
        asked = self.asked(text)
        while not (found := self.get(asked) is not None):
            if time.perf_counter() - opened >= patience:
                break
            time.sleep(0.05)
        ended = time.perf_counter()
        stages = {"import": loaded - started, "open": opened - loaded, "lookup": ended - opened}
        return {"seconds": ended - started, **stages, "served": found}

    def lookups(self, texts: list[str]) -> dict[str, Any]:
        seconds, served = [], 0
        for asked in map(self.asked, texts):
            started = time.perf_counter()
            found = self.get(asked)
            seconds.append(time.perf_counter() - started)
            served += found is not None
        return {"seconds": seconds, "served": served}

    def puts(self, texts: list[str], answer: str) -> dict[str, Any]:
        seconds = []
        for text in texts:
            asked, answered = self.asked(text), self.answered(answer)
            started = time.perf_counter()
            self.put(asked, answered)
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds}

    def threads(self, texts: list[str], n: int) -> dict[str, Any]:
        """All of `texts` by `n` threads; one that raises counts as failed, not as answered."""

        def outcome(asked: Any) -> str:
            try:
                return "missed" if self.get(asked) is None else "served"
            except Exception as error:  # noqa: BLE001 - theirs may raise anything
                return f"failed: {type(error).__name__}"

        with ThreadPoolExecutor(n) as pool:
            list(pool.map(lambda _: time.sleep(0), range(n)))  # the threads are there now
            every = [self.asked(text) for text in texts]
            started = time.perf_counter()
            ended = list(pool.map(outcome, every))
            return {**_counted(ended), "seconds": time.perf_counter() - started}

    def tasks(self, texts: list[str], n: int) -> dict[str, Any]:
        """All of `texts` by `n` tasks of one event loop, and how late its ticks were."""
        return self._loop.run_until_complete(self._tasks(texts, n))

    async def _tasks(self, texts: list[str], n: int) -> dict[str, Any]:
        left, ended = iter([self.asked(text) for text in texts]), list[str]()

        async def work() -> None:
            for asked in left:
                try:
                    ended.append("missed" if await self.aget(asked) is None else "served")
                except Exception as error:  # noqa: BLE001 - theirs may raise anything
                    ended.append(f"failed: {type(error).__name__}")

        async with late_ticks() as late:
            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(n)))
            taken = time.perf_counter() - started
        return {**_counted(ended), "seconds": taken, "late": max(late)}

    def memory(self) -> dict[str, float]:
        return {"rss_mib": rss_mib()}

    def replay(
        self, directory: str, setting: float | None, items: list[tuple[str, str]]
    ) -> dict[str, Any]:
        """Each question in turn to a cache that begins empty: its answer, else it is stored."""
        Path(directory).mkdir()
        self.open(directory, setting)
        served = []
        for question, answer in items:
            asked = self.asked(question)
            served.append(self.get(asked))
            if served[-1] is None:
                self.put(asked, self.answered(answer))
        self.close()
        return {"served": served}


def _counted(ended: list[str]) -> dict[str, Any]:
    failed = sorted({each for each in ended if each.startswith("failed")})
    counts = {outcome: ended.count(outcome) for outcome in ("served", "missed")}
    return {**counts, "failed_with": failed, "n": len(ended)}


def run(rival: Rival) -> None:
    """Serve until the orders end. What a library does at a normal exit is not waited for."""
    try:
        serve(rival)
    finally:
        rival.end()
        os._exit(0)

"""The caches that the case `field` measures: how each is started, and at which thresholds."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from harness.corpus import questions
from harness.fill import ANSWER, artefact_for_judging
from harness.pipe import Piped
from harness.timing import Samples, What
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT

BENCHMARKS = Path(__file__).parents[1]
BOUNDS = (0.02, 0.01, 0.05, 0.1)
GPTCACHE_THRESHOLDS = (0.8, 0.7, 0.85, 0.9, 0.925, 0.95, 0.965, 0.98)
REDIS_DISTANCES = (0.1, 0.6, 0.4, 0.3, 0.2, 0.15, 0.07, 0.04)
REDIS_TIMED_AT = 0.4
"""GPTCache's default as a cosine distance: at its own RedisVL would find few paraphrases."""


@dataclass(frozen=True)
class Contender:
    """`command` answers the orders of `orders.py`.

    `settings` are its thresholds on streams, its default first. Times are taken at `timed_at`
    (None: its default), by `timing` where that is another command.
    """

    name: str
    command: tuple[str, ...]
    settings: tuple[float | None, ...]
    timed_at: float | None = None
    timing: tuple[str, ...] = ()
    by_meaning: bool = True
    persistent: bool = True
    env: dict[str, str] = field(default_factory=dict)

    def started(self, path: Path, timing: bool = True) -> Piped:
        """Its process, and the servers that it needs, for what is stored under `path`."""
        path.mkdir(exist_ok=True)
        command = self.timing if timing and self.timing else self.command
        process = Piped(self.name, list(command), self.env, cwd=BENCHMARKS)
        process.ask("prepare", directory=str(path))
        return process

    def versions(self) -> dict[str, str]:
        with Piped(self.name, list(self.command), self.env, cwd=BENCHMARKS) as process:
            return process.ask("versions")


class Asked:
    """A contender's open process at one size, and the questions it has not been asked lately."""

    def __init__(self, contender: Contender, process: Piped, size: int, seed: int) -> None:
        self.about = {"subject": contender.name, "entries": size}
        self.size = size
        self._contender, self._process = contender, process
        made = questions(seed)
        self._stored, self._strangers = cycle(made.stored), cycle(made.strangers)
        self._paraphrases = cycle(text for _, text in made.paraphrases)
        self._new = cycle(made.new)

    def round(self, samples: Samples, n: int) -> None:
        kinds: list[tuple[str, Iterable[str], bool]] = [
            ("exact hit", self._stored, True),
            ("miss", self._strangers, False),
        ]
        if self._contender.by_meaning:
            kinds.append(("semantic hit", self._paraphrases, True))
        for operation, texts, served in kinds:
            what = What(self._contender.name, operation, self.size)
            done = self._process.ask("lookups", texts=[*islice(texts, n)])
            samples.add(what, done["seconds"])
            samples.unexpected[what] += n - done["served"] if served else done["served"]
        stored = self._process.ask("puts", texts=[*islice(self._new, n)], answer=ANSWER)
        samples.add(What(self._contender.name, "put", self.size), stored["seconds"])

    def together(self, by: str, n: int, questions: int) -> dict[str, Any]:
        texts = self._paraphrases if self._contender.by_meaning else self._stored
        return self._process.ask(by, n=n, texts=[*islice(texts, questions)])

    def memory(self) -> dict[str, Any]:
        return {**self.about, **self._process.ask("memory")}


def contenders(
    directory: Path, gptcache: Path | None, redis: Path | None, redis_server: str | None
) -> list[Contender]:
    """Ours, and the others whose interpreter is given."""
    timing = artefact_for_judging(directory / "artefact")
    found = [
        our("SemanticCache", timing, BOUNDS),
        our("SemanticLLMCache", timing),  # on a stream it answers as the cache inside does
        our("InMemoryCache", timing, (None,), by_meaning=False, persistent=False),
    ]
    if gptcache:
        command = (str(gptcache.absolute()), "-m", "rivals.gptcache_rival")
        found.append(Contender("GPTCache", command, GPTCACHE_THRESHOLDS))
    if redis:
        command = (str(redis.absolute()), "-m", "rivals.redisvl_rival")
        env = {"REDIS_SERVER": redis_server} if redis_server else {}
        found.append(Contender("RedisVL", command, REDIS_DISTANCES, REDIS_TIMED_AT, env=env))
    return found


def our(
    name: str, timing: Path, settings: tuple[float | None, ...] = (), **more: bool
) -> Contender:
    """One of ours: times are taken with the artefact `timing`, streams with the shipped one."""
    streams, times = (
        (sys.executable, "-m", "rivals.ours", name, str(artefact))
        for artefact in (DEFAULT_ARTEFACT, timing)
    )
    return Contender(name, streams, settings, timing=times, **more)

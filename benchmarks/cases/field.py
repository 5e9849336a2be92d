"""semcache beside GPTCache, RedisVL and LangChain's InMemoryCache, on one machine. See README.md.

A stream is JSON lines with `question` and `answer_id`, in the order of arrival.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from harness.corpus import questions
from harness.fill import ANSWER
from harness.results import Results, say, versions
from harness.timing import Samples, summary
from rivals.contenders import Asked, Contender, contenders
from rivals.report import TABLES
from semcache_core.evaluation.replay import Arrival, read_stream

__all__ = ["TABLES"]

T = TypeVar("T")
WAYS = (("threads", 1), ("threads", 8), ("threads", 32), ("tasks", 64))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="1000,10000", help="entries, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--slow-rounds", type=int, default=3, help="of throughput and cold start")
    parser.add_argument("--together", type=int, default=200, help="questions to many threads")
    parser.add_argument("--stream", type=Path, action="append", default=[], help="JSON lines")
    parser.add_argument("--limit", type=int, help="how many questions of each stream")
    parser.add_argument("--gptcache", type=Path, help="python of an environment with GPTCache")
    parser.add_argument("--redis", type=Path, help="python of an environment with RedisVL")
    parser.add_argument("--redis-server", help="command of a Redis with vector search, if another")


def measure(options: argparse.Namespace) -> Results:
    sizes = [int(size) for size in options.sizes.split(",")]
    streams = {path.stem: read_stream(path)[: options.limit] for path in options.stream}
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as name, ExitStack() as stack:
        field = Field(Path(name), options.seed)
        others = (options.gptcache, options.redis, options.redis_server)
        subjects = contenders(field.directory, *others)
        disk = [field.filled(each, size) for size in sizes for each in subjects]
        cold = field.first_hits(subjects, max(sizes), options.slow_rounds)
        asked = [field.opened(each, size, stack) for size in sizes for each in subjects]
        samples = field.calls(asked, options.rounds, options.calls)
        largest = [each for each in asked if each.size == max(sizes)]
        rates = field.throughput(largest, options.slow_rounds, options.together)
        memory = [each.memory() for each in asked]
        stack.close()
        replays = [field.replayed(subjects, *stream) for stream in streams.items()]
    peers = {each.name: each.versions() for each in subjects if each.command[0] != sys.executable}
    return {
        "response_bytes": len(ANSWER.encode()),
        "versions": {"ours": versions(), **peers},
        "disk": disk,
        "first_hit": cold,
        "rows": samples.rows(),
        "throughput": rates,
        "memory": memory,
        "streams": replays,
    }


def table(results: Results) -> str:
    return "\n\n".join(made(results) for made in TABLES.values())


@dataclass(frozen=True)
class Field:
    """What is measured of contenders whose entries lie under `directory`."""

    directory: Path
    seed: int
    patience: float = 0.0
    """A cold start that ends in a miss is asked again for so many seconds."""

    def home(self, subject: Contender, size: int) -> Path:
        return self.directory / f"{subject.name} {size}"

    def filled(self, subject: Contender, size: int) -> dict[str, Any]:
        """Fills it and measures the disk; what is lost with its process is filled by `opened`."""
        path = self.home(subject, size)
        if subject.persistent:
            with subject.started(path) as process:
                process.ask("fill", **self._filling(path, size))
            say(f"filled {subject.name} with {size}")
        taken = sum(f.stat().st_blocks * 512 for f in path.rglob("*") if f.is_file())
        about = {"subject": subject.name, "entries": size, "bytes": taken}
        return {**about, "per_entry": round(taken / size)}

    def first_hits(
        self, subjects: Sequence[Contender], size: int, rounds: int
    ) -> list[dict[str, Any]]:
        """Cold starts, a new process each time, in turns."""
        taken: dict[str, list[dict[str, Any]]] = defaultdict(list)
        texts = [text for _, text in questions(self.seed).paraphrases]
        for i, subject in self.turns(rounds, [one for one in subjects if one.persistent]):
            path = self.home(subject, size)
            with subject.started(path) as process:
                opening = self._opening(subject, path, texts[-1 - i])
                taken[subject.name].append(process.ask("first", **opening))
            say(f"first hit {i}: {subject.name}")
        return [
            {
                "subject": name,
                "entries": size,
                **summary([each["seconds"] for each in every]),
                **{
                    f"{stage}_p50_ms": summary([each[stage] for each in every])["p50_ms"]
                    for stage in ("import", "open", "lookup")
                },
                "unexpected": sum(not each["served"] for each in every),
            }
            for name, every in taken.items()
        ]

    def opened(self, subject: Contender, size: int, stack: ExitStack) -> Asked:
        path = self.home(subject, size)
        process = stack.enter_context(subject.started(path))
        text = questions(self.seed).paraphrases[-1][1]
        process.ask("first", **self._opening(subject, path, text))
        if not subject.persistent:
            process.ask("fill", **self._filling(path, size))
        say(f"opened {subject.name} at {size}")
        return Asked(subject, process, size, self.seed)

    def calls(self, asked: Sequence[Asked], rounds: int, calls: int) -> Samples:
        samples = Samples()
        for i, each in self.turns(rounds, asked):
            each.round(samples, calls)
            say(f"round {i}: {each.about}")
        return samples

    def throughput(
        self, asked: Sequence[Asked], rounds: int, together: int
    ) -> list[dict[str, Any]]:
        """The median of the rounds; what was not served, and what failed, is counted over all."""
        taken: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
        for i, each in self.turns(rounds, asked):
            for by, n in WAYS:
                taken[str(each.about["subject"]), by, n].append(each.together(by, n, together))
            say(f"throughput {i}: {each.about}")
        return [
            {
                "subject": name,
                "by": f"{n} {by if n > 1 else by[:-1]}",
                "per_second": round(
                    float(np.median([d["served"] / d["seconds"] for d in runs])), 1
                ),
                "late_ms": round(1e3 * float(np.median([d.get("late", 0.0) for d in runs])), 1),
                "n": sum(d["n"] for d in runs),
                "missed": sum(d["missed"] for d in runs),
                "failed": sum(d["n"] - d["served"] - d["missed"] for d in runs),
                "failed_with": sorted({each for d in runs for each in d["failed_with"]}),
            }
            for (name, by, n), runs in sorted(taken.items())
        ]

    def replayed(
        self, subjects: Sequence[Contender], name: str, stream: Sequence[Arrival]
    ) -> dict[str, Any]:
        """Every subject at each of its settings; times are not taken, so none needs a turn."""
        items, arms = [(one.question, one.answer_id) for one in stream], []
        for subject in (one for one in subjects if one.settings):
            path = self.directory / f"{name} {subject.name}"
            with subject.started(path, timing=False) as process:
                process.ask("know", texts=sorted({question for question, _ in items}))
                for i, setting in enumerate(subject.settings):
                    order = {"directory": str(path / str(i)), "setting": setting}
                    served = process.ask("replay", items=items, **order)["served"]
                    about = {"subject": subject.name, "setting": setting, "default": i == 0}
                    arms.append({**about, **counted(stream, served)})
                    say(f"{name}: {subject.name} at {setting}")
        answers = len({one.answer_id for one in stream})
        return {"name": name, "n": len(stream), "answers": answers, "arms": arms}

    def turns(self, rounds: int, each: Sequence[T]) -> Iterator[tuple[int, T]]:
        """Everything once a round, in another order each round."""
        rng = np.random.default_rng(self.seed)
        for i in range(rounds):
            yield from ((i, each[n]) for n in rng.permutation(len(each)))

    def _filling(self, path: Path, size: int) -> dict[str, Any]:
        return {"directory": str(path), "size": size, "seed": self.seed, "answer": ANSWER}

    def _opening(self, subject: Contender, path: Path, text: str) -> dict[str, Any]:
        asked = {"setting": subject.timed_at, "text": text, "patience": self.patience}
        return {"directory": str(path), **asked}


def counted(stream: Sequence[Arrival], served: Sequence[str | None]) -> dict[str, Any]:
    """`missed` are questions whose answer was there, `new` those whose answer was not.

    What is not served is stored. A wrong answer is one of another id, whether or not the right one
    was there; shares are of all requests, the error is of those served.
    """
    counts = {"right": 0, "wrong": 0, "missed": 0, "new": 0}
    stored: set[str] = set()
    for asked, found in zip(stream, served, strict=True):
        if found is not None:
            counts["right" if found == asked.answer_id else "wrong"] += 1
        else:
            counts["missed" if asked.answer_id in stored else "new"] += 1
            stored.add(asked.answer_id)
    answered = counts["right"] + counts["wrong"]
    return {
        **counts,
        "served": round(answered / len(stream), 4),
        "error": round(counts["wrong"] / answered, 4) if answered else None,
    }

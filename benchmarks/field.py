"""semcache beside GPTCache, RedisVL and LangChain's InMemoryCache, on one machine. See README.md.

python benchmarks/field.py --gptcache PYTHON --redis PYTHON --stream FILE
python benchmarks/field.py --table                 # the tables and the plot of a run before
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from harness.corpus import questions
from harness.fill import ANSWER
from harness.pipe import Piped
from harness.results import hardware, say, versions, write_json
from harness.timing import Samples, summary
from rivals.contenders import Asked, Contender, contenders
from rivals.report import plot, table
from rivals.streams import Stream, counted, read_stream

T = TypeVar("T")
OUT = Path(__file__).parent / "results" / "field.json"


@dataclass(frozen=True)
class Plan:
    """Calls are per round, size and operation; `together` are questions of a throughput figure.

    `slow_rounds` are those of throughput and of cold starts. A cold start that ends in a miss is
    asked again for `patience` seconds.
    """

    sizes: tuple[int, ...]
    seed: int
    rounds: int
    calls: int
    together: int
    slow_rounds: int = 3
    threads: tuple[int, ...] = (1, 8, 32)
    tasks: int = 64
    patience: float = 0.0


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    if options.table:
        results = json.loads(options.out.read_text())
    else:
        sizes = tuple(int(size) for size in options.sizes.split(","))
        counts = (options.rounds, options.calls, options.together, options.slow_rounds)
        plan = Plan(sizes, options.seed, *counts)
        streams = [read_stream(path, options.limit) for path in options.stream]
        with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
            subjects = contenders(
                Path(directory), options.gptcache, options.redis, options.redis_server
            )
            results = run(plan, Path(directory), subjects, streams)
        results["note"] = options.note
        write_json(options.out, results)
    plot(results, options.out.with_suffix(".svg"))
    print(table(results))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON; the plot goes beside it")
    parser.add_argument("--sizes", default="1000,10000", help="entries, with commas")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--slow-rounds", type=int, default=3, help="of throughput and cold start")
    parser.add_argument("--together", type=int, default=200, help="questions to many threads")
    parser.add_argument("--stream", type=Path, action="append", default=[], help="JSON lines")
    parser.add_argument("--limit", type=int, help="how many questions of each stream")
    parser.add_argument("--gptcache", type=Path, help="python of an environment with GPTCache")
    parser.add_argument("--redis", type=Path, help="python of an environment with RedisVL")
    parser.add_argument("--redis-server", help="command of a Redis with vector search, if another")
    parser.add_argument("--note", default="", help="what else is to be known of this run")
    parser.add_argument("--table", action="store_true", help="only print the JSON's tables")
    return parser.parse_args(arguments)


def run(
    plan: Plan, directory: Path, subjects: list[Contender], streams: list[Stream]
) -> dict[str, Any]:
    made = [filled(plan, directory, each, size) for size in plan.sizes for each in subjects]
    cold = first_hits(plan, directory, subjects)
    samples = Samples()
    with ExitStack() as stack:
        asked = list(opened(plan, directory, subjects, stack))
        for i, each in turns(plan.rounds, plan.seed, asked):
            each.round(samples, plan.calls)
            say(f"round {i}: {each.contender.name} at {each.size}")
        rates = throughput(plan, [each for each in asked if each.size == max(plan.sizes)])
        memory = [each.memory() for each in asked]
    return {
        "format": 1,
        "settings": {**asdict(plan), "response_bytes": len(ANSWER.encode())},
        "hardware": hardware(),
        "versions": {"ours": versions(), **peer_versions(subjects)},
        "disk": made,
        "first_hit": cold,
        "rows": samples.rows(),
        "throughput": rates,
        "memory": memory,
        "streams": [replayed(directory, subjects, stream) for stream in streams],
    }


def filled(plan: Plan, directory: Path, subject: Contender, size: int) -> dict[str, Any]:
    path = home(directory, subject, size)
    if subject.persistent:
        with subject.started(timing=True) as process:
            process.ask("fill", directory=str(path), size=size, seed=plan.seed, answer=ANSWER)
        say(f"filled {subject.name} with {size}")
    taken = sum(f.stat().st_blocks * 512 for f in path.rglob("*") if f.is_file())
    about = {"subject": subject.name, "entries": size, "bytes": taken}
    return {**about, "per_entry": round(taken / size)}


def first_hits(plan: Plan, directory: Path, subjects: list[Contender]) -> list[dict[str, Any]]:
    """At the largest size, a new process each time, in turns."""
    size, taken = max(plan.sizes), dict[str, list[dict[str, Any]]]()
    paraphrases = [text for _, text in questions(plan.seed).paraphrases]
    for i, subject in turns(plan.slow_rounds, plan.seed, [s for s in subjects if s.persistent]):
        with started(subject, home(directory, subject, size)) as process:
            first = opening(plan, subject, directory, size, paraphrases[-1 - i])
            taken.setdefault(subject.name, []).append(process.ask("first", **first))
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


def opened(
    plan: Plan, directory: Path, subjects: list[Contender], stack: ExitStack
) -> Iterator[Asked]:
    text = questions(plan.seed).paraphrases[-1][1]
    for size in plan.sizes:
        for subject in subjects:
            process = stack.enter_context(started(subject, home(directory, subject, size)))
            process.ask("first", **opening(plan, subject, directory, size, text))
            if not subject.persistent:
                nowhere = str(home(directory, subject, size))
                process.ask("fill", directory=nowhere, size=size, seed=plan.seed, answer=ANSWER)
            say(f"opened {subject.name} at {size}")
            yield Asked(subject, process, size, plan.seed)


def throughput(plan: Plan, asked: list[Asked]) -> list[dict[str, Any]]:
    """The median of the rounds; what was not served, and what failed, is counted over all."""
    ways = [*(("threads", n) for n in plan.threads), ("tasks", plan.tasks)]
    taken: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for i, each in turns(plan.slow_rounds, plan.seed, asked):
        for by, n in ways:
            done = each.together(by, n, plan.together)
            taken.setdefault((each.contender.name, by, n), []).append(done)
        say(f"throughput {i}: {each.contender.name}")
    return [
        {
            "subject": name,
            "by": f"{n} {by if n > 1 else by[:-1]}",
            "per_second": round(float(np.median([d["served"] / d["seconds"] for d in every])), 1),
            "late_ms": round(1e3 * float(np.median([d.get("late", 0.0) for d in every])), 1),
            "n": sum(d["n"] for d in every),
            "missed": sum(d["missed"] for d in every),
            "failed": sum(d["n"] - d["served"] - d["missed"] for d in every),
            "failed_with": sorted({each for d in every for each in d["failed_with"]}),
        }
        for (name, by, n), every in sorted(taken.items())
    ]


def replayed(directory: Path, subjects: list[Contender], stream: Stream) -> dict[str, Any]:
    """Every subject at each of its settings; times are not taken, so none needs a turn."""
    texts, arms = sorted({question for question, _ in stream.items}), []
    for subject in subjects:
        if not subject.settings:
            continue
        path = directory / f"{stream.name} {subject.name}"
        path.mkdir()
        with started(subject, path, timing=False) as process:
            process.ask("know", texts=texts)
            for i, setting in enumerate(subject.settings):
                order = {"directory": str(path / str(i)), "setting": setting}
                served = process.ask("replay", items=stream.items, **order)["served"]
                about = {"subject": subject.name, "setting": setting, "default": i == 0}
                arms.append({**about, **counted(stream, served)})
                say(f"{stream.name}: {subject.name} at {setting}")
    ids = {answer_id for _, answer_id in stream.items}
    return {"name": stream.name, "n": len(stream.items), "answers": len(ids), "arms": arms}


def turns(rounds: int, seed: int, each: list[T]) -> Iterator[tuple[int, T]]:
    """Everything once a round, in another order each round."""
    rng = np.random.default_rng(seed)
    for i in range(rounds):
        yield from ((i, each[n]) for n in rng.permutation(len(each)))


def started(subject: Contender, path: Path, timing: bool = True) -> Piped:
    process = subject.started(timing)
    process.ask("prepare", directory=str(path))
    return process


def opening(
    plan: Plan, subject: Contender, directory: Path, size: int, text: str
) -> dict[str, Any]:
    path = str(home(directory, subject, size))
    setting, patience = subject.timed_at, plan.patience
    return {"directory": path, "setting": setting, "text": text, "patience": patience}


def home(directory: Path, subject: Contender, size: int) -> Path:
    path = directory / f"{subject.name} {size}"
    path.mkdir(exist_ok=True)
    return path


def peer_versions(subjects: list[Contender]) -> dict[str, Any]:
    found = {}
    for subject in subjects:
        if subject.command[0] != sys.executable:
            with subject.started() as process:
                found[subject.name] = process.ask("versions")
    return found


if __name__ == "__main__":
    main()

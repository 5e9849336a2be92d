"""How long a lookup takes, where the time goes, and how that compares; see README.md.

python benchmarks/lookup.py --gptcache .gptcache/bin/python
python benchmarks/lookup.py --table
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Questions, questions
from filling import SERVED_COSINE, Layout, Stock, artefact_for_timing, fill, opened, stock
from first_hit import first_hits
from peers import Gptcache, RawNumpy, gptcache
from report import table
from scan_limit import SIZES as SCAN_SIZES
from scan_limit import scan_limit
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from subjects import LLM_STRING, ChatSemcache, InMemory, Semcache, TimedEmbedder, chat_scope, prompt
from throughput import throughput
from timing import Samples, What, hardware, timed, versions

OUT = Path(__file__).parent / "results" / "lookup.json"
GPTCACHE_SIZES = (1_000, 10_000)
THROUGHPUT_SIZE = 10_000
SCOPES = 1000


@dataclass(frozen=True)
class Plan:
    """How much is measured. Calls are per round, size and operation."""

    sizes: tuple[int, ...]
    seed: int
    rounds: int = 5
    calls: int = 60
    puts: int = 20
    gptcache_calls: int = 16
    scan_queries: int = 200
    seconds: float = 2.0
    first_hits: int = 7


def quick(sizes: tuple[int, ...], seed: int) -> Plan:
    """A first look: too few calls for a 95th percentile that means anything."""
    return Plan(sizes, seed, 3, 20, 10, 6, 60, 0.7, 2)


def main() -> None:
    options = _options()
    if options.table:
        print(table(json.loads(options.out.read_text())))
        return
    sizes = tuple(int(size) for size in options.sizes.split(","))
    plan = quick(sizes, options.seed) if options.quick else Plan(sizes, options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory,
        gptcache(options.gptcache, plan.seed) as peer,
    ):
        results = run(plan, Path(directory), options.artefact, peer)
    results["artefact"] = "shipped" if options.artefact == DEFAULT_ARTEFACT else "another one"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON to write, or to read")
    parser.add_argument("--sizes", default="1000,10000,100000", help="entries, with commas")
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--artefact", type=Path, default=DEFAULT_ARTEFACT)
    parser.add_argument("--gptcache", type=Path, help="python of an environment with GPTCache")
    parser.add_argument("--table", action="store_true", help="only print the JSON's table")
    return parser.parse_args()


def run(plan: Plan, directory: Path, shipped: Path, peer: Gptcache | None) -> dict[str, Any]:
    """All measurements, one after the other; within each, the subjects take turns."""
    artefact = artefact_for_timing(shipped, directory / "artefact")
    things = stock(questions(plan.seed), artefact)
    chat = chat_scope(artefact)
    many = tuple(f"scope {i}" for i in range(SCOPES))
    layouts = [Layout(size, scopes) for size in plan.sizes for scopes in ((chat,), many)]
    for layout in layouts:
        fill(_path(directory, layout), things, layout, plan.seed)
        _say(f"filled {layout.size} entries in {len(layout.scopes)} scopes")
    samples = lookups(plan, directory, layouts, things, artefact, peer)
    one_scope = [layout for layout in layouts if len(layout.scopes) == 1]
    asked = min(one_scope, key=lambda layout: abs(layout.size - THROUGHPUT_SIZE))
    return {
        "format": 1,
        "settings": {
            **vars(plan),
            "throughput_entries": asked.size,
            "served_cosine": SERVED_COSINE,
        },
        "hardware": hardware(),
        "versions": versions(),
        "gptcache_versions": peer.versions if peer else None,
        "rows": samples.rows(),
        "throughput": _throughput(plan, _path(directory, asked), artefact, chat),
        "first_hit": _first_hits(plan, _path(directory, asked), artefact, things.questions),
        "scan_limit": _scan_limit(plan, things),
    }


def lookups(
    plan: Plan,
    directory: Path,
    layouts: list[Layout],
    things: Stock,
    artefact: Path,
    peer: Gptcache | None,
) -> Samples:
    """Rounds of everything that is timed call by call, in another order each round."""
    samples = Samples()
    embedder = TimedEmbedder(OnnxEmbedder.load(artefact))
    rng = np.random.default_rng(plan.seed)
    with ExitStack() as stack:
        subjects: list[Callable[[], None]] = [lambda: encode_round(plan, samples, things, embedder)]
        for layout in layouts:
            cache = stack.enter_context(opened(_path(directory, layout), artefact, embedder))
            asked = Semcache(cache, embedder, things.questions, layout)
            asked.warm_up(samples)
            _say(f"opened {layout.size} entries in {len(layout.scopes)} scopes")
            subjects.append(partial(asked.round, samples, plan.calls))
            subjects.append(partial(asked.put_round, samples, plan.puts))
            if len(layout.scopes) == 1:
                chat = ChatSemcache(cache, embedder, things.questions, layout.size)
                subjects.append(partial(chat.round, samples, plan.calls))
        for size in plan.sizes:
            memory = InMemory(things.questions, size)
            subjects.append(partial(memory.round, samples, plan.calls))
            raw = RawNumpy(things, size, plan.seed)
            subjects.append(partial(raw.round, samples, things.stored[: plan.calls]))
            if peer is not None and size in GPTCACHE_SIZES:
                peer.fill(size)
                subjects.append(partial(peer.round, samples, size, plan.gptcache_calls))
        for i in range(plan.rounds):
            for n in rng.permutation(len(subjects)):
                subjects[n]()
            _say(f"round {i + 1} of {plan.rounds}")
    return samples


def encode_round(plan: Plan, samples: Samples, things: Stock, embedder: TimedEmbedder) -> None:
    texts = [text for _, text in things.questions.paraphrases[: plan.calls]]
    encode = timed(lambda text: embedder.embed([text]), texts)
    samples.add(What("OnnxEmbedder", "encode one question"), encode)


def _throughput(plan: Plan, path: Path, artefact: Path, scope: str) -> list[dict[str, Any]]:
    _say("throughput")
    return throughput(path, artefact, scope, plan.seed, plan.seconds, plan.rounds)


def _first_hits(plan: Plan, path: Path, artefact: Path, asked: Questions) -> list[dict[str, Any]]:
    _say("first hits")
    prompts = {
        "exact hit": [prompt(text) for text in asked.stored],
        "semantic hit": [prompt(text) for _, text in asked.paraphrases],
    }
    return first_hits(path, artefact, LLM_STRING, prompts, plan.first_hits)


def _scan_limit(plan: Plan, things: Stock) -> list[dict[str, Any]]:
    _say("scan limit")
    sizes = tuple(size for size in SCAN_SIZES if size <= max(plan.sizes))
    if not sizes:
        return []
    return scan_limit(things, plan.scan_queries, sizes, plan.seed, plan.rounds)


def _path(directory: Path, layout: Layout) -> Path:
    return directory / f"{layout.size}-{len(layout.scopes)}"


def _say(what: str) -> None:
    print(f"{time.perf_counter() - _STARTED:6.0f} s  {what}", file=sys.stderr, flush=True)


_STARTED = time.perf_counter()

if __name__ == "__main__":
    main()

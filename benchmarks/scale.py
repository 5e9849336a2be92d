"""What a million entries cost beside fewer: lookups, disk, memory, reopening. See README.md.

python benchmarks/scale.py --directory DIR      # hours: the index of a million is built by upkeep
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from corpus import clustered, questions
from filling import ANSWER, Layout, Stock, add_rows, artefact_for_timing, opened, stock
from first_hit import first_hits
from semcache_core import Request
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.storage.ledger import Ledger
from subjects import LLM_STRING, Semcache, TimedEmbedder, chat_scope, prompt
from timing import Samples, hardware, rss_mib, versions

OUT = Path(__file__).parent / "results" / "scale.json"
CHUNK = 20_000
"""Rows in one transaction, and vectors in memory at once, while a ledger is filled."""


@dataclass(frozen=True)
class Plan:
    sizes: tuple[int, ...]
    seed: int
    rounds: int
    calls: int
    puts: int
    first_hits: int


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="entries, with commas")
    parser.add_argument("--directory", type=Path, help="keeps what is filled, for the next run")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--first-hits", type=int, default=7)
    options = parser.parse_args(arguments)
    sizes = tuple(int(size) for size in options.sizes.split(","))
    plan = Plan(sizes, options.seed, options.rounds, options.calls, 20, options.first_hits)
    with ExitStack() as stack:
        if options.directory is None:
            scratch = tempfile.TemporaryDirectory(prefix="semcache-bench-")
            options.directory = Path(stack.enter_context(scratch))
        results = run(plan, options.directory)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


def run(plan: Plan, directory: Path) -> dict[str, Any]:
    directory.mkdir(parents=True, exist_ok=True)
    artefact = directory / "artefact"
    if not artefact.exists():
        artefact_for_timing(DEFAULT_ARTEFACT, artefact)
    things, scope = stock(questions(plan.seed), artefact), chat_scope(artefact)
    layouts = [Layout(size, (scope,)) for size in plan.sizes]
    made = [
        build(directory / str(layout.size), artefact, things, layout, plan) for layout in layouts
    ]
    return {
        "format": 1,
        "settings": {**vars(plan), "response_bytes": len(ANSWER.encode())},
        "hardware": hardware(),
        "versions": versions(),
        "made": made,
        "rows": lookups(plan, directory, artefact, things, layouts).rows(),
        "reopened": [reopened(plan, directory, artefact, things, layout) for layout in layouts],
    }


def build(path: Path, artefact: Path, things: Stock, layout: Layout, plan: Plan) -> dict[str, Any]:
    """Fill a ledger and let upkeep index it; what that took, and what it takes on disk."""
    known = path.with_suffix(".json")
    if known.exists():
        found: dict[str, Any] = json.loads(known.read_text())
        return found
    started = time.perf_counter()
    fill_by_chunks(path, things, layout, plan.seed)
    filled = time.perf_counter()
    say(f"filled {layout.size}")
    with opened(path, artefact, OnnxEmbedder.load(artefact)):
        indexed = time.perf_counter()
        say(f"indexed {layout.size}")
        memory = rss_mib()
    made = {
        "entries": layout.size,
        "fill_s": round(filled - started, 1),
        "index_s": round(indexed - filled, 1),
        "rss_after_indexing_mib": memory,
        **disk(path, layout.size),
    }
    known.write_text(json.dumps(made))
    return made


def fill_by_chunks(path: Path, things: Stock, layout: Layout, seed: int) -> None:
    """The stored questions scattered among clustered vectors; see `filling.fill`."""
    rng = np.random.default_rng(seed)
    places = set(rng.choice(layout.size, len(things.stored), replace=False).tolist())
    ledger = Ledger.open(path, None)
    stored = 0
    for start in range(0, layout.size, CHUNK):
        n = min(CHUNK, layout.size - start)
        matrix = clustered(things.centres, n, seed + 1 + start)
        texts = [f"filler {start + i}" for i in range(n)]
        for place in sorted(places & set(range(start, start + n))):
            matrix[place - start] = things.stored[stored]
            texts[place - start] = things.questions.stored[stored]
            stored += 1
        requests = [Request(text, layout.scopes[0]) for text in texts]
        add_rows(ledger, requests, matrix, things.fingerprint, after=start)
    ledger.close()


def disk(path: Path, size: int) -> dict[str, float]:
    """Bytes under the path, as the file system allots them, and per entry less its response."""
    total = sum(f.stat().st_blocks * 512 for f in path.rglob("*") if f.is_file())
    index = sum(f.stat().st_blocks * 512 for f in (path / "chroma").rglob("*") if f.is_file())
    return {
        "bytes": total,
        "index_bytes": index,
        "per_entry_less_response": round(total / size - len(ANSWER.encode()), 1),
    }


def lookups(
    plan: Plan, directory: Path, artefact: Path, things: Stock, layouts: list[Layout]
) -> Samples:
    """All sizes open at once, asked in turns."""
    samples, embedder = Samples(), TimedEmbedder(OnnxEmbedder.load(artefact))
    rng = np.random.default_rng(plan.seed)
    with ExitStack() as stack:
        subjects = []
        for layout in layouts:
            path = directory / str(layout.size)
            cache = stack.enter_context(opened(path, artefact, embedder))
            subjects.append(Semcache(cache, embedder, things.questions, layout))
            subjects[-1].warm_up(samples)
        for i in range(plan.rounds):
            for n in rng.permutation(len(subjects)):
                subjects[n].round(samples, plan.calls)
                subjects[n].put_round(samples, plan.puts)
            say(f"round {i + 1} of {plan.rounds}")
    return samples


def reopened(
    plan: Plan, directory: Path, artefact: Path, things: Stock, layout: Layout
) -> dict[str, Any]:
    """A new process, from the import to its first hit."""
    prompts = {
        "exact hit": [prompt(text) for text in things.questions.stored],
        "semantic hit": [prompt(text) for _, text in things.questions.paraphrases],
    }
    path = directory / str(layout.size)
    rows = first_hits(path, artefact, LLM_STRING, prompts, plan.first_hits)
    return {"entries": layout.size, "first_hit": rows}


def say(what: str) -> None:
    print(f"{time.perf_counter() - _STARTED:6.0f} s  {what}", file=sys.stderr, flush=True)


_STARTED = time.perf_counter()

if __name__ == "__main__":
    main()

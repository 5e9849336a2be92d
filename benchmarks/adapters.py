"""What calls cost through the adapters of both frameworks, and what 200 questions at once do.

python benchmarks/adapters.py

The models answer at once, so all that is measured is the framework and the cache. Subjects take
turns in rounds, in a new order each round. The threshold is a cosine of .7, as in `lookup.py`. Four
minutes; leave the machine alone meanwhile.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from corpus import questions
from filling import artefact_for_timing
from instant import Instant, InstantLLM
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from semcache_core import SemanticCache
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT
from timing import Samples, What, hardware, timed, versions

from langchain_semcache import CachedChatModel, SemanticLLMCache
from llamaindex_semcache import CachedLLM, SourceNodes

RESULTS = Path(__file__).parent / "results" / "adapters.json"
TICK = 0.001
AT_ONCE, DISTINCT = 200, 20
FIRST = "first item of a replayed stream"
NODES = [
    TextNode(id_=f"node {n}", text=f"Chapter {n} of the manual.\n" + "It tells a lot. " * 64)
    for n in range(5)
]


@dataclass(frozen=True)
class Subject:
    """Something that answers a question; `first` only asks for the first item of a stream."""

    name: str
    ask: Callable[[str], Any]
    first: Callable[[str], Any] | None = None


class AllNodes(BaseRetriever):
    """Finds the same five kilobytes for every question."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=node) for node in NODES]


def engine(llm: LLM) -> RetrieverQueryEngine:
    noting = [SourceNodes(llm=llm)] if isinstance(llm, CachedLLM) else []
    synthesizer = get_response_synthesizer(llm=llm)
    return RetrieverQueryEngine(AllNodes(), synthesizer, node_postprocessors=noting)


def said(text: str) -> list[ChatMessage]:
    return [ChatMessage(text)]


def subjects(directory: Path, artefact: Path) -> list[Subject]:
    """Each framework alone, and with a cache of its own in front."""

    def cache(name: str) -> SemanticCache:
        return SemanticCache(path=directory / name, artefact=artefact)

    chat = CachedChatModel(Instant(), cache=cache("chat model"))
    llm = CachedLLM(llm=InstantLLM(), cache=cache("llm"))
    alone = InstantLLM()
    through_langchain = Instant(cache=SemanticLLMCache(cache=cache("langchain")))
    return [
        Subject("LangChain alone", Instant().invoke),
        Subject("SemanticLLMCache", through_langchain.invoke),
        Subject("CachedChatModel", chat.invoke, lambda text: next(chat.stream(text))),
        Subject("LlamaIndex alone", lambda text: alone.chat(said(text))),
        Subject(
            "CachedLLM",
            lambda text: llm.chat(said(text)),
            lambda text: next(llm.stream_chat(said(text))),
        ),
        Subject("query engine alone", engine(InstantLLM()).query),
        Subject(
            "query engine, CachedLLM",
            engine(CachedLLM(llm=InstantLLM(), cache=cache("engine"))).query,
        ),
    ]


def measure(directory: Path, artefact: Path, seed: int, rounds: int, each: int) -> Samples:
    made = questions(seed)
    asking = subjects(directory, artefact)
    stored = made.stored[:each]
    for subject in asking:
        for text in stored:
            subject.ask(text)
    paraphrases = [text for row, text in made.paraphrases if row < each]
    samples = Samples()
    turn = random.Random(seed)
    for number in range(rounds):
        asked = {
            "exact hit": turn.sample(stored, each),
            "semantic hit": turn.sample(paraphrases, each),
            "miss": made.strangers[number * each : (number + 1) * each],
        }
        for subject in turn.sample(asking, len(asking)):
            for operation, texts in asked.items():
                samples.add(What(subject.name, operation), timed(subject.ask, texts))
            if subject.first is not None:
                samples.add(What(subject.name, FIRST), timed(subject.first, stored))
    return samples


async def at_once(
    ask: Callable[[str], Awaitable[Any]], counted: Instant | InstantLLM, seed: int
) -> dict[str, Any]:
    """So many tasks, so few distinct questions: the model's calls, the event loop's latest tick."""
    asked = questions(seed).stored[:DISTINCT] * (AT_ONCE // DISTINCT)
    await ask("Is anybody there?")  # the embedding model is open now
    counted.asked = 0
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - due)

    ticking = asyncio.create_task(tick())
    started = time.perf_counter()
    await asyncio.gather(*(ask(text) for text in asked))
    seconds = time.perf_counter() - started
    ticking.cancel()
    return {
        "tasks": AT_ONCE,
        "distinct": DISTINCT,
        "model_calls": counted.asked,
        "seconds": round(seconds, 3),
        "loop_late_max_ms": round(1e3 * max(late), 2),
    }


def all_at_once(directory: Path, artefact: Path, seed: int, rounds: int) -> list[dict[str, Any]]:
    """The models alone and with the cache in turns; each time the cache is empty."""
    rows = []

    def row(name: str, ask: Callable[[str], Awaitable[Any]], counted: Instant | InstantLLM) -> None:
        rows.append({"through": name, **asyncio.run(at_once(ask, counted, seed))})

    for number in range(rounds):
        alone, inside = Instant(delay=0.05), Instant(delay=0.05)
        row("LangChain alone", alone.ainvoke, alone)
        with SemanticCache(path=directory / f"at once {number}", artefact=artefact) as cache:
            row("CachedChatModel", CachedChatModel(inside, cache=cache).ainvoke, inside)
        llm_alone, llm_inside = InstantLLM(delay=0.05), InstantLLM(delay=0.05)
        row("LlamaIndex alone", lambda text, llm=llm_alone: llm.achat(said(text)), llm_alone)
        with SemanticCache(path=directory / f"llm at once {number}", artefact=artefact) as cache:
            cached = CachedLLM(llm=llm_inside, cache=cache)
            row("CachedLLM", lambda text, llm=cached: llm.achat(said(text)), llm_inside)
    return rows


def table(results: dict[str, Any]) -> str:
    lines = ["| through | operation | p50 ms | p95 ms | n |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['subject']} | {row['operation']} | {row['p50_ms']:.3g} | {row['p95_ms']:.3g} "
        f"| {row['n']:,} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=60, help="calls of each kind in a round")
    order = parser.parse_args(arguments)
    load = [round(os.getloadavg()[0], 2)]
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        artefact = artefact_for_timing(DEFAULT_ARTEFACT, directory / "artefact")
        samples = measure(directory, artefact, order.seed, order.rounds, order.each)
        runs = all_at_once(directory, artefact, order.seed, order.rounds)
    load.append(round(os.getloadavg()[0], 2))
    results = {
        "format": 2,
        "seed": order.seed,
        "rounds": order.rounds,
        "each": order.each,
        "hardware": hardware(),
        "load_average": load,  # before and after: above 1, others were at work too
        "versions": versions() | {"llama-index-core": version("llama-index-core")},
        "rows": samples.rows(),
        "at_once": runs,
    }
    order.out.parent.mkdir(exist_ok=True)
    order.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    print(*runs, sep="\n")


if __name__ == "__main__":
    main()

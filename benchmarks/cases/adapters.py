"""Cost of a call through the adapters of both frameworks, and of 200 questions at once.

The models answer at once, so only the framework and the cache are measured. Subjects take turns in
rounds, in a new order each round. Four minutes.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpus import questions
from harness.fill import artefact_for_timing
from harness.instant import Instant, InstantLLM
from harness.results import Results, latency_table, markdown
from harness.timing import Samples, What, timed
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from semcache_core import SemanticCache

from langchain_semcache import CachedChatModel, SemanticLLMCache
from llamaindex_semcache import CachedLLM, SourceNodes

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


def calls(directory: Path, artefact: Path, seed: int, rounds: int, each: int) -> Samples:
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=60, help="calls of each kind in a round")


def measure(options: argparse.Namespace) -> Results:
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        artefact = artefact_for_timing(directory / "artefact")
        samples = calls(directory, artefact, options.seed, options.rounds, options.each)
        runs = all_at_once(directory, artefact, options.seed, options.rounds)
    return {"rows": samples.rows(), "at_once": runs}


def table(results: Results) -> str:
    shown = [{**row, "part": ""} for row in results["rows"]]
    head = ("through", "questions at once", "of them different", "model calls", "loop late, ms")
    runs = [
        (
            run["through"],
            *(str(run[of]) for of in ("tasks", "distinct", "model_calls")),
            f"{run['loop_late_max_ms']:g}",
        )
        for run in results["at_once"]
    ]
    return latency_table({"rows": shown}) + "\n\n" + markdown(head, runs)

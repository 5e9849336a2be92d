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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpus import questions
from harness.fill import artefact_for_timing
from harness.instant import Instant, InstantLLM
from harness.pipe import late_ticks
from harness.results import Results, columns, latency_table
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

AT_ONCE, DISTINCT = 200, 20
DELAY = 0.05
NODES = [
    TextNode(id_=f"node {n}", text=f"Chapter {n} of the manual.\n" + "It tells a lot. " * 64)
    for n in range(5)
]
Open = Callable[[str], SemanticCache]
"""Opens a cache of this name, until the end of the measurement."""


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


def subjects(cache: Open) -> list[Subject]:
    """Each framework alone, and with a cache of its own in front."""
    chat = CachedChatModel(Instant(), cache=cache("chat model"))
    alone, llm = InstantLLM(), CachedLLM(llm=InstantLLM(), cache=cache("llm"))
    cached_engine = engine(CachedLLM(llm=InstantLLM(), cache=cache("engine")))
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
        Subject("query engine, CachedLLM", cached_engine.query),
    ]


def calls(asking: list[Subject], seed: int, rounds: int, each: int) -> Samples:
    made, samples, turn = questions(seed), Samples(), random.Random(seed)
    stored = made.stored[:each]
    for subject in asking:
        timed(subject.ask, stored)
    paraphrases = [text for row, text in made.paraphrases if row < each]
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
                first = What(subject.name, "first item of a replayed stream")
                samples.add(first, timed(subject.first, stored))
    return samples


async def at_once(
    ask: Callable[[str], Awaitable[Any]], model: Instant | InstantLLM, seed: int
) -> dict[str, Any]:
    """So many tasks, so few distinct questions: the model's calls, the event loop's latest tick."""
    asked = questions(seed).stored[:DISTINCT] * (AT_ONCE // DISTINCT)
    await ask("Is anybody there?")  # the embedding model is open now
    model.asked = 0
    async with late_ticks() as late:
        started = time.perf_counter()
        await asyncio.gather(*(ask(text) for text in asked))
        seconds = time.perf_counter() - started
    return {
        "tasks": AT_ONCE,
        "distinct": DISTINCT,
        "model_calls": model.asked,
        "seconds": round(seconds, 3),
        "loop_late_max_ms": round(1e3 * max(late), 2),
    }


def all_at_once(cache: Open, seed: int, rounds: int) -> list[dict[str, Any]]:
    """The models alone and with the cache in turns; each time the cache is empty."""
    rows = []

    def row(through: str, ask: Callable[[str], Awaitable[Any]], model: Any) -> None:
        rows.append({"through": through, **asyncio.run(at_once(ask, model, seed))})

    for number in range(rounds):
        model, llm = Instant(delay=DELAY), InstantLLM(delay=DELAY)
        chat = CachedChatModel(model, cache=cache(f"chat {number}"))
        cached = CachedLLM(llm=llm, cache=cache(f"llm {number}"))
        row("LangChain alone", model.ainvoke, model)
        row("CachedChatModel", chat.ainvoke, model)
        row("LlamaIndex alone", lambda text, llm=llm: llm.achat(said(text)), llm)
        row("CachedLLM", lambda text, llm=cached: llm.achat(said(text)), llm)
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=60, help="calls of each kind in a round")


def measure(options: argparse.Namespace) -> Results:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        artefact = artefact_for_timing(directory / "artefact")

        def opened(name: str) -> SemanticCache:
            return stack.enter_context(SemanticCache(path=directory / name, artefact=artefact))

        samples = calls(subjects(opened), options.seed, options.rounds, options.each)
        runs = all_at_once(opened, options.seed, options.rounds)
    return {"rows": samples.rows(), "at_once": runs}


def table(results: Results) -> str:
    shown = {
        "through": "{through}",
        "questions at once": "{tasks}",
        "of them different": "{distinct}",
        "model calls": "{model_calls}",
        "loop late, ms": "{loop_late_max_ms:g}",
    }
    return latency_table(results) + "\n\n" + columns(shown, results["at_once"])

"""What LangChain's calls cost through the adapters, and what 200 questions at once do.

python benchmarks/adapters.py

The model answers at once, so all that is measured is LangChain and the cache. Subjects take turns
in rounds, in a new order each round. The threshold is a cosine of .7, as in `lookup.py`. Two
minutes; leave the machine alone meanwhile.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from corpus import questions
from filling import artefact_for_timing
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from semcache_core import SemanticCache
from semcache_core.embedding import DEFAULT_ARTEFACT
from timing import Samples, What, hardware, timed, versions

from langchain_semcache import CachedChatModel, SemanticLLMCache

RESULTS = Path(__file__).parent / "results" / "adapters.json"
ANSWER = "Open the settings, choose your account, and follow the steps on the screen. " * 4
TICK = 0.001
AT_ONCE, DISTINCT = 200, 20


class Instant(BaseChatModel):
    """Answers at once, and counts."""

    asked: int = 0
    delay: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "instant"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": "instant"}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.asked += 1
        return ChatResult(generations=[ChatGeneration(message=AIMessage(ANSWER))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        await asyncio.sleep(self.delay)
        return self._generate(messages)


def open_at(path: Path, artefact: Path) -> SemanticCache:
    return SemanticCache(path=path, artefact=artefact)


def first_chunk(model: BaseChatModel, question: str) -> None:
    """Until the first chunk; the rest is read without being timed by the caller."""
    next(model.stream(question))


def measure(directory: Path, artefact: Path, seed: int, rounds: int, each: int) -> Samples:
    made = questions(seed)
    plain = Instant()
    cached = CachedChatModel(Instant(), cache=open_at(directory / "chat", artefact))
    shared = SemanticLLMCache(cache=open_at(directory / "langchain", artefact))
    through_langchain = Instant(cache=shared)
    models = {
        "the model alone": plain,
        "SemanticLLMCache": through_langchain,
        "CachedChatModel": cached,
    }
    stored = made.stored[:each]
    for model in models.values():
        model.batch(stored, {"max_concurrency": 1})
    paraphrases = [text for row, text in made.paraphrases if row < each]
    strangers = iter(made.strangers)
    samples = Samples()
    turn = random.Random(seed)
    for _ in range(rounds):
        asked = {
            "exact hit": turn.sample(stored, each),
            "semantic hit": turn.sample(paraphrases, each),
        }
        for name, model in turn.sample(list(models.items()), len(models)):
            asked["miss"] = [next(strangers) for _ in range(each)]
            for operation, texts in asked.items():
                samples.add(What(name, operation), timed(model.invoke, texts))
            if name == "CachedChatModel":
                what = What(name, "first chunk of a replayed stream")
                samples.add(what, timed(lambda text: first_chunk(cached, text), stored))
    return samples


async def at_once(model: BaseChatModel, counted: Instant, seed: int) -> dict[str, Any]:
    """So many tasks, so few distinct questions: the model's calls, the event loop's latest tick."""
    asked = questions(seed).stored[:DISTINCT] * (AT_ONCE // DISTINCT)
    await model.ainvoke("Is anybody there?")  # the embedding model is open now
    counted.asked = 0
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - due)

    ticking = asyncio.create_task(tick())
    started = time.perf_counter()
    await asyncio.gather(*(model.ainvoke(text) for text in asked))
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
    """The model alone and with the cache in turns; each time the cache is empty."""
    rows = []
    for number in range(rounds):
        alone = Instant(delay=0.05)
        rows.append({"through": "the model alone", **asyncio.run(at_once(alone, alone, seed))})
        inner = Instant(delay=0.05)
        with open_at(directory / f"at once {number}", artefact) as cache:
            cached = CachedChatModel(inner, cache=cache)
            rows.append({"through": "CachedChatModel", **asyncio.run(at_once(cached, inner, seed))})
    return rows


def table(results: dict[str, Any]) -> str:
    lines = ["| through | operation | p50 ms | p95 ms | n |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['subject']} | {row['operation']} | {row['p50_ms']:.3g} | {row['p95_ms']:.3g} "
        f"| {row['n']:,} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=60, help="calls of each kind in a round")
    order = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        artefact = artefact_for_timing(DEFAULT_ARTEFACT, directory / "artefact")
        samples = measure(directory, artefact, order.seed, order.rounds, order.each)
        runs = all_at_once(directory, artefact, order.seed, order.rounds)
    results = {
        "format": 1,
        "seed": order.seed,
        "rounds": order.rounds,
        "hardware": hardware(),
        "versions": versions(),
        "rows": samples.rows(),
        "at_once": runs,
    }
    order.out.parent.mkdir(exist_ok=True)
    order.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    print(*runs, sep="\n")


if __name__ == "__main__":
    main()

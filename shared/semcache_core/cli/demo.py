"""The command `demo`: a LangChain app with a cache, over real customer questions."""

import csv
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from itertools import accumulate
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from semcache_core import Explanation
from semcache_core.cli.options import JsonOption, table_of
from semcache_core.cli.progress import Steps
from semcache_core.errors import SemcacheError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.outputs import Generation

    from langchain_semcache import SemanticLLMCache

SYSTEM = "You are the support assistant of a bank. Answer in two sentences."
OWN_QUESTIONS = (
    "is there any way I can get a virtual card?",
    "my PIN is blocked, what now?",
    "what is the weather like in Lisbon?",
)


@dataclass(frozen=True)
class Arrival:
    """One request of the stream. Two questions of one intent have the same right answer."""

    question: str
    intent: str


def sample_questions() -> list[Arrival]:
    """The shipped sample: 400 questions of 20 intents from Banking77 (CC BY 4.0, see NOTICE)."""
    file = resources.files("semcache_core").joinpath("data/banking77_sample.csv")
    with file.open("r", encoding="utf-8") as lines:
        return [Arrival(row["question"], row["intent"]) for row in csv.DictReader(lines)]


def arrivals(questions: Sequence[Arrival], requests: int, seed: int) -> list[Arrival]:
    """A stream as support desks see it: few questions come often, most rarely (Zipf, s = 1)."""
    chooser = random.Random(seed)
    ranked = chooser.sample(list(questions), len(questions))
    weights = list(accumulate(1 / rank for rank in range(1, len(ranked) + 1)))
    return chooser.choices(ranked, cum_weights=weights, k=requests)


@dataclass(frozen=True)
class DemoResult:
    """Figures of one run. `miss_overhead` is what the cache adds to a miss.

    `wrong_hits` are semantic hits whose answer was made for a question of another intent.
    """

    requests: int
    distinct_questions: int
    exact_hits: int
    semantic_hits: int
    misses: int
    wrong_hits: int
    model_calls_saved: int
    hit_p50_ms: float
    hit_p95_ms: float
    miss_overhead_p50_ms: float
    miss_overhead_p95_ms: float
    model_p50_ms: float
    seconds: float
    max_error_rate: float
    seed: int
    failures: dict[str, int]
    explained: tuple[Explanation, ...] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "explained": [str(explanation) for explanation in self.explained]}


def demo(
    requests: Annotated[int, typer.Option(min=1, help="Length of the stream.")] = 800,
    max_error_rate: Annotated[
        float, typer.Option(help="Of the semantic hits, at most this share may be wrong.")
    ] = 0.02,
    model: Annotated[
        str | None, typer.Option(help="A real model as provider:name, instead of the stand-in.")
    ] = None,
    delay_ms: Annotated[
        float, typer.Option(min=0, help="How long the stand-in model takes to answer.")
    ] = 50.0,
    seed: Annotated[int, typer.Option(help="Draws the stream.")] = 7,
    path: Annotated[
        Path | None, typer.Option(help="Keep the cache here; without it, a temporary one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Real customer questions through a LangChain app with the cache: what is saved, and how wrong.

    400 questions of 20 intents (Banking77, CC BY 4.0) arrive in a repeating, paraphrasing stream.
    A semantic hit is wrong when its answer was made for a question of another intent.
    """
    try:
        import langchain_core  # noqa: F401

        from langchain_semcache import SemanticLLMCache
    except ImportError:
        raise SemcacheError(
            'the demo is a LangChain app; run: pip install "semcache-core[langchain]"'
        ) from None
    stream = arrivals(sample_questions(), requests, seed)
    chat_model = stand_in_model(delay_ms / 1e3) if model is None else _opened(model)
    with tempfile.TemporaryDirectory(prefix="semcache-demo-") as temporary, Steps() as steps:
        cache = SemanticLLMCache(path=str(path or temporary), max_error_rate=max_error_rate)
        try:
            result = run_demo(stream, cache, chat_model, seed, steps.show)
        finally:
            cache.cache.close()
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        _print(result, model or f"a stand-in that takes {delay_ms:g} ms")


def stand_in_model(delay_s: float) -> "BaseChatModel":
    """A model that answers after a fixed delay with a text that depends on the intent alone."""
    from langchain_core.language_models import SimpleChatModel
    from langchain_core.messages import BaseMessage

    intents = {arrival.question: arrival.intent for arrival in sample_questions()}

    class StandInModel(SimpleChatModel):
        @property
        def _llm_type(self) -> str:
            return "semcache-stand-in"

        @property
        def _identifying_params(self) -> Mapping[str, Any]:
            return {"model": "stand-in", "delay_s": delay_s}

        def _call(self, messages: list[BaseMessage], *_: Any, **__: Any) -> str:
            time.sleep(delay_s)
            intent = intents.get(str(messages[-1].content), "something else")
            return f"This is about {intent.replace('_', ' ')}. A colleague has sent you the steps."

    return StandInModel()


def _opened(name: str) -> "BaseChatModel":
    try:
        from langchain.chat_models import init_chat_model
    except ImportError:
        raise SemcacheError(
            f"--model {name} is opened by langchain; run: pip install langchain, "
            "and the provider's package, such as langchain-openai"
        ) from None
    try:
        return init_chat_model(name)
    except (ImportError, ValueError) as error:
        raise SemcacheError(f"--model {name} cannot be opened: {error}") from None


class _TimedCache:
    """A cache for LangChain that measures its own seconds and keeps the model's identity."""

    def __init__(self, cache: "SemanticLLMCache") -> None:
        self.cache = cache
        self.seconds = 0.0
        self.llm_string = ""

    def lookup(self, prompt: str, llm_string: str) -> "list[Generation] | None":
        self.llm_string = llm_string
        started = time.perf_counter()
        found = self.cache.lookup(prompt, llm_string)
        self.seconds += time.perf_counter() - started
        return found

    def update(self, prompt: str, llm_string: str, return_val: "Sequence[Generation]") -> None:
        started = time.perf_counter()
        self.cache.update(prompt, llm_string, return_val)
        self.seconds += time.perf_counter() - started


@dataclass
class _Tally:
    hits_s: list[float] = field(default_factory=list)
    model_s: list[float] = field(default_factory=list)
    overheads_s: list[float] = field(default_factory=list)
    wrong: int = 0
    intent_of_answer: dict[str, str] = field(default_factory=dict)


def run_demo(
    stream: Sequence[Arrival],
    cache: "SemanticLLMCache",
    model: "BaseChatModel",
    seed: int,
    progress: Callable[[str, int, int, str], None],
) -> DemoResult:
    """Send the stream through `model` behind `cache`, one request after the other.

    `progress` is called after each with what is done, how many, of how many, and a note.
    """
    from langchain_core.globals import get_llm_cache, set_llm_cache

    timed: Any = _TimedCache(cache)
    tally = _Tally()
    before = get_llm_cache()
    set_llm_cache(timed)
    started = time.perf_counter()
    try:
        for done, arrival in enumerate(stream, start=1):
            _ask(arrival, timed, model, tally)
            note = f"{len(tally.hits_s)} from the cache, {tally.wrong} of them wrong"
            progress("questions asked", done, len(stream), note)
    finally:
        set_llm_cache(before)
    return _result(stream, timed, model, tally, time.perf_counter() - started, seed)


def _ask(arrival: Arrival, timed: _TimedCache, model: "BaseChatModel", tally: _Tally) -> None:
    misses, timed.seconds = timed.cache.stats().misses, 0.0
    started = time.perf_counter()
    answer = str(model.invoke([("system", SYSTEM), ("human", arrival.question)]).content)
    seconds = time.perf_counter() - started
    if timed.cache.stats().misses > misses:
        tally.intent_of_answer[answer] = arrival.intent
        tally.overheads_s.append(timed.seconds)
        tally.model_s.append(seconds - timed.seconds)
    else:
        tally.hits_s.append(seconds)
        tally.wrong += tally.intent_of_answer.get(answer, arrival.intent) != arrival.intent


def _result(
    stream: Sequence[Arrival],
    timed: _TimedCache,
    model: "BaseChatModel",
    tally: _Tally,
    seconds: float,
    seed: int,
) -> DemoResult:
    from langchain_core.load import dumps
    from langchain_core.messages import HumanMessage, SystemMessage

    prompts = [dumps([SystemMessage(SYSTEM), HumanMessage(own)]) for own in OWN_QUESTIONS]
    stats = timed.cache.stats()
    hit_p50, hit_p95 = _percentiles_ms(tally.hits_s)
    overhead_p50, overhead_p95 = _percentiles_ms(tally.overheads_s)
    return DemoResult(
        requests=len(stream),
        distinct_questions=len({arrival.question for arrival in stream}),
        exact_hits=stats.exact_hits,
        semantic_hits=stats.semantic_hits,
        misses=stats.misses,
        wrong_hits=tally.wrong,
        model_calls_saved=stats.exact_hits + stats.semantic_hits,
        hit_p50_ms=hit_p50,
        hit_p95_ms=hit_p95,
        miss_overhead_p50_ms=overhead_p50,
        miss_overhead_p95_ms=overhead_p95,
        model_p50_ms=_percentiles_ms(tally.model_s)[0],
        seconds=seconds,
        max_error_rate=stats.max_error_rate,
        seed=seed,
        failures=stats.failures,
        explained=tuple(timed.cache.explain(prompt, timed.llm_string, model) for prompt in prompts),
    )


def _percentiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds; zeros where nothing was measured."""
    if len(seconds) < 2:
        return (seconds[0] * 1e3, seconds[0] * 1e3) if seconds else (0.0, 0.0)
    cuts = quantiles(seconds, n=20, method="inclusive")
    return round(cuts[9] * 1e3, 3), round(cuts[18] * 1e3, 3)


def _print(result: DemoResult, model: str) -> None:
    share = result.model_calls_saved / result.requests
    of_semantic = result.wrong_hits / result.semantic_hits if result.semantic_hits else 0.0
    overhead = f"{result.miss_overhead_p50_ms:.2f} ms (p95 {result.miss_overhead_p95_ms:.2f})"
    rows = (
        ("requests", f"{result.requests} ({result.distinct_questions} different questions)"),
        ("exact hits", f"{result.exact_hits}"),
        ("semantic hits", f"{result.semantic_hits}"),
        ("misses", f"{result.misses}"),
        ("model calls saved", f"{result.model_calls_saved} ({share:.0%})"),
        ("wrong hits, by intent", f"{result.wrong_hits} ({of_semantic:.1%} of semantic hits)"),
        ("bound asked for", f"{result.max_error_rate:.1%} of semantic hits"),
        ("a hit takes", f"{result.hit_p50_ms:.2f} ms (p95 {result.hit_p95_ms:.2f})"),
        ("a miss takes longer by", overhead),
        ("the model takes", f"{result.model_p50_ms:.0f} ms, {model}"),
        ("time of the run", f"{result.seconds:.1f} s"),
    )
    console = Console()
    console.print(table_of(rows, ("", ""), "LangChain with semcache"))
    console.print("\nThree questions explained:\n")
    for explanation in result.explained:
        console.print(str(explanation), markup=False, highlight=False, soft_wrap=True)
        console.print()

"""The demo: a LangChain app with a cache, over real customer questions with known intents."""

import csv
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from itertools import accumulate
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any

import typer
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from pydantic import PrivateAttr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from langchain_semcache import SemanticLLMCache
from semcache_core import Explanation
from semcache_core.cli.options import JsonOption
from semcache_core.errors import SemcacheError

SYSTEM = SystemMessage("You are the support assistant of a bank. Answer in two sentences.")
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


class StandInModel(BaseChatModel):
    """Answers after a fixed delay with a text that depends on the question's intent alone.

    It stands in for a hosted model so that the demo runs offline; it knows the intents only
    because they come with the sample.
    """

    delay_s: float
    model: str = "stand-in"
    _intents: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def knowing(cls, questions: Sequence[Arrival], delay_s: float) -> "StandInModel":
        model = cls(delay_s=delay_s)
        model._intents = {arrival.question: arrival.intent for arrival in questions}
        return model

    @property
    def _llm_type(self) -> str:
        return "semcache-stand-in"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "delay_s": self.delay_s}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        time.sleep(self.delay_s)
        intent = self._intents.get(str(messages[-1].content), "something else")
        text = f"This is about {intent.replace('_', ' ')}. A colleague has sent you the steps."
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class _TimedCache(SemanticLLMCache):
    """Notes how long the cache itself took in the present request, and the model's identity."""

    overhead_s = 0.0
    llm_string = ""

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        with self._timed():
            self.llm_string = llm_string
            return super().lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        with self._timed():
            super().update(prompt, llm_string, return_val)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.overhead_s += time.perf_counter() - started


@dataclass(frozen=True)
class DemoResult:
    """Figures of one run. Times in milliseconds; `miss_overhead` is what the cache adds to a miss.

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
        figures = asdict(self)
        figures["explained"] = [str(explanation) for explanation in self.explained]
        return figures


@dataclass
class _Tally:
    hits_s: list[float] = field(default_factory=list)
    misses_s: list[float] = field(default_factory=list)
    overheads_s: list[float] = field(default_factory=list)
    wrong: int = 0
    intent_of_answer: dict[str, str] = field(default_factory=dict)


def run_demo(
    stream: Sequence[Arrival],
    cache: SemanticLLMCache,
    model: BaseChatModel,
    seed: int,
    progress: Callable[[int, int, int], None],
) -> DemoResult:
    """Send the stream through `model` behind `cache`, one request after the other.

    `progress(done, hits, wrong)` is called after each. The cache set before is restored.
    """
    if not isinstance(cache, _TimedCache):
        raise SemcacheError(f"run_demo needs the cache of demo_cache(), got {type(cache).__name__}")
    tally = _Tally()
    before = get_llm_cache()
    set_llm_cache(cache)
    started = time.perf_counter()
    try:
        for done, arrival in enumerate(stream, start=1):
            _ask(arrival, cache, model, tally)
            progress(done, len(tally.hits_s), tally.wrong)
    finally:
        set_llm_cache(before)
    return _result(stream, cache, model, tally, time.perf_counter() - started, seed)


def demo_cache(path: str | None, max_error_rate: float) -> SemanticLLMCache:
    """The cache that `run_demo` measures."""
    return _TimedCache(path=path, max_error_rate=max_error_rate)


def _ask(arrival: Arrival, cache: _TimedCache, model: BaseChatModel, tally: _Tally) -> None:
    misses = cache.stats().misses
    cache.overhead_s = 0.0
    started = time.perf_counter()
    answer = str(model.invoke([SYSTEM, HumanMessage(arrival.question)]).content)
    seconds = time.perf_counter() - started
    if cache.stats().misses > misses:
        tally.intent_of_answer[answer] = arrival.intent
        tally.overheads_s.append(cache.overhead_s)
        tally.misses_s.append(seconds - cache.overhead_s)
    else:
        tally.hits_s.append(seconds)
        tally.wrong += tally.intent_of_answer.get(answer, arrival.intent) != arrival.intent


def _result(
    stream: Sequence[Arrival],
    cache: _TimedCache,
    model: BaseChatModel,
    tally: _Tally,
    seconds: float,
    seed: int,
) -> DemoResult:
    stats = cache.stats()
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
        model_p50_ms=_percentiles_ms(tally.misses_s)[0],
        seconds=seconds,
        max_error_rate=stats.max_error_rate,
        seed=seed,
        failures=stats.failures,
        explained=tuple(
            cache.explain(dumps([SYSTEM, HumanMessage(question)]), cache.llm_string, model)
            for question in OWN_QUESTIONS
        ),
    )


def _percentiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds; zeros where nothing was measured."""
    if len(seconds) < 2:
        return (seconds[0] * 1e3, seconds[0] * 1e3) if seconds else (0.0, 0.0)
    cuts = quantiles(seconds, n=20, method="inclusive")
    return round(cuts[9] * 1e3, 3), round(cuts[18] * 1e3, 3)


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
    _need_langchain()

    stream = arrivals(sample_questions(), requests, seed)
    chat_model = _chat_model(model, delay_ms)
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="semcache-demo-") as temporary:
        cache = demo_cache(str(path or temporary), max_error_rate)
        try:
            with _Live(console, len(stream)) as live:
                result = run_demo(stream, cache, chat_model, seed, live.show)
        finally:
            cache.cache.close()
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        _print_demo(console, result, model or f"a stand-in that takes {delay_ms:g} ms")


def _need_langchain() -> None:
    try:
        import langchain_core  # noqa: F401
    except ImportError:
        raise SemcacheError(
            'the demo is a LangChain app; run: pip install "semcache-core[langchain]"'
        ) from None


def _chat_model(name: str | None, delay_ms: float) -> "BaseChatModel":
    if name is None:
        return StandInModel.knowing(sample_questions(), delay_ms / 1e3)
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


class _Live:
    """A progress bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._bar = Progress(
            TextColumn("asking"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[hits]} from the cache, {task.fields[wrong]} of them wrong"),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, hits=0, wrong=0)

    def __enter__(self) -> "_Live":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, hits: int, wrong: int) -> None:
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, hits=hits, wrong=wrong)
        elif done % 200 == 0 or done == self._total:
            self._console.print(f"{done}/{self._total} asked, {hits} from the cache, {wrong} wrong")


def _print_demo(console: Console, result: "DemoResult", model: str) -> None:
    share = result.model_calls_saved / result.requests
    of_semantic = result.wrong_hits / result.semantic_hits if result.semantic_hits else 0.0
    rows = (
        ("requests", f"{result.requests} ({result.distinct_questions} different questions)"),
        ("exact hits", f"{result.exact_hits}"),
        ("semantic hits", f"{result.semantic_hits}"),
        ("misses", f"{result.misses}"),
        ("model calls saved", f"{result.model_calls_saved} ({share:.0%})"),
        ("wrong hits, by intent", f"{result.wrong_hits} ({of_semantic:.1%} of semantic hits)"),
        ("bound asked for", f"{result.max_error_rate:.1%} of semantic hits"),
        ("a hit takes", f"{result.hit_p50_ms:.2f} ms (p95 {result.hit_p95_ms:.2f})"),
        (
            "a miss takes longer by",
            f"{result.miss_overhead_p50_ms:.2f} ms (p95 {result.miss_overhead_p95_ms:.2f})",
        ),
        ("the model takes", f"{result.model_p50_ms:.0f} ms, {model}"),
        ("time of the run", f"{result.seconds:.1f} s"),
    )
    table = Table(title="LangChain with semcache", show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
    console.print("\nThree questions explained:\n")
    for explanation in result.explained:
        console.print(str(explanation), markup=False, highlight=False, soft_wrap=True)
        console.print()

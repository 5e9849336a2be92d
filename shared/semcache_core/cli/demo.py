"""The demo on the command line."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from semcache_core.cli.options import JsonOption
from semcache_core.errors import SemcacheError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from semcache_core.demo import DemoResult


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
    from semcache_core.demo import arrivals, demo_cache, run_demo, sample_questions

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
        from semcache_core.demo import StandInModel, sample_questions

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

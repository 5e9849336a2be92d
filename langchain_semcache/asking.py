"""How the model inside a `CachedChatModel` is asked: for a whole answer, or for a stream of it."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Generic, TypeAlias, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig

from langchain_semcache.replay import answer_in, answer_of, copied

T = TypeVar("T")

RunManager: TypeAlias = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun


@dataclass(frozen=True)
class Question:
    """What a chat model is asked: all that its answer may depend on, and the run's config."""

    model: BaseChatModel
    messages: list[BaseMessage]
    stop: list[str] | None
    arguments: dict[str, Any]
    config: RunnableConfig | None = None


@dataclass(frozen=True)
class Kind(Generic[T]):
    """One way to ask. `ask` and `aask` give items, and tell the run manager of the call, if any;
    `copy` keeps an item as it is now, `whole` makes an answer of all.
    """

    ask: Callable[[Question, RunManager | None], Generator[T, None, None]]
    aask: Callable[[Question, RunManager | None], AsyncGenerator[T, None]]
    copy: Callable[[T], T]
    whole: Callable[[Question, Sequence[T]], list[ChatGeneration]]


def _result(question: Question, run: RunManager | None) -> Generator[ChatResult, None, None]:
    if question.model.rate_limiter is not None:
        question.model.rate_limiter.acquire(blocking=True)
    ask = question.model._generate
    yield ask(question.messages, **_told(ask, question, run))


async def _aresult(question: Question, run: RunManager | None) -> AsyncGenerator[ChatResult, None]:
    if question.model.rate_limiter is not None:
        await question.model.rate_limiter.aacquire(blocking=True)
    ask = question.model._agenerate
    yield await ask(question.messages, **_told(ask, question, run))


def _chunks(
    question: Question, run: RunManager | None
) -> Generator[ChatGenerationChunk, None, None]:
    if question.model.rate_limiter is not None:
        question.model.rate_limiter.acquire(blocking=True)
    ask = question.model._stream
    yield from ask(question.messages, **_told(ask, question, run))


async def _achunks(
    question: Question, run: RunManager | None
) -> AsyncGenerator[ChatGenerationChunk, None]:
    if question.model.rate_limiter is not None:
        await question.model.rate_limiter.aacquire(blocking=True)
    ask = question.model._astream
    given = ask(question.messages, **_told(ask, question, run))
    try:
        async for chunk in given:
            yield chunk
    finally:
        if isinstance(given, AsyncGenerator):
            await given.aclose()


def _told(ask: Callable[..., Any], question: Question, run: RunManager | None) -> dict[str, Any]:
    """The run manager as LangChain does it: some models do not take it."""
    told = {"stop": question.stop, **question.arguments}
    if run is not None and "run_manager" in signature(ask).parameters:
        told["run_manager"] = run
    return told


WHOLE: Kind[ChatResult] = Kind(
    _result,
    _aresult,
    copy=lambda result: result,
    whole=lambda question, results: answer_in(results[0], question.model.output_version),
)
STREAM: Kind[ChatGenerationChunk] = Kind(
    _chunks,
    _achunks,
    copy=copied,
    whole=lambda question, chunks: answer_of(chunks, question.model.output_version),
)

"""How the model inside a `CachedChatModel` is asked: for a whole answer, or for a stream of it."""

from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import Context
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from semcache_core.adapters import Kind

from langchain_semcache.delegating import unobserved
from langchain_semcache.replay import answer_in, answer_of, copied

RunManager: TypeAlias = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun


@dataclass(frozen=True)
class Question:
    """What a chat model is asked: all that its answer may depend on; and of the run, its config,
    the manager that is told of the call, if any, and the context of who asks.
    """

    model: BaseChatModel
    messages: list[BaseMessage]
    stop: list[str] | None
    arguments: dict[str, Any]
    config: RunnableConfig | None = None
    run: RunManager | None = None
    context: Context | None = None


def without_run(question: Question) -> Question:
    """`question` for a call that is none of the app's own: nothing of the app hears of it."""
    return replace(question, model=unobserved(question.model), run=None)


def _result(question: Question) -> Generator[ChatResult, None, None]:
    if question.model.rate_limiter is not None:
        question.model.rate_limiter.acquire(blocking=True)
    ask = question.model._generate
    yield ask(question.messages, **_told(ask, question))


async def _aresult(question: Question) -> AsyncGenerator[ChatResult, None]:
    if question.model.rate_limiter is not None:
        await question.model.rate_limiter.aacquire(blocking=True)
    ask = question.model._agenerate
    yield await ask(question.messages, **_told(ask, question))


def _chunks(question: Question) -> Generator[ChatGenerationChunk, None, None]:
    if question.model.rate_limiter is not None:
        question.model.rate_limiter.acquire(blocking=True)
    ask = question.model._stream
    yield from ask(question.messages, **_told(ask, question))


async def _achunks(question: Question) -> AsyncGenerator[ChatGenerationChunk, None]:
    if question.model.rate_limiter is not None:
        await question.model.rate_limiter.aacquire(blocking=True)
    ask = question.model._astream
    given = ask(question.messages, **_told(ask, question))
    try:
        async for chunk in given:
            yield chunk
    finally:
        if isinstance(given, AsyncGenerator):
            await given.aclose()


def _told(ask: Callable[..., Any], question: Question) -> dict[str, Any]:
    """The run manager as LangChain does it: some models do not take it."""
    told = {"stop": question.stop, **question.arguments}
    if question.run is not None and "run_manager" in signature(ask).parameters:
        told["run_manager"] = question.run
    return told


WHOLE: Kind[Question, ChatResult, list[ChatGeneration]] = Kind(
    _result,
    _aresult,
    copy=lambda result: result,
    whole=lambda question, results: answer_in(results[0], question.model.output_version) or None,
)
STREAM: Kind[Question, ChatGenerationChunk, list[ChatGeneration]] = Kind(
    _chunks,
    _achunks,
    copy=copied,
    whole=lambda question, chunks: answer_of(chunks, question.model.output_version) or None,
)

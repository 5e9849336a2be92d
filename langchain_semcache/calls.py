"""A stored answer as the chunks of a stream, and the chunks of a stream as an answer to store."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextvars import Context
from copy import deepcopy
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from semcache_core import Explanation, Hit, Request, SemanticCache, SemcacheError, Usage
from semcache_core.adapters import CachedCalls, ModelCall, pieces

from langchain_semcache.model_identity import shown
from langchain_semcache.request import RequestReader
from langchain_semcache.serialization import (
    calls_tools,
    dump_generations,
    is_storable,
    load_generations,
    mark,
    plain_text,
    usage_of,
)
from langchain_semcache.wrapper import unobserved

# Tell LangChain how to read the content of a chunk, so each chunk has them; equal ones merge.
_READS_CONTENT = ("model_provider", "output_version")
# Says through which gateway the provider was called: LangChain keeps it out of messages.
_TRACED_ONLY = "lc_gateway_metadata"


def replayed(generation: ChatGeneration, pace: float | None) -> Iterator[ChatGenerationChunk]:
    """`generation` in chunks whose sum is equal to it, `pace` seconds apart."""
    for number, chunk in enumerate(_chunks(generation)):
        if number and pace:
            time.sleep(pace)
        yield chunk


async def areplayed(
    generation: ChatGeneration, pace: float | None
) -> AsyncIterator[ChatGenerationChunk]:
    """See `replayed`. Between two chunks other tasks have their turn, without a pace too."""
    for number, chunk in enumerate(_chunks(generation)):
        if number:
            await asyncio.sleep(pace or 0)
        yield chunk


def copied(chunk: ChatGenerationChunk) -> ChatGenerationChunk:
    """As `chunk` is now: who reads the stream may change it. Most chunks hold text alone."""
    message = chunk.message
    plain = isinstance(message.content, str) and not message.additional_kwargs
    if plain and not getattr(message, "tool_call_chunks", None):
        own = {"response_metadata": dict(message.response_metadata)}
        return chunk.model_copy(update={"message": message.model_copy(update=own)})
    return deepcopy(chunk)


def answer_of(chunks: Sequence[ChatGenerationChunk], version: str | None) -> list[ChatGeneration]:
    """What `invoke` would have given in place of this stream; empty for no chunks."""
    if not chunks:
        return []
    first, *others = chunks
    merged = first + others if others else first
    message = message_chunk_to_message(merged.message)
    generation = ChatGeneration(message=message, generation_info=merged.generation_info)
    return [_completed(generation, {}, version)]


def answer_in(result: ChatResult, version: str | None) -> list[ChatGeneration]:
    """What LangChain makes of `result`: each message with all that is known about it."""
    alone = len(result.generations) == 1
    also = (result.llm_output or {}) if alone else {}
    return [_completed(generation, also, version) for generation in result.generations]


def _completed(
    generation: ChatGeneration, also: dict[str, Any], version: str | None
) -> ChatGeneration:
    message = generation.message
    told: dict[str, Any] = {"response_metadata": {**also, **_metadata(generation)}}
    if version == "v1":  # LangChain's own form of content, in place of the provider's
        told["content"] = message.content_blocks
        told["response_metadata"]["output_version"] = "v1"
    return ChatGeneration(
        message=message.model_copy(update=told), generation_info=generation.generation_info
    )


def _metadata(generation: ChatGeneration) -> dict[str, Any]:
    info = generation.generation_info or {}
    told = {name: value for name, value in info.items() if name != _TRACED_ONLY}
    return {**told, **generation.message.response_metadata}


def _chunks(generation: ChatGeneration) -> Iterator[ChatGenerationChunk]:
    """All but content is in the last one: a part that is told twice would be doubled in the sum."""
    message = generation.message
    assert isinstance(message, AIMessage)
    metadata = message.response_metadata
    reads = {name: metadata[name] for name in _READS_CONTENT if name in metadata}
    for content in _contents(message):
        part = AIMessageChunk(content=content, id=message.id, response_metadata=dict(reads))
        yield ChatGenerationChunk(message=part)
    last = AIMessageChunk(
        content="" if isinstance(message.content, str) else [],
        id=message.id,
        tool_call_chunks=[
            tool_call_chunk(
                name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index
            )
            for index, call in enumerate(message.tool_calls)
        ],
        additional_kwargs=message.additional_kwargs,
        response_metadata=metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )
    yield ChatGenerationChunk(message=last, generation_info=generation.generation_info)


def _contents(message: AIMessage) -> Iterator[Any]:
    if isinstance(message.content, str):
        yield from pieces(message.content)
        return
    numbered = message.response_metadata.get("output_version") == "v1"
    for number, block in enumerate(message.content):
        if isinstance(block, dict):
            yield from ([part] for part in _parts(block, number if numbered else None))
        else:
            yield [block]


def _parts(block: dict[str, Any], number: int | None) -> list[dict[str, Any]]:
    """A text block in pieces where it has a number, by which LangChain puts them together again."""
    if number is not None:  # LangChain would number them by type, and so join two texts
        block = {"index": number, **block}
    if block.get("type") != "text" or not isinstance(block.get("index"), int):
        return [block]
    texts = pieces(str(block.get("text", ""))) or [""]
    known = {name: block[name] for name in ("type", "id", "index") if name in block}
    return [*({**known, "text": text} for text in texts[:-1]), {**block, "text": texts[-1]}]


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


def _streamed(question: Question) -> Generator[ChatGenerationChunk, None, None]:
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


WHOLE: ModelCall[Question, ChatResult, list[ChatGeneration]] = ModelCall(
    _result,
    _aresult,
    copy=lambda result: result,
    whole=lambda question, results: answer_in(results[0], question.model.output_version) or None,
)
STREAM: ModelCall[Question, ChatGenerationChunk, list[ChatGeneration]] = ModelCall(
    _streamed,
    _achunks,
    copy=copied,
    whole=lambda question, chunks: answer_of(chunks, question.model.output_version) or None,
)


class ChatAnswers:
    """A chat model's answers, for `CachedCalls`."""

    def dump(self, answer: list[ChatGeneration]) -> str:
        return dump_generations(answer)

    def load(self, text: str, hit: Hit | None) -> list[ChatGeneration]:
        generations = load_generations(text)
        mark(generations, hit)
        chat = [one for one in generations if isinstance(one, ChatGeneration)]
        if len(chat) != len(generations):
            raise ValueError("a stored response holds a text model's generation")
        return chat

    def is_storable(self, answer: list[ChatGeneration]) -> bool:
        return is_storable(answer)

    def calls_tools(self, answer: list[ChatGeneration]) -> bool:
        return calls_tools(answer)

    def words(self, answer: list[ChatGeneration]) -> str | None:
        return plain_text(answer)


def _usage(question: Question, answer: list[ChatGeneration]) -> Usage:
    return usage_of(answer)


class ChatCalls(CachedCalls[Question, list[ChatGeneration]]):
    """The calls of chat models as `reader` reads them."""

    def __init__(self, cache: SemanticCache, reader: RequestReader) -> None:
        super().__init__(cache, self.read, ChatAnswers(), without_run, _usage)
        self._reader = reader

    def read(self, question: Question) -> Request | None:
        """The request, the same as SemanticLLMCache's for the same call; None: not cached."""
        context = question.context
        if context is None:
            return self._read_here(question)
        # a copy: the same call may be read on two threads, and no context is entered twice
        return context.copy().run(self._read_here, question)

    def _read_here(self, question: Question) -> Request | None:
        model, config = question.model, question.config
        llm_string = model._get_llm_string(stop=question.stop, **shown(question.arguments))
        prompt = dumps(question.messages)
        if config is None:
            return self._reader.read(prompt, llm_string, model)
        with set_config_context(config) as context:  # for what tells the tenant
            return context.run(self._reader.read, prompt, llm_string, model)

    def explain(self, question: Question) -> Explanation:
        """Why the answer would be found, or not; raises SemcacheError where nothing is asked."""
        request = self.read(question)
        if request is None:
            raise SemcacheError(
                f"this call of a {type(question.model).__name__} is not cached: an argument or a "
                "message shows only the name of a class or the address of an object"
            )
        return self._reader.hinted(self._cache.explain(request), dumps(question.messages))

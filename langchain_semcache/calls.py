"""How the model inside a `CachedChatModel` is asked, and how a stored answer becomes a stream."""

import json
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from inspect import signature
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from semcache_core.adapters import ModelCall, pieces

from langchain_semcache.request import Question
from langchain_semcache.wrapper import unobserved

# LangChain reads the content of a chunk by these, so each chunk has them; equal ones merge.
_CONTENT_FORMAT = ("model_provider", "output_version")
# The gateway through which the provider was called: LangChain keeps it out of messages.
_TRACED_ONLY = "lc_gateway_metadata"


def without_run(question: Question) -> Question:
    """Return `question` for a call outside the app's run, which none of its callbacks see."""
    return replace(question, model=unobserved(question.model), run=None)


# -- asking the model ------------------------------------------------------------------------------


def _result(question: Question) -> Generator[ChatResult, None, None]:
    if question.model.rate_limiter is not None:
        question.model.rate_limiter.acquire(blocking=True)
    ask = question.model._generate
    yield ask(question.messages, **_arguments(ask, question))


async def _aresult(question: Question) -> AsyncGenerator[ChatResult, None]:
    if question.model.rate_limiter is not None:
        await question.model.rate_limiter.aacquire(blocking=True)
    ask = question.model._agenerate
    yield await ask(question.messages, **_arguments(ask, question))


def _stream(question: Question) -> Generator[ChatGenerationChunk, None, None]:
    if question.model.rate_limiter is not None:
        question.model.rate_limiter.acquire(blocking=True)
    ask = question.model._stream
    yield from ask(question.messages, **_arguments(ask, question))


async def _astream(question: Question) -> AsyncGenerator[ChatGenerationChunk, None]:
    if question.model.rate_limiter is not None:
        await question.model.rate_limiter.aacquire(blocking=True)
    ask = question.model._astream
    chunks = ask(question.messages, **_arguments(ask, question))
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def _arguments(ask: Callable[..., Any], question: Question) -> dict[str, Any]:
    """With the run manager only where the model takes it, as LangChain does."""
    arguments = {"stop": question.stop, **question.arguments}
    if question.run is not None and "run_manager" in signature(ask).parameters:
        arguments["run_manager"] = question.run
    return arguments


# -- from what the model gives to an answer --------------------------------------------------------


def answer_in(result: ChatResult, version: str | None) -> list[ChatGeneration]:
    """Return what LangChain makes of `result`: each message with all its metadata."""
    alone = len(result.generations) == 1
    output = (result.llm_output or {}) if alone else {}
    return [_completed(generation, output, version) for generation in result.generations]


def answer_of(chunks: Sequence[ChatGenerationChunk], version: str | None) -> list[ChatGeneration]:
    """Return what `invoke` would have given in place of this stream; empty for no chunks."""
    if not chunks:
        return []
    first, *others = chunks
    merged = first + others if others else first
    message = message_chunk_to_message(merged.message)
    generation = ChatGeneration(message=message, generation_info=merged.generation_info)
    return [_completed(generation, {}, version)]


def copied(chunk: ChatGenerationChunk) -> ChatGenerationChunk:
    """Return a copy that the reader of the stream cannot change. Most chunks hold only text."""
    message = chunk.message
    plain = isinstance(message.content, str) and not message.additional_kwargs
    if plain and not getattr(message, "tool_call_chunks", None):
        own = {"response_metadata": dict(message.response_metadata)}
        return chunk.model_copy(update={"message": message.model_copy(update=own)})
    return deepcopy(chunk)


def _completed(
    generation: ChatGeneration, output: dict[str, Any], version: str | None
) -> ChatGeneration:
    message, info = generation.message, generation.generation_info
    metadata = {k: v for k, v in (info or {}).items() if k != _TRACED_ONLY}
    metadata = {**output, **metadata, **message.response_metadata}
    update: dict[str, Any] = {"response_metadata": metadata}
    if version == "v1":  # LangChain's own form of content, in place of the provider's
        update["content"] = message.content_blocks
        metadata["output_version"] = "v1"
    return ChatGeneration(message=message.model_copy(update=update), generation_info=info)


CHAT: ModelCall[Question, ChatResult, list[ChatGeneration]] = ModelCall(
    _result,
    _aresult,
    copy=lambda result: result,
    whole=lambda question, results: answer_in(results[0], question.model.output_version) or None,
)
CHAT_STREAM: ModelCall[Question, ChatGenerationChunk, list[ChatGeneration]] = ModelCall(
    _stream,
    _astream,
    copy=copied,
    whole=lambda question, chunks: answer_of(chunks, question.model.output_version) or None,
)


# -- from a stored answer to a stream --------------------------------------------------------------


def chunks_of(generation: ChatGeneration) -> list[ChatGenerationChunk]:
    """Return chunks whose sum is equal to `generation`.

    Only content is split. The last chunk holds the rest, which would be doubled in the sum.
    """
    message = generation.message
    assert isinstance(message, AIMessage)
    metadata = message.response_metadata
    known = {name: metadata[name] for name in _CONTENT_FORMAT if name in metadata}
    parts = [
        AIMessageChunk(content=content, id=message.id, response_metadata=dict(known))
        for content in _contents(message)
    ]
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
    return [
        *(ChatGenerationChunk(message=part) for part in parts),
        ChatGenerationChunk(message=last, generation_info=generation.generation_info),
    ]


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
    """Split a text block that has a number, by which LangChain joins its pieces again."""
    if number is not None:  # LangChain would number them by type, and so join two texts
        block = {"index": number, **block}
    if block.get("type") != "text" or not isinstance(block.get("index"), int):
        return [block]
    texts = pieces(str(block.get("text", ""))) or [""]
    known = {name: block[name] for name in ("type", "id", "index") if name in block}
    return [*({**known, "text": text} for text in texts[:-1]), {**block, "text": texts[-1]}]

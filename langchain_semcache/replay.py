"""A stored answer as the chunks of a stream, and the chunks of a stream as an answer to store."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from copy import deepcopy
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from semcache_core.adapters import pieces

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

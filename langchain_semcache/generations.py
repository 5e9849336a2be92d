"""Generations as text and back; which may be stored; and what must be new in each hit."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    Generation,
    GenerationChunk,
)

# Reading constructs nothing else, whatever a row on disk says (CVE-2025-68664).
_ALLOWED: list[Any] = [
    Generation,
    GenerationChunk,
    ChatGeneration,
    ChatGenerationChunk,
    AIMessage,
    AIMessageChunk,
]
_CUT_SHORT = {
    "length",
    "max_tokens",
    "max_output_tokens",
    "model_length",
    "content_filter",
    "refusal",
    "safety",
    "recitation",
    "error",
    "incomplete",
}
_REASONS = ("finish_reason", "stop_reason", "done_reason", "status")
_CALL_IDS = ("id", "call_id", "tool_use_id")
_ZERO_USAGE = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


def dump_generations(generations: Sequence[Generation]) -> str:
    """JSON text. One `dumps` an item: a list holding a pydantic `parsed` could not be read back."""
    return json.dumps([dumps(generation) for generation in generations])


def load_generations(text: str) -> list[Generation]:
    """Read what `dump_generations` wrote, ready to be served.

    Raises ValueError (or RecursionError) for anything else. Each call builds new objects, so a
    caller who changes what it got changes nobody else's.
    """
    items = json.loads(text)
    if not isinstance(items, list) or not items:
        raise ValueError(f"a stored response must be a list of generations, got {type(items)}")
    loaded = [loads(item, allowed_objects=_ALLOWED, secrets_from_env=False) for item in items]
    for generation in loaded:
        if not isinstance(generation, Generation):
            raise ValueError(f"a stored response holds a {type(generation).__name__}")
        _freshen(generation)
    return loaded


def is_storable(generations: Sequence[Generation]) -> bool:
    """False for what must not be repeated: empty, cut short, refused, or with broken calls."""
    return bool(generations) and all(_is_complete(generation) for generation in generations)


def calls_tools(generations: Sequence[Generation]) -> bool:
    """Whether any of them asks for a tool: then it is never served by meaning."""
    return any(_has_calls(_message(generation)) for generation in generations)


def _is_complete(generation: Generation) -> bool:
    message = _message(generation)
    said = [generation.generation_info or {}]
    if message is not None:
        said += [message.response_metadata, message.additional_kwargs]
        if message.additional_kwargs.get("refusal") or message.invalid_tool_calls:
            return False
    reasons = {str(info[key]).lower() for info in said for key in _REASONS if info.get(key)}
    if reasons & _CUT_SHORT:
        return False
    return bool(generation.text.strip()) or bool(
        message is not None and (_has_calls(message) or _has_blocks(message))
    )


def _has_blocks(message: AIMessage) -> bool:
    """Content that is not text, such as an image: an answer too."""
    return isinstance(message.content, list) and any(
        isinstance(block, dict) and block.get("type") not in ("text", "reasoning", "thinking")
        for block in message.content
    )


def _has_calls(message: AIMessage | None) -> bool:
    if message is None:
        return False
    return bool(message.tool_calls or message.additional_kwargs.get("function_call"))


def _message(generation: Generation) -> AIMessage | None:
    message = getattr(generation, "message", None)
    return message if isinstance(message, AIMessage) else None


def _freshen(generation: Generation) -> None:
    """A new message id (LangGraph replaces an old message of the same id), new call ids, no usage.

    Usage is zero, not missing: langchain-core would else add a cost to nothing, which is then no
    valid usage.
    """
    message = _message(generation)
    if message is None:
        return
    message.id = f"lc_run--{uuid.uuid4()}"
    message.usage_metadata = dict(_ZERO_USAGE)  # type: ignore[assignment]
    ids = {str(call["id"]): f"call_{uuid.uuid4().hex}" for call in message.tool_calls if call["id"]}
    if ids:
        message.tool_calls = _with_ids(message.tool_calls, ids)
        message.content = _with_ids(message.content, ids)
        message.additional_kwargs = _with_ids(message.additional_kwargs, ids)
        if isinstance(message, AIMessageChunk):
            message.tool_call_chunks = _with_ids(message.tool_call_chunks, ids)


def _with_ids(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_with_ids(item, ids) for item in value]
    if isinstance(value, dict):
        return {
            k: ids.get(v, v) if k in _CALL_IDS and isinstance(v, str) else _with_ids(v, ids)
            for k, v in value.items()
        }
    return value

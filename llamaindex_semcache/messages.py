"""Chat messages in the canonical form in which conversations are compared."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from io import IOBase
from pathlib import Path
from typing import Any

from llama_index.core.base.llms.types import (
    BaseContentBlock,
    BaseRecursiveContentBlock,
    ChatMessage,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel
from semcache_core import SemcacheError
from semcache_core.adapters import CallIds

from llamaindex_semcache.model_identity import as_json, refuse

_TYPES = {
    MessageRole.USER: "human",
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
# Agents that call tools by text put the result into a user message; it is not a question.
_RESULT = re.compile(r"\s*(?:Observation:|Result of executing the code given:)")
# Not \s: it would match all following blank lines, from each of them again.
_ACTION = re.compile(r"^[ \t]*Action: ([^\n\(\) ]+)", re.MULTILINE)
_CALLED = re.compile(r"([^\W\d]\w*)[ \t]*\(")
# Fields of an answer's additional_kwargs that differ between two runs of the same conversation.
_VOLATILE = {
    *("created", "finish_reason", "generation_id", "id", "logprobs", "model", "model_id"),
    *("model_name", "parsed", "response_id", "response_metadata", "semcache", "stop_reason"),
    *("system_fingerprint", "token_count", "token_usage", "usage", "usage_metadata"),
    *("completion_tokens", "input_tokens", "output_tokens", "prompt_tokens", "total_tokens"),
    *("completion_tokens_details", "prompt_tokens_details"),
    *("eval_count", "eval_duration", "load_duration", "prompt_eval_count"),
    *("prompt_eval_duration", "total_duration", "created_at"),
}
_MEDIA = ("image", "audio", "video", "data")


def canonical(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Return messages as JSON, in the form that `read_turn` reads; equal for equal conversations.

    Ids of tool calls are numbered, and usage is left out. Images, audio, video and documents are
    replaced by the digest of their bytes, a path by the digest of its file. Raises SemcacheError
    for an object that hides its fields: the call must not be cached.
    """
    ids = CallIds()
    return [_message(message, ids) for message in messages]


def texts(messages: Sequence[ChatMessage]) -> Iterator[str]:
    """Yield every text that a model sees, also nested ones."""
    for message in messages:
        yield from _texts(message)


def tool_names(messages: list[dict[str, Any]]) -> set[str]:
    """Return the tools that were called in canonical messages, also by text."""
    return {name for message in messages for name in _tool_names(message)}


def called_by_text(text: str) -> Iterator[str]:
    """Yield the tools that an answer calls by text, as with ReAct and CodeAct.

    CodeAct's code is the tool "execute", and may call others.
    """
    if "Action Input:" in text:
        yield from _ACTION.findall(text)
    for part in text.split("<execute>")[1:]:
        code, end, _ = part.partition("</execute>")
        if end:
            yield "execute"
            yield from _CALLED.findall(code)


def _message(message: ChatMessage, ids: CallIds) -> dict[str, Any]:
    kind = _TYPES.get(message.role, "ai")
    if kind == "human" and _RESULT.match(message.content or ""):
        kind = "tool"
    content = [_block(block, ids) for block in message.blocks if not _is_empty(block)]
    stated = {"type": kind, "role": message.role.value, "content": content}
    extra = _extra(message, kind, ids)
    return stated | ({"additional_kwargs": extra} if extra else {})


def _is_empty(block: BaseContentBlock) -> bool:
    return isinstance(block, TextBlock) and not block.text


def _block(block: BaseContentBlock, ids: CallIds) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    kind = str(getattr(block, "block_type", type(block).__name__))
    shown = {name: getattr(block, name) for name in type(block).model_fields}
    shown |= {"type": kind, "block_type": None}
    if isinstance(block, BaseRecursiveContentBlock):
        shown[block.nested_blocks_field_name()] = [
            _block(each, ids) for each in block.nested_blocks
        ]
    if isinstance(block, ThinkingBlock):
        shown["num_tokens"] = None
        about = block.additional_information  # `id` names it at OpenAI, and a hit has none
        shown["additional_information"] = {k: v for k, v in about.items() if k != "id"}
    if isinstance(block, ToolCallBlock):
        shown = ids.renumber(shown)
    for name in _MEDIA:
        if isinstance(shown.get(name), bytes | IOBase):
            shown[name] = _bytes_digest(shown[name], kind)
    if shown.get("path") is not None:
        shown["path"] = _file_digest(Path(shown["path"]), kind)
    said = {name: value for name, value in shown.items() if value is not None}
    return {
        name: as_json(value, partial(refuse, f"a {kind} block")) for name, value in said.items()
    }


def _bytes_digest(data: bytes | IOBase, kind: str) -> str:
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    try:
        place = data.tell()
        data.seek(0)
        digest = hashlib.sha256(data.read()).hexdigest()
        data.seek(place)
    except (OSError, TypeError, ValueError) as error:  # closed, a pipe, text
        raise SemcacheError(
            f"the stream of a {kind} block cannot be read twice ({type(error).__name__}), so calls "
            "with it are not cached; pass its bytes"
        ) from error
    return digest


def _file_digest(path: Path, kind: str) -> str:
    """Return the digest of the file's present content, which may change."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise SemcacheError(
            f"the file of a {kind} block cannot be read ({error.strerror}), so calls with it are "
            "not cached; check its path, or pass its bytes"
        ) from error
    return digest.hexdigest()


def _extra(message: ChatMessage, kind: str, ids: CallIds) -> dict[str, Any]:
    """Return the additional_kwargs that the blocks do not repeat."""
    extra = {name: _dumped(value) for name, value in message.additional_kwargs.items()}
    extra.pop("images", None)  # ChatMessage made blocks of them
    if kind == "ai":
        extra = {name: value for name, value in extra.items() if name not in _VOLATILE}
        if _is_in_blocks(extra.get("tool_calls"), message):
            del extra["tool_calls"]
    said = {name: value for name, value in extra.items() if value not in (None, [], {})}
    if isinstance(said.get("tool_calls"), list):
        said["tool_calls"] = [ids.renumber(_stated(call)) for call in said["tool_calls"]]
    return {
        name: as_json(value, partial(refuse, f"additional_kwargs[{name!r}] of a message"))
        for name, value in ids.renumber(said).items()
    }


def _is_in_blocks(calls: Any, message: ChatMessage) -> bool:
    """Whether `calls` repeats tool calls of the blocks, as some integrations do."""
    in_blocks = {b.tool_call_id for b in message.blocks if isinstance(b, ToolCallBlock)}
    return (
        isinstance(calls, list)
        and bool(calls)
        and all(isinstance(call, dict) and _call_id(call) in in_blocks for call in calls)
    )


def _call_id(call: dict[str, Any]) -> Any:
    return call.get("id") or call.get("call_id") or call.get("tool_use_id")


def _stated(call: Any) -> Any:
    return {k: v for k, v in call.items() if v is not None} if isinstance(call, dict) else call


def _dumped(value: Any) -> Any:
    """Return a provider's objects as dicts, as they are after a round trip through the cache."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, dict):
        return {name: _dumped(item) for name, item in value.items()}
    return [_dumped(item) for item in value] if isinstance(value, list | tuple) else value


def _texts(block: BaseContentBlock) -> Iterator[str]:
    if isinstance(block, TextBlock):
        yield block.text
    elif isinstance(block, BaseRecursiveContentBlock):
        for each in block.nested_blocks:
            yield from _texts(each)


def _tool_names(message: dict[str, Any]) -> Iterator[str]:
    extra = message.get("additional_kwargs", {})
    if message["type"] == "tool":
        yield str(extra.get("name"))
    if message["type"] != "ai":
        return
    for block in message["content"]:
        if block["type"] == "tool_call":
            yield str(block["tool_name"])
        elif block["type"] == "text":
            yield from called_by_text(block["text"])
    calls = extra.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else ()), extra.get("function_call")]:
        if isinstance(call, dict):
            inner = call.get("function")
            yield str((inner if isinstance(inner, dict) else call).get("name"))

"""From the prompt string that LangChain hands to a cache, to a question and everything else."""

import json
from dataclasses import dataclass
from typing import Any

from semcache_core import Splitter

# Differs between two runs of the same conversation without changing what is asked.
_VOLATILE = {
    "id",
    "response_metadata",
    "usage_metadata",
    "artifact",
    "example",
    "invalid_tool_calls",
    "tool_call_chunks",
    "chunk_position",
}
_CALL_BLOCKS = {
    "tool_use",
    "tool_call",
    "tool_result",
    "function_call",
    "function_call_output",
    "server_tool_call",
    "server_tool_result",
    "server_tool_use",
}
_CALL_IDS = {"id", "call_id", "tool_use_id", "tool_call_id"}


@dataclass(frozen=True)
class Prompt:
    """`question` may be matched by meaning unless `exact_only`; `rest` is JSON and must be equal.

    `rest` holds everything else of the conversation, with the question's place marked.
    """

    question: str
    rest: Any
    exact_only: bool


def read_prompt(prompt: str, split: Splitter) -> Prompt:
    """Read a chat model's serialised messages, or a text model's bare prompt.

    Only the last user text can be matched by meaning, and only while nothing follows it: after a
    tool result or a prefilled answer the whole conversation must be equal.
    """
    messages = _parse(prompt)
    if messages is None:
        question, frame, exact_only = _split_text(prompt, split)
        return Prompt(question, ["text", frame], exact_only)
    ids: dict[str, str] = {}
    canonical = [_message(message, ids) for message in messages]
    last = canonical[-1]
    if last["type"] != "human":
        return Prompt("", canonical, exact_only=True)
    question, last["content"], exact_only = _split_content(last["content"], split)
    return Prompt(question, canonical, exact_only)


def _parse(prompt: str) -> list[dict[str, Any]] | None:
    """The message constructors in `prompt`; None when it is plain text.

    Read as data: nothing is constructed here, so nothing in a prompt can be executed.
    """
    if not prompt.startswith("["):
        return None
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    if not isinstance(messages, list) or not messages:
        return None
    if not all(isinstance(m, dict) and isinstance(m.get("kwargs"), dict) for m in messages):
        return None
    return messages


def _message(message: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """One message without what is volatile; call ids become `call-0`, `call-1` ... in order."""
    fields = {k: v for k, v in message["kwargs"].items() if k not in _VOLATILE}
    constructor = message.get("id")
    name = str(constructor[-1]) if isinstance(constructor, list) and constructor else ""
    kind = str(fields.get("type") or name).removesuffix("MessageChunk").lower()
    fields["type"] = kind
    if kind in ("ai", "tool"):
        # The provider's own record of an answer; what it says is in content and tool_calls.
        # A legacy function_call is only here.
        extra = fields.pop("additional_kwargs", None) or {}
        if "function_call" in extra:
            fields["function_call"] = extra["function_call"]
    if not fields.get("additional_kwargs"):
        fields.pop("additional_kwargs", None)
    if fields.get("tool_calls"):
        fields["tool_calls"] = [_renumber(call, ids) for call in fields["tool_calls"]]
    if "tool_call_id" in fields:
        fields = _renumber(fields, ids)
    fields["content"] = _content(fields.get("content"), kind, ids)
    return {k: v for k, v in fields.items() if v not in (None, [], {})} | {
        "type": kind,
        "content": fields["content"],
    }


def _content(content: Any, kind: str, ids: dict[str, str]) -> Any:
    """Always a list of blocks, so that "hi" and [{"type": "text", "text": "hi"}] are equal."""
    if isinstance(content, str):
        content = [content] if content else []
    if not isinstance(content, list):
        return content
    return [_block(block, kind, ids) for block in content]


def _block(block: Any, kind: str, ids: dict[str, str]) -> Any:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict):
        return block
    if block.get("type") in _CALL_BLOCKS:
        return _renumber({k: v for k, v in block.items() if k != "index"}, ids)
    if kind == "ai":
        return {k: v for k, v in block.items() if k not in ("id", "index")}
    return block


def _renumber(call: Any, ids: dict[str, str]) -> Any:
    if not isinstance(call, dict):
        return call
    return {
        k: ids.setdefault(v, f"call-{len(ids)}") if k in _CALL_IDS and isinstance(v, str) else v
        for k, v in call.items()
    }


def _split_content(content: Any, split: Splitter) -> tuple[str, Any, bool]:
    """The question is the last text block; images, files and earlier blocks must be equal."""
    texts = [
        i
        for i, block in enumerate(content if isinstance(content, list) else [])
        if isinstance(block, dict)
        and block.get("type") == "text"
        and isinstance(block.get("text"), str)
    ]
    if not texts:
        return "", content, True
    block = content[texts[-1]]
    question, frame, exact_only = _split_text(block["text"], split)
    rest = [*content]
    rest[texts[-1]] = {**block, "text": frame}
    return question, rest, exact_only


def _split_text(text: str, split: Splitter) -> tuple[str, str, bool]:
    parts = split(text)
    if parts is None:
        return text, "", True
    return parts.question, parts.frame, False

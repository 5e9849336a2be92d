"""From the prompt string that LangChain hands to a cache, to a question and everything else."""

import json
from typing import Any

from semcache_core import Splitter
from semcache_core.adapters import CallIds, Turn, read_text, read_turn

# Differs between two runs of the same conversation without changing what is asked.
_VOLATILE = {
    "id",
    "response_metadata",
    "usage_metadata",
    "artifact",
    "example",
    "tool_call_chunks",
    "chunk_position",
}
# The same among an answer's additional_kwargs. All else there may reach the provider again.
_VOLATILE_EXTRA = {
    "__gemini_function_call_thought_signatures__",
    "__openai_function_call_ids__",
    "finish_reason",
    "generation_id",
    "logprobs",
    "model_id",
    "model_name",
    "parsed",
    "stop_reason",
    "token_count",
    "token_usage",
    "usage",
}
_TEXT_BLOCKS = {"text", "output_text", "reasoning", "thinking", "redacted_thinking"}
_CALLS = ("tool_calls", "invalid_tool_calls")
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


def read_prompt(prompt: str, split: Splitter) -> Turn | None:
    """Read a chat model's serialised messages (see `read_turn`), or a text model's bare prompt.

    None when an object in a message shows only its class or address, not its fields.
    """
    messages = _parse(prompt)
    if messages is None:
        return read_text(prompt, split)
    ids = CallIds()
    canonical = [_message(message, ids) for message in messages]
    if '"not_implemented"' in prompt and _hides_an_object(canonical):
        return None
    return read_turn(canonical, split)


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
    return messages if all(map(_is_message, messages)) else None


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("type") == "constructor"
        and isinstance(message.get("id"), list)
        and isinstance(message.get("kwargs"), dict)
    )


def _message(message: dict[str, Any], ids: CallIds) -> dict[str, Any]:
    """One message without what is volatile."""
    fields = {k: v for k, v in message["kwargs"].items() if k not in _VOLATILE}
    name = str(message["id"][-1]) if message["id"] else ""
    kind = str(fields.get("type") or name).removesuffix("MessageChunk").lower()
    extra = fields.get("additional_kwargs")
    if kind == "ai" and isinstance(extra, dict):
        said_twice = _CALLS if any(fields.get(calls) for calls in _CALLS) else ()
        fields["additional_kwargs"] = {
            k: v
            for k, v in extra.items()
            if v is not None and k not in _VOLATILE_EXTRA and k not in said_twice
        }
    for calls in _CALLS:
        if isinstance(fields.get(calls), list):
            fields[calls] = [ids.renumber(call) for call in fields[calls]]
    if "tool_call_id" in fields:
        fields = ids.renumber(fields)
    content = _content(fields.get("content"), kind, ids)
    stated = {k: v for k, v in fields.items() if v not in (None, [], {})}
    return stated | {"type": kind, "content": content}


def _content(content: Any, kind: str, ids: CallIds) -> Any:
    """Always a list of blocks, so that "hi" and [{"type": "text", "text": "hi"}] are equal."""
    if isinstance(content, str):
        content = [content] if content else []
    if not isinstance(content, list):
        return content
    return [_block(block, kind, ids) for block in content]


def _block(block: Any, kind: str, ids: CallIds) -> Any:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict):
        return block
    what = str(block.get("type"))
    if what in _CALL_BLOCKS:
        return ids.renumber({k: v for k, v in block.items() if k != "index"})
    # LangChain gives a block a new "lc_..." id each time it is made; a provider's own may be a
    # reference to an image or a file.
    new_each_time = what in _TEXT_BLOCKS or str(block.get("id")).startswith("lc_")
    volatile = [*(["id"] if new_each_time else []), *(["index"] if kind == "ai" else [])]
    return {k: v for k, v in block.items() if k not in volatile}


def _hides_an_object(value: Any) -> bool:
    """Something in a message that is not serialisable: its repr need not tell all of it."""
    if isinstance(value, dict):
        if value.get("lc") == 1 and value.get("type") == "not_implemented":
            return True
        return any(_hides_an_object(item) for item in value.values())
    return isinstance(value, list) and any(_hides_an_object(item) for item in value)

"""What must be new each time an answer is served: the ids of its tool calls, and the bill."""

import re
import secrets
import string
from collections.abc import Iterator, Mapping
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from semcache_core.adapters import CALL_IDS, with_call_ids

CALLS = ("tool_calls", "function_call")
"""Where integrations tell of tool calls in `additional_kwargs`."""

_TAIL = re.compile(r"[A-Za-z0-9]+\Z")
_LETTERS = string.ascii_letters + string.digits
_SHORTEST = 9  # shorter ones could meet by chance


def renew_ids(message: ChatMessage) -> None:
    """Give its tool calls new ids, each of the form of the old one: a provider may take no other.

    An id that is made of the tool's name stays: where a provider gives no ids, its integration
    finds the tool of a result by it.
    """
    named = list(_ids(message))
    kept = {old for old, name in named if name and name in old}
    ids = {old: _renewed(old) for old, _ in named if old not in kept}
    for block in message.blocks:
        if isinstance(block, ToolCallBlock) and block.tool_call_id is not None:
            block.tool_call_id = ids.get(block.tool_call_id, block.tool_call_id)
    message.additional_kwargs = with_call_ids(message.additional_kwargs, ids)


def calls_in(kwargs: Mapping[str, Any]) -> list[Any]:
    """The tool calls that `additional_kwargs` tell of."""
    found: list[Any] = []
    for name in CALLS:
        told = kwargs.get(name)
        found += told if isinstance(told, list) else [told]
    return [call for call in found if call]


def unbilled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs` with zero for each count of tokens: whoever adds them up paid for them once.

    Zero, not gone: what reads them expects them.
    """
    return {
        name: value if name in CALLS else _unbilled(name, value) for name, value in kwargs.items()
    }


def _unbilled(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {inner: _unbilled(inner, part) for inner, part in value.items()}
    is_count = isinstance(value, int | float) and not isinstance(value, bool)
    return 0 if is_count and "token" in name.lower() else value


def _ids(message: ChatMessage) -> Iterator[tuple[str, str]]:
    """Each id of a tool call, with the tool's name as far as it is known."""
    for block in message.blocks:
        if isinstance(block, ToolCallBlock) and block.tool_call_id:
            yield block.tool_call_id, block.tool_name
    for call in calls_in(message.additional_kwargs):
        if isinstance(call, dict):
            function = call.get("function")
            inner = function.get("name") if isinstance(function, dict) else None
            name = call.get("name") or call.get("tool_name") or inner or ""
            yield from (
                (call[key], str(name)) for key in CALL_IDS if isinstance(call.get(key), str)
            )


def _renewed(old: str) -> str:
    tail = _TAIL.search(old)
    kept = old[: tail.start()] if tail else old
    length = max(_SHORTEST, len(tail.group()) if tail else 0)
    return kept + "".join(secrets.choice(_LETTERS) for _ in range(length))

"""What an answer took, as the model itself says beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import Generation
from semcache_core import Usage
from semcache_core.adapters import told_usage

_NOTHING: Mapping[str, Any] = {}
_MODEL_FIELDS = ("model_name", "model", "model_id")
"""Where integrations name the model in `response_metadata`."""


def usage_of(generations: Sequence[Generation]) -> Usage:
    """Tokens of all messages together, where each says; without them, or a model's name, None."""
    told = [getattr(generation, "message", None) for generation in generations]
    messages = [message for message in told if isinstance(message, AIMessage)]
    if not messages or len(messages) < len(told):
        return Usage()
    named = (messages[0].response_metadata.get(field) for field in _MODEL_FIELDS)
    model = next((name for name in named if name), None)
    return told_usage(model, _sum(messages, "input_tokens"), _sum(messages, "output_tokens"))


def _sum(messages: Sequence[AIMessage], field: str) -> Any:
    told: list[Mapping[str, Any]] = [message.usage_metadata or _NOTHING for message in messages]
    counts = [one.get(field) for one in told]
    return sum(counts) if all(isinstance(count, int) for count in counts) else None

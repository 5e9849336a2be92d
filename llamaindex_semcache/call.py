"""What an LLM is asked: the one record that everything about a call is read from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.llm import LLM

How: TypeAlias = Literal["chat", "completion", "structured"]


@dataclass(frozen=True)
class Call:
    """What an LLM is asked: all that its answer may depend on."""

    llm: LLM
    """The model inside CachedLLM."""

    messages: tuple[ChatMessage, ...] = ()
    """Of a chat, or of a structured prediction."""

    prompt: str | None = None
    """Of a completion; then there are no messages."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the call, tools among them."""

    output: type[BaseModel] | None = None
    """The class that a structured prediction asks for."""

    how: How = "chat"

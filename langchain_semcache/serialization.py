"""How LangChain tells an app of a hit, besides `last_hit()`: in the answer, and by an event."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from semcache_core import Hit, Request, Usage
from semcache_core.adapters import REASON_FIELDS, cut_short, described, usage_from, with_call_ids

METADATA_KEY = "semcache"
EVENT = "semcache_hit"


def mark(generations: Sequence[Generation], hit: Hit | None) -> None:
    """Say in each message's `response_metadata["semcache"]` where the answer came from."""
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            generation.message.response_metadata[METADATA_KEY] = described(hit)


@dataclass(frozen=True)
class Run:
    """Who hears of what happens in a LangChain run, and how they know the run."""

    id: UUID
    handlers: list[BaseCallbackHandler]
    tags: list[str] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def announce(self, hit: Hit) -> None:
        """A custom event `semcache_hit` for handlers, tracers and `astream_events`."""
        handle_event(*self._event(hit), **self._known_by())

    async def aannounce(self, hit: Hit) -> None:
        """See `announce`."""
        await ahandle_event(*self._event(hit), **self._known_by())

    def _event(self, hit: Hit) -> tuple[Any, ...]:
        return self.handlers, "on_custom_event", "ignore_custom_event", EVENT, described(hit)

    def _known_by(self) -> dict[str, Any]:
        return {"run_id": self.id, "tags": self.tags, "metadata": dict(self.metadata)}


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
    return usage_from(model, _sum(messages, "input_tokens"), _sum(messages, "output_tokens"))


def _sum(messages: Sequence[AIMessage], field: str) -> Any:
    told: list[Mapping[str, Any]] = [message.usage_metadata or _NOTHING for message in messages]
    counts = [one.get(field) for one in told]
    return sum(counts) if all(isinstance(count, int) for count in counts) else None


# Reading constructs nothing else, whatever a row on disk says (CVE-2025-68664).
_ALLOWED: list[Any] = [
    Generation,
    GenerationChunk,
    ChatGeneration,
    ChatGenerationChunk,
    AIMessage,
    AIMessageChunk,
]
_CALL_BLOCKS = {"tool_use", "tool_call", "tool_call_chunk", "mcp_approval_request"}
_ZERO_USAGE = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


def dump_generations(generations: Sequence[Generation]) -> str:
    """JSON text. One `dumps` an item: a list holding a pydantic `parsed` could not be read back.

    Raises what `load_generations` would: better to store nothing than what never can be served.
    """
    text = json.dumps([dumps(_unmarked(generation)) for generation in generations])
    load_generations(text)
    return text


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
    """False for what must not be repeated: empty, cut short, refused, or with broken calls.

    And for what a cache behind this one found by meaning: a guess must not be built on a guess.
    """
    return bool(generations) and all(_is_complete(generation) for generation in generations)


def calls_tools(generations: Sequence[Generation]) -> bool:
    """Whether any of them asks for a tool: then it is never served by meaning."""
    return any(_has_calls(_message(generation)) for generation in generations)


def plain_text(generations: Sequence[Generation]) -> str | None:
    """The words that a user reads, by which two answers are compared: the rest of what is stored,
    such as ids and token counts, is never the same twice.

    None where words are not all of the answer, as with tool calls and images.
    """
    messages = [_message(generation) for generation in generations]
    if calls_tools(generations) or any(message and _has_blocks(message) for message in messages):
        return None
    return "\n\n".join(generation.text for generation in generations)


def as_stored(request: Request, generations: Sequence[Generation]) -> Request:
    """The request that `generations` are stored for: its exact one, where they call tools."""
    return replace(request, exact_only=request.exact_only or calls_tools(generations))


def _is_complete(generation: Generation) -> bool:
    message = _message(generation)
    if message is None and isinstance(generation, ChatGeneration):
        return False  # no answer of a model: it could not be read back
    said = [generation.generation_info or {}]
    if message is not None:
        said += [message.response_metadata, message.additional_kwargs]
        if message.additional_kwargs.get("refusal") or message.invalid_tool_calls:
            return False
        if _mark(message).get("kind") == "semantic":
            return False
        if any(kind in ("refusal", "invalid_tool_call") for kind in _block_types(message)):
            return False
    if any(cut_short(info.get(name)) for info in said for name in REASON_FIELDS):
        return False
    return bool(generation.text.strip()) or bool(
        message is not None and (_has_calls(message) or _has_blocks(message))
    )


def _has_blocks(message: AIMessage) -> bool:
    """Content that is not text, such as an image: an answer too."""
    return any(kind not in ("text", "reasoning", "thinking") for kind in _block_types(message))


def _has_calls(message: AIMessage | None) -> bool:
    if message is None:
        return False
    return bool(message.tool_calls or message.additional_kwargs.get("function_call")) or any(
        kind in _CALL_BLOCKS or kind.endswith("_call") for kind in _block_types(message)
    )


def _block_types(message: AIMessage) -> list[str]:
    """The types of the blocks of its content, also of a block that LangChain has wrapped."""
    blocks = [block for block in message.content if isinstance(block, dict)]
    wrapped = [block["value"] for block in blocks if isinstance(block.get("value"), dict)]
    return [str(block.get("type")) for block in (*blocks, *wrapped)]


def _mark(message: AIMessage) -> dict[str, Any]:
    mark = message.response_metadata.get(METADATA_KEY)
    return mark if isinstance(mark, dict) else {}


def _unmarked(generation: Generation) -> Generation:
    """`generation` without what tells how another cache came by it."""
    message = _message(generation)
    if message is None or METADATA_KEY not in message.response_metadata:
        return generation
    told = {k: v for k, v in message.response_metadata.items() if k != METADATA_KEY}
    return generation.model_copy(
        update={"message": message.model_copy(update={"response_metadata": told})}
    )


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
        message.tool_calls = with_call_ids(message.tool_calls, ids)
        message.content = with_call_ids(message.content, ids)
        message.additional_kwargs = with_call_ids(message.additional_kwargs, ids)
        if isinstance(message, AIMessageChunk):
            message.tool_call_chunks = with_call_ids(message.tool_call_chunks, ids)

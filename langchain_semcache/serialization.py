"""LangChain's generations as JSON text and back; which of them may be stored."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
from pydantic_core import PydanticSerializationError, to_jsonable_python
from semcache_core import Hit, Request, Usage
from semcache_core.adapters import (
    REASON_FIELDS,
    Demands,
    cut_short,
    described,
    usage_from,
    with_call_ids,
)

METADATA_KEY = "semcache"
"""Where `response_metadata` of a served message holds the hit."""

EVENT = "semcache_hit"
"""The name of the callback event of a hit."""

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
_NOTHING: Mapping[str, Any] = {}
_NO_DEMANDS = Demands()
# Where integrations name the model in `response_metadata`.
_MODEL_FIELDS = ("model_name", "model", "model_id")


def dump_generations(generations: Sequence[Generation]) -> str:
    """Return JSON text: one `dumps` an item, as a list with a pydantic `parsed` cannot be read.

    Raises what `load_generations` would raise, so that nothing unreadable is stored.
    """
    text = json.dumps([dumps(_stored(generation)) for generation in generations])
    load_generations(text)
    return text


def load_generations(text: str) -> list[Generation]:
    """Read what `dump_generations` wrote; each call builds new objects with fresh ids.

    Raises ValueError (or RecursionError) for any other text.
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


def mark(generations: Sequence[Generation], hit: Hit | None) -> None:
    """Put the hit into each message's `response_metadata["semcache"]`."""
    mark = described(hit)
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            generation.message.response_metadata[METADATA_KEY] = dict(mark)


def is_storable(generations: Sequence[Generation], demands: Demands = _NO_DEMANDS) -> bool:
    """Return False for what must not be repeated: empty, cut short, refused, broken calls, or not
    what was demanded.

    Also for a semantic hit of another cache behind this one: a guess on a guess is worse.
    """
    return bool(generations) and all(
        _is_complete(one)
        and demands.are_met(one.text, calls_tools=calls_tools([one]), ending_named=_names_end(one))
        for one in generations
    )


def calls_tools(generations: Sequence[Generation]) -> bool:
    """Whether any of them calls a tool: then it is never served by meaning."""
    return any(_has_calls(_message(generation)) for generation in generations)


def plain_text(generations: Sequence[Generation]) -> str | None:
    """Return the text by which two answers are compared, without ids and token counts.

    None where the text is not all of the answer, as with tool calls and images.
    """
    messages = [_message(generation) for generation in generations]
    if calls_tools(generations) or any(message and _has_blocks(message) for message in messages):
        return None
    return "\n\n".join(generation.text for generation in generations)


def as_stored(request: Request, generations: Sequence[Generation]) -> Request:
    """Return the request to store `generations` for: an exact one where they call tools."""
    return replace(request, exact_only=request.exact_only or calls_tools(generations))


def usage_of(generations: Sequence[Generation]) -> Usage:
    """Return the tokens of all messages together, None where one message does not report them."""
    messages = [_message(generation) for generation in generations]
    answers = [message for message in messages if message is not None]
    if not answers or len(answers) < len(messages):
        return Usage()
    names = (answers[0].response_metadata.get(field) for field in _MODEL_FIELDS)
    model = next((name for name in names if name), None)
    return usage_from(model, _sum(answers, "input_tokens"), _sum(answers, "output_tokens"))


@dataclass(frozen=True)
class ChatAnswers:
    """The codec of a chat model's answers, for `CachedCalls`. `demands` reads those of the call; a
    hit does not need them.
    """

    demands: Callable[[], Demands] = Demands

    dump = staticmethod(dump_generations)
    calls_tools = staticmethod(calls_tools)
    words = staticmethod(plain_text)

    def is_storable(self, answer: Sequence[Generation]) -> bool:
        return is_storable(answer, self.demands())

    def load(self, text: str, hit: Hit | None) -> list[ChatGeneration]:
        """See `load_generations`; raises ValueError for a text model's generation too."""
        generations = load_generations(text)
        mark(generations, hit)
        chat = [one for one in generations if isinstance(one, ChatGeneration)]
        if len(chat) != len(generations):
            raise ValueError("a stored response holds a text model's generation")
        return chat


def _is_complete(generation: Generation) -> bool:
    message = _message(generation)
    if message is None and isinstance(generation, ChatGeneration):
        return False  # not an answer of a model: it could not be read back
    if message is not None:
        if message.additional_kwargs.get("refusal") or message.invalid_tool_calls:
            return False
        hit = message.response_metadata.get(METADATA_KEY)
        if isinstance(hit, dict) and hit.get("kind") == "semantic":
            return False
        if any(kind in ("refusal", "invalid_tool_call") for kind in _block_types(message)):
            return False
    if any(map(cut_short, _reasons(generation))):
        return False
    return bool(generation.text.strip()) or bool(
        message is not None and (_has_calls(message) or _has_blocks(message))
    )


def _names_end(generation: Generation) -> bool:
    return any(reason is not None for reason in _reasons(generation))


def _reasons(generation: Generation) -> Iterator[object]:
    """Yield the finish reasons, wherever the provider's integration puts them."""
    message = _message(generation)
    metadata = [generation.generation_info or {}]
    if message is not None:
        metadata += [message.response_metadata, message.additional_kwargs]
    yield from (one.get(name) for one in metadata for name in REASON_FIELDS)


def _has_blocks(message: AIMessage) -> bool:
    """Content that is not text, such as an image, is an answer too."""
    return any(kind not in ("text", "reasoning", "thinking") for kind in _block_types(message))


def _has_calls(message: AIMessage | None) -> bool:
    if message is None:
        return False
    return bool(message.tool_calls or message.additional_kwargs.get("function_call")) or any(
        kind in _CALL_BLOCKS or kind.endswith("_call") for kind in _block_types(message)
    )


def _block_types(message: AIMessage) -> list[str]:
    """Return the types of the blocks of its content, also of a block that LangChain wrapped."""
    blocks = [block for block in message.content if isinstance(block, dict)]
    wrapped = [block["value"] for block in blocks if isinstance(block.get("value"), dict)]
    return [str(block.get("type")) for block in (*blocks, *wrapped)]


def _sum(messages: Sequence[AIMessage], field: str) -> Any:
    usages: list[Mapping[str, Any]] = [message.usage_metadata or _NOTHING for message in messages]
    counts = [usage.get(field) for usage in usages]
    return sum(counts) if all(isinstance(count, int) for count in counts) else None


def _message(generation: Generation) -> AIMessage | None:
    message = getattr(generation, "message", None)
    return message if isinstance(message, AIMessage) else None


def _stored(generation: Generation) -> Generation:
    """Return `generation` with metadata that is JSON, without the mark of a hit in another cache.

    What integrations put there may be dates, enums or objects of the provider's client.
    """
    update: dict[str, Any] = {"generation_info": _as_json(generation.generation_info)}
    message = _message(generation)
    if message is not None:
        metadata = _as_json(message.response_metadata) or {}
        metadata.pop(METADATA_KEY, None)
        extra = _as_json(message.additional_kwargs)
        own = {"response_metadata": metadata, "additional_kwargs": extra, "usage_metadata": None}
        update["message"] = message.model_copy(update=own)
    return generation.model_copy(update=update)


def _as_json(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return `metadata` as JSON, without what has no form in it."""
    if metadata is None:
        return None
    known: dict[str, Any] = {}
    for name, value in metadata.items():
        with suppress(PydanticSerializationError, ValueError, RecursionError):
            known[name] = to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants")
    return known


def _forget_provider_ids(message: AIMessage) -> None:
    """Remove what names the answer at the provider: a conversation would be continued there, after
    the turns of another one (`use_previous_response_id=True`).

    An item of reasoning is nothing without its id, which the provider asks for when it comes back.
    """
    message.response_metadata.pop("id", None)
    for name in ("id", "reasoning", "__openai_function_call_ids__"):
        message.additional_kwargs.pop(name, None)
    if isinstance(message.content, str):
        return
    message.content = [
        without_kept_id(block) if isinstance(block, dict) else block
        for block in message.content
        if not (isinstance(block, dict) and str(block.get("id")).startswith("rs_"))
    ]


def without_kept_id(block: dict[str, Any]) -> dict[str, Any]:
    """Return `block` without the id of an item that the provider keeps."""
    if not str(block.get("id")).startswith(("msg_", "fc_")):
        return block
    return {name: value for name, value in block.items() if name != "id"}


def _freshen(generation: Generation) -> None:
    """Set a new message id (LangGraph replaces an old message of the same id), new call ids, and
    zero usage (to a missing one langchain-core would add a cost, which is not valid).
    """
    message = _message(generation)
    if message is None:
        return
    message.id = f"lc_run--{uuid.uuid4()}"
    _forget_provider_ids(message)
    message.usage_metadata = dict(_ZERO_USAGE)  # type: ignore[assignment]
    ids = {str(call["id"]): f"call_{uuid.uuid4().hex}" for call in message.tool_calls if call["id"]}
    if ids:
        message.tool_calls = with_call_ids(message.tool_calls, ids)
        message.content = with_call_ids(message.content, ids)
        message.additional_kwargs = with_call_ids(message.additional_kwargs, ids)
        if isinstance(message, AIMessageChunk):
            message.tool_call_chunks = with_call_ids(message.tool_call_chunks, ids)

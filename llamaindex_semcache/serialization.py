"""What must be new each time an answer is served: the ids of its tool calls, and the bill."""

import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from io import IOBase
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel
from semcache_core import Hit, SemcacheError, Usage
from semcache_core.adapters import CALL_IDS, REASON_FIELDS, cut_short, usage_from, with_call_ids

from llamaindex_semcache.events import MARK, marked
from llamaindex_semcache.messages import called_by_text
from llamaindex_semcache.request import Question

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


Response: TypeAlias = ChatResponse | CompletionResponse

GUESSED = "guessed by a cache"
"""Another cache found it by meaning: a guess must not be built on a guess."""

_INSIDE = ("choices", "candidates", "message", "delta", "response", "incomplete_details")
_DEPTH = 3
_UNDER_WAY = ("in_progress", "queued")  # what events of a stream say before its end


def ending(response: Response) -> str | None:
    """Why the model stopped: the worst reason of all that are given, None where there is none."""
    return worst([reason for said in _all_said(response) for reason in _reasons(said, _DEPTH)])


def worst(reasons: Sequence[str]) -> str | None:
    """The first that spoils an answer, else the last one; None where there is none."""
    bad = [reason for reason in reasons if spoils(reason)]
    return next(iter([*bad, *reversed(reasons)]), None)


def ending_so_far(response: Response) -> str | None:
    """`ending` of an item of a stream, which need not be the end yet."""
    reason = ending(response)
    return None if reason in _UNDER_WAY else reason


def spoils(reason: str | None) -> bool:
    """Whether an answer that ended so must not be repeated."""
    return reason == GUESSED or cut_short(reason)


def _all_said(response: Response) -> Iterator[Any]:
    yield response.raw
    yield response.additional_kwargs
    if isinstance(response, ChatResponse):
        yield response.message.additional_kwargs


def _reasons(said: Any, depth: int) -> Iterator[str]:
    if said is None or isinstance(said, str | bytes | int | float) or not depth:
        return
    for name in REASON_FIELDS:
        value = _field(said, name)
        if isinstance(value, Enum):  # of an integer the text would be its number
            yield value.name.lower()
        elif isinstance(value, str):
            yield value
    if isinstance(_field(said, "refusal"), str) and _field(said, "refusal"):
        yield "refusal"
    mark = _field(said, MARK)
    if isinstance(mark, dict) and mark.get("kind") == "semantic":
        yield GUESSED
    for name in _INSIDE:
        value = _field(said, name)
        for part in value if isinstance(value, list | tuple) else [value]:
            yield from _reasons(part, depth - 1)


def _field(said: Any, name: str) -> Any:
    return said.get(name) if isinstance(said, dict) else getattr(said, name, None)


# The names by which LlamaIndex's own token counter reads them.
_IN = ("prompt_tokens", "input_tokens", "prompt_token_count")
_OUT = ("completion_tokens", "output_tokens", "candidates_token_count")


def usage_of(call: Question, answer: object) -> Usage:
    """Tokens as far as `additional_kwargs` tell; of an object of the app's class nothing is known.

    Not those in `raw`: that is the provider's own object, of which the cache keeps nothing.
    """
    if not isinstance(answer, ChatResponse | CompletionResponse):
        return Usage()
    told = answer.additional_kwargs
    return usage_from(call.llm.metadata.model_name, _first(told, _IN), _first(told, _OUT))


def _first(told: dict[str, Any], names: tuple[str, ...]) -> object:
    return next((told[name] for name in names if told.get(name)), None)


_NO_ANSWER = (TextBlock, ThinkingBlock, CachePoint)
"""Blocks that are no answer by themselves, but for the words of a text."""


class ChatAnswers:
    """A chat's answers: the message, whole, and what is told besides as far as it is JSON.

    What a provider said (`raw`) is not stored. Of a hit, `raw["semcache"]` tells of the hit.
    """

    def dump(self, answer: ChatResponse) -> str:
        """JSON text. Raises SemcacheError for a message that could not be read back as it is."""
        stored = ChatResponse(
            message=said_once(answer.message),
            logprobs=answer.logprobs,
            additional_kwargs=_as_json(answer.additional_kwargs),
        )
        _check_stands_alone(stored.message)
        return _written(stored)

    def load(self, text: str, hit: Hit | None) -> ChatResponse:
        """New objects, with tool call ids of their own and no tokens to bill.

        Raises ValueError (or another error) for what `dump` did not write.
        """
        answer = ChatResponse.model_validate_json(text)
        _check_stands_alone(answer.message)  # a row that names a file would have it read
        renew_ids(answer.message)
        answer.message.additional_kwargs = unbilled(answer.message.additional_kwargs)
        answer.additional_kwargs = unbilled(answer.additional_kwargs)
        answer.raw = marked(hit)
        return answer

    def is_storable(self, answer: ChatResponse) -> bool:
        """False for what is empty, cut short, refused, guessed by another cache, or calls a tool
        with arguments that are not all there.
        """
        blocks = answer.message.blocks
        if spoils(ending(answer)) or any(map(_is_broken, blocks)):
            return False
        words = (answer.message.content or "").strip()
        return bool(words or self.calls_tools(answer) or _all_but_words(answer.message))

    def calls_tools(self, answer: ChatResponse) -> bool:
        """Whether it asks for a tool, in a block, as older integrations tell, or by text."""
        message = answer.message
        in_blocks = any(isinstance(block, ToolCallBlock) for block in message.blocks)
        told = in_blocks or bool(calls_in(message.additional_kwargs))
        return told or any(called_by_text(message.content or ""))

    def words(self, answer: ChatResponse) -> str | None:
        """The text of the message; None where it calls a tool or holds more, such as an image."""
        if self.calls_tools(answer) or _all_but_words(answer.message):
            return None
        return answer.message.content or ""


class CompletionAnswers:
    """A completion's answers: the text, and what is told besides as far as it is JSON."""

    def dump(self, answer: CompletionResponse) -> str:
        """JSON text. Raises SemcacheError for tool calls that could not be read back."""
        kwargs = _as_json(answer.additional_kwargs)
        if calls_in(answer.additional_kwargs) != calls_in(kwargs):
            raise SemcacheError(f"tool calls of a completion are no JSON: {_UNWRITABLE}")
        return _written(
            CompletionResponse(text=answer.text, logprobs=answer.logprobs, additional_kwargs=kwargs)
        )

    def load(self, text: str, hit: Hit | None) -> CompletionResponse:
        """See `ChatAnswers.load`."""
        answer = CompletionResponse.model_validate_json(text)
        answer.additional_kwargs = unbilled(answer.additional_kwargs)
        answer.raw = marked(hit)
        return answer

    def is_storable(self, answer: CompletionResponse) -> bool:
        """False for what is empty, cut short, refused, or guessed by another cache."""
        return bool(answer.text.strip()) and not spoils(ending(answer))

    def calls_tools(self, answer: CompletionResponse) -> bool:
        """Whether a chat model asked for a tool behind the completion, or it does so by text."""
        return bool(calls_in(answer.additional_kwargs)) or any(called_by_text(answer.text))

    def words(self, answer: CompletionResponse) -> str | None:
        """The text."""
        return None if self.calls_tools(answer) else answer.text


_UNWRITABLE = "the answer is given, but not stored"


def said_once(message: ChatMessage) -> ChatMessage:
    """`message` without tool calls that integrations repeat in `additional_kwargs`, as objects of
    the provider's own that cannot be written down: its blocks have them.
    """
    kwargs = message.additional_kwargs
    in_blocks = any(isinstance(block, ToolCallBlock) for block in message.blocks)
    repeated = [name for name in CALLS if in_blocks and not _is_json(kwargs.get(name))]
    if not repeated:
        return message
    told = {name: value for name, value in kwargs.items() if name not in repeated}
    return message.model_copy(update={"additional_kwargs": told})


def _written(answer: ChatResponse | CompletionResponse) -> str:
    """JSON text from which just this answer can be read: better to store nothing than a part."""
    said = answer.model_dump(mode="json", exclude={"raw", "delta"})
    text = json.dumps(said, allow_nan=False)
    if type(answer).model_validate_json(text) != answer:
        raise SemcacheError(
            f"an answer holds what is no JSON, such as an object of the provider's: {_UNWRITABLE}"
        )
    return text


def _as_json(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of `kwargs`, which are no part of the message."""
    return {name: value for name, value in kwargs.items() if _is_json(value)}


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _check_stands_alone(message: ChatMessage) -> None:
    """Raise SemcacheError for a block that is a file or an open stream: it can change, or be gone
    when the answer is served.
    """
    for block in _nested(message):
        held = next((v for v in dict(block).values() if isinstance(v, IOBase)), None)
        path = getattr(block, "path", None)
        if path is not None or held is not None:
            raise SemcacheError(
                f"a {type(block).__name__} holds no data but {path or held!r}: {_UNWRITABLE}"
            )


def _nested(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        value = [part for _, part in value]
    for part in value if isinstance(value, list | tuple) else ():
        yield from _nested(part)


def _all_but_words(message: ChatMessage) -> bool:
    """Whether it holds more than words, such as an image: that is an answer too."""
    return any(not isinstance(block, _NO_ANSWER) for block in message.blocks)


def _is_broken(block: object) -> bool:
    """Whether it is a tool call whose arguments, still the model's JSON, are not all there."""
    if not isinstance(block, ToolCallBlock) or not isinstance(block.tool_kwargs, str):
        return False
    try:
        json.loads(block.tool_kwargs or "{}")
    except ValueError:
        return True
    return False

"""LlamaIndex answers as JSON text and back; which of them may be stored, and their usage."""

import json
import re
import secrets
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from pydantic_core import PydanticSerializationError, to_jsonable_python
from semcache_core import Hit, SemcacheError, Usage
from semcache_core.adapters import (
    CALL_IDS,
    REASON_FIELDS,
    Demands,
    cut_short,
    usage_from,
    with_call_ids,
)

from llamaindex_semcache.events import MARK, marked
from llamaindex_semcache.messages import called_by_text
from llamaindex_semcache.request import Question

CALLS = ("tool_calls", "function_call")
"""The fields of `additional_kwargs` with tool calls."""

_TAIL = re.compile(r"[A-Za-z0-9]+\Z")
_LETTERS = string.ascii_letters + string.digits
_SHORTEST = 9  # shorter ones could be equal by chance


def renew_ids(message: ChatMessage) -> None:
    """Give tool calls new ids in the form of the old ones, as a provider may accept no other.

    An id that contains the tool's name stays: where a provider gives no ids, its integration finds
    the tool of a result by it.
    """
    named = list(_ids(message))
    kept = {old for old, name in named if name and name in old}
    ids = {old: _renewed(old) for old, _ in named if old not in kept}
    for block in message.blocks:
        if isinstance(block, ToolCallBlock) and block.tool_call_id is not None:
            block.tool_call_id = ids.get(block.tool_call_id, block.tool_call_id)
    message.additional_kwargs = with_call_ids(message.additional_kwargs, ids)


def forget_provider_ids(message: ChatMessage) -> None:
    """Remove the ids of reasoning that OpenAI keeps: the next turn of another conversation would
    name it.
    """
    for block in message.blocks:
        if isinstance(block, ThinkingBlock):
            block.additional_information.pop("id", None)


def calls_in(kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the tool calls in `additional_kwargs`."""
    found: list[Any] = []
    for name in CALLS:
        calls = kwargs.get(name)
        found += calls if isinstance(calls, list) else [calls]
    return [call for call in found if call]


def unbilled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return `kwargs` with zero for each count of tokens, as they were paid once.

    They are not removed, as readers expect them.
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
    """Yield each id of a tool call, with the tool's name if known."""
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
"""The reason for a semantic hit of another cache: a guess on a guess is not stored."""

_INSIDE = ("choices", "candidates", "message", "delta", "response", "incomplete_details")
_DEPTH = 3
_UNDER_WAY = ("in_progress", "queued")  # in events of a stream before its end


def ending(response: Response) -> str | None:
    """Return the worst finish reason in the response, None where there is none."""
    return worst([reason for report in _reports(response) for reason in _reasons(report, _DEPTH)])


def worst(reasons: Sequence[str]) -> str | None:
    """Return the first reason that spoils an answer, else the last one, else None."""
    bad = [reason for reason in reasons if spoils(reason)]
    return next(iter([*bad, *reversed(reasons)]), None)


def ending_so_far(response: Response) -> str | None:
    """Return `ending` of an item of a stream, None where the stream goes on."""
    reason = ending(response)
    return None if reason in _UNDER_WAY else reason


def spoils(reason: str | None) -> bool:
    """Whether an answer with this finish reason must not be repeated."""
    return reason == GUESSED or cut_short(reason)


def _reports(response: Response) -> Iterator[Any]:
    yield response.raw
    yield response.additional_kwargs
    if isinstance(response, ChatResponse):
        yield response.message.additional_kwargs


def _reasons(said: Any, depth: int) -> Iterator[str]:
    if said is None or isinstance(said, str | bytes | int | float) or not depth:
        return
    for name in REASON_FIELDS:
        value = _field(said, name)
        if isinstance(value, Enum):  # the text of an integer member would be its number
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


# The names that LlamaIndex's own token counter reads.
_IN = ("prompt_tokens", "input_tokens", "prompt_token_count")
_OUT = ("completion_tokens", "output_tokens", "candidates_token_count")


def usage_of(question: Question, answer: object) -> Usage:
    """Return the tokens in `additional_kwargs`; an object of the app's class reports none.

    Not those in `raw`, the provider's object, which is not stored.
    """
    if not isinstance(answer, ChatResponse | CompletionResponse):
        return Usage()
    kwargs = answer.additional_kwargs
    return usage_from(question.llm.metadata.model_name, _first(kwargs, _IN), _first(kwargs, _OUT))


def _first(kwargs: dict[str, Any], names: tuple[str, ...]) -> object:
    return next((kwargs[name] for name in names if kwargs.get(name)), None)


_NO_ANSWER = (TextBlock, ThinkingBlock, CachePoint)
"""Blocks that are not an answer by themselves; a text block may hold words."""


@dataclass(frozen=True)
class ChatAnswers:
    """The codec of a chat's answers: a message, and other fields as far as they are JSON.

    The provider's `raw` is not stored; a served answer has `raw["semcache"]`. `demands` reads those
    of the call; a hit does not need them.
    """

    demands: Callable[[], Demands] = Demands

    def dump(self, answer: ChatResponse) -> str:
        """Return JSON text; raises SemcacheError for a message that is not equal when read back."""
        message = said_once(answer.message)
        kwargs = _with_calls_as_json(message.additional_kwargs)
        stored = ChatResponse(
            message=message.model_copy(update={"additional_kwargs": kwargs}),
            logprobs=answer.logprobs,
            additional_kwargs=_as_json(answer.additional_kwargs),
        )
        _check_stands_alone(stored.message)
        return _written(stored)

    def load(self, text: str, hit: Hit | None) -> ChatResponse:
        """Read what `dump` wrote, with fresh tool call ids and zero tokens.

        Raises ValueError (or another error) for any other text.
        """
        answer = ChatResponse.model_validate_json(text)
        _check_stands_alone(answer.message)  # a row that names a file would make it be read
        renew_ids(answer.message)
        forget_provider_ids(answer.message)
        answer.message.additional_kwargs = unbilled(answer.message.additional_kwargs)
        answer.additional_kwargs = unbilled(answer.additional_kwargs)
        answer.raw = marked(hit)
        return answer

    def is_storable(self, answer: ChatResponse) -> bool:
        """Return False for an answer that is empty, cut short, refused, a semantic hit of another
        cache, a tool call with incomplete arguments, or not what was demanded.
        """
        reason, calls = ending(answer), self.calls_tools(answer)
        if spoils(reason) or any(map(_is_broken, answer.message.blocks)):
            return False
        words = (answer.message.content or "").strip()
        if not self.demands().are_met(words, calls_tools=calls, ending_named=reason is not None):
            return False
        return bool(words or calls or _all_but_words(answer.message))

    def calls_tools(self, answer: ChatResponse) -> bool:
        """Whether it calls a tool: in a block, in `additional_kwargs`, or by text."""
        message = answer.message
        in_blocks = any(isinstance(block, ToolCallBlock) for block in message.blocks)
        calls = in_blocks or bool(calls_in(message.additional_kwargs))
        return calls or any(called_by_text(message.content or ""))

    def words(self, answer: ChatResponse) -> str | None:
        """Return the text; None where the message calls a tool or holds more, such as an image."""
        if self.calls_tools(answer) or _all_but_words(answer.message):
            return None
        return answer.message.content or ""


@dataclass(frozen=True)
class CompletionAnswers:
    """The codec of a completion's answers: the text, and the other fields if they are JSON."""

    demands: Callable[[], Demands] = Demands

    def dump(self, answer: CompletionResponse) -> str:
        kwargs = _with_calls_as_json(answer.additional_kwargs)
        return _written(
            CompletionResponse(text=answer.text, logprobs=answer.logprobs, additional_kwargs=kwargs)
        )

    def load(self, text: str, hit: Hit | None) -> CompletionResponse:
        answer = CompletionResponse.model_validate_json(text)
        answer.additional_kwargs = unbilled(answer.additional_kwargs)
        answer.raw = marked(hit)
        return answer

    def is_storable(self, answer: CompletionResponse) -> bool:
        reason, calls = ending(answer), self.calls_tools(answer)
        words = answer.text.strip()
        met = self.demands().are_met(words, calls_tools=calls, ending_named=reason is not None)
        return bool(words) and met and not spoils(reason)

    def calls_tools(self, answer: CompletionResponse) -> bool:
        # a chat model behind the completion may call one
        return bool(calls_in(answer.additional_kwargs)) or any(called_by_text(answer.text))

    def words(self, answer: CompletionResponse) -> str | None:
        return None if self.calls_tools(answer) else answer.text


_UNWRITABLE = "the answer is given, but not stored"


def said_once(message: ChatMessage) -> ChatMessage:
    """Return `message` without the tool calls that its blocks hold and `additional_kwargs` repeat
    as objects of the provider, which are not JSON.
    """
    kwargs = message.additional_kwargs
    in_blocks = any(isinstance(block, ToolCallBlock) for block in message.blocks)
    repeated = [name for name in CALLS if in_blocks and not _is_json(kwargs.get(name))]
    if not repeated:
        return message
    kwargs = {name: value for name, value in kwargs.items() if name not in repeated}
    return message.model_copy(update={"additional_kwargs": kwargs})


def _written(answer: ChatResponse | CompletionResponse) -> str:
    """Return JSON text that reads back as this answer; raises SemcacheError if it does not."""
    said = answer.model_dump(mode="json", exclude={"raw", "delta"})
    text = json.dumps(said, allow_nan=False)
    if type(answer).model_validate_json(text) != answer:
        raise SemcacheError(
            f"an answer holds what is no JSON, such as an object of the provider's: {_UNWRITABLE}"
        )
    return text


def _with_calls_as_json(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `_as_json(kwargs)`; raises SemcacheError where a tool call would be lost."""
    known = _as_json(kwargs)
    if calls_in(kwargs) != calls_in(known):
        raise SemcacheError(f"tool calls of an answer are no JSON: {_UNWRITABLE}")
    return known


def _as_json(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `kwargs` as JSON, without what has no form in it. Tool calls are kept as they are, or
    not at all: an agent would read them in another form.
    """
    known: dict[str, Any] = {}
    for name, value in kwargs.items():
        if name in CALLS and not _is_json(value):
            continue
        with suppress(PydanticSerializationError, ValueError, RecursionError):
            known[name] = to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants")
    return {name: value for name, value in known.items() if _is_json(value)}


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _check_stands_alone(message: ChatMessage) -> None:
    """Raise SemcacheError for a block that is a file or an open stream, which may change."""
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
    """Whether it holds more than words, such as an image, which is an answer too."""
    return any(not isinstance(block, _NO_ANSWER) for block in message.blocks)


def _is_broken(block: object) -> bool:
    """Whether it is a tool call with arguments that are incomplete JSON."""
    if not isinstance(block, ToolCallBlock) or not isinstance(block.tool_kwargs, str):
        return False
    try:
        json.loads(block.tool_kwargs or "{}")
    except ValueError:
        return True
    return False

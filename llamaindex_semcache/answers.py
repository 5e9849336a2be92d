"""An LLM's answers as text and back: which may be stored, and what must be new in each hit."""

import json
from collections.abc import Iterator, Mapping
from io import IOBase
from typing import Any

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
from semcache_core import Hit, SemcacheError

from llamaindex_semcache.endings import ending, spoils
from llamaindex_semcache.events import marked
from llamaindex_semcache.freshness import CALLS, calls_in, renew_ids, unbilled
from llamaindex_semcache.messages import called_by_text

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

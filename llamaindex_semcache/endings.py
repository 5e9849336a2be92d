"""How an answer ended, as far as the provider says so, each in a place of its own."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from semcache_core.adapters import REASON_FIELDS, cut_short

from llamaindex_semcache.events import MARK

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

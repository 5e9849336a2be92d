"""Dates and times in a text: the commonest reason why a cache never finds anything."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from semcache_core.errors import SemcacheError
from semcache_core.pipeline.explain import Explanation
from semcache_core.request import Splitter

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_WEEKDAY = r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?\b"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:19|20)\d\d"
_TIME = r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?:\s?[AaPp]\.?[Mm]\b\.?)?"
_ZONE = r"(?:\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d)\b)?"

_WRITTEN = "|".join(
    (
        rf"{_YEAR}-(?:0\d|1[0-2])-{_DAY}(?:[T ]{_TIME}{_ZONE})?",
        rf"(?:{_WEEKDAY},? )?{_MONTH} {_DAY}(?:st|nd|rd|th)?(?:,? {_YEAR})?",
        rf"(?:{_WEEKDAY},? )?{_DAY}(?:st|nd|rd|th|\.)?(?: of)? {_MONTH}(?:,? {_YEAR})?",
        rf"{_MONTH},? {_YEAR}",
        rf"{_DAY}([./]){_DAY}\1{_YEAR}",
        rf"{_YEAR}([./]){_DAY}\2{_DAY}",
        rf"{_TIME}{_ZONE}",
        r"(?:1[0-2]|[1-9])\s?[AaPp]\.?[Mm]\b",
        r"1[5-9]\d{8}(?:\d{3})?",  # seconds or milliseconds since the epoch
        rf"(?:[Tt]oday|[Nn]ow)(?: is|'s|:)? {_WEEKDAY}",
    )
)
_FOUND = re.compile(rf"(?<![\w.:/-])(?:{_WRITTEN})(?![\w/-])")


def find_date(text: str) -> str | None:
    """The first part of `text` that looks like a date or a time, None without one.

    Only a hint is made of it, so that it may err: a month needs a day or a year, numbers in a row
    need a year, and a time its colon or its am or pm.

    >>> find_date("You are helpful. It is 2026-11-25T14:03:00Z.")
    '2026-11-25T14:03:00Z'
    """
    found = _FOUND.search(text)
    return found.group() if found else None


CALL_IDS = ("id", "call_id", "tool_use_id", "tool_call_id")
"""Where messages hold the id of a tool call, or name a call by it."""

# the app's data, whatever it looks like
_ARGUMENTS = ("args", "arguments", "function", "input", "tool_kwargs")


@dataclass(frozen=True)
class Turn:
    """`question` may be matched by meaning unless `exact_only`; `rest` is JSON and must be equal.

    `rest` holds everything else of the conversation, with the question's place marked.
    """

    question: str
    rest: Any
    exact_only: bool


def read_turn(messages: list[dict[str, Any]], split: Splitter) -> Turn:
    """Read canonical messages, at least one.

    Only the last user text can be matched by meaning, and only while nothing follows it: after a
    tool result or a prefilled answer the whole conversation must be equal.
    """
    *earlier, last = messages
    if last["type"] != "human":
        return Turn("", messages, True)
    question, content, exact_only = _split_content(last["content"], split)
    return Turn(question, [*earlier, {**last, "content": content}], exact_only)


def read_text(text: str, split: Splitter) -> Turn:
    """Read the bare prompt of a text model, which is never the same as a conversation."""
    question, frame, exact_only = _split_text(text, split)
    return Turn(question, ["text", frame], exact_only)


class CallIds:
    """Tool call ids become `call-0`, `call-1` ... in the order in which they appear.

    They are new each time a model is asked; which result belongs to which call is kept.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}

    def renumber(self, call: Any) -> Any:
        """`call` with what is an id in its own fields replaced; as it is when it is no dict."""
        if not isinstance(call, dict):
            return call
        return {k: self._numbered(v) if _is_id(k, v) else v for k, v in call.items()}

    def _numbered(self, call_id: str) -> str:
        return self._seen.setdefault(call_id, f"call-{len(self._seen)}")


def with_call_ids(value: Any, ids: Mapping[str, str]) -> Any:
    """`value`, part of a message, with new call ids for old ones: where an id belongs, and as keys
    (Gemini's signatures). The arguments of calls stay as they are.
    """
    if isinstance(value, list):
        return [with_call_ids(item, ids) for item in value]
    if isinstance(value, dict):
        return {ids.get(k, k): _with_call_id(k, v, ids) for k, v in value.items()}
    return value


def _with_call_id(name: str, value: Any, ids: Mapping[str, str]) -> Any:
    if name in _ARGUMENTS:
        return value
    if isinstance(value, str):
        return ids.get(value, value) if name in CALL_IDS else value
    return with_call_ids(value, ids)


class UncachedTools:
    """Tools whose results differ from call to call, so that nothing that follows one is cached.

    Wherever in a conversation one of them was called, not only since the last human message: a
    later turn builds on what it gave ("and an hour later?"), for as long as the model is shown it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Raises SemcacheError for anything but a sequence of names."""
        is_sequence = isinstance(names, Sequence) and not isinstance(names, str)
        if not is_sequence or not all(isinstance(name, str) for name in names):
            raise SemcacheError(
                f'uncached_tools must be a sequence of tool names, got {names!r}; write ("clock",)'
            )
        self._names = frozenset(names)

    def among(self, names: Iterable[str]) -> bool:
        """Whether one of `names` is one of these tools."""
        return not self._names.isdisjoint(names)


def _is_id(name: str, value: Any) -> bool:
    return name in CALL_IDS and isinstance(value, str)


def _split_content(content: Any, split: Splitter) -> tuple[str, Any, bool]:
    """The question is the last text block; images, files and earlier blocks must be equal."""
    texts = [
        i
        for i, block in enumerate(content if isinstance(content, list) else [])
        if isinstance(block, dict)
        and block.get("type") == "text"
        and isinstance(block.get("text"), str)
    ]
    if not texts:
        return "", content, True
    block = content[texts[-1]]
    question, frame, exact_only = _split_text(block["text"], split)
    rest = [*content]
    rest[texts[-1]] = {**block, "text": frame}
    return question, rest, exact_only


def _split_text(text: str, split: Splitter) -> tuple[str, str, bool]:
    parts = split(text)
    if parts is None:
        return text, "", True
    return parts.question, parts.frame, False


Normaliser: TypeAlias = Callable[[str], str]
"""Takes out of a system text what may differ between calls that an answer may be shared by."""


def normalised(normalise: Normaliser, text: str) -> str:
    """`text` for the comparison; raises SemcacheError when `normalise` gives something else."""
    normal = normalise(text)
    if not isinstance(normal, str):  # None would make all system texts one
        raise SemcacheError(
            f"normalise_system must give a str, got {normal!r}; return the text unchanged instead"
        )
    return normal


def system_blocks(messages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The text blocks of the system messages of a canonical conversation (see `read_turn`)."""
    for message in messages:
        if isinstance(message, dict) and message.get("type") == "system":
            content = message.get("content")
            for block in content if isinstance(content, list) else ():
                if isinstance(block, dict) and isinstance(block.get("text"), str):
                    yield block


def normalise_systems(messages: Iterable[Any], normalise: Normaliser | None) -> None:
    """Apply `normalise`, where there is one, to the system texts of a canonical conversation."""
    if normalise is not None:
        for block in system_blocks(messages):
            block["text"] = normalised(normalise, block["text"])


def hinted(explanation: Explanation, system_texts: Iterable[str]) -> Explanation:
    """`explanation`, with a hint where a date in the system texts may be why nothing is found.

    `system_texts` are as they are compared. The ledger holds only digests of scopes, so nothing
    can tell what other scopes differ in.
    """
    if explanation.hit is not None or not explanation.scope_is_empty:
        return explanation
    found = find_date("\n".join(system_texts))
    if found is None:
        return explanation
    hint = (
        f"the system prompt holds {found!r}; if that changes from call to call, no earlier "
        "answer can be found: leave it out, or pass normalise_system"
    )
    return replace(explanation, hint=hint)

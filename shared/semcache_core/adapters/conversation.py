"""Splits a canonical conversation into its question and the rest, which must be equal for a hit.

Also tool call ids, uncached tools, and system texts: a date in them is the commonest reason why a
cache never finds anything.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from semcache_core.errors import SemcacheError
from semcache_core.pipeline.explain import Explanation
from semcache_core.request import ANY_ORDER, DOCUMENTS, Splitter

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
    """Return the first part of `text` that looks like a date or a time, or None.

    It may be wrong, as it is only used for a hint: a month needs a day or a year, numbers in a row
    need a year, and a time needs a colon, am or pm.

    >>> find_date("You are helpful. It is 2026-11-25T14:03:00Z.")
    '2026-11-25T14:03:00Z'
    """
    found = _FOUND.search(text)
    return found.group() if found else None


CALL_IDS = ("id", "call_id", "tool_use_id", "tool_call_id")
"""The fields in which messages hold the id of a tool call."""

# Fields with the app's own data: an id in them is not the id of a tool call.
_ARGUMENTS = ("args", "arguments", "function", "input", "tool_kwargs")


@dataclass(frozen=True)
class Turn:
    """A conversation, split: `question` may be matched by meaning unless `exact_only`.

    `rest` is JSON and must be equal. It holds the whole conversation, with a mark for the question.
    `why_exact` says why it is `exact_only`, where its text does not show that.
    """

    question: str
    rest: Any
    exact_only: bool
    why_exact: str = ""


_NOT_ASKED_LAST = (
    "its last message is no question of the user, but such as the result of a tool, so all of the "
    "conversation must be equal"
)
_NO_TEXT = "its last message has no text, only such as an image"


def read_turn(messages: list[dict[str, Any]], split: Splitter) -> Turn:
    """Read one or more canonical messages.

    Only the last user text can be matched by meaning, and only if nothing follows it: after a tool
    result or a prefilled answer the whole conversation must be equal.
    """
    *earlier, last = messages
    if last["type"] != "human":
        return Turn("", messages, True, _NOT_ASKED_LAST)
    question, content, exact_only = _split_content(last["content"], split)
    why = "" if question else _NO_TEXT
    return Turn(question, [*earlier, {**last, "content": content}], exact_only, why)


def read_text(text: str, split: Splitter) -> Turn:
    """Read the prompt of a text model, which never equals a conversation."""
    question, frame, exact_only = _split_text(text, split)
    return Turn(question, ["text", frame], exact_only)


def parts_of(rest: Any) -> dict[str, Any]:
    """Return the parts of a turn's `rest` by name, for `Request.parts`."""
    if rest[0] == "text":
        return _documents([rest[1]])
    system = [message for message in rest if message["type"] == "system"]
    talk = [message for message in rest if message["type"] != "system"]
    parts: dict[str, Any] = {"system prompt": system}
    last: list[Any] = []
    if talk and talk[-1]["type"] == "human":
        content = talk.pop()["content"]
        last = content if isinstance(content, list) else [content]
    texts = [block["text"] for block in last if _is_text(block)]
    attached = [block for block in last if not _is_text(block)]
    return parts | {"history": talk, "attachments": attached} | _documents(texts)


def _documents(texts: list[str]) -> dict[str, Any]:
    """The frames of the question, in their order and in any."""
    return {DOCUMENTS: [text for text in texts if text], ANY_ORDER: sorted(" ".join(texts).split())}


@dataclass
class CallIds:
    """Replaces tool call ids by `call-0`, `call-1` ... in the order in which they appear.

    A model makes new ids for each answer; the numbers still tell which result is of which call.
    """

    _seen: dict[str, str] = field(default_factory=dict)

    def renumber(self, call: Any) -> Any:
        """Return `call` with the ids in its own fields replaced; unchanged if it is not a dict."""
        if not isinstance(call, dict):
            return call
        return {k: self._numbered(v) if _is_id(k, v) else v for k, v in call.items()}

    def _numbered(self, call_id: str) -> str:
        return self._seen.setdefault(call_id, f"call-{len(self._seen)}")


def with_call_ids(value: Any, ids: Mapping[str, str]) -> Any:
    """Return part of a message with new call ids for old ones: in id fields, and as keys (Gemini's
    signatures). The arguments of calls do not change.
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
    """Tools whose results differ from call to call, so that nothing after a call of one is cached.

    The call may be anywhere in the conversation: a later turn builds on its result ("and an hour
    later?") as long as the model sees it.
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
        i for i, block in enumerate(content if isinstance(content, list) else []) if _is_text(block)
    ]
    if not texts:
        return "", content, True
    block = content[texts[-1]]
    question, frame, exact_only = _split_text(block["text"], split)
    rest = [*content]
    rest[texts[-1]] = {**block, "text": frame}
    return question, rest, exact_only


def _is_text(block: Any) -> bool:
    return (
        isinstance(block, dict)
        and block.get("type") == "text"
        and isinstance(block.get("text"), str)
    )


def _split_text(text: str, split: Splitter) -> tuple[str, str, bool]:
    parts = split(text)
    if parts is None:
        return text, "", True
    return parts.question, parts.frame, False


Normaliser: TypeAlias = Callable[[str], str]
"""Removes from a system text what may differ between calls that share an answer."""


def normalised(normalise: Normaliser, text: str) -> str:
    """Return `text` as it is compared; raises SemcacheError when `normalise` returns no text."""
    normal = normalise(text)
    if not isinstance(normal, str):  # None would make all system texts equal
        raise SemcacheError(
            f"normalise_system must give a str, got {normal!r}; return the text unchanged instead"
        )
    return normal


def system_blocks(messages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Yield the text blocks of the system messages of a canonical conversation."""
    for message in messages:
        if isinstance(message, dict) and message.get("type") == "system":
            content = message.get("content")
            for block in content if isinstance(content, list) else ():
                if isinstance(block, dict) and isinstance(block.get("text"), str):
                    yield block


def normalise_systems(messages: Iterable[Any], normalise: Normaliser | None) -> None:
    """Apply `normalise`, if any, to the system texts of a canonical conversation."""
    if normalise is not None:
        for block in system_blocks(messages):
            block["text"] = normalised(normalise, block["text"])


def hinted(explanation: Explanation, system_texts: Iterable[str]) -> Explanation:
    """Return `explanation`, with a hint where a date in the system texts may cause the miss.

    `system_texts` are as they are compared. No hint where the nearest request of another scope is
    known to have the same system prompt.
    """
    if explanation.hit is not None or not explanation.scope_is_empty:
        return explanation
    elsewhere = explanation.elsewhere
    if elsewhere is not None and not {"system prompt", "scope"}.intersection(elsewhere.differs):
        return explanation
    found = find_date("\n".join(system_texts))
    if found is None:
        return explanation
    hint = (
        f"the system prompt holds {found!r}; if that changes from call to call, no earlier "
        "answer can be found: leave it out, or pass normalise_system"
    )
    return replace(explanation, hint=hint)

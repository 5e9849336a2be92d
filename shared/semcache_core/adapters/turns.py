"""Which part of a conversation is a question that may be matched by meaning, and what all else is.

A conversation is read in a canonical form, a list of messages as JSON. Each has a "type" ("human",
"system", "ai", "tool" ...) and its "content", a list of blocks such as `{"type": "text", "text":
"..."}`. Equal conversations must have equal forms.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semcache_core.errors import SemcacheError
from semcache_core.request import Splitter

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

"""Finds the question in a prompt, and computes the keys of a request and its mode."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

from semcache_core._utils.courtesy import core_of
from semcache_core.errors import RequestError
from semcache_core.types import CallMode, Request


@dataclass(frozen=True)
class Split:
    """A user text taken apart: `question` may be matched by meaning, `frame` must be equal."""

    question: str
    frame: str


Splitter: TypeAlias = Callable[[str], Split | None]
"""Takes a user text apart, or gives None when it can only be matched whole and exactly."""

_MARKER = re.compile(
    r"(?:^|(?<=[\s>*#]))(?:user(?:'s)?\s+)?(?:question|query)\s*:[ \t]*", re.IGNORECASE
)
# What is answered from here on hangs on text that a similarity would hardly notice.
_DOCUMENTS = re.compile(
    r"\b(?:articles?|backgrounds?|chunks?|context|conversation|data|documents?|excerpts?|facts?"
    r"|history|information|knowledge|notes?|paragraphs?|passages?|snippets?|sources?|text"
    r"|transcript)\s*:"
    r"|^(?:according to|assum(?:e|ing)|based on|consider(?:ing)?|given|suppose|us(?:e|ing))\b",
    re.IGNORECASE,
)
_BLANK = "\x00question\x00"


def split_question(text: str) -> Split | None:
    """Find the question inside a user text.

    Retrieval chains put their documents and the question into one user message. Embedding all of
    it would let one document set's answer serve another's, so:

    - one `Question:` or `Query:` marker: the rest of its line is the question, all else the frame
      (which must be equal, documents included);
    - a single line without a marker, the greeting and sign-off around it aside: all of the text;
    - anything else (several lines, several markers, a question that brings its own facts along,
      as in `Context: ...` or `Given that ...`) cannot be taken apart safely: None.

    >>> split_question("Context: Basel is a city.\\n\\nQuestion: Where is Basel?").question
    'Where is Basel?'
    """
    text = text.strip()
    core = core_of(text).text
    # not of the text: "Quick question: how do I ..." is no template
    if not (_MARKER.search(core) or "\n" in core or "\r" in core):
        return _split(text, core, "")
    markers = list(_MARKER.finditer(text))
    if len(markers) != 1:
        return None
    start = markers[0].end()
    end = next((i for i in range(start, len(text)) if text[i] in "\r\n"), len(text))
    question = text[start:end].strip()
    return _split(question, core_of(question).text, text[:start] + _BLANK + text[end:])


def _split(question: str, core: str, frame: str) -> Split | None:
    if (frame and not question) or _DOCUMENTS.search(core):
        return None
    return Split(question, frame)


def why_whole(text: str) -> str:
    """Why `split_question` cannot take this text apart; empty where it can."""
    if split_question(text) is not None:
        return ""
    markers = len(_MARKER.findall(text))
    if markers > 1:
        return f"its text has {markers} marks such as 'Question:', so which is asked is not clear"
    if markers:
        return "its mark 'Question:' is followed by no question, or by facts to answer from"
    if "\n" in text.strip() or "\r" in text.strip():
        return "its text has several lines and no mark 'Question:', so a line may hold facts"
    return "its text brings facts to answer from, as 'Context:', 'Given ...' or 'Based on ...' do"


def why_exact(request: Request) -> str:
    """Why this `exact_only` request is one."""
    return request.why_exact or why_whole(request.question) or "exact_only is set"


PART_DIGITS = 4
"""Hex digits kept of the digest of a part: two parts are taken for equal once in 65,536 times, and
nobody who reads the ledger can confirm a guess of a text by them.
"""


DOCUMENTS, ANY_ORDER = "documents", "documents in any order"
"""Names of parts. `explain` tells other documents from another order of the same by the second."""


def part_digests(parts: Mapping[str, object]) -> dict[str, str]:
    """Return short digests by which the parts of two scopes are compared, without empty parts."""
    return {
        name: digest(value)[:PART_DIGITS]
        for name, value in parts.items()
        if value not in (None, "", [], {})
    }


def digest(value: Any) -> str:
    """SHA-256 (hex) over the canonical JSON of `value`: key order does not matter.

    Only this digest is stored, never the value: it may hold headers, keys and documents.
    """
    return hashlib.sha256(_canonical(value).encode("ascii")).hexdigest()


# made once: `json.dumps` makes an encoder for each call, which takes longer than a short value
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode


def as_request(value: object) -> Request:
    """`value` itself, or the request of a bare question; raises RequestError for anything else."""
    if isinstance(value, str):
        return Request(value)
    if not isinstance(value, Request):
        raise RequestError(
            f"expected a Request or a text, got {value!r}; write Request(question=...)"
        )
    return value


@dataclass(frozen=True)
class Key:
    """The ledger's two keys of a request: its partition, and the exact entry within it."""

    namespace: str
    partition: bytes
    exact: bytes


def key_of(request: Request, default_namespace: str) -> Key:
    """SHA-256 keys. Every part is preceded by its length, so no two requests share one by joining.

    A request that is `exact_only` and one that is not share the exact key: the answer is the same.
    """
    namespace = default_namespace if request.namespace is None else request.namespace
    partition = hashlib.sha256(_with_length(namespace) + _with_length(request.scope))
    exact = partition.copy()
    exact.update(_with_length(request.question))
    return Key(namespace, partition.digest(), exact.digest())


def _with_length(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "big") + data


_MODE: ContextVar[CallMode] = ContextVar("semcache_call_mode", default="normal")


def refreshing() -> AbstractContextManager[None]:
    """Ask the model in calls within this block, and store its answers in place of older ones.

    For an app that could not use the answer it got. It concerns this thread or task, and tasks and
    threads that it starts with a copy of its context.
    """
    return _in_mode("refresh")


def bypassing() -> AbstractContextManager[None]:
    """Ask the model in calls within this block, and neither read nor write the cache."""
    return _in_mode("bypass")


def mode_of(request: Request) -> CallMode:
    """The mode of the request itself, else that of the present block."""
    return _MODE.get() if request.mode == "normal" else request.mode


@contextmanager
def _in_mode(mode: CallMode) -> Iterator[None]:
    token = _MODE.set(mode)
    try:
        yield
    finally:
        _MODE.reset(token)

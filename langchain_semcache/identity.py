"""Which model asks: a digest of what LangChain says about it, and more where that is too little."""

import ast
import json
import re
import sys
import threading
import uuid
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from semcache_core import digest

# Cannot change an answer, but often differ between two places that ask the same model.
_IRRELEVANT = {
    "cache",
    "callback_manager",
    "callbacks",
    "custom_get_token_ids",
    "disable_streaming",
    "max_retries",
    "metadata",
    "name",
    "rate_limiter",
    "request_timeout",
    "stream_usage",
    "streaming",
    "tags",
    "timeout",
    "verbose",
}
# Said about a call, not about a model: with nothing else, two models look the same.
_CALL_ARGUMENTS = {
    "_type",
    "format",
    "function_call",
    "functions",
    "ls_structured_output_format",
    "max_tokens",
    "parallel_tool_calls",
    "response_format",
    "seed",
    "stop",
    "strict",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
}
_MODEL_NAMES = ("model", "model_name", "model_id", "deployment_name", "azure_deployment")
_OBJECT = re.compile(r"<class '|<[^<>]* at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True)
class Model:
    """`digest` is equal for equal models and parameters.

    `named` is False when LangChain's text fits several models; `stable` is False when it shows
    only the name of a class or the address of an object, which says nothing about its fields.
    """

    digest: str
    named: bool
    stable: bool


@lru_cache(maxsize=128)
def read_llm_string(llm_string: str) -> Model:
    """Read `llm_string`: JSON of the model and its call arguments, or only the arguments.

    It holds headers and, for some models, keys in plain text, so only a digest leaves here.
    """
    try:
        constructor, end = json.JSONDecoder().raw_decode(llm_string)
    except (ValueError, RecursionError):
        constructor, end = None, 0
    arguments = llm_string[end:]
    if isinstance(constructor, dict) and constructor.get("type") == "constructor":
        content = {"id": constructor.get("id"), "kwargs": _relevant(constructor.get("kwargs"))}
        return Model(digest([content, arguments]), named=True, stable=_is_stable(arguments))
    named = not arguments.startswith("[(") or bool(_argument_names(arguments) - _CALL_ARGUMENTS)
    return Model(digest(llm_string), named=named, stable=_is_stable(llm_string))


def _relevant(kwargs: Any) -> Any:
    if not isinstance(kwargs, dict):
        return kwargs
    return {name: value for name, value in kwargs.items() if name not in _IRRELEVANT}


def _is_stable(arguments: str) -> bool:
    if not _OBJECT.search(arguments):
        return True
    return _literal(arguments.removeprefix("---")) is not None  # the match was inside a text


def _argument_names(arguments: str) -> set[str]:
    pairs = _literal(arguments)
    if pairs is None:  # objects among the values; a name at the start of a pair is still a name
        return set(re.findall(r"\('([A-Za-z_]\w*)', ", arguments))
    return {str(name) for name, value in pairs if value is not None}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


class CallingModels:
    """Tells apart models whose `llm_string` is the same, such as every ChatOllama's.

    LangChain gives a cache no other way to know the model (langchain#14590, #25712): the calling
    method's `self` is found on the stack. A model with a name is known by its fields as they were
    first seen (so that a counter among them does no harm) and by its present parameters; one
    without is known as this very object, so its answers are reused by it alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[int, tuple[weakref.ref[Any], str]] = {}

    def identify(self, model: BaseLanguageModel[Any]) -> str:
        with self._lock:
            known = self._seen.get(id(model))
            if known is None or known[0]() is not model:  # an id is reused after its object's death
                place = id(model)
                ref = weakref.ref(model, lambda _: self._seen.pop(place, None))
                known = self._seen[place] = (ref, _first_sight(model))
        return digest([known[1], _fields(model, _PARAMETERS)])


_PARAMETERS = {
    *_MODEL_NAMES,
    *("base_url", "format", "max_tokens", "num_ctx", "num_predict", "reasoning", "seed"),
    *("stop", "system", "temperature", "top_k", "top_p"),
}


def calling_model() -> BaseLanguageModel[Any] | None:
    """The model whose method called the cache, found on the stack of the present thread or task."""
    frame = sys._getframe(1)
    for _ in range(12):
        owner = frame.f_locals.get("self")
        if isinstance(owner, BaseLanguageModel):
            return owner
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def _first_sight(model: BaseLanguageModel[Any]) -> str:
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if not any(isinstance(getattr(model, name, None), str) for name in _MODEL_NAMES):
        return digest([kind, uuid.uuid4().hex])
    return digest([kind, _fields(model, set(type(model).model_fields) - _IRRELEVANT)])


def _fields(model: BaseLanguageModel[Any], names: set[str]) -> dict[str, Any]:
    """The named fields that are plain data; clients and other objects say nothing comparable."""
    values = {name: getattr(model, name, None) for name in sorted(names)}
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)

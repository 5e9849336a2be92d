"""Which model asks, with which parameters: from `llm_string`, and from the model itself."""

import ast
import json
import re
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from types import FunctionType
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from semcache_core import digest

# Fields that cannot change an answer, but often differ between two places that use one model.
_IRRELEVANT = {
    *("cache", "callback_manager", "callbacks", "custom_get_token_ids", "disable_streaming"),
    *("max_retries", "metadata", "name", "rate_limiter", "request_timeout", "stream_usage"),
    *("streaming", "tags", "timeout", "verbose"),
}
_EMPTY: tuple[object, ...] = (None, "", [], {})
_MODEL_NAMES = ("model", "model_name", "model_id", "deployment_name", "azure_deployment")
# Whole numbers and lists that change the answer; any other may be a counter or log of the model.
_PARAMETERS = {
    *("max_new_tokens", "max_output_tokens", "max_tokens", "mirostat", "n", "num_ctx"),
    *("num_predict", "repeat_last_n", "seed", "stop", "temperature", "thinking_budget", "top_k"),
}
# Modules whose objects show all their state in their repr; others may be long or secret.
_SHOWN = {"builtins", "datetime", "decimal", "fractions", "pathlib", "re", "uuid"}
_OBJECT = re.compile(r"<class '| at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True)
class Model:
    """What `llm_string` says about a model; `digest` is equal for equal models and parameters.

    `whole` is False when the text may omit a difference between two models, and `named` is False
    when it does not name the model. `stable` is False when it shows only the name of a class or the
    address of an object, without the fields. `parameters` are those of a serialisable model of
    class `kind`.
    """

    digest: str
    named: bool
    whole: bool
    stable: bool
    kind: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@lru_cache(maxsize=128)
def read_llm_string(llm_string: str) -> Model:
    """Read `llm_string`: JSON of the model and its call arguments, or only the arguments.

    It holds headers and, for some models, keys in plain text. Only a digest of it may be stored.
    """
    try:
        constructor, end = json.JSONDecoder().raw_decode(llm_string)
    except (ValueError, RecursionError):
        constructor, end = None, 0
    arguments = llm_string[end:]
    if isinstance(constructor, dict) and constructor.get("type") == "constructor":
        parameters = _relevant(constructor.get("kwargs"))
        whole, kind = _is_whole(parameters), constructor.get("id")
        return Model(
            digest([kind, parameters, arguments]),
            named=whole or _names_a_model(parameters),
            whole=whole,
            stable=_is_stable(arguments),
            kind=tuple(map(str, kind)) if isinstance(kind, list) else (),
            parameters=parameters,
        )
    # A model that is not serialisable shows its call arguments and fields of its own choice.
    arguments_only = arguments.startswith("[(")
    return Model(
        digest(llm_string),
        named=not arguments_only or not _arguments(arguments).isdisjoint(_MODEL_NAMES),
        whole=not arguments_only,
        stable=_is_stable(llm_string),
    )


class CallingModels:
    """Distinguishes models with the same `llm_string`, such as every ChatOllama.

    LangChain gives a cache no other way to know the model (langchain#14590, #25712). A model with a
    name or identifying parameters is identified by its class and fields. Any other is identified as
    an object, so that no other model reuses its answers. Whole numbers and lists may be counters
    and logs: except for known parameters, their first values count.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a model may hold another one
        self._seen: dict[int, tuple[weakref.ref[Any], str, set[str]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return CallingModels, ()  # a copy sees other models

    def identify(self, model: BaseLanguageModel[Any]) -> str:
        """Return a digest that is equal for models with the same visible parameters."""
        return self.described(model)[0]

    def described(self, model: BaseLanguageModel[Any]) -> tuple[str, dict[str, Any]]:
        """Return the digest of `identify`, and the fields of the model."""
        present = self._fields(model)
        with self._lock:
            known = self._seen.get(id(model))
            if known is None or known[0]() is not model:  # an id is reused after its object's death
                place = id(model)
                ref = weakref.ref(model, lambda _: self._seen.pop(place, None))
                known = self._seen[place] = (ref, *_first_sight(model, present))
            _, first, frozen = known
        return digest([first, {k: v for k, v in present.items() if k not in frozen}]), present

    def changed(self, model: BaseLanguageModel[Any], known: Model) -> dict[str, Any]:
        """Return the parameters of `model` that differ from those in LangChain's text.

        LangChain makes its text about a serialisable model once, and `model_copy` keeps it: it
        does not show a copy's other temperature, or a field that is set later.
        """
        if tuple(model.lc_id()) != known.kind:
            return {}
        now = _relevant(model.to_json().get("kwargs"))
        plain = {name: self._described(value) for name, value in now.items() if _is_plain(value)}
        differs = {
            name: value for name, value in plain.items() if value != known.parameters.get(name)
        }
        return differs | {name: None for name in known.parameters if name not in now}

    def _fields(self, model: BaseModel) -> dict[str, Any]:
        names = set(type(model).model_fields) - _IRRELEVANT
        return {name: self._described(getattr(model, name, None)) for name in sorted(names)}

    def _described(self, value: Any) -> Any:
        """Return `value` as JSON; an object that hides its fields is its class."""
        if isinstance(value, Enum):
            return self._described(value.value)
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, dict):
            return {str(name): self._described(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._described(item) for item in value]
        if isinstance(value, set | frozenset):
            return sorted(repr(item) for item in value)
        if isinstance(value, BaseLanguageModel):
            return self.identify(value)
        if isinstance(value, BaseModel):
            return [_kind(value), self._fields(value)]
        if is_dataclass(value) and not isinstance(value, type):
            inner = {each.name: getattr(value, each.name, None) for each in fields(value)}
            return [_kind(value), self._described(inner)]
        if isinstance(value, type | FunctionType):
            return f"{value.__module__}.{value.__qualname__}"
        if type(value).__module__ in _SHOWN and not _OBJECT.search(shown := repr(value)):
            return shown
        return _kind(value)


def call_parts(
    llm_string: str,
    model: BaseLanguageModel[Any] | None,
    fields: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the model, its parameters and the arguments of the call by name.

    `fields` are those of the model that `llm_string` does not show.
    """
    known = read_llm_string(llm_string)
    counters = set() if known.whole else _may_count(fields)
    defaults = {} if known.whole or model is None else type(model).model_fields
    own = {
        name: value
        for name, value in fields.items()
        if name not in counters and (name not in defaults or value != defaults[name].default)
    }
    shown = {
        **known.parameters,
        **own,
        **_arguments_in(llm_string),
        **with_schemas(dict(arguments)),
    }
    kind = known.kind or (None if model is None else _kind(model))
    names = {name: shown.pop(name) for name in ("_type", *_MODEL_NAMES) if name in shown}
    stated = {name: repr(value) for name, value in shown.items() if value not in _EMPTY}
    return {"model": repr([kind, sorted(names.items())]), **stated}


def with_schemas(value: Any) -> Any:
    """Return `value` with each class in it replaced by its JSON schema.

    LangChain shows a cache only the name of a class, whose fields may change. The schema is equal
    in two processes. A class without a schema stays, and the call is not cached.
    """
    if isinstance(value, dict):
        return {name: with_schemas(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_schemas(item) for item in value]
    if isinstance(value, tuple):
        return tuple(with_schemas(item) for item in value)
    return _schema(value) if isinstance(value, type) else value


@lru_cache(maxsize=128)
def _schema(kind: type) -> Any:
    try:
        return {"schema of a class": TypeAdapter(kind).json_schema()}
    except (PydanticUserError, TypeError, NameError):
        return kind


def _relevant(kwargs: Any) -> dict[str, Any]:
    if not isinstance(kwargs, dict):
        return {}
    return {name: value for name, value in kwargs.items() if name not in _IRRELEVANT}


def hidden_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in LangChain's JSON that show only their repr, such as a wrapped model."""
    if isinstance(value, dict):
        if value.get("lc") == 1 and value.get("type") == "not_implemented":
            yield value
            return
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from hidden_objects(item)


def _is_whole(parameters: dict[str, Any]) -> bool:
    """An iterator is used up by its model: it is not a parameter."""
    return all(str(one.get("id")).endswith("iterator']") for one in hidden_objects(parameters))


def _names_a_model(parameters: dict[str, Any]) -> bool:
    return any(isinstance(parameters.get(name), str) for name in _MODEL_NAMES)


def _is_stable(arguments: str) -> bool:
    if not _OBJECT.search(arguments):
        return True
    return _literal(arguments.removeprefix("---")) is not None  # the match is inside a text


def _arguments(arguments: str) -> set[str]:
    pairs = _literal(arguments)
    if pairs is None:  # objects among the values; the names are still readable
        return set(re.findall(r"\('([A-Za-z_]\w*)', ", arguments))
    return {str(name) for name, value in pairs if value is not None}


@lru_cache(maxsize=128)
def _arguments_in(llm_string: str) -> Mapping[str, Any]:
    """Return the call's arguments by name; together where one of them is an object."""
    try:
        _, end = json.JSONDecoder().raw_decode(llm_string)
    except (ValueError, RecursionError):
        end = 0
    text = llm_string[end:].removeprefix("---")
    pairs = _literal(text)
    return {"arguments": text} if pairs is None else {str(name): value for name, value in pairs}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _first_sight(model: BaseLanguageModel[Any], seen: dict[str, Any]) -> tuple[str, set[str]]:
    """Return the model's lasting identity, and the fields whose later values do not count."""
    is_identified = _names_a_model(seen) or model._identifying_params
    frozen = _may_count(seen)
    first = {name: seen[name] for name in frozen}
    return digest([_kind(model), first if is_identified else uuid.uuid4().hex]), frozen


def _may_count(fields: Mapping[str, Any]) -> set[str]:
    """Return the names of the fields that may be counters or logs of the model."""
    return {
        name
        for name, value in fields.items()
        if name not in _PARAMETERS and type(value) in (int, list)
    }


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)

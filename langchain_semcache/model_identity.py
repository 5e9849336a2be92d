"""Classes among the arguments of a call, such as a response format: shown by all their fields."""

import ast
import json
import re
import sys
import threading
import uuid
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from types import FunctionType
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from semcache_core import digest


def shown(value: Any) -> Any:
    """`value` with each class in it replaced by its JSON schema.

    LangChain shows a cache only the name of a class, whose fields may change. Two processes with
    the same class give the same schema. A class that has none stays: such a call is not cached.
    """
    if isinstance(value, dict):
        return {name: shown(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, tuple):
        return tuple(shown(item) for item in value)
    return _schema(value) if isinstance(value, type) else value


@lru_cache(maxsize=128)
def _schema(kind: type) -> Any:
    try:
        return {"schema of a class": TypeAdapter(kind).json_schema()}
    except (PydanticUserError, TypeError, NameError):
        return kind


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
_MODEL_NAMES = ("model", "model_name", "model_id", "deployment_name", "azure_deployment")
# Whole numbers and lists that steer the answer; any other on a model may be its counter or log.
_PARAMETERS = {
    *("max_new_tokens", "max_output_tokens", "max_tokens", "mirostat", "n", "num_ctx"),
    *("num_predict", "repeat_last_n", "seed", "stop", "temperature", "thinking_budget", "top_k"),
}
# Modules whose objects show all they are in their repr; a client's, say, may be long or secret.
_SHOWN = {"builtins", "datetime", "decimal", "fractions", "pathlib", "re", "uuid"}
_OBJECT = re.compile(r"<class '| at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True)
class Model:
    """`digest` is equal for equal models and parameters.

    `whole` is False when LangChain's text may leave out what tells two models apart, and `named`
    when it does not even say which model it is. `stable` is False when it shows only the name of
    a class or the address of an object, which says nothing about its fields. `told` is what a
    serialisable model of class `kind` was built with, by that text.
    """

    digest: str
    named: bool
    whole: bool
    stable: bool
    kind: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@lru_cache(maxsize=128)
def read_llm_string(llm_string: str) -> Model:
    """Read `llm_string`: JSON of the model and its call arguments, or only the arguments.

    It holds headers and, for some models, keys in plain text: only a digest may be stored.
    """
    try:
        constructor, end = json.JSONDecoder().raw_decode(llm_string)
    except (ValueError, RecursionError):
        constructor, end = None, 0
    arguments = llm_string[end:]
    if isinstance(constructor, dict) and constructor.get("type") == "constructor":
        told = _relevant(constructor.get("kwargs"))
        whole, named = not _hides_an_object(told), constructor.get("id")
        return Model(
            digest([constructor.get("id"), told, arguments]),
            named=whole or _names_a_model(told),
            whole=whole,
            stable=_is_stable(arguments),
            kind=tuple(map(str, named)) if isinstance(named, list) else (),
            told=told,
        )
    # A model that is not serialisable shows its call arguments and what it chose to add.
    arguments_only = arguments.startswith("[(")
    return Model(
        digest(llm_string),
        named=not arguments_only or not _arguments(arguments).isdisjoint(_MODEL_NAMES),
        whole=not arguments_only,
        stable=_is_stable(llm_string),
    )


def _relevant(kwargs: Any) -> dict[str, Any]:
    if not isinstance(kwargs, dict):
        return {}
    return {name: value for name, value in kwargs.items() if name not in _IRRELEVANT}


def _hides_an_object(told: Any) -> bool:
    """An object that is not serialisable, such as a wrapped model, shows only its class here."""
    if isinstance(told, dict):
        if told.get("lc") == 1 and told.get("type") == "not_implemented":
            # an iterator is used up by its model: it is no setting of it
            return not str(told.get("id")).endswith("iterator']")
        return any(_hides_an_object(value) for value in told.values())
    return isinstance(told, list) and any(_hides_an_object(item) for item in told)


def _names_a_model(told: dict[str, Any]) -> bool:
    return any(isinstance(told.get(name), str) for name in _MODEL_NAMES)


def _is_stable(arguments: str) -> bool:
    if not _OBJECT.search(arguments):
        return True
    return _literal(arguments.removeprefix("---")) is not None  # the match was inside a text


def _arguments(arguments: str) -> set[str]:
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
    method's `self` is found on the stack. A model that says what it is, by a name or by
    identifying parameters, is known by its class and fields; one that does not, as this very
    object, so its answers are reused by it alone. Whole numbers and lists may be counters and
    logs of the model's own: except for known parameters they count as they were first seen.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a model may hold another one
        self._seen: dict[int, tuple[weakref.ref[Any], str, set[str]]] = {}

    def identify(self, model: BaseLanguageModel[Any]) -> str:
        """Equal for models that give the same answers, as far as can be seen."""
        present = self._fields(model)
        with self._lock:
            known = self._seen.get(id(model))
            if known is None or known[0]() is not model:  # an id is reused after its object's death
                place = id(model)
                ref = weakref.ref(model, lambda _: self._seen.pop(place, None))
                known = self._seen[place] = (ref, *_first_sight(model, present))
        _, first, frozen = known
        return digest([first, {k: v for k, v in present.items() if k not in frozen}])

    def unsaid(self, model: BaseLanguageModel[Any], known: Model) -> dict[str, Any]:
        """What `model` has otherwise than LangChain says.

        Its text about a serialisable model is made once, and even `model_copy` carries it along:
        a copy with another temperature, or a field set later, would go unseen.
        """
        if tuple(model.lc_id()) != known.kind:
            return {}
        now = _relevant(model.to_json().get("kwargs"))
        plain = {name: self._described(value) for name, value in now.items() if _is_plain(value)}
        differs = {name: value for name, value in plain.items() if value != known.told.get(name)}
        return differs | {name: None for name in known.told if name not in now}

    def _fields(self, model: BaseModel) -> dict[str, Any]:
        names = set(type(model).model_fields) - _IRRELEVANT
        return {name: self._described(getattr(model, name, None)) for name in sorted(names)}

    def _described(self, value: Any) -> Any:
        """`value` as JSON; an object that shows nothing of itself as its class."""
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


def _first_sight(model: BaseLanguageModel[Any], seen: dict[str, Any]) -> tuple[str, set[str]]:
    """Who this is for good, and the fields whose later values do not count."""
    says_what_it_is = _names_a_model(seen) or model._identifying_params
    frozen = {
        name
        for name, value in seen.items()
        if name not in _PARAMETERS and type(value) in (int, list)
    }
    first = {name: seen[name] for name in frozen}
    return digest([_kind(model), first if says_what_it_is else uuid.uuid4().hex]), frozen


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float | bool)

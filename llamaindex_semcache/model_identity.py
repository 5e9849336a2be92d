"""Which model asks, and with which arguments: as JSON of all that may change an answer."""

import hashlib
import re
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any, NoReturn, TypeAlias

from llama_index.core.bridge.pydantic import AnyUrl, BaseModel
from llama_index.core.llms.llm import LLM
from llama_index.core.tools.types import BaseTool
from llama_index.core.types import BaseOutputParser
from pydantic import PydanticUserError
from semcache_core import SemcacheError, digest

# Fields that cannot change an answer, but often differ between two places that use one model.
_IRRELEVANT = {
    *("callback_manager", "max_retries", "num_workers", "rate_limiter", "request_timeout"),
    *("reuse_client", "show_progress", "timeout", "verbose"),
}
# Not every "token": max_tokens and eos_token change the answer.
_SECRET = re.compile(
    r"api_?key|access_?key|credential|passw|secret|headers?$|authorization|token_provider"
    r"|(?:^|_)(?:access|ad|api|auth|bearer|hf|refresh|session)_token$|^(?:auth|token)$",
    re.IGNORECASE,
)
_MODEL_NAMES = (
    *("model", "model_name", "model_id", "model_path", "model_url", "model_uri"),
    *("deployment_name", "engine", "azure_deployment", "repo_id"),
)
# Whole numbers and lists that change the answer; any other may be a counter or log of the model.
_PARAMETERS = {
    *("context_window", "logit_bias", "max_completion_tokens", "max_new_tokens"),
    *("max_output_tokens", "max_tokens", "mirostat", "modalities", "n", "num_beams", "num_ctx"),
    *("num_output", "num_predict", "repeat_last_n", "seed", "stop", "stopping_ids", "temperature"),
    *("thinking_budget", "top_k", "top_logprobs", "top_p"),
}
_SHOWN = (AnyUrl, Decimal, PurePath, date, time, uuid.UUID)  # their text shows all their state

Other: TypeAlias = Callable[[Any], Any]
"""Returns JSON for an object that hides its fields, or raises SemcacheError."""


def model_parts(llm: LLM, described: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the model and its parameters by name, from what `Models.described` returned."""
    who, parameters = described
    fields = type(llm).model_fields
    names = {name: parameters[name] for name in _MODEL_NAMES if name in parameters}
    stated = {
        name: value
        for name, value in parameters.items()
        if name not in names and (name not in fields or value != fields[name].default)
    }
    return {"model": [names or who, _name(type(llm))], **stated}


def describe_arguments(arguments: Mapping[str, Any]) -> Any:
    """Return the keyword arguments of a call as JSON, with tools and classes as their schemas.

    Without secrets, and without arguments that cannot change an answer, both by name. Raises
    SemcacheError for an object that hides its fields: the call must not be cached.
    """
    asked = {name: value for name, value in arguments.items() if _matters(name)}
    return {name: as_json(value, partial(refuse, name)) for name, value in asked.items()}


def describe_class(output: type[BaseModel]) -> Any:
    """Return the name and the JSON schema of a class; raises SemcacheError without a schema."""
    try:
        return [_name(output), output.model_json_schema()]
    except (PydanticUserError, RecursionError) as error:
        raise SemcacheError(
            f"{output.__name__} has no JSON schema, so a change of its fields could go unseen; "
            "calls with it are not cached. Give each field a type that JSON knows."
        ) from error


def redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values`, such as of `to_dict()`, without keys, tokens, passwords and headers."""
    kept = {name: value for name, value in values.items() if not _SECRET.search(str(name))}
    return {name: _redacted(value) for name, value in kept.items()}


def as_json(value: Any, other: Other) -> Any:
    """Return `value` as JSON that differs whenever `value` does.

    `other` describes objects that hide their fields. Raises SemcacheError for endless nesting.
    """
    try:
        return _json(value, other)
    except RecursionError as error:
        raise SemcacheError(
            f"{type(value).__name__} holds itself, so it cannot be compared; pass plain data"
        ) from error


def _json(value: Any, other: Other) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Enum):
        return _json(value.value, other)
    for plain in (str, int, float):  # a subclass is sent as its base
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, Mapping):
        return {str(name): _json(item, other) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item, other) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_json(item, other) for item in value), key=digest)
    if isinstance(value, bytes | bytearray):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if isinstance(value, _SHOWN):
        return [_name(type(value)), str(value)]
    if isinstance(value, type) and issubclass(value, BaseModel):
        return describe_class(value)
    shown = _fields(value)
    if shown is None:
        return other(value)
    return [_name(type(value)), {name: _json(item, other) for name, item in shown.items()}]


def _fields(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of `value`, None when it hides them or they are not all of it."""
    if isinstance(value, BaseTool):
        metadata = value.metadata  # the model never sees its function
        schema = metadata.fn_schema and describe_class(metadata.fn_schema)
        return {"name": metadata.name, "description": metadata.description, "schema": schema}
    if isinstance(value, type | LLM):
        return None
    if isinstance(value, BaseModel):
        names = set(type(value).model_fields) - _IRRELEVANT
        return {name: getattr(value, name, None) for name in names} | (value.model_extra or {})
    if is_dataclass(value):
        return {each.name: getattr(value, each.name, None) for each in fields(value)}
    return vars(value) if isinstance(value, BaseOutputParser) else None


class Models:
    """Distinguishes models by their class and fields, or as objects where these hide the model.

    A field that is not a parameter may be a counter or a log: of a whole number or a list, the
    first value counts. LlamaIndex's own integrations have no such fields.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a model may hold another one
        self._seen: dict[int, tuple[weakref.ref[Any], _Sight]] = {}

    def identify(self, llm: LLM) -> str:
        """Return a digest that is equal for models with the same visible parameters."""
        return digest(list(self.described(llm)))

    def described(self, llm: LLM) -> tuple[str, dict[str, Any]]:
        """Return who the model is, and its parameters by name."""
        names = sorted(name for name in type(llm).model_fields if _matters(name))
        other = partial(self._other, llm)
        present = {name: as_json(getattr(llm, name, None), other) for name in names}
        present |= as_json(llm.model_extra or {}, other)
        sight = self._sight(llm, lambda: _first_sight(llm, present))
        return sight.who, {k: v for k, v in present.items() if k not in sight.frozen}

    def _other(self, asked: LLM, value: Any) -> Any:
        if value is asked:  # its messages_to_prompt may be its own method
            return "itself"
        if isinstance(value, LLM):
            return self.identify(value)
        other = partial(self._other, asked)
        if isinstance(value, partial):
            return ["partial", as_json([value.func, value.args, value.keywords], other)]
        if isinstance(value, MethodType):
            return ["method", as_json([value.__func__, value.__self__], other)]
        if isinstance(value, FunctionType):
            return [_name(value), *_code(value.__code__), as_json(_bound(value), other)]
        if isinstance(value, type | BuiltinFunctionType):
            return _name(value)
        return [_name(type(value)), self._sight(value, lambda: _Sight(uuid.uuid4().hex)).who]

    def _sight(self, value: Any, first: "Callable[[], _Sight]") -> "_Sight":
        place = id(value)
        with self._lock:
            known = self._seen.get(place)
            if known is None or known[0]() is not value:  # an id is reused after its object's death
                try:
                    ref = weakref.ref(value, lambda _: self._seen.pop(place, None))
                except TypeError:
                    refuse("a field of the model", value)
                known = self._seen[place] = (ref, first())
            return known[1]


@dataclass(frozen=True)
class _Sight:
    """The lasting identity of an object, and the fields whose later values do not count."""

    who: str
    frozen: frozenset[str] = frozenset()


def _first_sight(llm: LLM, present: dict[str, Any]) -> _Sight:
    frozen = frozenset(
        name
        for name, value in present.items()
        if name not in _PARAMETERS
        and type(value) in (int, list)
        and type(getattr(llm, name, None)) in (int, list)
        and not type(llm).__module__.startswith("llama_index.llms.")
    )
    first = {name: present[name] for name in frozen}
    known = first if _is_identified(llm, present) else uuid.uuid4().hex
    return _Sight(digest([_name(type(llm)), known]), frozen)


def _is_identified(llm: LLM, present: dict[str, Any]) -> bool:
    """Whether its fields identify the model: one is its name, or nothing is private.

    A model in a private attribute, without a name, could be any: two of them must never share.
    """
    if not set(present) - set(LLM.model_fields):
        return False
    if any(isinstance(present.get(name), str) and present[name] for name in _MODEL_NAMES):
        return True
    return not type(llm).__private_attributes__ or llm.metadata.model_name not in ("", "unknown")


def _matters(name: str) -> bool:
    return name not in _IRRELEVANT and not _SECRET.search(name)


def refuse(what: str, value: Any) -> NoReturn:
    """Raise SemcacheError: `what` holds `value`, which hides its fields."""
    raise SemcacheError(
        f"{what} holds a {type(value).__name__}, which does not show its fields, so they could "
        "change unseen; calls with it are not cached. Pass JSON, a pydantic class or a tool."
    )


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redacted(value)
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _code(code: CodeType) -> list[Any]:
    """Return what a function does, as two may have the same name; without line numbers."""
    constants = [
        _code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts
    ]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _bound(function: FunctionType) -> list[Any]:
    """Return the values that a function captured where it was made."""
    cells = [_content(cell) for cell in function.__closure__ or ()]
    return [cells, function.__defaults__, function.__kwdefaults__]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"

"""Which model asks, and with which arguments: as JSON that shows all that an answer may hang on."""

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

# Cannot change an answer, but often differ between two places that ask the same model.
_IRRELEVANT = {
    *("callback_manager", "max_retries", "num_workers", "rate_limiter", "request_timeout"),
    *("reuse_client", "show_progress", "timeout", "verbose"),
}
# Not "token" anywhere: max_tokens and eos_token decide what is answered.
_SECRET = re.compile(
    r"api_?key|access_?key|credential|passw|secret|headers?$|authorization|token_provider"
    r"|(?:^|_)(?:access|ad|api|auth|bearer|hf|refresh|session)_token$|^(?:auth|token)$",
    re.IGNORECASE,
)
_MODEL_NAMES = (
    *("model", "model_name", "model_id", "model_path", "model_url", "model_uri"),
    *("deployment_name", "engine", "azure_deployment", "repo_id"),
)
# Whole numbers and lists that steer the answer; any other on a model may be its counter or log.
_PARAMETERS = {
    *("context_window", "logit_bias", "max_completion_tokens", "max_new_tokens"),
    *("max_output_tokens", "max_tokens", "mirostat", "modalities", "n", "num_beams", "num_ctx"),
    *("num_output", "num_predict", "repeat_last_n", "seed", "stop", "stopping_ids", "temperature"),
    *("thinking_budget", "top_k", "top_logprobs", "top_p"),
}
_SHOWN = (AnyUrl, Decimal, PurePath, date, time, uuid.UUID)  # whose text is all they are

Other: TypeAlias = Callable[[Any], Any]
"""JSON for an object that does not show its fields; it may raise SemcacheError instead."""


def describe_arguments(arguments: Mapping[str, Any]) -> Any:
    """The keyword arguments of a call as JSON: tools and response classes by their schemas.

    Secrets and what cannot change an answer are left out, by their names.
    Raises SemcacheError for an object whose fields cannot be seen: the call must not be cached.
    """
    asked = {name: value for name, value in arguments.items() if _matters(name)}
    return {name: as_json(value, partial(refuse, name)) for name, value in asked.items()}


def describe_class(output: type[BaseModel]) -> Any:
    """A class by its name and JSON schema; raises SemcacheError when it has none."""
    try:
        return [_name(output), output.model_json_schema()]
    except (PydanticUserError, RecursionError) as error:
        raise SemcacheError(
            f"{output.__name__} has no JSON schema, so a change of its fields could go unseen; "
            "calls with it are not cached. Give each field a type that JSON knows."
        ) from error


def redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, such as those of `to_dict()`, without keys, tokens, passwords and headers."""
    kept = {name: value for name, value in values.items() if not _SECRET.search(str(name))}
    return {name: _redacted(value) for name, value in kept.items()}


def as_json(value: Any, other: Other) -> Any:
    """`value` as JSON that differs whenever `value` does; `other` describes what hides its fields.

    Raises SemcacheError for what is nested without end.
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
    for plain in (str, int, float):  # what is derived from one is sent as one
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
    """What `value` consists of; None when it does not show that, or is known by more than that."""
    if isinstance(value, BaseTool):
        metadata = value.metadata  # its function never reaches the model
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
    """Tells models apart by their class and fields, or as the very object where those hide it.

    A field that is no parameter may be a counter or a log of the model's own: a whole number or a
    list counts as it was first seen, except in LlamaIndex's integrations, which have no such.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a model may hold another one
        self._seen: dict[int, tuple[weakref.ref[Any], _Sight]] = {}

    def identify(self, llm: LLM) -> str:
        """A digest, equal for models that give the same answers, as far as can be seen."""
        names = sorted(name for name in type(llm).model_fields if _matters(name))
        other = partial(self._other, llm)
        present = {name: as_json(getattr(llm, name, None), other) for name in names}
        present |= as_json(llm.model_extra or {}, other)
        sight = self._sight(llm, lambda: _first_sight(llm, present))
        return digest([sight.who, {k: v for k, v in present.items() if k not in sight.frozen}])

    def _other(self, asked: LLM, value: Any) -> Any:
        if value is asked:  # its own method may be its messages_to_prompt
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
    """Who an object is for good, and which of its fields do not count later on."""

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
    known = first if _says_what_it_is(llm, present) else uuid.uuid4().hex
    return _Sight(digest([_name(type(llm)), known]), frozen)


def _says_what_it_is(llm: LLM, present: dict[str, Any]) -> bool:
    """Its class has fields of its own, and one of them is its name or nothing is left to hide.

    A model in a private attribute, with no name, could be any: two of them must never share.
    """
    if not set(present) - set(LLM.model_fields):
        return False
    if any(isinstance(present.get(name), str) and present[name] for name in _MODEL_NAMES):
        return True
    return not type(llm).__private_attributes__ or llm.metadata.model_name not in ("", "unknown")


def _matters(name: str) -> bool:
    return name not in _IRRELEVANT and not _SECRET.search(name)


def refuse(what: str, value: Any) -> NoReturn:
    """Raises SemcacheError: `value`, which `what` holds, hides its fields."""
    raise SemcacheError(
        f"{what} holds a {type(value).__name__}, which does not show its fields, so they could "
        "change unseen; calls with it are not cached. Pass JSON, a pydantic class or a tool."
    )


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redacted(value)
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


def _code(code: CodeType) -> list[Any]:
    """What a function does, for two functions may have the same name; no line numbers."""
    constants = [
        _code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts
    ]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _bound(function: FunctionType) -> list[Any]:
    """The values that a function took along from where it was made."""
    cells = [_content(cell) for cell in function.__closure__ or ()]
    return [cells, function.__defaults__, function.__kwdefaults__]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"

"""A cache key for LangGraph nodes that ignores message ids and token counts."""

import logging
import pickle
import sys
import uuid
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from langchain_core.load import dumps
from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import ensure_config
from pydantic import BaseModel
from semcache_core import SemcacheError, digest

from langchain_semcache.request import namespace_in, read_prompt

log = logging.getLogger("semcache")

# What dumping raises for a lock, a lambda, a client or an endless object.
_UNCOMPARABLE = (
    AttributeError,
    NotImplementedError,
    RecursionError,
    SemcacheError,
    TypeError,
    ValueError,
    pickle.PicklingError,
)
_FRAMES = 8  # searched for LangGraph's: the app may wrap `cache_key`


def cache_key(*args: Any, **kwargs: Any) -> str:
    """For `CachePolicy(key_func=cache_key)`: equal for equal inputs of a node or task.

    In messages, these do not count: message ids, usage, response metadata, the values of call ids,
    artifacts. All else does, also other state and the tenant in
    `config["configurable"]["semcache_namespace"]`. Matches are exact, as LangGraph shows its cache
    only this digest. It separates the entries of node functions, but not those of two models that
    one function asks: put the model's name into the state then.

    An input that cannot be compared, or a tenant of a wrong type, gets a unique key, so that
    nothing is shared. Each such error is logged once.
    """
    try:
        return digest(["langgraph", namespace_in(_present_config()), _canonical([args, kwargs])])
    except _UNCOMPARABLE as error:
        _warn(f"a node's input is not cached: {error!r}")
        return uuid.uuid4().hex


def _canonical(value: Any) -> Any:
    """Return `value` as JSON in which unequal values differ, also by their type."""
    is_plain = value is None or isinstance(value, bool | int | float | str)
    if is_plain and not isinstance(value, Enum):
        return value
    if isinstance(value, BaseMessage):
        return _conversation([value])
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, BaseMessage) for item in value):
            return _conversation(value)
        return [type(value).__name__, [_canonical(item) for item in value]]
    if isinstance(value, Mapping):
        pairs = [[_canonical(key), _canonical(item)] for key, item in value.items()]
        return [type(value).__name__, sorted(pairs, key=digest)]
    if isinstance(value, set | frozenset):
        return [type(value).__name__, sorted(map(_canonical, value), key=digest)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, BaseModel):
        return [kind, _canonical(dict(value)), _canonical(value.__pydantic_private__)]
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: getattr(value, field.name) for field in fields(value)}
        return [kind, _canonical(inner)]
    return [kind, pickle.dumps(value, protocol=5).hex()]  # hashed here, and never read back


def _conversation(messages: Any) -> Any:
    read = read_prompt(dumps(list(messages)), lambda text: None)
    if read is None:
        raise SemcacheError("a message shows only a class name or an address")
    return ["messages", read.question, read.rest]


def _present_config() -> Mapping[str, Any]:
    """Return the config of the run that asks for a key.

    LangGraph does not pass it to a `key_func`, and for an outermost graph it is not in the context.
    So it is read from the stack: it is a local variable of the caller in all releases since 1.0.
    Raises SemcacheError when LangGraph is the caller and has none: the tenant must not be guessed.
    """
    frame = sys._getframe(2)
    by_langgraph = False
    for _ in range(_FRAMES):
        if str(frame.f_globals.get("__name__")).startswith("langgraph."):
            by_langgraph = True
            config = frame.f_locals.get("config")
            if isinstance(config, dict) and "configurable" in config:
                return config
        if frame.f_back is None:
            break
        frame = frame.f_back
    if by_langgraph:
        raise SemcacheError("this release of LangGraph does not show the run's config")
    return ensure_config()


@lru_cache(maxsize=64)
def _warn(text: str) -> None:
    log.warning("semcache: %s", text)

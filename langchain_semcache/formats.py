"""Classes among the arguments of a call, such as a response format: shown by all their fields."""

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError


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

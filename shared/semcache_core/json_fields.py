"""The fields of a JSON object that anybody may have written, each read as what it should be."""

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from semcache_core.errors import SemcacheError


@dataclass(frozen=True)
class Field:
    """How a value is read: `read` gives it, or raises ValueError, TypeError or OverflowError, where
    an error then says that the line should give `fix`.
    """

    read: Callable[[Any], Any]
    fix: str


def parse_object(line: bytes, where: str, example: str) -> dict[str, Any]:
    """The JSON object in a line of UTF-8, in which lone surrogates may be; a SemcacheError names
    `where` and shows `example`.
    """
    try:
        data: Any = json.loads(line.decode("utf-8", "surrogatepass"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SemcacheError(
            f"{where} is not JSON in UTF-8 ({error}); write an object like {example}"
        ) from None
    if not isinstance(data, dict):
        raise SemcacheError(f"{where} is {shown(data)}; write an object like {example}")
    return data


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def read_fields(data: dict[str, Any], fields: Mapping[str, Field], where: str) -> dict[str, Any]:
    """Those of `fields` that are there and not null; a SemcacheError names `where` and field."""
    found = {}
    for name, field in fields.items():
        if (value := data.get(name)) is None:
            continue
        try:
            found[name] = field.read(value)
        except (TypeError, ValueError, OverflowError):
            raise SemcacheError(f"{where}: {name} is {shown(value)}; give {field.fix}") from None
    return found


def shown(value: object) -> str:
    """A value as an error shows it: never all of a long one."""
    if isinstance(value, str | int | float):
        return ascii(value)[:60]
    return "null" if value is None else f"a {type(value).__name__}"


def exactly(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:  # a bool is no int here
            raise TypeError
        return value

    return read


def within(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number

    return read


def non_empty(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    return read


def list_of(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError
        return tuple(read(one) for one in value)

    return read_all


def sha256(value: Any) -> bytes:
    key = bytes.fromhex(value)
    if len(key) != 32:
        raise ValueError
    return key


def in_base64(value: Any) -> bytes:
    return base64.b64decode(exactly(str)(value), validate=True)

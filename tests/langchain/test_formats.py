"""A class among a call's arguments is told by its fields, and not by its name."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from langchain_semcache.model_identity import with_schemas


def made(**fields: Any) -> type[BaseModel]:
    return type("Answer", (BaseModel,), {"__annotations__": fields, "__doc__": "An answer."})


class Described(BaseModel):
    """An answer."""

    text: str = Field(description="what to say")


class Typed(TypedDict):
    text: str


@dataclass
class Data:
    text: str


class Mood(Enum):
    GOOD = "good"


class Opaque:
    pass


def test_classes_with_the_same_fields_are_the_same() -> None:
    """As in two processes, or made anew in each call."""
    assert with_schemas(made(text=str)) == with_schemas(made(text=str))


def test_classes_of_one_name_with_other_fields_are_not() -> None:
    kinds = [made(text=str), made(text=int), made(text=str, sure=bool), made(), Described]
    assert len({repr(with_schemas(kind)) for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", [Described, Typed, Data, Mood, int])
def test_what_has_a_schema_is_shown_by_it(kind: type) -> None:
    assert list(with_schemas(kind)) == ["schema of a class"]
    assert "<class" not in repr(with_schemas(kind)) and " at 0x" not in repr(with_schemas(kind))


def test_what_has_none_is_left_and_so_is_not_cached() -> None:
    thing = Opaque()
    assert with_schemas(Opaque) is Opaque
    assert with_schemas(thing) is thing


def test_classes_are_found_inside_other_arguments() -> None:
    inside = {"a": [{"schema": Described}, (Described, 7)], "b": "text"}
    schema = with_schemas(Described)
    assert with_schemas(inside) == {"a": [{"schema": schema}, (schema, 7)], "b": "text"}
    assert inside["a"][0] == {"schema": Described}

"""Lines of JSON that anybody may have written."""

import json
import math
from typing import Annotated, Any

import pytest
from pydantic import Field, model_validator
from semcache_core._utils.json_lines import JsonLine, parse_model, parse_object, shown
from semcache_core.errors import SemcacheError, TrainingError
from typing_extensions import Self

HUGE = 10**400


class Line(JsonLine):
    text: str = Field("", description="a text")
    flag: bool = Field(False, description="true or false")
    count: int = Field(1, ge=1, le=9, description="a whole number from 1 to 9")
    number: float = Field(0.0, description="a finite number")
    texts: Annotated[tuple[str, ...], Field(strict=False)] = Field((), description="a list")


class Needed(JsonLine):
    first: str = Field(description="a text")
    second: str = Field(description="a text")

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.first == self.second:
            raise ValueError("first and second are the same")
        return self


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("text", ["", "a\ud800"], [5, ["a"]]),
        ("flag", [True, False], [1, 0, "true"]),
        ("count", [1, 9], [0, 10, 1.0, True, "1", HUGE]),
        ("number", [0, -1e300], [math.inf, -math.inf, math.nan, HUGE, True, "1"]),
        ("texts", [[], ["a\ud800"]], ["a", {}, {"a": 1}, ["a", 5]]),
    ],
)
def test_a_value_is_read_or_refused(name: str, good: list[Any], bad: list[Any]) -> None:
    fix = Line.model_fields[name].description
    for value in good:
        read = getattr(parse_model(Line, {name: value}, "here", "EXAMPLE"), name)
        assert read == (tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with pytest.raises(SemcacheError, match=rf"^here: {name} is .*; give {fix}$"):
            parse_model(Line, {name: value}, "here", "EXAMPLE")


def test_null_is_as_missing_and_an_unknown_field_is_ignored() -> None:
    assert parse_model(Line, {"text": None, "a\ud800": 5}, "here", "EXAMPLE") == Line()


def test_a_missing_field_is_named() -> None:
    with pytest.raises(SemcacheError, match=r"^here: second is missing; write an object like EX$"):
        parse_model(Needed, {"first": "a", "second": None}, "here", "EX")


def test_a_check_of_the_whole_object_words_its_own_error() -> None:
    with pytest.raises(SemcacheError, match=r"^here: first and second are the same$"):
        parse_model(Needed, {"first": "a", "second": "a"}, "here", "EX")


def test_the_caller_chooses_the_error() -> None:
    with pytest.raises(TrainingError):
        parse_model(Needed, {}, "here", "EX", TrainingError)
    with pytest.raises(TrainingError):
        parse_object("5", "here", "EX", TrainingError)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (None, "null"),
        ([["secret"]], "a list"),
        ("\x1b[31m\ud800", r"'\x1b[31m\ud800'"),
        ("x" * 1000, "'" + "x" * 59),
    ],
)
def test_an_error_shows_a_value_shortly_and_harmlessly(value: Any, text: str) -> None:
    assert shown(value) == text


def test_an_object_is_read_from_text_or_bytes() -> None:
    text = json.dumps({"a": "\ud800"}, ensure_ascii=False)
    for line in (text, text.encode("utf-8", "surrogatepass")):
        assert parse_object(line, "here", "EX") == {"a": "\ud800"}


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"\xff{}", b'{"a": NaN}', b'{"a": -Infinity}', b"[" * 100_000, b"1" * 5000],
)
def test_what_is_not_json_is_named(line: bytes) -> None:
    with pytest.raises(SemcacheError, match=r"^f, line 2 is .*; write an object like EXAMPLE$"):
        parse_object(line, "f, line 2", "EXAMPLE")


@pytest.mark.parametrize("line", [b"5", b'"a"', b"null", b"[1]"])
def test_what_is_not_an_object_is_named(line: bytes) -> None:
    with pytest.raises(SemcacheError, match=r"^f, line 2 is .*; write an object like EXAMPLE$"):
        parse_object(line, "f, line 2", "EXAMPLE")

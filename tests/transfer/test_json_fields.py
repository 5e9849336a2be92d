"""Fields of JSON objects that anybody may have written."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from semcache_core.errors import SemcacheError
from semcache_core.transfer.jsonl import (
    Field,
    exactly,
    in_base64,
    list_of,
    non_empty,
    parse_object,
    read_fields,
    sha256,
    shown,
    whole,
    within,
)

EVERY = within(-math.inf, math.inf)
HUGE = 10**400


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (exactly(str), ["", "a\ud800"], [5, None, ["a"]]),
        (exactly(bool), [True, False], [1, 0, "true"]),
        (non_empty, ["a"], ["", 5, []]),
        (whole(1, 9), [1, 9], [0, 10, 1.0, True, "1", HUGE]),
        (within(0, 2), [0, 2, 1.5], [-0.1, 2.1, True, "1", math.nan]),
        (EVERY, [0, -1e300], [math.inf, -math.inf, math.nan, HUGE, True, "1"]),
        (list_of(exactly(str)), [[], ["a"]], ["a", {}, ["a", 5]]),
        (sha256, ["0f" * 32], ["0f" * 31, "0g" * 32, "ü" * 64, 5]),
        (in_base64, ["", "YQ=="], ["Y", "YQ", "Y Q==", "ü", "YQ==\ud800", 5, b"YQ=="]),
    ],
)
def test_a_value_is_read_or_refused(
    read: Callable[[Any], Any], good: list[Any], bad: list[Any]
) -> None:
    fields = {"it": Field(read, "something else")}
    for value in good:
        assert read_fields({"it": value}, fields, "here").keys() == {"it"}
    for value in bad:
        if value is not None:
            with pytest.raises(SemcacheError, match=r"^here: it is .*; give something else$"):
                read_fields({"it": value}, fields, "here")


def test_what_is_null_or_not_there_or_not_asked_for_is_left_out() -> None:
    fields = {name: Field(exactly(str), "a text") for name in ("a", "b", "c")}
    assert read_fields({"a": "x", "b": None, "d": 5}, fields, "here") == {"a": "x"}


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


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"\xff{}", b'{"a": NaN}', b'{"a": -Infinity}', b"[" * 100_000, b"1" * 5000],
)
def test_what_is_no_json_is_named(line: bytes) -> None:
    with pytest.raises(SemcacheError, match=r"^f, line 2 is .*; write an object like EXAMPLE$"):
        parse_object(line, "f, line 2", "EXAMPLE")


@pytest.mark.parametrize("line", [b"5", b'"a"', b"null", b"[1]"])
def test_what_is_no_object_is_named(line: bytes) -> None:
    with pytest.raises(SemcacheError, match=r"^f, line 2 is .*; write an object like EXAMPLE$"):
        parse_object(line, "f, line 2", "EXAMPLE")

"""Hypothesis strategies for inputs that somebody has tampered with: JSON, text, single values."""

import json
from typing import Any

from hypothesis import strategies as st

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1.5, -0.0, 1e308, -1e308),
    *(float("nan"), float("inf"), "", "a", "0", "\x00", "\ud800", "\u202e", "9" * 5000),
    *("' OR 1 --", [], {}, [[]], [None], {"": None}),
    {"lc": 1, "type": "secret", "id": ["HOME"]},
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "true"}},
    {"lc": 1, "type": "not_implemented", "id": ["x"], "repr": "<object at 0x7f>"},
]
KEYS = ["lc", "id", "type", "kwargs", "content", "path", "url", "question", "vector", "format", "a"]
STRANGE = ["", "\x00", "\ud800", "\n", '"', "{", "]", "\\u", "0", "é", "\u202e"]

values = st.sampled_from(VALUES) | st.sampled_from(VALUES).map(lambda value: [[[value]]])


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one part of it replaced, dropped, doubled or nested."""
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(list(value)))
        what = draw(st.sampled_from(["inside", "inside", "drop", "add", "all"]))
        if what == "drop":
            return {name: part for name, part in value.items() if name != key}
        if what == "add":
            return {**value, draw(st.sampled_from(KEYS)): draw(values)}
        return {**value, key: draw(changed(value[key]))} if what == "inside" else draw(values)
    if isinstance(value, list) and value:
        index = draw(st.integers(0, len(value) - 1))
        what = draw(st.sampled_from(["inside", "inside", "drop", "double", "all"]))
        if what == "drop":
            return value[:index] + value[index + 1 :]
        if what == "double":
            return value * 2
        within = [*value[:index], draw(changed(value[index])), *value[index + 1 :]]
        return within if what == "inside" else draw(values)
    return draw(values | changed_text(value) if isinstance(value, str) and value else values)


@st.composite
def changed_text(draw: st.DrawFn, text: str) -> str:
    """`text` with a few characters dropped, doubled, inserted or replaced."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 1, 1, 5, 50])))
        doubled = text[start:end] if draw(st.booleans()) else ""
        text = text[:start] + draw(st.sampled_from(STRANGE)) + text[end:] + doubled
    return text


@st.composite
def changed_json(draw: st.DrawFn, value: Any) -> str:
    """JSON of `value` with up to two parts changed, or with its text changed; or nested deeply."""
    for _ in range(draw(st.integers(0, 2))):
        value = draw(changed(value))
    text = json.dumps(value)
    how = draw(st.integers(0, 19))
    return "[" * 20_000 if how == 19 else draw(changed_text(text)) if how > 15 else text


def changed_line(value: Any) -> st.SearchStrategy[bytes]:
    """The same as bytes of a file."""
    return changed_json(value).map(lambda text: text.encode("utf-8", "surrogatepass"))

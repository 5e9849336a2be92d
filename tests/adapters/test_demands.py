"""What the arguments of a call demand of its answer, in the forms of all providers."""

from typing import Any

import pytest
from pydantic import BaseModel
from semcache_core.adapters.demands import demands_of


class City(BaseModel):
    name: str
    country: str = ""


@pytest.mark.parametrize(
    "choice",
    [
        *("required", "any", "get_weather", True),
        {"type": "function", "function": {"name": "get_weather"}},
        {"type": "tool", "name": "get_weather"},
        {"type": "any"},
        {"function": {"name": "get_weather"}},
        {"type": "allowed_tools", "mode": "required", "tools": []},
    ],
)
def test_a_forced_tool_demands_a_tool_call(choice: Any) -> None:
    demands = demands_of(object(), {"tool_choice": choice})
    assert not demands.are_met("Basel", calls_tools=False, ending_named=True)
    assert demands.are_met("", calls_tools=True, ending_named=True)


@pytest.mark.parametrize(
    "choice",
    [
        *("auto", "none", "", None, False, 3),
        {"type": "auto"},
        {"type": "allowed_tools", "mode": "auto", "tools": []},
        {},
    ],
)
def test_a_free_choice_demands_nothing(choice: Any) -> None:
    demands = demands_of(object(), {"tool_choice": choice})
    assert demands.are_met("Basel", calls_tools=False, ending_named=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        {"response_format": City},
        {"format": "json"},
        {"format": City.model_json_schema()},
        {"text": {"format": {"type": "json_object"}}},
        {"response_mime_type": "application/json"},
    ],
)
def test_a_json_format_demands_json(arguments: dict[str, Any]) -> None:
    demands = demands_of(object(), arguments)
    assert not demands.are_met("It is Basel.", calls_tools=False, ending_named=True)
    assert demands.are_met('```json\n{"name": "Basel"}\n```', calls_tools=False, ending_named=True)


@pytest.mark.parametrize("wanted", [{"type": "text"}, "text", 3, ["json"], None])
def test_any_other_format_demands_nothing(wanted: Any) -> None:
    demands = demands_of(object(), {"response_format": wanted})
    assert demands.are_met("It is Basel.", calls_tools=False, ending_named=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"response_format": City},
        {"response_schema": City.model_json_schema()},
        {"text": {"format": {"type": "json_schema", "schema": City.model_json_schema()}}},
    ],
)
def test_the_required_keys_of_a_schema_are_demanded(arguments: dict[str, Any]) -> None:
    demands = demands_of(object(), arguments)
    assert demands.required == ("name",)
    for text in ('{"country": "CH"}', '["name"]', "3"):
        assert not demands.are_met(text, calls_tools=False, ending_named=True)
    assert demands.are_met('{"name": "Basel"}', calls_tools=False, ending_named=True)

"""Tools and response formats as the scope sees them: whatever a model is told must differ here."""

from typing import Annotated, Any

import pytest
from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, tool
from pydantic import BaseModel, Field
from semcache_core import SemcacheError, digest

from langchain_semcache.agent_answers import describe_choice, describe_format, describe_tools


def of(args: type[BaseModel] | dict[str, Any], **fields: Any) -> BaseTool:
    fields = {"name": "weather", "description": "The weather.", **fields}
    return StructuredTool(args_schema=args, func=lambda **_: "10 C", **fields)


def args(**fields: Any) -> type[BaseModel]:
    return type("Args", (BaseModel,), {"__annotations__": fields, "__module__": __name__})


PLAIN = of(args(place=str))


@pytest.mark.parametrize(
    "other",
    [
        of(args(place=int)),
        of(args(place=str, day=str)),
        of(args(place=Annotated[str, Field(description="A town.")])),
        of(args(place=Annotated[str, Field(max_length=9)])),
        of(args(place=str), name="climate"),
        of(args(place=str), description="The weather anywhere."),
        of(args(place=str), extras={"defer_loading": True}),
        of({"type": "object", "properties": {"place": {"type": "string", "pattern": "B.*"}}}),
        {"type": "web_search", "max_uses": 3},
    ],
)
def test_tools_that_a_model_is_told_otherwise_differ(other: Any) -> None:
    assert digest(describe_tools([PLAIN])) != digest(describe_tools([other]))


@pytest.mark.parametrize("tool", [{"type": "web_search"}, {"type": "search_2", "name": "search"}])
def test_a_provider_s_tools_differ_in_any_setting(tool: dict[str, Any]) -> None:
    one, two = ({**tool, "max_uses": uses} for uses in (3, 4))
    assert digest(describe_tools([one])) != digest(describe_tools([two]))


def test_the_order_of_tools_counts() -> None:
    other = of(args(place=str), name="climate")
    assert describe_tools([PLAIN, other]) != describe_tools([other, PLAIN])


def test_equal_tools_made_anew_are_equal_whatever_they_do() -> None:
    again = of(args(place=str), tags=["x"], metadata={"y": 1}, return_direct=True)
    again.func = print  # type: ignore[attr-defined]
    assert digest(describe_tools([PLAIN])) == digest(describe_tools([again]))


def test_what_is_injected_into_a_tool_is_not_told_to_the_model() -> None:
    @tool
    def weather(place: str) -> str:
        """The weather."""
        return "10 C"

    plain = describe_tools([weather])

    @tool  # type: ignore[no-redef]
    def weather(place: str, user: Annotated[str, InjectedToolArg]) -> str:
        """The weather."""
        return "10 C"

    assert describe_tools([weather]) == plain


@pytest.mark.parametrize(
    ("describe", "value"),
    [
        (describe_tools, [{"type": "function", "call": print}]),
        (describe_choice, object()),
        (describe_choice, {1, 2}),
        (describe_format, ToolStrategy({"title": "x", "default": object()})),
    ],
)
def test_what_is_no_json_is_an_error_that_says_so(describe: Any, value: Any) -> None:
    with pytest.raises(SemcacheError, match=r"cannot be compared .*not JSON serializable"):
        describe(value)


# -- response formats ------------------------------------------------------------------------------


class Warmth(BaseModel):
    """How warm it is."""

    degrees: int


def warmth(doc: str = "How warm it is.", **fields: Any) -> type[BaseModel]:
    body = {"__doc__": doc, "__annotations__": fields, "__module__": __name__}
    return type("Warmth", (BaseModel,), body)


FORMATS: list[Any] = [
    None,
    Warmth,
    warmth(degrees=float),
    warmth(degrees=int, sure=bool),
    warmth(degrees=Annotated[int, Field(ge=0)]),
    warmth("How cold it is.", degrees=int),
    ToolStrategy(Warmth),
    ToolStrategy(Warmth, tool_message_content="done"),
    ToolStrategy(Warmth | warmth(why=str)),
    ProviderStrategy(Warmth),
    ProviderStrategy(Warmth, strict=True),
    {"title": "Warmth", "type": "object", "properties": {"degrees": {"type": "integer"}}},
    {"title": "Warmth", "type": "object", "properties": {"degrees": {"type": "number"}}},
    {"oneOf": [{"title": "a", "type": "object"}, {"title": "b", "type": "object"}]},
]


def test_response_formats_that_ask_for_something_else_all_differ() -> None:
    described = [digest(describe_format(each)) for each in FORMATS]
    assert len(set(described)) == len(FORMATS)


@pytest.mark.parametrize(
    "same", [warmth(degrees=int), AutoStrategy(Warmth), AutoStrategy(warmth(degrees=int))]
)
def test_a_class_made_anew_or_wrapped_is_the_same_format(same: Any) -> None:
    assert digest(describe_format(same)) == digest(describe_format(Warmth))


@pytest.mark.parametrize(
    "untitled", [{"type": "object"}, {"oneOf": [{"title": "a"}, {"type": "object"}]}]
)
def test_a_json_schema_without_a_title_is_an_error(untitled: Any) -> None:
    for each in (untitled, AutoStrategy(untitled), ToolStrategy(untitled)):
        with pytest.raises(SemcacheError, match='add a "title"'):
            describe_format(each)

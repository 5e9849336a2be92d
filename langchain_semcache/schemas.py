"""Tools and response formats: what of them is in the scope, and an answer as the app wants it."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from langchain.agents.structured_output import (
    AutoStrategy,
    OutputToolBinding,
    ProviderStrategy,
    ProviderStrategyBinding,
    ToolStrategy,
)
from langchain_core.messages import AIMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from semcache_core import SemcacheError

How = Literal["tool", "provider"]
"""A structured answer came as a call of a made-up tool, or as the JSON text of the message."""


def describe_tools(tools: Sequence[Any]) -> list[Any]:
    """Everything a model is told about its tools, as JSON: names, descriptions, arguments.

    Raises SemcacheError for a tool that holds something else than JSON.
    """
    return [_as_json("a tool", _tool(tool)) for tool in tools]


def describe_choice(tool_choice: Any) -> Any:
    """`tool_choice` as it is; raises SemcacheError when it is no JSON."""
    return _as_json("tool_choice", tool_choice)


def describe_format(response_format: Any) -> Any:
    """A response format as JSON: its kind and its fields, not only its class's name.

    Raises SemcacheError for a dict without a title: langchain gives it another name each time, and
    an answer that calls the made-up tool by an old name would lead an agent astray.
    """
    if response_format is None:
        return None
    kind = type(response_format).__name__ if _is_strategy(response_format) else "AutoStrategy"
    content = getattr(response_format, "tool_message_content", None)
    specs = [_spec(spec) for spec in _specs(response_format)]
    return _as_json("response_format", [kind, specs, content])


def structured_answer(message: AIMessage, response_format: Any, how: How) -> Any:
    """The structured response that is in `message`, made and checked by the schema as it is now.

    Raises ValueError when the schema does not take it.
    """
    specs = _specs(response_format)
    if how == "provider":
        [spec] = specs
        return ProviderStrategyBinding.from_schema_spec(spec).parse(message)
    by_name = {spec.name: spec for spec in specs}
    [call] = [call for call in message.tool_calls if call["name"] in by_name]
    return OutputToolBinding.from_schema_spec(by_name[call["name"]]).parse(call["args"])


def _tool(tool: Any) -> Any:
    if isinstance(tool, dict):  # a provider's own, or already a schema
        return tool
    return [convert_to_openai_tool(tool), getattr(tool, "extras", None)]


def _is_strategy(response_format: Any) -> bool:
    return isinstance(response_format, AutoStrategy | ToolStrategy | ProviderStrategy)


def _specs(response_format: Any) -> list[Any]:
    """One for each schema that an answer may have."""
    if isinstance(response_format, ProviderStrategy):
        return [response_format.schema_spec]
    if isinstance(response_format, ToolStrategy):
        return response_format.schema_specs
    schema = response_format.schema if _is_strategy(response_format) else response_format
    return ToolStrategy(schema).schema_specs


def _spec(spec: Any) -> list[Any]:
    if isinstance(spec.schema, dict) and not spec.schema.get("title"):
        raise SemcacheError(
            "response_format is a JSON schema without a title, so that langchain names it at "
            'random; add a "title", calls with it are not cached'
        )
    return [spec.name, spec.description, spec.schema_kind, spec.strict, spec.json_schema]


def _as_json(what: str, value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise SemcacheError(
            f"{what} cannot be compared ({error}), so calls with it are not cached; "
            "describe it in JSON"
        ) from error
    return value

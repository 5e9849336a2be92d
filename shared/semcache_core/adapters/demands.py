"""What a request demands of its answer: a tool call, JSON, a finish reason.

An answer that does not meet it is given to the app and not stored. The app cannot use it and asks
again, and would get it again for ever.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_FREE_CHOICES = {"", "auto", "none", "validated"}
_FORCED_KINDS = {"any", "custom", "function", "required", "tool"}
_JSON_FORMATS = {"json", "json_object", "json_schema", "application/json"}
_FORMAT_ARGUMENTS = (
    *("response_format", "format", "output_format", "output_config", "text"),
    *("response_mime_type", "response_schema", "response_json_schema"),
)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*(.*?)\s*```\s*\Z", re.DOTALL)
_NAME_THEIR_ENDINGS = (
    *("langchain_openai", "langchain_anthropic", "langchain_litellm"),
    *("llama_index.llms.openai", "llama_index.llms.openai_like", "llama_index.llms.anthropic"),
)
"""Packages whose providers always say why an answer ended, also at the end of a stream."""


@dataclass(frozen=True)
class Demands:
    """`required` are the keys that the JSON object must have. With `ending`, an answer without a
    finish reason was cut off. `parse` is the app's parser of the text; it raises for an unfit one.
    """

    tool_call: bool = False
    json: bool = False
    required: tuple[str, ...] = ()
    ending: bool = False
    parse: Callable[[str], object] | None = None

    def are_met(self, text: str, *, calls_tools: bool, ending_named: bool) -> bool:
        if self.ending and not ending_named:
            return False
        if calls_tools:
            return True
        if self.tool_call or (self.json and not self._is_json(text)):
            return False
        return self.parse is None or self._parses(self.parse, text)

    @staticmethod
    def _parses(parse: Callable[[str], object], text: str) -> bool:
        try:
            parse(text)
        except Exception:  # noqa: BLE001 - a parser of the app's own may raise anything
            return False
        return True

    def _is_json(self, text: str) -> bool:
        fenced = _FENCE.match(text)
        try:
            value = json.loads(fenced.group(1) if fenced else text)
        except (ValueError, RecursionError):
            return False
        return not self.required or (
            isinstance(value, dict) and all(name in value for name in self.required)
        )


def demands_of(
    model: object, arguments: Mapping[str, Any], parse: Callable[[str], object] | None = None
) -> Demands:
    """Read the arguments of a call in the form of any provider; unknown ones demand nothing."""
    formats = [arguments[name] for name in _FORMAT_ARGUMENTS if arguments.get(name) is not None]
    schemas = [schema for one in formats for schema in _schemas(one)]
    required: list[Any] = next(
        (s["required"] for s in schemas if isinstance(s.get("required"), list)), []
    )
    return Demands(
        tool_call=_is_forced(arguments.get("tool_choice")),
        json=any(map(_demands_json, formats)),
        required=tuple(map(str, required)),
        ending=any(_is_of(kind.__module__) for kind in type(model).__mro__),
        parse=parse,
    )


def _is_forced(choice: Any) -> bool:
    if isinstance(choice, str):
        return choice.lower() not in _FREE_CHOICES  # any other text is the name of a tool
    if not isinstance(choice, Mapping):
        return choice is True
    if choice.get("type") == "allowed_tools":
        return choice.get("mode") == "required"
    return str(choice.get("type") or next(iter(choice), "")).lower() in _FORCED_KINDS


def _demands_json(wanted: Any) -> bool:
    if isinstance(wanted, str):
        return wanted in _JSON_FORMATS
    if isinstance(wanted, type):
        return True
    if not isinstance(wanted, Mapping):
        return False
    inner = wanted.get("format")
    return wanted.get("type") in (*_JSON_FORMATS, "object") or _demands_json(inner)


def _schemas(wanted: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the JSON schemas in a response format."""
    if isinstance(wanted, type):
        make = getattr(wanted, "model_json_schema", None)
        wanted = make() if callable(make) else None
    if not isinstance(wanted, Mapping):
        return
    if wanted.get("type") == "object":
        yield wanted
    for name in ("json_schema", "schema", "format"):
        yield from _schemas(wanted.get(name))


def _is_of(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _NAME_THEIR_ENDINGS)

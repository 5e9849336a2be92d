"""An agent's model call: its tools and response format as JSON, and its answer as JSON text."""

import json
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.structured_output import (
    AutoStrategy,
    OutputToolBinding,
    ProviderStrategy,
    ProviderStrategyBinding,
    ToolStrategy,
)
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.utils.function_calling import convert_to_openai_tool
from semcache_core import Hit, SemcacheError, Usage
from semcache_core.adapters import Demands

from langchain_semcache.serialization import (
    calls_tools,
    dump_generations,
    is_storable,
    load_generations,
    mark,
    plain_text,
    usage_of,
)
from langchain_semcache.wrapper import unobserved


@dataclass(frozen=True)
class Step:
    """One model call of an agent. `context` is the caller's, as LangChain finds the run there."""

    request: ModelRequest[Any]
    handler: Callable[[ModelRequest[Any]], Any]
    context: Context = field(default_factory=copy_context)


def ask(step: Step) -> Generator[ModelResponse[Any], None, None]:
    # another caller's thread may ask for all who wait
    yield step.context.run(step.handler, step.request)


async def aask(step: Step) -> AsyncGenerator[ModelResponse[Any], None]:
    yield await step.handler(step.request)


def unobserved_step(step: Step) -> Step:
    """Return `step` for an audit, which the app's callbacks and caches must not see."""
    request = step.request.override(model=unobserved(step.request.model))
    return replace(step, request=request, context=Context())


def tools_called_in(messages: Sequence[BaseMessage]) -> set[str]:
    """Return the names of all tools called in `messages`, by the agent or by the provider."""
    return set[str]().union(*map(_named_in, messages))


def tools_run_inside(answer: Sequence[BaseMessage]) -> set[str]:
    """Return the names of the tools that the provider ran; the calls in `answer` run later."""
    messages = [message for message in answer if isinstance(message, AIMessage)]
    return set[str]().union(*(_names_in_blocks(one) - _names_of_calls(one) for one in messages))


def _named_in(message: BaseMessage) -> set[str]:
    if isinstance(message, AIMessage):
        return _names_of_calls(message) | _names_in_blocks(message)
    return {str(message.name)} if isinstance(message, ToolMessage) else set()


def _names_of_calls(message: AIMessage) -> set[str]:
    return {str(call["name"]) for call in (*message.tool_calls, *message.invalid_tool_calls)}


def _names_in_blocks(message: AIMessage) -> set[str]:
    """The tools that OpenAI (type `web_search_call`) or Anthropic (a name) ran themselves."""
    blocks = [block for block in message.content if isinstance(block, dict)]
    by_type = {str(block.get("type")).removesuffix("_call") for block in blocks}
    return by_type | {str(block["name"]) for block in blocks if "name" in block}


How = Literal["tool", "provider"]
"""A structured answer is a call of an artificial tool, or the JSON text of the message."""


def describe_tools(tools: Sequence[Any]) -> list[Any]:
    """Return all that a model sees of its tools, as JSON: names, descriptions, arguments.

    Raises SemcacheError for a tool that is not JSON.
    """
    return [_as_json("a tool", _tool(tool)) for tool in tools]


def describe_choice(tool_choice: Any) -> Any:
    """Return `tool_choice`; raises SemcacheError when it is not JSON."""
    return _as_json("tool_choice", tool_choice)


def describe_format(response_format: Any) -> Any:
    """Return a response format as JSON: its kind and its fields, not only its class's name.

    Raises SemcacheError for a dict without a title: langchain gives it another name each time, and
    an agent does not know the artificial tool by an old name.
    """
    if response_format is None:
        return None
    kind = type(response_format).__name__ if _is_strategy(response_format) else "AutoStrategy"
    content = getattr(response_format, "tool_message_content", None)
    specs = [_spec(spec) for spec in _specs(response_format)]
    return _as_json("response_format", [kind, specs, content])


def structured_answer(message: AIMessage, response_format: Any, how: How) -> Any:
    """Make the structured response in `message`, checked by the present schema.

    Raises ValueError when the schema does not accept it.
    """
    specs = _specs(response_format)
    if how == "provider":
        [spec] = specs
        return ProviderStrategyBinding.from_schema_spec(spec).parse(message)
    by_name = {spec.name: spec for spec in specs}
    [call] = [call for call in message.tool_calls if call["name"] in by_name]
    return OutputToolBinding.from_schema_spec(by_name[call["name"]]).parse(call["args"])


def _tool(tool: Any) -> Any:
    if isinstance(tool, dict):  # the provider's own tool, or a schema
        return tool
    return [convert_to_openai_tool(tool), getattr(tool, "extras", None)]


def _is_strategy(response_format: Any) -> bool:
    return isinstance(response_format, AutoStrategy | ToolStrategy | ProviderStrategy)


def _specs(response_format: Any) -> list[Any]:
    """Return a spec for each schema that an answer may have."""
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


def generations_of(response: ModelResponse[Any]) -> list[ChatGeneration]:
    """Return the model's own message, without what langchain made of it; empty if it is missing."""
    return [
        ChatGeneration(message=message)
        for message in response.result[:1]
        if isinstance(message, AIMessage)
    ]


def asks_for_tools(response: ModelResponse[Any]) -> bool:
    """Whether the answer calls a tool, also an artificial one for structured output."""
    return calls_tools(generations_of(response))


@dataclass(frozen=True)
class Answer:
    """A response that may be repeated, and its JSON text."""

    response: ModelResponse[Any]
    text: str

    @property
    def usage(self) -> Usage:
        """The tokens that the model reports."""
        return usage_of(generations_of(self.response))


@dataclass(frozen=True)
class AnswerCodec:
    """The codec of answers to a step with this response format."""

    response_format: Any

    def dump(self, answer: Answer) -> str:
        return answer.text

    def load(self, text: str, hit: Hit | None) -> Answer:
        return Answer(load_answer(text, self.response_format, hit), text)

    def is_storable(self, answer: Answer) -> bool:
        """Always: see `dump_answer`."""
        return True

    def calls_tools(self, answer: Answer) -> bool:
        return asks_for_tools(answer.response)

    def words(self, answer: Answer) -> str | None:
        return plain_text(generations_of(answer.response))


def dump_answer(response: ModelResponse[Any], response_format: Any, demands: Demands) -> str | None:
    """Return JSON text; None for an answer that must not be repeated, or cannot be rebuilt equal.

    The model's message and its tool results are stored, not the structured response: this is an
    object of the app, made again from the message by the app's schema.
    """
    generations = generations_of(response)
    if not is_storable(generations, demands) or _is_unfinished(response, response_format):
        return None
    message, *others = response.result
    results = [_result(message, other) for other in others]
    if None in results:
        return None
    how = None
    if response.structured_response is not None:
        how = "tool" if results else "provider"
    text = json.dumps({"answer": dump_generations(generations), "results": results, "how": how})
    return text if _rebuilds(text, response, response_format) else None


def load_answer(text: str, response_format: Any, hit: Hit | None = None) -> ModelResponse[Any]:
    """Read what `dump_answer` wrote, with fresh ids, marked as `hit`.

    Raises an error for any other text, or when the schema no longer accepts the answer.
    """
    stored = json.loads(text)
    generations = load_generations(stored["answer"])
    mark(generations, hit)
    [generation] = generations
    if not isinstance(generation, ChatGeneration):
        raise ValueError(f"a stored answer holds a {type(generation).__name__}")
    message = generation.message
    if not isinstance(message, AIMessage):
        raise ValueError(f"a stored answer is a {type(message).__name__}")
    results = [
        ToolMessage(**fields, tool_call_id=message.tool_calls[call]["id"])
        for call, fields in stored["results"]
    ]
    how = stored["how"]
    structured = None if how is None else structured_answer(message, response_format, how)
    return ModelResponse(result=[message, *results], structured_response=structured)


def _is_unfinished(response: ModelResponse[Any], response_format: Any) -> bool:
    """Whether a requested structured response is missing: langchain will ask again."""
    if response_format is None or response.structured_response is not None:
        return False
    return len(response.result) > 1 or not asks_for_tools(response)


def _result(message: BaseMessage, other: BaseMessage) -> list[Any] | None:
    """Return a tool result as [index of the call, fields]; None for any other message."""
    ids = [call["id"] for call in message.tool_calls] if isinstance(message, AIMessage) else []
    if not isinstance(other, ToolMessage) or ids.count(other.tool_call_id) != 1:
        return None
    fields = {"content": other.content, "name": other.name, "status": other.status}
    return [ids.index(other.tool_call_id), fields]


def _rebuilds(text: str, response: ModelResponse[Any], response_format: Any) -> bool:
    """Whether a hit would equal `response`, except for the ids."""
    rebuilt = load_answer(text, response_format)
    ids = {"id", "tool_call_id"}
    return bool(rebuilt.structured_response == response.structured_response) and [
        message.model_dump(exclude=ids) for message in rebuilt.result[1:]
    ] == [message.model_dump(exclude=ids) for message in response.result[1:]]

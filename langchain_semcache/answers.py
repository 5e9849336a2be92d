"""A model's answer inside an agent, as text and back: the message and what was made of it."""

import json
from typing import Any

from langchain.agents.middleware import ModelResponse
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration
from semcache_core import Hit

from langchain_semcache.generations import (
    calls_tools,
    dump_generations,
    is_storable,
    load_generations,
)
from langchain_semcache.hits import mark
from langchain_semcache.schemas import structured_answer


def generations_of(response: ModelResponse[Any]) -> list[ChatGeneration]:
    """The model's own message; what langchain made of it is no part. Empty where it is missing."""
    return [
        ChatGeneration(message=message)
        for message in response.result[:1]
        if isinstance(message, AIMessage)
    ]


def asks_for_tools(response: ModelResponse[Any]) -> bool:
    """Whether the answer calls a tool, also a made-up one for structured output."""
    return calls_tools(generations_of(response))


def dump_answer(response: ModelResponse[Any], response_format: Any) -> str | None:
    """JSON text; None for what must not be repeated, or could not be rebuilt just as it is.

    Only the model's message and the results it was given are stored, never the structured
    response: that is an object of the app, made again from the message by the app's own schema.
    """
    generations = generations_of(response)
    if not is_storable(generations) or _is_unfinished(response, response_format):
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
    """What `dump_answer` was given, with fresh ids throughout, marked as `hit`.

    Raises an error when the text is something else, or the schema no longer takes the answer.
    """
    stored = json.loads(text)
    generations = load_generations(stored["answer"])
    if hit is not None:
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
    """A structured response was asked for and what came is none: langchain will ask again."""
    if response_format is None or response.structured_response is not None:
        return False
    return len(response.result) > 1 or not asks_for_tools(response)


def _result(message: BaseMessage, other: BaseMessage) -> list[Any] | None:
    """A tool result as [which call of `message`, fields]; None for any other message."""
    ids = [call["id"] for call in message.tool_calls] if isinstance(message, AIMessage) else []
    if not isinstance(other, ToolMessage) or ids.count(other.tool_call_id) != 1:
        return None
    fields = {"content": other.content, "name": other.name, "status": other.status}
    return [ids.index(other.tool_call_id), fields]


def _rebuilds(text: str, response: ModelResponse[Any], response_format: Any) -> bool:
    """Whether a hit would be what the app got now, but for its ids."""
    rebuilt = load_answer(text, response_format)
    ids = {"id", "tool_call_id"}
    return bool(rebuilt.structured_response == response.structured_response) and [
        message.model_dump(exclude=ids) for message in rebuilt.result[1:]
    ] == [message.model_dump(exclude=ids) for message in response.result[1:]]

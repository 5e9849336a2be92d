"""LangChain's own suites for chat models, unmodified: on a model, and on the same model cached.

Both run with the same settings, so whatever passes or is skipped on the model does so behind the
cache.
"""

import json
from collections.abc import Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from semcache_core import SemanticCache

from langchain_semcache import CachedChatModel

USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
VALUES = {"integer": 3, "string": "你好, こんにちは", "array": [], "object": {}}


class Capable(BaseChatModel):
    """Calls the first tool that it is given, and says something else; streamed or not."""

    model: str = "capable-1"
    temperature: float = 1.0
    max_tokens: int | None = None
    streaming: bool = False

    @property
    def _llm_type(self) -> str:
        return "capable"

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        shown = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=shown, tool_choice=tool_choice, **kwargs)

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        message = self._answer(messages, stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        message = self._answer(messages, stop, **kwargs)
        calls = [
            tool_call_chunk(
                name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=0
            )
            for call in message.tool_calls
        ]
        first = AIMessageChunk(message.content, usage_metadata=USAGE, tool_call_chunks=calls)
        first.response_metadata = message.response_metadata
        for chunk in (first, AIMessageChunk("", chunk_position="last")):
            yield ChatGenerationChunk(message=chunk)

    def _answer(self, messages: list[BaseMessage], stop: Any, **kwargs: Any) -> AIMessage:
        told = {"model_name": kwargs.get("model", self.model)}
        if kwargs.get("tools") and isinstance(messages[-1], HumanMessage):
            function = kwargs["tools"][0]["function"]
            properties = function["parameters"].get("properties", {})
            args = {name: VALUES[of.get("type", "string")] for name, of in properties.items()}
            call = tool_call(name=function["name"], args=args, id="call_1")
            return AIMessage("", tool_calls=[call], usage_metadata=USAGE, response_metadata=told)
        return AIMessage("Hello, world", usage_metadata=USAGE, response_metadata=told)


class CachedCapable(CachedChatModel):
    """Takes the model's settings, as the suites build what they test from these."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Capable(**settings), cache=SemanticCache(path=None))


class Plain:
    chat_model_class = Capable
    model_override_value = "capable-2"


class Cached(Plain):
    chat_model_class = CachedCapable


class TestPlainUnits(Plain, ChatModelUnitTests): ...


class TestCachedUnits(Cached, ChatModelUnitTests): ...


class TestPlain(Plain, ChatModelIntegrationTests): ...


class TestCached(Cached, ChatModelIntegrationTests): ...

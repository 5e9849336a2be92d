"""LLMs that answer from a script and count what they are asked, in every way LlamaIndex asks."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import Field, PrivateAttr

Script = Callable[[Sequence[ChatMessage], dict[str, Any]], ChatResponse]
Items = list[ChatResponse] | list[CompletionResponse]
Way = Callable[[LLM, str], Awaitable[Items]]


def said(text: str, **fields: Any) -> ChatResponse:
    """A response of the assistant."""
    return ChatResponse(message=ChatMessage(role="assistant", content=text), **fields)


def calling(
    name: str, call_id: str | None = "call_abc123DEF456", /, **arguments: Any
) -> ChatResponse:
    """A response that calls a tool."""
    block = ToolCallBlock(tool_call_id=call_id, tool_name=name, tool_kwargs=arguments)
    return ChatResponse(message=ChatMessage(role="assistant", blocks=[block]))


def user(text: str) -> list[ChatMessage]:
    """A conversation of one question."""
    return [ChatMessage(role="user", content=text)]


class ScriptedLLM(LLM):
    """A chat model: `answers` in turn, the last one again and again, or what `script` makes of a
    call. A stream gives the words one by one. `asked` holds the messages of each call.
    """

    model: str = "scripted-1"
    temperature: float = 0.0
    api_key: str = Field(default="sk-SENTINEL")
    is_chat_model: bool = True

    _answers: list[ChatResponse] = PrivateAttr()
    _script: Script | None = PrivateAttr(default=None)
    _asked: list[list[ChatMessage]] = PrivateAttr(default_factory=list)
    _arguments: list[dict[str, Any]] = PrivateAttr(default_factory=list)
    _error: BaseException | None = PrivateAttr(default=None)
    _breaks_after: int | None = PrivateAttr(default=None)
    _gate: asyncio.Event | None = PrivateAttr(default=None)

    def __init__(
        self,
        *answers: str | ChatResponse,
        script: Script | None = None,
        error: BaseException | None = None,
        breaks_after: int | None = None,
        gate: asyncio.Event | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(**fields)
        given = answers or ("an answer",)
        self._answers = [said(one) if isinstance(one, str) else one for one in given]
        self._script, self._error = script, error
        self._breaks_after, self._gate = breaks_after, gate

    @classmethod
    def class_name(cls) -> str:
        return "scripted"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=self.is_chat_model)

    @property
    def calls(self) -> int:
        return len(self._asked)

    @property
    def asked(self) -> list[list[ChatMessage]]:
        return self._asked

    @property
    def arguments(self) -> list[dict[str, Any]]:
        return self._arguments

    def _next(self, messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
        self._asked.append(list(messages))
        self._arguments.append(arguments)
        if self._error is not None:
            raise self._error
        if self._script is not None:
            return self._script(messages, arguments)
        return self._answers[min(len(self._asked), len(self._answers)) - 1].model_copy(deep=True)

    def _items(self, answer: ChatResponse) -> Generator[ChatResponse, None, None]:
        """Text word by word, as integrations give it: all so far, and what is new."""
        so_far = ""
        words = [w + " " for w in (answer.message.content or "").split(" ")]
        words[-1] = words[-1][:-1]
        others = [b for b in answer.message.blocks if not isinstance(b, TextBlock)]
        for number, word in enumerate(words):
            if number == self._breaks_after:
                raise ConnectionError("the stream broke")
            so_far += word
            last = number == len(words) - 1
            blocks = [TextBlock(text=so_far)] if so_far or not others else []
            yield ChatResponse(
                message=ChatMessage(
                    role="assistant",
                    blocks=[*blocks, *(others if last else ())],
                    additional_kwargs=answer.message.additional_kwargs if last else {},
                ),
                delta=word,
                raw=answer.raw if last else None,
                additional_kwargs=answer.additional_kwargs if last else {},
            )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._next(messages, kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        answer = self._next(messages, kwargs)
        if self._gate is not None:
            await self._gate.wait()
        return answer

    @llm_chat_callback()
    def stream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> Generator[ChatResponse, None, None]:
        return self._items(self._next(messages, kwargs))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> AsyncGenerator[ChatResponse, None]:
        answer = self._next(messages, kwargs)

        async def items() -> AsyncGenerator[ChatResponse, None]:
            for item in self._items(answer):
                yield item

        return items()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _completion(self._next(user(prompt), kwargs))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        return _completion(self._next(user(prompt), kwargs))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> Generator[CompletionResponse, None, None]:
        answer = self._next(user(prompt), kwargs)
        return (_completion(item) for item in self._items(answer))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> AsyncGenerator[CompletionResponse, None]:
        answer = self._next(user(prompt), kwargs)

        async def items() -> AsyncGenerator[CompletionResponse, None]:
            for item in self._items(answer):
                yield _completion(item)

        return items()


class ScriptedCallingLLM(ScriptedLLM, FunctionCallingLLM):
    """A model that can call tools. It takes them as schemas, and `tool_choice`."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            model_name=self.model, is_chat_model=True, is_function_calling_model=True
        )

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        message = user(user_msg) if isinstance(user_msg, str) else [user_msg] if user_msg else []
        return {
            "messages": [*(chat_history or ()), *message],
            "tools": [tool.metadata.to_openai_tool() for tool in tools],
            "tool_choice": "required" if tool_required else "auto",
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
        if error_on_no_tool_call and not blocks:
            raise ValueError("no tool was called")
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=block.tool_kwargs if isinstance(block.tool_kwargs, dict) else {},
            )
            for block in blocks
        ]


def _completion(response: ChatResponse) -> CompletionResponse:
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


async def _chat(llm: LLM, text: str) -> Items:
    return [llm.chat(user(text))]


async def _achat(llm: LLM, text: str) -> Items:
    return [await llm.achat(user(text))]


async def _stream_chat(llm: LLM, text: str) -> Items:
    return list(llm.stream_chat(user(text)))


async def _astream_chat(llm: LLM, text: str) -> Items:
    return [item async for item in await llm.astream_chat(user(text))]


async def _complete(llm: LLM, text: str) -> Items:
    return [llm.complete(text)]


async def _acomplete(llm: LLM, text: str) -> Items:
    return [await llm.acomplete(text)]


async def _stream_complete(llm: LLM, text: str) -> Items:
    return list(llm.stream_complete(text))


async def _astream_complete(llm: LLM, text: str) -> Items:
    return [item async for item in await llm.astream_complete(text)]


CHATS: dict[str, Way] = {
    "chat": _chat,
    "achat": _achat,
    "stream_chat": _stream_chat,
    "astream_chat": _astream_chat,
}
COMPLETIONS: dict[str, Way] = {
    "complete": _complete,
    "acomplete": _acomplete,
    "stream_complete": _stream_complete,
    "astream_complete": _astream_complete,
}
WAYS = {**CHATS, **COMPLETIONS}
"""Every way to ask: each gives the items of a stream, or the one answer."""


def text_of(items: Items) -> str:
    """What the last item holds."""
    last = items[-1]
    return last.text if isinstance(last, CompletionResponse) else last.message.content or ""


def shown(items: Items) -> str:
    """What an app shows that puts the deltas together; the text of a single answer."""
    return text_of(items) if len(items) == 1 else "".join(item.delta or "" for item in items)

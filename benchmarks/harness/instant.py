"""Models of both frameworks that answer at once: all that a call costs is what is around them.

Where they are asked in a task they take `delay` seconds; `asked` counts.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import SimpleChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

ANSWER = "Open the settings, choose your account, and follow the steps on the screen. " * 4


class Instant(SimpleChatModel):
    """LangChain's."""

    asked: int = 0
    delay: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "instant"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": "instant"}

    def _call(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> str:
        self.asked += 1
        return ANSWER

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        await asyncio.sleep(self.delay)
        return self._generate(messages)


class InstantLLM(CustomLLM):
    """LlamaIndex's."""

    model: str = "instant"
    asked: int = 0
    delay: float = 0.0

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=True)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self.asked += 1
        return ChatResponse(message=ChatMessage(role="assistant", content=ANSWER))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        await asyncio.sleep(self.delay)
        self.asked += 1
        return ChatResponse(message=ChatMessage(role="assistant", content=ANSWER))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.asked += 1
        return CompletionResponse(text=ANSWER)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        yield self.complete(prompt)

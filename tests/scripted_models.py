"""LangChain models that answer from a script and remember what they were asked."""

from collections.abc import AsyncIterator, Iterator, Mapping
from inspect import isawaitable
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr, SecretStr
from typing_extensions import Self


class Scripted(BaseChatModel):
    """Gives the answers of its script, then "answer 2", "answer 3" ... : no two are the same."""

    _script: Iterator[Any] = PrivateAttr(default_factory=lambda: iter(()))
    _asked: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def answering(self, *answers: Any) -> Self:
        """Strings, messages, generations, errors to raise, or functions that give one of these."""
        self._script = iter(answers)
        return self

    @property
    def asked(self) -> int:
        """How often the model itself was called."""
        return len(self._asked)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self._asked.append(messages)
        answer = next(self._script, f"answer {len(self._asked)}")
        return _result(answer() if callable(answer) else answer)


def _result(answer: Any) -> ChatResult:
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, ChatResult):
        return answer
    if not isinstance(answer, ChatGeneration):
        message = answer if isinstance(answer, BaseMessage) else AIMessage(answer)
        answer = ChatGeneration(message=message)
    return ChatResult(generations=[answer])


class Chat(Scripted):
    """Serialisable, as ChatOpenAI is: LangChain shows a cache all its fields."""

    model_name: str = "gpt-1"
    temperature: float = 0.0
    default_headers: Mapping[str, str] | None = None
    api_key: SecretStr | None = None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        return {"api_key": "CHAT_API_KEY"}


class OllamaLike(Scripted):
    """Shows a cache `_type` and nothing else, as ChatOllama does."""

    model: str = "llama3"
    temperature: float | None = None
    mirostat: int | None = None
    calls: int = 0
    """A counter among the fields, as LangChain's own fake models have one."""

    @property
    def _llm_type(self) -> str:
        return "chat-ollama"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        self.calls += 1
        return super()._generate(*args, **kwargs)


class Streaming(Chat):
    """Streams too: a text word by word, a list part by part.

    Parts are texts, chunks, errors to raise, and functions to call before it goes on. Its async
    methods await a function's result, when that is awaitable.
    """

    _open: int = PrivateAttr(default=0)

    @property
    def open_streams(self) -> int:
        """Begun and neither ended nor closed."""
        return self._open

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        self._asked.append(messages)
        answer = next(self._script, f"answer {len(self._asked)}")
        return _result(await _called(answer) if callable(answer) else answer)

    def _parts(self, messages: list[BaseMessage]) -> list[Any]:
        self._asked.append(messages)
        answer = next(self._script, f"answer {len(self._asked)}")
        if isinstance(answer, str):
            return answer.replace(" ", " |").split("|")
        return answer if isinstance(answer, list) else [answer]

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self._open += 1
        try:
            for part in self._parts(messages):
                if callable(part):
                    part()
                else:
                    yield _chunk(part)
        finally:
            self._open -= 1

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        self._open += 1
        try:
            for part in self._parts(messages):
                if callable(part):
                    await _called(part)
                else:
                    yield _chunk(part)
        finally:
            self._open -= 1


async def _called(function: Any) -> Any:
    value = function()
    return await value if isawaitable(value) else value


def _chunk(part: Any) -> ChatGenerationChunk:
    if isinstance(part, BaseException):
        raise part
    if isinstance(part, ChatGenerationChunk):
        return part
    message = part if isinstance(part, AIMessageChunk) else AIMessageChunk(content=part)
    return ChatGenerationChunk(message=message)

"""LangChain models that answer from a script and remember what they were asked."""

from collections.abc import Iterator, Mapping
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr, SecretStr
from typing_extensions import Self


class Scripted(BaseChatModel):
    """Gives the answers of its script, then "answer 2", "answer 3" ... : no two are the same."""

    _script: Iterator[Any] = PrivateAttr(default_factory=lambda: iter(()))
    _asked: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def answering(self, *answers: Any) -> Self:
        """Strings, messages, generations, or errors to raise."""
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
        if isinstance(answer, Exception):
            raise answer
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

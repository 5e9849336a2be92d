"""Models of real client libraries, set up against the fake provider."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_provider import Body, Provider, Reply
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_litellm import ChatLiteLLM
from langchain_openai import ChatOpenAI
from langchain_openai import OpenAI as TextOpenAI
from llama_index.core.llms.llm import LLM
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from semcache_core import SemanticCache

KEY = "sk-of-a-test"


def chat_openai(provider: Provider, **more: Any) -> BaseChatModel:
    at = {"base_url": f"{provider.url}/v1", "api_key": KEY, "max_retries": 0}
    return ChatOpenAI(model="gpt-4.1-mini", **at, **more)


def chat_openai_responses(provider: Provider, **more: Any) -> BaseChatModel:
    return chat_openai(provider, use_responses_api=True, output_version="responses/v1", **more)


def chat_anthropic(provider: Provider, **more: Any) -> BaseChatModel:
    at: Any = {"base_url": provider.url, "api_key": KEY, "max_retries": 0}
    return ChatAnthropic(model_name="claude-sonnet-4-5", **at, **more)


def chat_litellm(provider: Provider, **more: Any) -> BaseChatModel:
    at: Any = {"api_base": f"{provider.url}/v1", "api_key": KEY, "max_retries": 0}
    # `max_retries` above is LangChain's; OpenAI's client inside has its own, with a second of pause
    inner = {"max_retries": 0}
    return ChatLiteLLM(model="openai/gpt-4.1-mini", model_kwargs=inner, **at, **more)


def text_openai(provider: Provider, **more: Any) -> BaseLLM:
    at: Any = {"base_url": f"{provider.url}/v1", "api_key": KEY, "max_retries": 0}
    return TextOpenAI(model="gpt-3.5-turbo-instruct", **at, **more)


def llama_openai(provider: Provider, **more: Any) -> LLM:
    at: Any = {"api_base": f"{provider.url}/v1", "api_key": KEY, "max_retries": 0}
    return OpenAI(model="gpt-4.1-mini", **at, **more)


def llama_openai_responses(provider: Provider, **more: Any) -> LLM:
    at: Any = {"api_base": f"{provider.url}/v1", "api_key": KEY, "max_retries": 0}
    return OpenAIResponses(model="gpt-4.1-mini", **at, **more)


def llama_openai_like(provider: Provider, **more: Any) -> LLM:
    at: Any = {"api_base": f"{provider.url}/v1", "api_key": KEY, "max_retries": 0}
    options = {"is_chat_model": True, "is_function_calling_model": True} | more
    return OpenAILike(model="some-model", **at, **options)


def llama_anthropic(provider: Provider, **more: Any) -> LLM:
    at: Any = {"base_url": provider.url, "api_key": KEY, "max_retries": 0}
    return Anthropic(model="claude-sonnet-4-5", **at, **more)


PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADU"
    "lEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
OTHER_PNG = PNG.replace("hgGA", "hgGB")


def filling(*objects: dict[str, Any]) -> Callable[[Body], Reply]:
    """Give these in turn, the last one ever after: as a call of the tool, or as JSON text."""
    script = list(objects)

    def answer(body: Body) -> Reply:
        fields = script.pop(0) if len(script) > 1 else script[0]
        for tool in body.get("tools") or ():
            return Reply(tools=((str((tool.get("function") or tool)["name"]), fields),))
        return Reply(json.dumps(fields))

    return answer


def assert_fails_alike(
    plain: Callable[[], Any], cached: Callable[[], Any], cache: SemanticCache
) -> Exception:
    """Both raise the same, and nothing is stored; returns what the cached call raised."""
    with pytest.raises(Exception) as expected:
        plain()
    with pytest.raises(Exception) as raised:
        cached()
    assert type(raised.value) is type(expected.value)
    assert str(raised.value) == str(expected.value)
    assert cache.stats().entries == 0
    return raised.value


WHOLE, PART = "Press the red button.", "Press the red"


def assert_only_the_whole_answer_is_kept(provider: Provider, ask: Callable[[], str]) -> None:
    """The provider first gives PART, cut off in some way, and then WHOLE."""
    assert [ask().strip() for _ in range(3)] == [PART, WHOLE, WHOLE]
    assert provider.calls == 2


LANGCHAIN: dict[str, Callable[..., BaseChatModel]] = {
    "ChatOpenAI": chat_openai,
    "ChatOpenAI, responses": chat_openai_responses,
    "ChatAnthropic": chat_anthropic,
    "ChatLiteLLM": chat_litellm,
}
LLAMAINDEX: dict[str, Callable[..., LLM]] = {
    "OpenAI": llama_openai,
    "OpenAIResponses": llama_openai_responses,
    "OpenAILike": llama_openai_like,
    "Anthropic": llama_anthropic,
}

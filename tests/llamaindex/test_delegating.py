"""An LLM around another one: it has all that LlamaIndex asks of the one in it."""

from typing import Any

import pytest
from conftest import Bench
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from scripted_llms import ScriptedCallingLLM, ScriptedLLM

from llamaindex_semcache import CachedLLM

OTHER = {
    "callback_manager": CallbackManager([]),
    "rate_limiter": object(),
    "system_prompt": "Be brief.",
    "messages_to_prompt": lambda messages: "all",
    "completion_to_prompt": lambda prompt: f"<{prompt}>",
    "pydantic_program_mode": PydanticProgramMode.LLM,
    "query_wrapper_prompt": PromptTemplate("[{query_str}]"),
}


@pytest.mark.parametrize("inner", [ScriptedLLM(), ScriptedCallingLLM()])
def test_it_says_of_itself_what_the_llm_says(bench: Bench, inner: ScriptedLLM) -> None:
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert isinstance(llm, FunctionCallingLLM)
    assert llm.metadata == inner.metadata
    assert llm.to_payload() == inner.to_payload()
    assert llm.class_name() == "CachedLLM"


def test_it_begins_with_what_the_llm_has(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM(**OTHER), cache=bench.open())
    for name, value in OTHER.items():
        assert getattr(llm, name) is value, name
        assert getattr(llm.llm, name) is value, name


@pytest.mark.parametrize("name", OTHER)
def test_what_is_set_later_reaches_the_llm(bench: Bench, name: str) -> None:
    llm = CachedLLM(llm=ScriptedLLM(), cache=bench.open())
    setattr(llm, name, OTHER[name])
    assert getattr(llm, name) is OTHER[name] and getattr(llm.llm, name) is OTHER[name]


def test_every_field_of_an_llm_is_among_them() -> None:
    assert set(LLM.model_fields) == {*OTHER, "output_parser"}


class Addressed(ScriptedLLM):
    """Renders in a way of its own."""

    def _extend_messages(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        return [ChatMessage(role="developer", content="Dear model"), *messages]

    def _extend_prompt(self, formatted_prompt: str) -> str:
        return f"Dear model, {formatted_prompt}"


@pytest.mark.parametrize("is_chat_model", [True, False])
def test_prompts_are_rendered_as_the_llm_renders_them(bench: Bench, is_chat_model: bool) -> None:
    asked: list[Any] = []
    for wrap in (lambda llm: llm, lambda llm: CachedLLM(llm=llm, cache=bench.open())):
        inner = Addressed(is_chat_model=is_chat_model)
        wrap(inner).predict(PromptTemplate("say {word}"), word="hello")
        asked.append(inner.asked)
    assert asked[0] == asked[1] and "Dear model" in str(asked[0])

"""An LLM around another one, which has the other one's metadata, prompts and tools."""

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata
from llama_index.core.bridge.pydantic import SerializeAsAny, field_serializer
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate
from semcache_core import SemcacheError
from typing_extensions import Self

from llamaindex_semcache.model_identity import redacted

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

_SHARED = frozenset(LLM.model_fields)
"""The fields of every LLM: the callback manager, the system prompt, the output parser ..."""


class DelegatingLLM(FunctionCallingLLM):
    """Has the metadata, the prompts, the callbacks and the tools of the LLM in it.

    It renders prompts and calls tools by the methods of that LLM, but through its own `chat` and
    `complete`. The fields of every LLM are copied from that LLM, and passed on to it when they are
    set later, as `Settings.callback_manager` is.

    It is always a FunctionCallingLLM, as LlamaIndex checks for that class in places. Whether tools
    can be called, `metadata.is_function_calling_model` says.
    """

    llm: SerializeAsAny[LLM]

    def __init__(self, llm: LLM, **fields: Any) -> None:
        check_llm(llm)
        shared = {name: getattr(llm, name) for name in _SHARED}
        super().__init__(llm=llm, **shared, **fields)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "llm":
            self.__dict__.update({shared: getattr(value, shared) for shared in _SHARED})
        elif name in _SHARED:
            setattr(self.llm, name, value)

    if not TYPE_CHECKING:  # else every misspelt name would exist for a type checker

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                llm = self.__dict__.get("llm")
                if llm is None or name.startswith("_"):
                    raise
                return getattr(llm, name)

    def __copy__(self) -> Self:
        """Copy the LLM too: what is set on one of the two must not reach the other."""
        copied = super().__copy__()
        copied.__dict__["llm"] = copy(self.llm)
        return copied

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with `update` set on it, and on its LLM for the fields of every LLM."""
        copied = super(DelegatingLLM, deepcopy(self) if deep else self).model_copy(update=update)
        for name, value in sorted((update or {}).items(), key=lambda item: item[0] != "llm"):
            if name == "llm" or name in _SHARED:
                setattr(copied, name, value)
        return copied

    @field_serializer("llm")
    def _without_secrets(self, llm: LLM) -> dict[str, Any]:
        """Return `to_dict()` of the LLM without API keys, as it is hashed and stored."""
        return redacted(llm.to_dict())

    @property
    def metadata(self) -> LLMMetadata:
        return self.llm.metadata

    def to_payload(self) -> dict[str, Any]:
        return self.llm.to_payload()

    # -- prompts ---------------------------------------------------------------------------------

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        return self.llm._get_prompt(prompt, **prompt_args)

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        return self.llm._get_messages(prompt, **prompt_args)

    def _extend_messages(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        return self.llm._extend_messages(messages)

    # -- tools -----------------------------------------------------------------------------------

    def _prepare_chat_with_tools(
        self, tools: Sequence["BaseTool"], *args: Any, tool_required: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        # not `_prepare_chat_with_tools`: older integrations do not know `tool_required`
        prepare = self._calling()._prepare_chat_with_tools_compat
        return prepare(tools, *args, **{**kwargs, "tool_required": tool_required})

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Sequence["BaseTool"], *args: Any, **kwargs: Any
    ) -> ChatResponse:
        return self._calling()._validate_chat_with_tools_response(response, tools, *args, **kwargs)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        if not isinstance(self.llm, FunctionCallingLLM) and not error_on_no_tool_call:
            return []
        return self._calling().get_tool_calls_from_response(
            response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
        )

    def _calling(self) -> FunctionCallingLLM:
        if not isinstance(self.llm, FunctionCallingLLM):
            raise SemcacheError(
                f"{type(self.llm).__name__} is no FunctionCallingLLM and cannot be asked with "
                "tools; use predict_and_call or a ReActAgent, which ask by text"
            )
        return self.llm


def check_llm(llm: object) -> None:
    """Raise SemcacheError for anything but an LLM that can be wrapped."""
    if not isinstance(llm, LLM) or isinstance(llm, DelegatingLLM):
        raise SemcacheError(
            f"llm must be the LlamaIndex LLM to be asked, got a {type(llm).__name__}; pass it "
            "as in CachedLLM(llm=OpenAI(...)), and wrap it once"
        )
    if isinstance(llm, StructuredLLM):
        raise SemcacheError(
            "a StructuredLLM gives its objects in `raw`, which no stored answer has; wrap the "
            "LLM in it, as in CachedLLM(llm=OpenAI(...)).as_structured_llm(...)"
        )


def unobserved(llm: LLM) -> LLM:
    """Return `llm` for a call outside the app's trace: without a cache and without callbacks."""
    inner = llm.llm if isinstance(llm, DelegatingLLM) else llm
    nobody = CallbackManager([])
    nobody.set_handlers([])  # the constructor added those of Settings
    return inner.model_copy(update={"callback_manager": nobody})

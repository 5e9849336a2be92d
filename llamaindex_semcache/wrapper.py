"""An LLM around another one that answers every question about itself as that one does."""

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
"""What every LLM has: the callback manager, the system prompt, the output parser ..."""


class DelegatingLLM(FunctionCallingLLM):
    """Has the metadata, the prompts, the callbacks and the tools of the LLM in it.

    It renders prompts and calls tools itself, so that all goes through its own `chat` and
    `complete`, but by the methods of that LLM. Whatever every LLM has is taken over from that LLM,
    and passed on to it when it is set later, as `Settings.callback_manager` is.

    It is a FunctionCallingLLM whatever is in it, as LlamaIndex asks for that class in places; that
    tools can be called, `metadata.is_function_calling_model` says.
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

    if not TYPE_CHECKING:  # else every attribute would exist for a type checker

        def __getattr__(self, name: str) -> Any:
            """What only some LLMs have, such as `model`, as of the LLM in it."""
            try:
                return super().__getattr__(name)
            except AttributeError:
                llm = self.__dict__.get("llm")
                if llm is None or name.startswith("_"):
                    raise
                return getattr(llm, name)

    def __copy__(self) -> Self:
        """With an LLM of its own: what is set on one of the two must not reach the other."""
        copied = super().__copy__()
        copied.__dict__["llm"] = copy(self.llm)
        return copied

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with `update` set on it as an app would: on its LLM too where that has it."""
        copied = super(DelegatingLLM, deepcopy(self) if deep else self).model_copy(update=update)
        for name, value in sorted((update or {}).items(), key=lambda item: item[0] != "llm"):
            if name == "llm" or name in _SHARED:
                setattr(copied, name, value)
        return copied

    @field_serializer("llm")
    def _without_secrets(self, llm: LLM) -> dict[str, Any]:
        """`to_dict()` is hashed and stored: an API key must not be in it, the model must be."""
        return redacted(llm.to_dict())

    @property
    def metadata(self) -> LLMMetadata:
        """That of the LLM in it."""
        return self.llm.metadata

    def to_payload(self) -> dict[str, Any]:
        """What that LLM shows of itself to handlers of events."""
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
        self,
        tools: Sequence["BaseTool"],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # the one that older integrations pass too, which know nothing of `tool_required`
        return self._calling()._prepare_chat_with_tools_compat(
            tools,
            user_msg=user_msg,
            chat_history=chat_history,
            verbose=verbose,
            allow_parallel_tool_calls=allow_parallel_tool_calls,
            tool_required=tool_required,
            **kwargs,
        )

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence["BaseTool"],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        return self._calling()._validate_chat_with_tools_response(
            response, tools, allow_parallel_tool_calls=allow_parallel_tool_calls, **kwargs
        )

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls in a response, as the LLM in it writes them."""
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
    """Raise SemcacheError for what cannot be put behind a cache."""
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
    """`llm` for a call that is none of the app's own: without a cache around it, and without
    callbacks, which count tokens.
    """
    inner = llm.llm if isinstance(llm, DelegatingLLM) else llm
    nobody = CallbackManager([])
    nobody.set_handlers([])  # it has taken those of Settings
    return inner.model_copy(update={"callback_manager": nobody})

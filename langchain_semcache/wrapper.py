"""A chat model around another one, which answers questions about itself as that one does."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, Callbacks
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.tools import BaseTool
from pydantic import SkipValidation, model_validator
from semcache_core import SemcacheError
from typing_extensions import Self

OWN_ARGUMENT = "semcache_call"
"""An argument of a call that is never passed to the inner model."""


class DelegatingChatModel(BaseChatModel):
    """Has the name, parameters, tools and token counts of the model in it.

    A call is one traced run, with that model's name and parameters: its `_generate` and `_stream`
    are called, not its `invoke`.
    """

    model: SkipValidation[BaseChatModel]

    @model_validator(mode="after")
    def _copy_from_model(self) -> Self:
        inner = self.model
        check_model(inner)
        self.callbacks = _joined(inner.callbacks, self.callbacks)
        self.tags = list(dict.fromkeys([*(inner.tags or ()), *(self.tags or ())])) or None
        self.metadata = {**(inner.metadata or {}), **(self.metadata or {})}
        self.verbose = self.verbose or inner.verbose
        self.output_version = self.output_version or inner.output_version
        self.profile = self.profile or inner.profile
        return self

    if not TYPE_CHECKING:  # else every misspelt name would exist for a type checker

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                inner = self.__dict__.get("model")
                if inner is None or name.startswith("_"):
                    raise
                return getattr(inner, name)

    @property
    def model_name(self) -> str:
        """The model's name, from any field that holds it; agents read this."""
        names = (getattr(self.model, field, None) for field in ("model_name", "model", "model_id"))
        return next((name for name in names if name and isinstance(name, str)), self._llm_type)

    @property
    def _llm_type(self) -> str:
        return self.model._llm_type

    @property
    def _identifying_params(self) -> Any:
        return self.model._identifying_params

    @property
    def lc_secrets(self) -> dict[str, str]:
        return self.model.lc_secrets

    @property
    def lc_attributes(self) -> dict[str, Any]:
        return self.model.lc_attributes

    def to_json(self) -> Any:
        """The inner model's: a chain that is loaded again has the model without a cache."""
        return self.model.to_json()

    def get_token_ids(self, text: str) -> list[int]:
        return (self.custom_get_token_ids or self.model.get_token_ids)(text)

    def get_num_tokens(self, text: str) -> int:
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens(text)
        return self.model.get_num_tokens(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        return self.model.get_num_tokens_from_messages(messages, tools)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        chosen = {} if tool_choice is None else {"tool_choice": tool_choice}
        return rewired(self.model.bind_tools(tools, **chosen, **kwargs), self._around)

    def with_structured_output(
        self, schema: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        return rewired(self.model.with_structured_output(schema, **kwargs), self._around)

    def _around(self, model: BaseChatModel) -> BaseChatModel:
        """Return this model around `model`, which may be a changed copy of the inner one."""
        return self if model is self.model else self.model_copy(update={"model": model})

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return self.model._get_llm_string(stop=stop, **kwargs)

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.model._get_invocation_params(stop=stop, **_without_own(kwargs))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.model._get_ls_params(stop=stop, **_without_own(kwargs))

    def _get_ls_params_with_defaults(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.model._get_ls_params_with_defaults(stop=stop, **_without_own(kwargs))

    def _combine_llm_outputs(self, _llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        return self.model._combine_llm_outputs(_llm_outputs)

    def _should_stream(self, **kwargs: Any) -> bool:
        off = self.disable_streaming
        if off is True or (off == "tool_calling" and kwargs.get("tools")):
            return False
        return self.model._should_stream(**_without_own(kwargs))

    def _should_use_protocol_streaming(self, **kwargs: Any) -> bool:
        # LangChain makes the events from our `_stream`, even if the model has its own method
        streams = self._should_stream(**{**kwargs, "stream": True})
        return streams and self.model._should_use_protocol_streaming(**_without_own(kwargs))


def is_configurable(model: object) -> bool:
    """Whether the config of a call chooses the model: `configurable_fields`,
    `configurable_alternatives` or `init_chat_model(configurable_fields=...)`.
    """
    by_langchain = type(model).__module__ == "langchain.chat_models.base"
    return isinstance(model, DynamicRunnable) or (by_langchain and hasattr(type(model), "_model"))


def chosen_by(configurable: Any, config: RunnableConfig) -> BaseChatModel:
    """Return the model for `config`; raises SemcacheError where that is no chat model."""
    given = config.get("configurable", {})
    # with configurable_fields="any" LangChain gives all of them to the model
    others = {name: value for name, value in given.items() if not name.startswith("semcache")}
    config = {**config, "configurable": others}
    if isinstance(configurable, DynamicRunnable):
        model, _ = configurable.prepare(config)
    else:
        model = configurable._model(config)
    check_model(model)
    return cast(BaseChatModel, model)


def check_model(model: object) -> None:
    """Raise SemcacheError for anything but a chat model."""
    if not isinstance(model, BaseChatModel):
        raise SemcacheError(
            f"model must be a LangChain chat model, got a {type(model).__name__}; wrap the "
            "model itself, and then bind tools or arguments: CachedChatModel(model).bind(...)"
        )


def unobserved(model: BaseChatModel) -> BaseChatModel:
    """Return `model` for a call outside the app's run: without any cache, and without callbacks."""
    while isinstance(model, DelegatingChatModel):
        model = model.model
    # False, not None, which means LangChain's global cache
    return model.model_copy(update={"cache": False, "callbacks": None})


def rewired(
    chain: Runnable[Any, Any], replace: Callable[[BaseChatModel], BaseChatModel]
) -> Runnable[Any, Any]:
    """Return a copy of `chain` with `replace(model)` for each chat model in it.

    A model in the closure of a function cannot be seen, and stays.
    """
    if isinstance(chain, BaseChatModel):
        return replace(chain)
    if isinstance(chain, RunnableBindingBase):
        return chain.model_copy(update={"bound": rewired(chain.bound, replace)})
    if isinstance(chain, RunnableSequence):
        first, *middle, last = (rewired(step, replace) for step in chain.steps)
        return chain.model_copy(update={"first": first, "middle": middle, "last": last})
    if isinstance(chain, RunnableParallel):
        steps = {name: rewired(step, replace) for name, step in chain.steps__.items()}
        return chain.model_copy(update={"steps__": steps})
    if isinstance(chain, RunnableWithFallbacks):
        others = [rewired(other, replace) for other in chain.fallbacks]
        first = rewired(chain.runnable, replace)
        return chain.model_copy(update={"runnable": first, "fallbacks": others})
    return chain


def _without_own(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != OWN_ARGUMENT}


def _joined(first: Callbacks, second: Callbacks) -> Callbacks:
    if not first or not second:
        return first or second
    return [*_handlers(first), *_handlers(second)]


def _handlers(callbacks: list[BaseCallbackHandler] | BaseCallbackManager) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else callbacks.handlers

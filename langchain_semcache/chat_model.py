"""CachedChatModel: a chat model with a semantic cache in front of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7
from pydantic import Field, PrivateAttr, SkipValidation, model_validator
from semcache_core import (
    CacheStats,
    Explanation,
    Lookup,
    SemanticCache,
    SemcacheError,
    Splitter,
    adapters,
    split_question,
)
from typing_extensions import Self

from langchain_semcache.calls import CHAT, CHAT_STREAM, chunks_of, without_run
from langchain_semcache.request import (
    CallConfig,
    Question,
    RequestReader,
    RunManager,
    namespace_of_config,
)
from langchain_semcache.serialization import EVENT, ChatAnswers, usage_of
from langchain_semcache.wrapper import (
    OWN_ARGUMENT,
    DelegatingChatModel,
    check_model,
    chosen_by,
    is_configurable,
)

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


def _with_call(
    config: RunnableConfig | None, arguments: Mapping[str, Any]
) -> tuple[CallConfig, dict[str, Any]]:
    """Return the `CallConfig` among `arguments`, or a new one, and arguments that hold it.

    A new one names the run, so that the run's handlers recognise its events.
    """
    call: CallConfig | None = arguments.get(OWN_ARGUMENT)
    if call is None:
        config = ensure_config(config)
        call = CallConfig({**config, "run_id": config.get("run_id") or uuid7()})
    return call, {**arguments, OWN_ARGUMENT: call}


_MADE_BY_CLASS = {"tools", "tool_choice", "response_format"}
"""Arguments whose form depends on the provider."""

_EVENT = ("on_custom_event", "ignore_custom_event", EVENT)

ChatCalls: TypeAlias = adapters.CachedCalls[Question, list[ChatGeneration]]


class ConfigAwareChatModel(DelegatingChatModel):
    """Passes a `CallConfig` to `_generate` and `_stream`, as the argument OWN_ARGUMENT.

    LangChain passes them the run's callbacks at most. A context variable would not do, as the steps
    of a stream may run in different contexts. Where the config chooses the model (`configurable`),
    the same method of a copy around that model is called.
    """

    configurable: SkipValidation[Any] = Field(default=None, exclude=True, repr=False)

    def _for(self, config: RunnableConfig | None, arguments: Mapping[str, Any]) -> Self:
        if self.configurable is None:
            return self
        model = chosen_by(self.configurable, ensure_config(config))
        if type(model) is not type(self.model) and not _MADE_BY_CLASS.isdisjoint(arguments):
            raise SemcacheError(
                f"the config chooses a {type(model).__name__}, and the tools or format were bound "
                f"for a {type(self.model).__name__}; bind them to a CachedChatModel of that model"
            )
        return self.model_copy(update={"model": model, "configurable": None})

    def _around(self, model: BaseChatModel) -> BaseChatModel:
        if self.configurable is not None and model is not self.model:
            raise SemcacheError(
                f"a {type(model).__name__} binds tools or formats to a copy of itself, which the "
                "config would replace; bind them to a CachedChatModel of the model itself"
            )
        return super()._around(model)

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        call, kwargs = _with_call(config, kwargs)
        return super(ConfigAwareChatModel, self._for(call.config, kwargs)).invoke(
            input, call.config, **kwargs
        )

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        call, kwargs = _with_call(config, kwargs)
        try:
            return await super(ConfigAwareChatModel, self._for(call.config, kwargs)).ainvoke(
                input, call.config, **kwargs
            )
        finally:
            adapters.set_last_lookup(call.lookup)  # LangChain asks in a task of its own

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        call, kwargs = _with_call(config, kwargs)
        return super(ConfigAwareChatModel, self._for(call.config, kwargs)).stream(
            input, call.config, **kwargs
        )

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        call, kwargs = _with_call(config, kwargs)
        return super(ConfigAwareChatModel, self._for(call.config, kwargs)).astream(
            input, call.config, **kwargs
        )

    def stream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":  # the others are made from `stream`
            call, kwargs = _with_call(config, kwargs)
            config = call.config
        return super(ConfigAwareChatModel, self._for(config, kwargs)).stream_events(
            input, config, version=version, **kwargs
        )

    def astream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":
            call, kwargs = _with_call(config, kwargs)
            config = call.config
        return super(ConfigAwareChatModel, self._for(config, kwargs)).astream_events(
            input, config, version=version, **kwargs
        )


class CachedChatModel(ConfigAwareChatModel):
    """`CachedChatModel(ChatOpenAI(...))`: use it wherever that model was used.

    Takes the keyword arguments of `SemanticLLMCache` and those of any chat model. `invoke`,
    `batch`, `stream`, `astream_events` and the rest ask the cache first, and so does what
    `bind_tools` and `with_structured_output` give. A stream is stored when it has ended normally,
    and replayed in chunks, `pace` seconds apart. Identical calls at the same time are one call of
    the model. `last_hit()`, `response_metadata["semcache"]` and a callback event `semcache_hit`
    show hits.

    The model is asked by its `_generate` and `_stream`, so that a call is one traced run. A cache
    of the model's own, or LangChain's global one, is not asked, and its rate limiter waits for
    misses only. `namespace` is the tenant, by default
    `config["configurable"]["semcache_namespace"]` of the call. A hit that is audited is served at
    once, and the model is asked in the background (`audit_rate`).

    `model` may be configurable (`configurable_fields`, `init_chat_model`): the config of a call
    then chooses the model, and its answers are its own.

    Fails open: an error of the cache is a miss, counted in `stats().failures`. An error of the
    model reaches all callers that wait for that answer, and is not stored.
    """

    semantic_cache: SkipValidation[SemanticCache] = Field(exclude=True, repr=False)
    split: SkipValidation[Splitter] = Field(default=split_question, exclude=True, repr=False)
    namespace: SkipValidation[adapters.Namespace] = Field(
        default=namespace_of_config, exclude=True, repr=False
    )
    normalise_system: SkipValidation[adapters.Normaliser | None] = Field(
        default=None, exclude=True, repr=False
    )
    writer: SkipValidation[adapters.Writer] = Field(default=None, exclude=True, repr=False)
    pace: SkipValidation[float | None] = None

    _made: tuple[tuple[Any, ...], RequestReader, ChatCalls] | None = PrivateAttr(default=None)

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, Any],
        *,
        cache: SemanticCache | bool | None = None,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        **options: Any,
    ) -> None:
        inner: Any = model
        if is_configurable(model):
            options["configurable"], inner = model, chosen_by(model, RunnableConfig())
        check_model(inner)  # before a cache is opened for it
        fields = type(self).model_fields
        own = {name: value for name, value in options.items() if name in fields}
        shared: Any = {name: value for name, value in options.items() if name not in fields}
        # `configurable_fields` makes a copy from the values of all fields: then it is among them
        given: Any = options.get("semantic_cache", cache)
        own["semantic_cache"] = adapters.open_cache(given, embedder, chroma_client, shared)
        # LangChain's own field: with False it does not ask its global cache besides this one
        super().__init__(model=inner, cache=False, **own)

    @model_validator(mode="after")
    def _check(self) -> Self:
        adapters.check_given(self.namespace)
        adapters.check_writer(self.writer)
        adapters.check_pace(self.pace, "chunks")
        self._parts()
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the model, not the cache, which is open."""
        return self.model_copy(update={"model": deepcopy(self.model, memo)})

    def __getstate__(self) -> dict[Any, Any]:
        """The fields. What is made of them has locks, and is made again."""
        state = super().__getstate__()
        private = {**(state["__pydantic_private__"] or {}), "_made": None}
        return {**state, "__pydantic_private__": private}

    # -- called by LangChain; `kwargs` hold the `CallConfig` ---------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        _, calls = self._parts()
        question = self._question(messages, stop, kwargs, run_manager)
        pending = calls.ask(question)
        results = list(calls.items(pending, CHAT))
        self._announce(question, pending.lookup)
        return results[0] if pending.answer is None else ChatResult(generations=pending.answer)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        _, calls = self._parts()
        question = self._question(messages, stop, kwargs, run_manager)
        pending = await calls.aask(question)
        results = [item async for item in calls.aitems(pending, CHAT)]
        await self._aannounce(question, pending.lookup)
        return results[0] if pending.answer is None else ChatResult(generations=pending.answer)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        _, calls = self._parts()
        question = self._question(messages, stop, kwargs, run_manager)
        pending = calls.ask(question)
        yield from calls.items(pending, CHAT_STREAM)
        self._announce(question, pending.lookup)
        for number, chunk in enumerate(_replay(pending.answer)):
            if number and self.pace:
                time.sleep(self.pace)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        _, calls = self._parts()
        question = self._question(messages, stop, kwargs, run_manager)
        pending = await calls.aask(question)
        async with aclosing(calls.aitems(pending, CHAT_STREAM)) as items:
            async for chunk in items:
                yield chunk
        await self._aannounce(question, pending.lookup)
        for number, chunk in enumerate(_replay(pending.answer)):
            if number:  # other tasks get a turn between two chunks, without a pace too
                await asyncio.sleep(self.pace or 0)
            yield chunk

    # -- for the app -------------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Counts since this process opened the cache."""
        return self.semantic_cache.stats()

    def explain(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Explanation:
        """Why `invoke` with these arguments would hit or miss.

        Tools that are bound are arguments too: `model.explain(input, **bound.kwargs)`. Raises
        SemcacheError when the call is not cached, or the cache cannot be read.
        """
        if self.configurable is not None:
            return self._for(config, kwargs).explain(input, config, stop=stop, **kwargs)
        # LangChain's own, done on the way to `_generate`; here, as it may move
        from langchain_core.language_models._utils import _normalize_messages

        messages = _normalize_messages(self._convert_input(input).to_messages())
        question = self._question(messages, stop, _with_call(config, kwargs)[1])
        reader, _ = self._parts()
        request = reader.read_question(question)
        if request is None:
            raise SemcacheError(
                f"this call of a {type(self.model).__name__} is not cached: an argument or a "
                "message shows only the name of a class or the address of an object"
            )
        return reader.hinted(self.semantic_cache.explain(request), dumps(messages))

    # -- helpers -----------------------------------------------------------------------------------

    def _parts(self) -> tuple[RequestReader, ChatCalls]:
        """Make them again when an option has changed: a copy for another tenant must not use the
        answers of the first.
        """
        cache = self.semantic_cache
        options = (cache, self.split, self.namespace, self.normalise_system, self.writer)
        made = self._made
        if made is None or made[0] != options:
            reader = RequestReader(*options)
            calls: ChatCalls = adapters.CachedCalls(
                cache,
                reader.read_question,
                lambda question: ChatAnswers(
                    lambda: adapters.demands_of(question.model, question.arguments)
                ),
                without_run,
                lambda _, answer: usage_of(answer),
            )
            made = self._made = (options, reader, calls)
        return made[1:]

    def _question(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        arguments: dict[str, Any],
        run: RunManager | None = None,
    ) -> Question:
        call = arguments.pop(OWN_ARGUMENT, None)
        return Question(self.model, messages, stop, arguments, call, run)

    def _announce(self, question: Question, lookup: Lookup) -> None:
        """Send the event `semcache_hit` to handlers, tracers and `astream_events`."""
        if question.call is not None:
            question.call.lookup = lookup
        if (hit := lookup.hit) is not None:
            with self.semantic_cache.failing_open("announce"):
                handlers, run = self._listeners(question)
                handle_event(handlers, *_EVENT, adapters.described(hit), **run)

    async def _aannounce(self, question: Question, lookup: Lookup) -> None:
        if question.call is not None:
            question.call.lookup = lookup
        if (hit := lookup.hit) is not None:
            with self.semantic_cache.failing_open("announce"):
                handlers, run = self._listeners(question)
                await ahandle_event(handlers, *_EVENT, adapters.described(hit), **run)

    def _listeners(self, question: Question) -> tuple[list[BaseCallbackHandler], dict[str, Any]]:
        """Return the handlers of the run, and what identifies the run to them.

        LangChain may call `_stream` without a manager: then the run is configured again, as
        LangChain did it.
        """
        if question.run is None and question.call is None:
            return [], {}
        config = {} if question.call is None else question.call.config
        manager = question.run or CallbackManager.configure(
            config.get("callbacks"),
            self.callbacks,
            self.verbose,
            config.get("tags"),
            self.tags,
            config.get("metadata"),
            self.metadata,
        )
        run_id = config["run_id"] if question.run is None else question.run.run_id
        run = {"run_id": run_id, "tags": manager.tags, "metadata": dict(manager.metadata)}
        return manager.handlers, run


def _replay(answer: list[ChatGeneration] | None) -> list[ChatGenerationChunk]:
    return [] if answer is None else chunks_of(answer[0])

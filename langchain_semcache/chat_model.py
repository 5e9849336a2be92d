"""A chat model whose `_generate` and `_stream` are told of the config that a call was given.

LangChain tells them of the run's callbacks at most, so it is handed down as an argument of the
call. A context variable would not do: a stream's steps may run in one context after another.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7
from pydantic import Field, PrivateAttr, SkipValidation, model_validator
from semcache_core import CacheStats, Explanation, Hit, SemanticCache, Splitter, split_question
from semcache_core.adapters import (
    Namespace,
    Normaliser,
    Writer,
    check_given,
    check_pace,
    check_writer,
    open_cache,
    set_last_hit,
)
from typing_extensions import Self

from langchain_semcache.calls import (
    STREAM,
    WHOLE,
    ChatCalls,
    Question,
    RunManager,
    areplayed,
    replayed,
)
from langchain_semcache.request import RequestReader, namespace_of_config
from langchain_semcache.serialization import Run
from langchain_semcache.wrapper import OWN_ARGUMENT, Delegating, check_model

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


@dataclass
class Call:
    """What one call was told, and in which context; and the hit that answered it, once known.

    A stream may be read in another context than it was asked for in, such as by a web server when
    the endpoint has returned: the tenant is that of the asker.
    """

    config: RunnableConfig
    context: Context = field(default_factory=copy_context)
    hit: Hit | None = None


def call_of(config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> Call:
    """A new one, or the one among `kwargs`. It names the run, so that its handlers know it."""
    if OWN_ARGUMENT in kwargs:
        call: Call = kwargs[OWN_ARGUMENT]
        return call
    told = ensure_config(config)
    return Call({**told, "run_id": told.get("run_id") or uuid7()})


def _telling(config: RunnableConfig | None, kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """The call, and the arguments that hand it down."""
    call = call_of(config, kwargs)
    return call, {**kwargs, OWN_ARGUMENT: call}


class ToldOfCalls(Delegating):
    """Passes a `Call` down as the argument `semcache_call`."""

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        call, told = _telling(config, kwargs)
        return super().invoke(input, call.config, stop=stop, **told)

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        call, told = _telling(config, kwargs)
        try:
            return await super().ainvoke(input, call.config, stop=stop, **told)
        finally:
            set_last_hit(call.hit)  # LangChain asks in a task of its own

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        call, told = _telling(config, kwargs)
        return super().stream(input, call.config, stop=stop, **told)

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        call, told = _telling(config, kwargs)
        return super().astream(input, call.config, stop=stop, **told)

    def stream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":  # the others are made from `stream`
            call, kwargs = _telling(config, kwargs)
            config = call.config
        return super().stream_events(input, config, version=version, **kwargs)

    def astream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":
            call, kwargs = _telling(config, kwargs)
            config = call.config
        return super().astream_events(input, config, version=version, **kwargs)


class CachedChatModel(ToldOfCalls):
    """`CachedChatModel(ChatOpenAI(...))`: use it wherever that model was used.

    Takes the keyword arguments of `SemanticLLMCache` and those of any chat model. `invoke`,
    `batch`, `stream`, `astream_events` and the rest ask the cache first, and so does what
    `bind_tools` and `with_structured_output` give. A stream is stored when it has ended normally,
    and replayed in chunks, `pace` seconds apart. Identical calls at the same time are one call of
    the model. `last_hit()`, `response_metadata["semcache"]` and a callback event `semcache_hit`
    tell of hits.

    The model is asked by its `_generate` and `_stream`, so that a call is one traced run: a cache
    of the model's own, or LangChain's global one, is not asked, and its rate limiter waits for
    misses only. `namespace` is the tenant, by default
    `config["configurable"]["semcache_namespace"]` of the call. A hit that is audited is served at
    once, and the model asked in the background (`audit_rate`).

    Fails open: an error of the cache is a miss, counted in `stats().failures`; an error of the
    model passes as itself, to all who wait for that answer, and is not stored.
    """

    semantic_cache: SkipValidation[SemanticCache] = Field(exclude=True, repr=False)
    split: SkipValidation[Splitter] = Field(default=split_question, exclude=True, repr=False)
    namespace: SkipValidation[Namespace] = Field(
        default=namespace_of_config, exclude=True, repr=False
    )
    normalise_system: SkipValidation[Normaliser | None] = Field(
        default=None, exclude=True, repr=False
    )
    writer: SkipValidation[Writer] = Field(default=None, exclude=True, repr=False)
    pace: SkipValidation[float | None] = None

    _made: tuple[tuple[Any, ...], ChatCalls] | None = PrivateAttr(default=None)

    def __init__(
        self,
        model: BaseChatModel,
        *,
        cache: SemanticCache | bool | None = None,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        **options: Any,
    ) -> None:
        check_model(model)  # before a cache is opened for it
        fields = type(self).model_fields
        own = {name: value for name, value in options.items() if name in fields}
        shared: Any = {name: value for name, value in options.items() if name not in fields}
        # `configurable_fields` makes a copy from the values of all fields: then it is among them
        given: Any = options.get("semantic_cache", cache)
        own["semantic_cache"] = open_cache(given, embedder, chroma_client, shared)
        # LangChain's own field: with False it does not ask its global cache besides this one
        super().__init__(model=model, cache=False, **own)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_given(self.namespace)
        check_writer(self.writer)
        check_pace(self.pace, "chunks")
        self._calls()
        return self

    # -- what LangChain's methods ask --------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        semcache_call: Call | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        calls = self._calls()
        asked = calls.ask(self._question(messages, stop, kwargs, semcache_call, run_manager))
        set_last_hit(None)
        results = list(calls.items(asked, WHOLE))
        if asked.answer is None:
            return results[0]
        self._tell(asked.hit, semcache_call, run_manager)
        return ChatResult(generations=asked.answer)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        semcache_call: Call | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        calls = self._calls()
        asked = await calls.aask(self._question(messages, stop, kwargs, semcache_call, run_manager))
        results = [item async for item in calls.aitems(asked, WHOLE)]
        if asked.answer is None:
            return results[0]
        await self._atell(asked.hit, semcache_call, run_manager)
        return ChatResult(generations=asked.answer)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        semcache_call: Call | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        calls = self._calls()
        asked = calls.ask(self._question(messages, stop, kwargs, semcache_call, run_manager))
        set_last_hit(None)
        yield from calls.items(asked, STREAM)
        if asked.answer is not None:
            self._tell(asked.hit, semcache_call, run_manager)
            yield from replayed(asked.answer[0], self.pace)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        semcache_call: Call | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        calls = self._calls()
        asked = await calls.aask(self._question(messages, stop, kwargs, semcache_call, run_manager))
        set_last_hit(None)
        async with aclosing(calls.aitems(asked, STREAM)) as items:
            async for chunk in items:
                yield chunk
        if asked.answer is not None:
            await self._atell(asked.hit, semcache_call, run_manager)
            async for chunk in areplayed(asked.answer[0], self.pace):
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
        # LangChain's own, done on the way to `_generate`; here, as it may move
        from langchain_core.language_models._utils import _normalize_messages

        messages = _normalize_messages(self._convert_input(input).to_messages())
        question = self._question(messages, stop, kwargs, call_of(config, {}))
        return self._calls().explain(question)

    # -- helpers -----------------------------------------------------------------------------------

    def _calls(self) -> ChatCalls:
        """Made anew when what it works with has changed: a copy for another tenant must not go on
        with the answers of the first.
        """
        told = (self.split, self.namespace, self.normalise_system, self.writer)
        parts = (self.semantic_cache, *told)
        made = self._made
        if made is None or made[0] != parts:
            made = self._made = (parts, ChatCalls(self.semantic_cache, RequestReader(*parts)))
        return made[1]

    def _question(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        arguments: dict[str, Any],
        call: Call | None,
        run_manager: RunManager | None = None,
    ) -> Question:
        config, context = (None, None) if call is None else (call.config, call.context)
        return Question(self.model, messages, stop, arguments, config, run_manager, context)

    def _tell(self, hit: Hit | None, call: Call | None, run_manager: RunManager | None) -> None:
        _note(hit, call)
        with self.semantic_cache.failing_open("announce"):
            if hit is not None and (run := self._run(call, run_manager)) is not None:
                run.announce(hit)

    async def _atell(
        self, hit: Hit | None, call: Call | None, run_manager: RunManager | None
    ) -> None:
        _note(hit, call)
        with self.semantic_cache.failing_open("announce"):
            if hit is not None and (run := self._run(call, run_manager)) is not None:
                await run.aannounce(hit)

    def _run(self, call: Call | None, manager: RunManager | None) -> Run | None:
        """LangChain does not tell `_stream` of its run: what it did for the run is done again."""
        if manager is not None:
            return Run(manager.run_id, manager.handlers, manager.tags, manager.metadata)
        if call is None:
            return None
        told = call.config
        configured = CallbackManager.configure(
            told.get("callbacks"),
            self.callbacks,
            self.verbose,
            told.get("tags"),
            self.tags,
            told.get("metadata"),
            self.metadata,
        )
        run_id = told["run_id"]
        assert run_id is not None
        return Run(run_id, configured.handlers, configured.tags, configured.metadata)


def _note(hit: Hit | None, call: Call | None) -> None:
    set_last_hit(hit)
    if call is not None:
        call.hit = hit

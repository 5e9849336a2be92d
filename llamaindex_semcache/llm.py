"""A CachedLLM on its way to another process."""

import logging
import os
import pickle
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import Model
from pydantic import SkipValidation
from semcache_core import (
    CacheStats,
    Explanation,
    SemanticCache,
    SemcacheError,
    SharedOptions,
    Splitter,
    split_question,
)
from semcache_core.adapters import (
    Namespace,
    Normaliser,
    UncachedTools,
    Writer,
    check_given,
    check_pace,
    check_writer,
    open_cache,
    own_namespace,
)
from typing_extensions import Self, Unpack

from llamaindex_semcache.calls import CHAT, CHAT_STREAM, COMPLETION, COMPLETION_STREAM
from llamaindex_semcache.documents import Sources
from llamaindex_semcache.request import Call, CallReader, Context
from llamaindex_semcache.serving import Served, Serving, served_by
from llamaindex_semcache.structured import Prediction
from llamaindex_semcache.templates import Templates
from llamaindex_semcache.wrapper import DelegatingLLM, check_llm

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")


def reduced(
    make: Callable[..., LLM], llm: LLM, told: Mapping[str, Any], cache: SemanticCache
) -> tuple[Any, ...]:
    """For `__reduce__`: `make(llm=llm, **told)`, or `llm` alone where `told` cannot be pickled.

    Not an error, at which LlamaIndex would drop the LLM from whatever holds it and fall back on
    OpenAI. And never a cache that has forgotten whose answers it may give.
    """
    try:
        pickle.dumps(told)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        cache.warn_once(
            "pickled",
            f"a pickled CachedLLM arrives as its LLM alone, without a cache: {error}; give it a "
            "path, and functions of a module",
        )
        return _alone, (llm,)
    return _made, (make, llm, told)


def _made(make: Callable[..., LLM], llm: LLM, told: Mapping[str, Any]) -> LLM:
    # an error here would end the worker, and the pipeline would wait for it for ever
    try:
        return make(llm=llm, **told)
    except (SemcacheError, OSError) as error:
        log.warning("a CachedLLM arrives as its LLM alone, as its cache does not open: %s", error)
        return llm


def _alone(llm: LLM) -> LLM:
    return llm


class PredictingLLM(DelegatingLLM):
    """Gives stored objects, or asks the LLM in it by that one's own structured methods.

    Those may use a native mode of the provider, and render the prompt in a way of their own. So the
    whole prediction is one call, not the chat that is made of it.
    """

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of the cache, else the LLM's by its own `structured_predict`."""
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).whole
        return cast(Model, self._predictions(output_cls).answer(call, kind))

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """See `structured_predict`. The event loop is never blocked."""
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).whole
        return cast(Model, await self._predictions(output_cls).aanswer(call, kind))

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """The LLM's object as it fills; of a hit, all of it at once.

        What comes last is stored. Where the LLM stops too early, LlamaIndex closes the brackets and
        a shorter list looks whole: give classes whose streams you cache fields without defaults.
        """
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).stream
        return self._predictions(output_cls).stream(call, kind)

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """See `stream_structured_predict`."""
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).stream
        return self._predictions(output_cls).astream(call, kind)

    def _predictions(self, output: type[BaseModel]) -> Serving[BaseModel]:
        """What answers predictions of this class."""
        raise NotImplementedError

    def _know(self, prompt: BasePromptTemplate) -> None:
        """Hears of each template before it is rendered."""

    def _prediction(
        self,
        output: type[BaseModel],
        prompt: BasePromptTemplate,
        arguments: Mapping[str, Any] | None,
        prompt_args: Mapping[str, Any],
    ) -> Call:
        self._know(prompt)
        messages = tuple(prompt.format_messages(llm=self.llm, **prompt_args))
        told = dict(arguments or {})
        return Call(self.llm, messages, arguments=told, output=output, how="structured")


class CachedLLM(PredictingLLM):
    """`Settings.llm = CachedLLM(llm=OpenAI(...))`: use it wherever that LLM was used.

    Takes the keyword arguments of `SemanticCache`, or `cache=` an open one. Chats, completions,
    their streams and structured predictions ask the cache first, and so do query engines, chat
    engines and agents with this LLM. A stream is stored when it has ended normally, and replayed
    item by item, `pace` seconds apart. Identical calls at the same time are one call of the LLM.

    `context` says what of retrieved documents must be equal for a hit: with "nodes" the set of
    nodes that `SourceNodes` recorded, in any order; with "text" the very text; with "ignore"
    nothing, which is for documents that no answer hangs on. Left out it is "nodes", and the text
    where no nodes were recorded. "ignore" is for engines that ask once with all documents: where
    each part of them is asked about (refine, tree_summarize, accumulate), every part would get the
    answer of the first.

    `split` finds the question in a text that is of no known prompt template. After a result of one
    of `uncached_tools` nothing is cached. `namespace` is the tenant, `writer` who asks,
    `normalise_system` what the comparison sees of system texts.

    Of a hit, `last_hit()`, `response.raw["semcache"]` and a `SemcacheHitEvent` tell. The LLM's own
    events and callbacks come with its own answers only, so that nothing is counted twice. A hit
    that is audited is served at once, and the LLM asked in the background (`audit_rate`), which
    its callback manager does not hear of.

    Fails open: an error of the cache is a miss, counted in `stats().failures`; an error of the LLM
    passes as itself, to all who wait for that answer, and is not stored.

    Pickled, as for `IngestionPipeline.run(num_workers=2)`, it opens its path anew where it arrives;
    with `path=None` that is another cache, empty. Where something of it cannot be pickled, such as
    an open cache, or the path does not open there, it arrives as the LLM alone, and a warning says
    so.
    """

    semantic_cache: SkipValidation[SemanticCache] = Field(exclude=True, repr=False)
    sources: SkipValidation[Sources] = Field(exclude=True, repr=False)
    split: SkipValidation[Splitter] = Field(exclude=True, repr=False)
    namespace: SkipValidation[Namespace] = Field(exclude=True, repr=False)
    writer: SkipValidation[Writer] = Field(exclude=True, repr=False)
    normalise_system: SkipValidation[Normaliser | None] = Field(exclude=True, repr=False)
    uncached_tools: SkipValidation[Sequence[str]] = Field(exclude=True, repr=False)
    context: SkipValidation[Context] = Field(exclude=True, repr=False)
    pace: SkipValidation[float | None] = Field(exclude=True, repr=False)

    _opened_with: tuple[SemanticCache, dict[str, Any]] = PrivateAttr()
    _made: tuple[tuple[Any, ...], Served] | None = PrivateAttr(default=None)

    def __init__(
        self,
        llm: LLM,
        *,
        cache: SemanticCache | None = None,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        split: Splitter = split_question,
        namespace: Namespace = own_namespace,
        writer: Writer = None,
        normalise_system: Normaliser | None = None,
        uncached_tools: Sequence[str] = (),
        context: Context = None,
        pace: float | None = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        check_llm(llm)  # all of it before a cache is opened
        _check(split, normalise_system, pace)
        check_given(namespace)
        check_writer(writer)
        opened = open_cache(cache, embedder, chroma_client, options)
        fields: dict[str, Any] = {
            "semantic_cache": opened,
            "sources": Sources(),
            "split": split,
            "namespace": namespace,
            "writer": writer,
            "normalise_system": normalise_system,
            "uncached_tools": uncached_tools,
            "context": context,
            "pace": pace,
        }
        super().__init__(llm=llm, **fields)
        given = {"embedder": embedder, "chroma_client": chroma_client, **options}
        self._opened_with = (opened, given if cache is None else {"cache": cache})
        self._served()  # so that a wrong argument is told of now

    @classmethod
    def class_name(cls) -> str:
        return "CachedLLM"

    # -- chats and completions ---------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The answer of the cache, else the LLM's."""
        return self._served().chats.answer(self._chat(messages, kwargs), CHAT)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """See `chat`. The event loop is never blocked."""
        return await self._served().chats.aanswer(self._chat(messages, kwargs), CHAT)

    def stream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> Generator[ChatResponse, None, None]:
        """See `chat`. The LLM is asked when the first item is wanted."""
        return self._served().chats.stream(self._chat(messages, kwargs), CHAT_STREAM)

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> AsyncGenerator[ChatResponse, None]:
        """See `stream_chat`."""
        return self._served().chats.astream(self._chat(messages, kwargs), CHAT_STREAM)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The completion of the cache, else the LLM's. `formatted` ones are apart from others."""
        call = self._completion(prompt, formatted, kwargs)
        return self._served().completions.answer(call, COMPLETION)

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """See `complete`. The event loop is never blocked."""
        call = self._completion(prompt, formatted, kwargs)
        return await self._served().completions.aanswer(call, COMPLETION)

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> Generator[CompletionResponse, None, None]:
        """See `complete`. The LLM is asked when the first item is wanted."""
        call = self._completion(prompt, formatted, kwargs)
        return self._served().completions.stream(call, COMPLETION_STREAM)

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> AsyncGenerator[CompletionResponse, None]:
        """See `stream_complete`."""
        call = self._completion(prompt, formatted, kwargs)
        return self._served().completions.astream(call, COMPLETION_STREAM)

    # -- for the app -------------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Counts since this process opened the cache."""
        return self.semantic_cache.stats()

    def explain(
        self, asked: str | Sequence[ChatMessage], formatted: bool = False, **kwargs: Any
    ) -> Explanation:
        """Why `chat` with these messages, or `complete` with this prompt, would hit or miss.

        Raises SemcacheError when the call is not cached, or the cache cannot be read.
        """
        if isinstance(asked, str):
            call = self._completion(asked, formatted, kwargs)
        else:
            call = self._chat(asked, kwargs)
        reader = self._served().reader
        request = reader.read(call)
        if request is None:
            raise SemcacheError(
                f"this call of a {type(self.llm).__name__} is not cached: an argument, a message "
                "or the LLM holds an object that does not show what it is, or a tool of "
                "uncached_tools was called"
            )
        return reader.hinted(self.semantic_cache.explain(request), call)

    # -- prompts -----------------------------------------------------------------------------------

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        self._know(prompt)
        return super()._get_prompt(prompt, **prompt_args)

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        self._know(prompt)
        return super()._get_messages(prompt, **prompt_args)

    def _know(self, prompt: BasePromptTemplate) -> None:
        """So that the question is found in what is rendered from it."""
        with self.semantic_cache.failing_open("lookup"):
            self._served().templates.know(prompt)

    # -- helpers -----------------------------------------------------------------------------------

    def _chat(self, messages: Sequence[ChatMessage], arguments: Mapping[str, Any]) -> Call:
        return Call(self.llm, messages=tuple(messages), arguments=arguments)

    def _completion(self, prompt: str, formatted: bool, arguments: Mapping[str, Any]) -> Call:
        # not where it is False: many a CustomLLM hands on what it does not know to its provider
        told = {**arguments, "formatted": True} if formatted else arguments
        return Call(self.llm, prompt=prompt, arguments=told, how="completion")

    def _predictions(self, output: type[BaseModel]) -> Serving[BaseModel]:
        return self._served().predictions(output)

    def _served(self) -> Served:
        """Made anew when what it works with has changed: a copy for another tenant must not go on
        with the answers of the first, nor a forked child wait for locks that its parent held.
        """
        told = (self.split, self.namespace, self.writer, self.normalise_system, self.context)
        others = (self.uncached_tools, self.pace, os.getpid())
        parts = (self.semantic_cache, self.sources, *told, *others)
        made = self._made
        if made is None or made[0] != parts:
            templates = Templates(self.split)
            reader = CallReader(
                self.semantic_cache,
                self.namespace,
                self.writer,
                self.normalise_system,
                self.context,
                self.sources,
                templates,
                UncachedTools(self.uncached_tools),
            )
            made = (parts, served_by(self.semantic_cache, reader, templates, self.pace))
            self._made = made
        return made[1]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Another LLM before the same cache, which is open and cannot be copied."""
        copied = self.model_copy()
        copied.__dict__["llm"] = deepcopy(self.llm, memo)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        opened, given = self._opened_with
        if opened is not self.semantic_cache:
            given = {"cache": self.semantic_cache}
        own = ("split", "namespace", "writer", "normalise_system", "uncached_tools", "context")
        told = {**given, **{name: getattr(self, name) for name in (*own, "pace")}}
        return reduced(type(self), self.llm, told, self.semantic_cache)


def _check(split: object, normalise_system: object, pace: object) -> None:
    """Raise SemcacheError for what can never be used, before a cache is opened."""
    if not callable(split):
        raise SemcacheError(
            f"split must be a function of a text, got {split!r}; leave it out for split_question"
        )
    if normalise_system is not None and not callable(normalise_system):
        raise SemcacheError(
            f"normalise_system must be a function of a text, got {normalise_system!r}; leave it out"
        )
    check_pace(pace, "items")

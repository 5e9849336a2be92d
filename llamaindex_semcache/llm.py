"""CachedLLM: an LLM with a semantic cache in front of it."""

import logging
import os
import pickle
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeAlias, cast

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
    adapters,
    split_question,
)
from typing_extensions import Self, Unpack

from llamaindex_semcache.calls import CHAT, CHAT_STREAM, COMPLETION, COMPLETION_STREAM
from llamaindex_semcache.documents import Sources
from llamaindex_semcache.request import Context, Question, RequestReader
from llamaindex_semcache.serving import Responders
from llamaindex_semcache.structured import prediction, prediction_stream
from llamaindex_semcache.templates import Templates
from llamaindex_semcache.wrapper import DelegatingLLM, check_llm

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

Parse: TypeAlias = Callable[[str], object]
_PARSE: ContextVar[Parse | None] = ContextVar("semcache_parse", default=None)
"""The parser of the prompt of `predict`, for the call that it makes by `chat` or `complete`."""

_OPTIONS = (
    *("split", "namespace", "writer", "normalise_system", "uncached_tools", "context", "pace"),
)
"""The fields that are arguments too, and may be changed later."""


class CachedLLM(DelegatingLLM):
    """`Settings.llm = CachedLLM(llm=OpenAI(...))`: use it wherever that LLM was used.

    Takes the keyword arguments of `SemanticCache`, or `cache=` an open one. Chats, completions,
    their streams and structured predictions ask the cache first, and so do query engines, chat
    engines and agents with this LLM. A stream is stored when it has ended normally, and replayed
    item by item, `pace` seconds apart. Identical calls at the same time are one call of the LLM.

    `context` says what of the retrieved documents must be equal for a hit. "nodes" (the default):
    the set of nodes that `SourceNodes` recorded, in any order, or else the text. "text": the text.
    "ignore": nothing, for answers that do not depend on the documents. Use "ignore" only for
    engines that ask once with all documents: where each part is asked about (refine,
    tree_summarize, accumulate), every part would get the answer of the first.

    `split` finds the question in a text of no known prompt template. `namespace` is the tenant,
    `writer` the user who asks, and `normalise_system` changes the system texts that are compared.
    After a result of one of `uncached_tools` nothing is cached.

    `last_hit()`, `response.raw["semcache"]` and a `SemcacheHitEvent` show a hit. The LLM's own
    events and callbacks come with its own answers only, so that nothing is counted twice. A hit
    that is audited is served at once, and the LLM is asked in the background (`audit_rate`), unseen
    by its callback manager.

    Fails open: an error of the cache is a miss, counted in `stats().failures`. An error of the LLM
    reaches all callers that wait for that answer, and is not stored.

    Unpickled, as by `IngestionPipeline.run(num_workers=2)`, it opens its path again; `path=None`
    gives another, empty cache. If a part cannot be pickled, such as a function within another one,
    or the path does not open, the LLM arrives without a cache, with a warning.
    """

    semantic_cache: SkipValidation[SemanticCache] = Field(exclude=True, repr=False)
    sources: SkipValidation[Sources] = Field(exclude=True, repr=False)
    split: SkipValidation[Splitter] = Field(exclude=True, repr=False)
    namespace: SkipValidation[adapters.Namespace] = Field(exclude=True, repr=False)
    writer: SkipValidation[adapters.Writer] = Field(exclude=True, repr=False)
    normalise_system: SkipValidation[adapters.Normaliser | None] = Field(exclude=True, repr=False)
    uncached_tools: SkipValidation[Sequence[str]] = Field(exclude=True, repr=False)
    context: SkipValidation[Context] = Field(exclude=True, repr=False)
    pace: SkipValidation[float | None] = Field(exclude=True, repr=False)

    _opened_with: tuple[SemanticCache, dict[str, Any]] = PrivateAttr()
    _made: tuple[tuple[Any, ...], Responders] | None = PrivateAttr(default=None)

    def __init__(
        self,
        llm: LLM,
        *,
        cache: SemanticCache | None = None,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        split: Splitter = split_question,
        namespace: adapters.Namespace = adapters.own_namespace,
        writer: adapters.Writer = None,
        normalise_system: adapters.Normaliser | None = None,
        uncached_tools: Sequence[str] = (),
        context: Context = None,
        pace: float | None = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        check_llm(llm)  # all checks come before a cache is opened
        _check(split, normalise_system, pace)
        adapters.check_given(namespace)
        adapters.check_writer(writer)
        opened = adapters.open_cache(cache, embedder, chroma_client, options)
        super().__init__(
            llm=llm,
            semantic_cache=opened,
            sources=Sources(),
            split=split,
            namespace=namespace,
            writer=writer,
            normalise_system=normalise_system,
            uncached_tools=uncached_tools,
            context=context,
            pace=pace,
        )
        given = {"embedder": embedder, "chroma_client": chroma_client, **options}
        self._opened_with = (opened, given if cache is None else {"cache": cache})
        self._responders()  # raises for a wrong argument now

    @classmethod
    def class_name(cls) -> str:
        return "CachedLLM"

    # -- chats and completions ---------------------------------------------------------------------

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the stored answer, else the LLM's."""
        return self._responders().chats.answer(self._chat(messages, kwargs), CHAT)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """See `chat`. The event loop is never blocked."""
        return await self._responders().chats.aanswer(self._chat(messages, kwargs), CHAT)

    def stream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> Generator[ChatResponse, None, None]:
        """See `chat`. The LLM is asked when the first item is read."""
        return self._responders().chats.stream(self._chat(messages, kwargs), CHAT_STREAM)

    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> AsyncGenerator[ChatResponse, None]:
        return self._responders().chats.astream(self._chat(messages, kwargs), CHAT_STREAM)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the stored completion, else the LLM's. `formatted` is part of the request."""
        question = self._completion(prompt, formatted, kwargs)
        return self._responders().completions.answer(question, COMPLETION)

    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """See `complete`. The event loop is never blocked."""
        question = self._completion(prompt, formatted, kwargs)
        return await self._responders().completions.aanswer(question, COMPLETION)

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> Generator[CompletionResponse, None, None]:
        """See `complete`. The LLM is asked when the first item is read."""
        question = self._completion(prompt, formatted, kwargs)
        return self._responders().completions.stream(question, COMPLETION_STREAM)

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> AsyncGenerator[CompletionResponse, None]:
        question = self._completion(prompt, formatted, kwargs)
        return self._responders().completions.astream(question, COMPLETION_STREAM)

    # -- structured predictions --------------------------------------------------------------------
    # The LLM's own methods may use a native mode of the provider, and render the prompt themselves.
    # So the whole prediction is one call, not the chat inside it.

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return the stored object, else that of the LLM's own `structured_predict`."""
        question = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        return cast(
            Model, self._responders().predictions.answer(question, prediction(prompt, prompt_args))
        )

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """See `structured_predict`. The event loop is never blocked."""
        question = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        return cast(
            Model,
            await self._responders().predictions.aanswer(question, prediction(prompt, prompt_args)),
        )

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """Yield the LLM's object as it fills, or the stored one at once. The last item is stored.

        Where the LLM stops too early, LlamaIndex closes the brackets, and a shorter list looks
        complete: give classes whose streams you cache fields without defaults.
        """
        question = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        return self._responders().predictions.stream(
            question, prediction_stream(prompt, prompt_args)
        )

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        question = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        return self._responders().predictions.astream(
            question, prediction_stream(prompt, prompt_args)
        )

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
            question = self._completion(asked, formatted, kwargs)
        else:
            question = self._chat(asked, kwargs)
        reader = self._responders().reader
        request = reader.read(question)
        if request is None:
            raise SemcacheError(
                f"this call of a {type(self.llm).__name__} is not cached: an argument, a message "
                "or the LLM holds an object that does not show what it is, or a tool of "
                "uncached_tools was called"
            )
        return reader.hinted(self.semantic_cache.explain(request), question)

    # -- prompts -----------------------------------------------------------------------------------

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Return the text of an answer; one that the prompt's parser refuses is not stored."""
        with _parsed_for(prompt):
            return super().predict(prompt, **prompt_args)

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """See `predict`. The event loop is never blocked."""
        with _parsed_for(prompt):
            return await super().apredict(prompt, **prompt_args)

    def _get_prompt(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        self._know(prompt)
        return super()._get_prompt(prompt, **prompt_args)

    def _get_messages(self, prompt: BasePromptTemplate, **prompt_args: Any) -> list[ChatMessage]:
        self._know(prompt)
        return super()._get_messages(prompt, **prompt_args)

    def _know(self, prompt: BasePromptTemplate) -> None:
        """Remember a template, so that the question is found in texts that it renders."""
        with self.semantic_cache.failing_open("lookup"):
            self._responders().templates.know(prompt)

    # -- helpers -----------------------------------------------------------------------------------

    def _chat(self, messages: Sequence[ChatMessage], arguments: Mapping[str, Any]) -> Question:
        return Question(self.llm, messages=tuple(messages), arguments=arguments, parse=_PARSE.get())

    def _completion(self, prompt: str, formatted: bool, arguments: Mapping[str, Any]) -> Question:
        # not where it is False: many a CustomLLM passes unknown arguments to its provider
        arguments = {**arguments, "formatted": True} if formatted else arguments
        return Question(
            self.llm, prompt=prompt, arguments=arguments, how="completion", parse=_PARSE.get()
        )

    def _prediction(
        self,
        output: type[BaseModel],
        prompt: BasePromptTemplate,
        arguments: Mapping[str, Any] | None,
        prompt_args: Mapping[str, Any],
    ) -> Question:
        self._know(prompt)
        messages = tuple(prompt.format_messages(llm=self.llm, **prompt_args))
        arguments = dict(arguments or {})
        return Question(self.llm, messages, arguments=arguments, output=output, how="structured")

    def _responders(self) -> Responders:
        """Make them again when an option has changed: a copy for another tenant must not use the
        answers of the first, and a forked child must not wait for locks that its parent held.
        """
        options = (getattr(self, name) for name in _OPTIONS)
        parts = (self.semantic_cache, self.sources, os.getpid(), *options)
        made = self._made
        if made is None or made[0] != parts:
            templates = Templates(self.split)
            reader = RequestReader(
                self.semantic_cache,
                self.namespace,
                self.writer,
                self.normalise_system,
                self.context,
                self.sources,
                templates,
                adapters.UncachedTools(self.uncached_tools),
            )
            responders = Responders(self.semantic_cache, reader, templates, self.pace)
            made = self._made = (parts, responders)
        return made[1]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the LLM, not the cache, which is open."""
        copied = self.model_copy()
        copied.__dict__["llm"] = deepcopy(self.llm, memo)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        opened, options = self._opened_with
        own = {name: getattr(self, name) for name in _OPTIONS}
        try:
            if opened is not self.semantic_cache or "cache" in options:
                # what opens it, and not the cache: that would be opened before `_unpickled` runs
                options = {"cache": self.semantic_cache.__reduce__()[0]}
            pickle.dumps(options := {**options, **own})
        except (pickle.PicklingError, TypeError, AttributeError, SemcacheError) as error:
            # an error would make LlamaIndex drop the LLM, and use OpenAI in its place
            self.semantic_cache.warn_once(
                "pickled",
                f"a pickled CachedLLM arrives as its LLM alone, without a cache: {error}; give it "
                "a path, and functions of a module",
            )
            return _unpickled, (None, self.llm, {})
        return _unpickled, (type(self), self.llm, options)


def _unpickled(make: Callable[..., LLM] | None, llm: LLM, options: dict[str, Any]) -> LLM:
    """Open the cache again by `make`; return `llm` alone if that fails."""
    if make is None:
        return llm
    # an error would end the worker, and the pipeline would wait for it for ever
    try:
        if "cache" in options:
            options = {**options, "cache": options["cache"]()}
        return make(llm=llm, **options)
    except (SemcacheError, OSError) as error:
        log.warning("a CachedLLM arrives as its LLM alone, as its cache does not open: %s", error)
        return llm


@contextmanager
def _parsed_for(prompt: BasePromptTemplate) -> Iterator[None]:
    token = _PARSE.set(getattr(prompt.output_parser, "parse", None))
    try:
        yield
    finally:
        _PARSE.reset(token)


def _check(split: object, normalise_system: object, pace: object) -> None:
    """Raise SemcacheError for arguments of a wrong type."""
    if not callable(split):
        raise SemcacheError(
            f"split must be a function of a text, got {split!r}; leave it out for split_question"
        )
    if normalise_system is not None and not callable(normalise_system):
        raise SemcacheError(
            f"normalise_system must be a function of a text, got {normalise_system!r}; leave it out"
        )
    adapters.check_pace(pace, "items")

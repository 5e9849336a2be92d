"""SemanticLLMCache: LangChain's BaseCache over a SemanticCache."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache
from langchain_core.language_models import (
    BaseChatModel,
    BaseLanguageModel,
    LanguageModelInput,
    LanguageModelLike,
)
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation
from langchain_core.runnables import RunnableConfig
from semcache_core import (
    CacheStats,
    Explanation,
    Lookup,
    SemanticCache,
    SemcacheError,
    SharedOptions,
    Splitter,
    adapters,
    split_question,
)
from typing_extensions import Unpack

from langchain_semcache.call_stack import Caller, caller, shown_to_cache
from langchain_semcache.calls import chunks_of
from langchain_semcache.model_identity import read_llm_string
from langchain_semcache.request import RequestReader, namespace_of_config
from langchain_semcache.serialization import (
    as_stored,
    dump_generations,
    is_storable,
    load_generations,
    mark,
    plain_text,
    usage_of,
)

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


class SemanticLLMCache(BaseCache):
    """For `set_llm_cache(SemanticLLMCache())`, or one model's `cache=`.

    Takes the keyword arguments of `SemanticCache`, or `cache=` an open one to share. `split` finds
    the question inside a user text. `namespace` is the tenant: a text, or a function that returns
    the present one. The default is `config["configurable"]["semcache_namespace"]`, or the cache's
    own. `writer` is the user who asks (`Request.writer`), a text or a function too.
    `normalise_system` removes from system texts, for the comparison only, what may differ, such as
    a date.

    Fails open: an error of the cache is a miss, counted in `stats().failures` and logged once. A
    response that was cut short, refused or is empty is not stored. A response that calls tools is
    served to the same conversation only. `clear` forgets this cache's namespace.
    """

    def __init__(
        self,
        *,
        cache: SemanticCache | None = None,
        split: Splitter = split_question,
        namespace: adapters.Namespace = namespace_of_config,
        normalise_system: adapters.Normaliser | None = None,
        writer: adapters.Writer = None,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        adapters.check_given(namespace)
        adapters.check_writer(writer)
        self.cache = adapters.open_cache(cache, embedder, chroma_client, options)
        self._reader = RequestReader(self.cache, split, namespace, normalise_system, writer)

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the stored generations, as new objects with fresh ids, or None."""
        asking = caller()
        generations = _served(self._lookup(prompt, llm_string, asking))
        with self.cache.failing_open("announce"):
            for chunk in _streamed(asking, generations, is_async=False):
                asking.run.on_llm_new_token(chunk.message.content, chunk=chunk)
        return generations

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store generations, unless they must not be repeated."""
        self._update(prompt, llm_string, caller(), return_val)

    def clear(self, **kwargs: Any) -> None:
        """Forget everything in this cache's namespace."""
        with self.cache.failing_open("clear"):
            self.cache.clear(namespace=self._reader.namespace)

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        asking = caller()  # not in the thread, which has another stack
        found: tuple[Lookup, list[Generation] | None] = (adapters.FAILED, None)
        with self.cache.failing_open("lookup"):
            found = await self.cache.in_thread(self._lookup, prompt, llm_string, asking)
        generations = _served(found)
        with self.cache.failing_open("announce"):
            for chunk in _streamed(asking, generations, is_async=True):
                await asking.run.on_llm_new_token(chunk.message.content, chunk=chunk)
        return generations

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        asking = caller()
        with self.cache.failing_open("update"):
            await self.cache.in_thread(self._update, prompt, llm_string, asking, return_val)

    async def aclear(self, **kwargs: Any) -> None:
        with self.cache.failing_open("clear"):
            await self.cache.in_thread(self.clear)

    def explain(
        self,
        prompt: LanguageModelInput,
        llm_string: str | LanguageModelLike | None = None,
        model: LanguageModelLike | None = None,
        *,
        config: RunnableConfig | None = None,
        stop: list[str] | None = None,
        **arguments: Any,
    ) -> Explanation:
        """Why `model.invoke(prompt)` would hit or miss, as in `cache.explain("hi", model)`.

        `prompt` is what the model is given: a text, messages, a prompt value. The model may have
        tools or arguments bound; `stop` and `arguments` are those of the call. With an
        `llm_string`, both texts are those that LangChain passes to a cache: then `model` is needed
        where `llm_string` does not show all parameters. Raises SemcacheError when the call is not
        cached, or the cache cannot be read.
        """
        if isinstance(llm_string, str):
            asked, bare = str(prompt), model if isinstance(model, BaseLanguageModel) else None
            whole = bare is not None or read_llm_string(llm_string).whole
            request = self._reader.read(asked, llm_string, bare) if whole else None
        else:
            call = shown_to_cache(prompt, llm_string or model, config, stop, arguments)
            asked, llm_string, asking = call
            request = self._reader.read_call(asked, llm_string, asking)
        if request is None:
            raise SemcacheError(
                "this call is not cached, or only llm_string and model= together tell which model "
                "asks: pass model=, and no argument that shows only as an object "
                f"({len(llm_string)} characters of llm_string)"
            )
        return self._reader.hinted(self.cache.explain(request), asked)

    def stats(self) -> CacheStats:
        """Counts since this process opened the cache."""
        return self.cache.stats()

    # -- what sync and async share -----------------------------------------------------------------

    def _lookup(
        self, prompt: str, llm_string: str, asking: Caller
    ) -> tuple[Lookup, list[Generation] | None]:
        with self.cache.failing_open("lookup"):
            request = self._reader.read_call(prompt, llm_string, asking)
            if request is None:
                return adapters.NOT_CACHED, None
            hit, decided = self.cache.lookup(request), adapters.last_lookup()
            generations = None
            if hit is not None:
                generations = load_generations(hit.response)
                mark(generations, hit)
            return decided or adapters.FAILED, generations
        return adapters.FAILED, None

    def _update(
        self,
        prompt: str,
        llm_string: str,
        asking: Caller,
        generations: Sequence[Generation],
    ) -> None:
        with self.cache.failing_open("update"):
            if not is_storable(generations, adapters.demands_of(asking.model, asking.arguments)):
                return
            request = self._reader.read_call(prompt, llm_string, asking)
            if request is not None:
                text, answer = dump_generations(generations), plain_text(generations)
                stored, usage = as_stored(request, generations), usage_of(generations)
                self.cache.update(stored, text, answer=answer, usage=usage, wraps=True)


def _served(found: tuple[Lookup, list[Generation] | None]) -> list[Generation] | None:
    """Set `last_lookup()` in the caller's context, as a thread has another one."""
    adapters.call_answered(found[0])
    return found[1]


def _streamed(
    asking: Caller, generations: list[Generation] | None, *, is_async: bool
) -> list[ChatGenerationChunk]:
    """Return the chunks that a run expects which streams the model's answer to its handlers.

    LangChain sends them itself for a model's answer, as for `astream_events`, but for a hit only in
    its newer protocol.
    """
    model, arguments = asking.model, {**asking.arguments, "run_manager": asking.run}
    arguments.pop("stop", None)
    if not generations or asking.run is None or not isinstance(model, BaseChatModel):
        return []
    newer = getattr(model, "_should_use_protocol_streaming", None)  # older releases lack it
    if newer is not None and newer(async_api=is_async, **arguments):
        return []
    generation = generations[0]
    if not isinstance(generation, ChatGeneration) or not isinstance(generation.message, AIMessage):
        return []
    return chunks_of(generation) if model._should_stream(async_api=is_async, **arguments) else []

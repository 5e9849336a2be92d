"""SemanticLLMCache: LangChain's BaseCache over a SemanticCache."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache
from langchain_core.language_models import BaseLanguageModel
from langchain_core.outputs import Generation
from semcache_core import (
    CacheOptions,
    CacheStats,
    Explanation,
    Request,
    SemanticCache,
    SemcacheError,
    Splitter,
    digest,
    split_question,
)
from typing_extensions import Unpack

from langchain_semcache.generations import (
    calls_tools,
    dump_generations,
    is_storable,
    load_generations,
)
from langchain_semcache.identity import CallingModels, calling_model, read_llm_string
from langchain_semcache.messages import read_prompt

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


class SemanticLLMCache(BaseCache):
    """For `set_llm_cache(SemanticLLMCache())`, or one model's `cache=`.

    Takes the keyword arguments of `SemanticCache`, or `cache=` an open one to share (then only
    `namespace` may be given too). `split` finds the question inside a user text.

    It fails open: an error of the cache is a miss, counted in `stats().failures` and logged once.
    A response that was cut short, refused or is empty is not stored; one that calls tools is
    served to the very same conversation only. `clear` forgets this cache's namespace.
    """

    def __init__(
        self,
        *,
        cache: SemanticCache | None = None,
        split: Splitter = split_question,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        **options: Unpack[CacheOptions],
    ) -> None:
        self._split = split
        self._calling = CallingModels()
        if cache is None:
            self.cache = SemanticCache(embedder=embedder, chroma_client=chroma_client, **options)
        elif embedder is not None or chroma_client is not None or set(options) - {"namespace"}:
            given = sorted(set(options) - {"namespace"}) or ["embedder or chroma_client"]
            raise SemcacheError(
                f"cache= was given together with {', '.join(given)}; pass these to SemanticCache"
            )
        else:
            self.cache = cache
        self._namespace = options.get("namespace", self.cache.settings.namespace)
        if self._namespace is None:  # typed out, but a tenant's id may be None by mistake
            raise SemcacheError("namespace must be a non-empty str, got None; leave it out instead")
        Request("", namespace=self._namespace)  # any other wrong type shows here

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The stored generations, as new objects with fresh ids, or None."""
        return self._lookup(prompt, llm_string, calling_model())

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store generations, unless they must not be repeated."""
        self._update(prompt, llm_string, calling_model(), return_val)

    def clear(self, **kwargs: Any) -> None:
        """Forget everything in this cache's namespace."""
        with self.cache.failing_open("clear"):
            self.cache.clear(namespace=self._namespace)

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """See `lookup`."""
        model = calling_model()  # here: a thread has another stack
        with self.cache.failing_open("lookup"):
            return await self.cache.in_thread(self._lookup, prompt, llm_string, model)
        return None

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """See `update`."""
        model = calling_model()
        with self.cache.failing_open("update"):
            await self.cache.in_thread(self._update, prompt, llm_string, model, return_val)

    async def aclear(self, **kwargs: Any) -> None:
        """See `clear`."""
        with self.cache.failing_open("clear"):
            await self.cache.in_thread(self.clear)

    def explain(
        self, prompt: str, llm_string: str, model: BaseLanguageModel[Any] | None = None
    ) -> Explanation:
        """Why `lookup` would hit or miss: `prompt` is `dumps(messages)`, or a text model's prompt.

        `model` is the one that asks, needed where `llm_string` does not tell all about it (the
        cache itself finds it on the stack). Raises SemcacheError when the cache cannot tell what
        is asked, or cannot be read: an explanation of nothing would mislead.
        """
        whole = model is not None or read_llm_string(llm_string).whole
        request = self._request(prompt, llm_string, model) if whole else None
        if request is None:
            raise SemcacheError(
                "this call is not cached, or only llm_string and model= together tell which model "
                "asks: pass model=, and no argument that shows only as an object "
                f"({len(llm_string)} characters of llm_string)"
            )
        return self.cache.explain(request)

    def stats(self) -> CacheStats:
        """Counts since this process opened the cache."""
        return self.cache.stats()

    # -- what sync and async share -----------------------------------------------------------------

    def _lookup(
        self, prompt: str, llm_string: str, model: BaseLanguageModel[Any] | None
    ) -> list[Generation] | None:
        with self.cache.failing_open("lookup"):
            request = self._request(prompt, llm_string, model)
            hit = None if request is None else self.cache.lookup(request)
            return None if hit is None else load_generations(hit.response)
        return None

    def _update(
        self,
        prompt: str,
        llm_string: str,
        model: BaseLanguageModel[Any] | None,
        generations: Sequence[Generation],
    ) -> None:
        with self.cache.failing_open("update"):
            if not is_storable(generations):
                return
            request = self._request(prompt, llm_string, model)
            if request is None:
                return
            if calls_tools(generations):
                request = replace(request, exact_only=True)
            self.cache.update(request, dump_generations(generations))

    def _request(
        self, prompt: str, llm_string: str, model: BaseLanguageModel[Any] | None
    ) -> Request | None:
        """None when this call cannot be told from another one: then it is not cached."""
        asking = self._asking_model(llm_string, model)
        if asking is None:
            return None
        read = read_prompt(prompt, self._split)
        if not read.stable:
            self._warn_unstable("message")
            return None
        return Request(
            question=read.question,
            scope=digest([asking, read.rest]),
            namespace=self._namespace,
            exact_only=read.exact_only,
        )

    def _asking_model(self, llm_string: str, model: BaseLanguageModel[Any] | None) -> str | None:
        """A digest of the model and its parameters; None when it cannot be known."""
        known = read_llm_string(llm_string)
        if not known.stable:
            self._warn_unstable("call argument")
            return None
        if model is None:
            return known.digest if known.named else None
        if known.whole:
            unsaid = self._calling.unsaid(model, known)
            return digest([known.digest, unsaid]) if unsaid else known.digest
        if not known.named:
            self.cache.warn_once(
                "unnamed " + type(model).__name__,
                f"{type(model).__name__} does not tell LangChain's cache which model it is; "
                "its fields are compared instead, so that two models never share an answer",
            )
        return digest([known.digest, self._calling.identify(model)])

    def _warn_unstable(self, what: str) -> None:
        self.cache.warn_once(
            f"unstable {what}",
            f"a {what} shows only a class name or an address to the cache, so its fields could "
            "change unseen; calls with it are not cached. With with_structured_output, "
            "method='function_calling' shows the schema.",
        )

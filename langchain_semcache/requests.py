"""From a model call, as LangChain describes it to a cache, to the request the core is asked."""

from typing import Any

from langchain_core.language_models import BaseLanguageModel
from semcache_core import Request, SemanticCache, Splitter, digest

from langchain_semcache.identity import CallingModels, read_llm_string
from langchain_semcache.messages import read_prompt
from langchain_semcache.namespaces import Namespace, present_namespace


class RequestReader:
    """Reads calls for one cache; `split` finds the question inside a user text.

    Every adapter reads calls through this, so that the same call is the same request to all.
    """

    def __init__(self, cache: SemanticCache, split: Splitter, namespace: Namespace) -> None:
        self._cache, self._split, self._namespace = cache, split, namespace
        self._calling = CallingModels()

    @property
    def namespace(self) -> str:
        """The tenant of the present call."""
        return present_namespace(self._namespace, self._cache)

    def read(
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
            namespace=self.namespace,
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
            self._cache.warn_once(
                "unnamed " + type(model).__name__,
                f"{type(model).__name__} does not tell LangChain's cache which model it is; "
                "its fields are compared instead, so that two models never share an answer",
            )
        return digest([known.digest, self._calling.identify(model)])

    def _warn_unstable(self, what: str) -> None:
        self._cache.warn_once(
            f"unstable {what}",
            f"a {what} shows only a class name or an address to the cache, so its fields could "
            "change unseen; calls with it are not cached. With with_structured_output, "
            "method='function_calling' shows the schema.",
        )

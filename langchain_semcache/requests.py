"""From a model call, as LangChain describes it to a cache, to the request the core is asked."""

from typing import Any

from langchain_core.language_models import BaseLanguageModel
from semcache_core import Explanation, Request, SemanticCache, Splitter, digest
from semcache_core.adapters import (
    Namespace,
    Normaliser,
    Turn,
    Writer,
    hinted,
    normalise_systems,
    present_writer,
    system_blocks,
)

from langchain_semcache.identity import CallingModels, read_llm_string
from langchain_semcache.messages import read_prompt
from langchain_semcache.namespaces import present_namespace


class RequestReader:
    """Reads calls for one cache; `split` finds the question inside a user text.

    `normalise_system` is applied to what the scope sees of system texts; the model is still told
    the original. Every adapter reads calls through this, so that the same call is the same request
    to all.
    """

    def __init__(
        self,
        cache: SemanticCache,
        split: Splitter,
        namespace: Namespace,
        normalise_system: Normaliser | None = None,
        writer: Writer = None,
    ) -> None:
        self._cache, self._split, self._namespace = cache, split, namespace
        self._normalise_system, self._writer = normalise_system, writer
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
        read = self._read_prompt(prompt)
        if read is None:
            self._warn_unstable("message")
            return None
        return Request(
            question=read.question,
            scope=digest([asking, read.rest]),
            namespace=self.namespace,
            exact_only=read.exact_only,
            writer=present_writer(self._writer),
        )

    def hinted(self, explanation: Explanation, prompt: str) -> Explanation:
        """`explanation`, with a hint where a date in a system text may be why nothing is found."""
        read = self._read_prompt(prompt)
        blocks = system_blocks(() if read is None else read.rest)
        return hinted(explanation, [block["text"] for block in blocks])

    def _read_prompt(self, prompt: str) -> Turn | None:
        read = read_prompt(prompt, self._split)
        if read is not None:
            normalise_systems(read.rest, self._normalise_system)
        return read

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

"""A CachedLLM on its way to another process."""

import logging
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from llama_index.core.llms.llm import LLM
from semcache_core import SemanticCache, SemcacheError

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

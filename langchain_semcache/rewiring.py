"""A model inside a chain replaced by another, as in what `bind_tools` gives."""

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase

Replace = Callable[[BaseChatModel], BaseChatModel]


def rewired(chain: Runnable[Any, Any], replace: Replace) -> Runnable[Any, Any]:
    """`chain` with `replace(model)` for each chat model in it; `chain` itself is left as it is.

    What a function closes over cannot be seen: a model in there stays.
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

"""semcache for LangChain: as its cache, in front of a chat model, and in an agent.

- `cache`: SemanticLLMCache, for `set_llm_cache` or a model's `cache=`
- `chat_model`: CachedChatModel, around one chat model; streams too
- `middleware`: SemanticCacheMiddleware, for agents
- `verifier`: ChatVerifier, a chat model as the judge of hits
- `langgraph`: a cache key for the nodes of a graph
"""

from typing import TYPE_CHECKING, Any

import semcache_core
from semcache_core import last_hit, last_lookup, track_hits

from langchain_semcache.cache import SemanticLLMCache
from langchain_semcache.chat_model import CachedChatModel
from langchain_semcache.verifier import ChatVerifier

if TYPE_CHECKING:
    __version__: str
    from langchain_semcache.middleware import SemanticCacheMiddleware

__all__ = [
    "CachedChatModel",
    "ChatVerifier",
    "SemanticCacheMiddleware",
    "SemanticLLMCache",
    "__version__",
    "last_hit",
    "last_lookup",
    "track_hits",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return semcache_core.__version__
    # langchain's agents are a separate extra, and slow to import
    if name != "SemanticCacheMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from langchain_semcache.middleware import SemanticCacheMiddleware

    return SemanticCacheMiddleware

"""SemanticCache in LangChain: as its cache, in front of a chat model, and in an agent."""

from typing import TYPE_CHECKING, Any

from semcache_core.adapters import last_hit

from langchain_semcache.cache import SemanticLLMCache
from langchain_semcache.chat_model import CachedChatModel
from langchain_semcache.verifier import ChatVerifier

if TYPE_CHECKING:
    from langchain_semcache.middleware import SemanticCacheMiddleware

__all__ = [
    "CachedChatModel",
    "ChatVerifier",
    "SemanticCacheMiddleware",
    "SemanticLLMCache",
    "last_hit",
]


def __getattr__(name: str) -> Any:
    # langchain's agents are an extra of their own, and slow to import
    if name != "SemanticCacheMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from langchain_semcache.middleware import SemanticCacheMiddleware

    return SemanticCacheMiddleware

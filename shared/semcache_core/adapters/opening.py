"""One way for all adapters to take either an open cache or what opens one."""

from typing import TYPE_CHECKING

from semcache_core.cache import SemanticCache
from semcache_core.errors import SemcacheError
from semcache_core.settings import SharedOptions

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


def given_or_opened(
    cache: SemanticCache | None,
    embedder: object | None,
    chroma_client: "ClientAPI | None",
    options: SharedOptions,
) -> SemanticCache:
    """`cache` itself, or a new one; raises SemcacheError when both are asked for."""
    if cache is None:
        return SemanticCache(embedder=embedder, chroma_client=chroma_client, **options)
    if not isinstance(cache, SemanticCache):
        raise SemcacheError(
            f"cache must be a SemanticCache, got {cache!r}; "
            "pass its .cache or .semantic_cache where it has one, or leave it out for a new one"
        )
    if embedder is not None or chroma_client is not None or options:
        given = sorted(options) or ["embedder or chroma_client"]
        raise SemcacheError(
            f"cache= was given together with {', '.join(given)}; pass these to SemanticCache"
        )
    return cache

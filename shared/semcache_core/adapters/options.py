"""Whose answers a call may see: the tenant, fixed or asked for; and who of the tenant asks."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from semcache_core.cache import SemanticCache
from semcache_core.errors import SemcacheError
from semcache_core.settings import SharedOptions
from semcache_core.types import check_namespace

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

Namespace: TypeAlias = str | Callable[[], str]
"""A tenant, or what gives the tenant of the present call."""

Writer: TypeAlias = str | Callable[[], str | None] | None
"""Who asks, and stores (`Request.writer`), or what gives who makes the present call; None is nobody
in particular, whose answers confirm nothing.
"""


def own_namespace() -> str:
    """The default of an adapter: stands for the cache's own tenant.

    Not None, which a tenant's id may be by mistake.
    """
    return ""


def current_namespace(namespace: Namespace, cache: SemanticCache) -> str:
    """The tenant of this call.

    Raises SemcacheError for anything but a non-empty text: a tenant that is None by mistake must
    never become the default one, whose answers all share.
    """
    if namespace is own_namespace:
        return cache.settings.namespace
    value = namespace() if callable(namespace) else namespace
    check_namespace(value)
    return value


def current_writer(writer: Writer) -> str | None:
    """Who makes this call."""
    return writer() if callable(writer) else writer


def check_writer(writer: object) -> None:
    """Raise SemcacheError for what can never name a writer."""
    if writer is not None and not callable(writer) and not isinstance(writer, str):
        raise SemcacheError(
            f"writer must be a str or a function that gives one, got {writer!r}; "
            "pass the user's id as text, or leave it out"
        )


def check_given(namespace: object) -> None:
    """Raise SemcacheError for what can never name a tenant."""
    if namespace is None:  # typed out, but a tenant's id may be None by mistake
        raise SemcacheError("namespace must be a non-empty str, got None; leave it out instead")
    if not callable(namespace):
        check_namespace(namespace)


def open_cache(
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


def check_pace(pace: object, what: str) -> None:
    """Raise SemcacheError unless `pace` is None or the seconds between two of `what`."""
    if pace is not None and not (isinstance(pace, int | float) and 0 <= pace < math.inf):
        raise SemcacheError(
            f"pace must be the seconds between two {what}, got {pace!r}; leave it out for none"
        )

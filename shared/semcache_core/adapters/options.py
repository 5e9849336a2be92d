"""Arguments that all adapters take: the tenant and the writer of a call, and the cache."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from semcache_core.cache import SemanticCache
from semcache_core.errors import SemcacheError
from semcache_core.settings import SharedOptions, check_names
from semcache_core.types import check_namespace

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

Namespace: TypeAlias = str | Callable[[], str]
"""A tenant, or a function that returns the tenant of the present call."""

Writer: TypeAlias = str | Callable[[], str | None] | None
"""The user who asks and stores (`Request.writer`), or a function that returns the user of the
present call. Answers without a writer confirm nothing.
"""


def own_namespace() -> str:
    """The default of an adapter: the cache's own tenant.

    Not None, which a tenant's id may be by mistake.
    """
    return ""


def current_namespace(namespace: Namespace, cache: SemanticCache) -> str:
    """Return the tenant of this call.

    Raises SemcacheError for anything but a non-empty text: a tenant that is None by mistake must
    not become the default one, whose answers are shared.
    """
    if namespace is own_namespace:
        return cache.settings.namespace
    value = namespace() if callable(namespace) else namespace
    check_namespace(value)
    return value


def current_writer(writer: Writer) -> str | None:
    return writer() if callable(writer) else writer


def check_writer(writer: object) -> None:
    """Raise SemcacheError unless `writer` is a text, a function or None."""
    if writer is not None and not callable(writer) and not isinstance(writer, str):
        raise SemcacheError(
            f"writer must be a str or a function that gives one, got {writer!r}; "
            "pass the user's id as text, or leave it out"
        )


def check_given(namespace: object) -> None:
    """Raise SemcacheError unless `namespace` is a non-empty text or a function."""
    if namespace is None:  # ruled out by its type, but a tenant's id may be None by mistake
        raise SemcacheError("namespace must be a non-empty str, got None; leave it out instead")
    if not callable(namespace):
        check_namespace(namespace)


def open_cache(
    cache: SemanticCache | None,
    embedder: object | None,
    chroma_client: "ClientAPI | None",
    options: SharedOptions,
) -> SemanticCache:
    """Return `cache`, or open a new one; raises SemcacheError for arguments of both."""
    check_names(options)
    if cache is None:
        # one mapping: an adapter that has no argument `embedder` finds it among its options
        given: Any = {"embedder": embedder, "chroma_client": chroma_client, **options}
        return SemanticCache(**given)
    if not isinstance(cache, SemanticCache):
        raise SemcacheError(
            f"cache must be a SemanticCache, got {cache!r}; "
            "pass its .cache or .semantic_cache where it has one, or leave it out for a new one"
        )
    if embedder is not None or chroma_client is not None or options:
        names = sorted(options) or ["embedder or chroma_client"]
        raise SemcacheError(
            f"cache= was given together with {', '.join(names)}; pass these to SemanticCache"
        )
    return cache


def check_pace(pace: object, what: str) -> None:
    """Raise SemcacheError unless `pace` is None or the seconds between two of `what`."""
    if pace is not None and not (isinstance(pace, int | float) and 0 <= pace < math.inf):
        raise SemcacheError(
            f"pace must be the seconds between two {what}, got {pace!r}; leave it out for none"
        )

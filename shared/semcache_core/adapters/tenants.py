"""Whose answers a call may see: the tenant, fixed or asked for; and who of the tenant asks."""

from collections.abc import Callable
from typing import TypeAlias

from semcache_core.cache import SemanticCache
from semcache_core.errors import SemcacheError
from semcache_core.types import check_namespace

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


def present_namespace(namespace: Namespace, cache: SemanticCache) -> str:
    """The tenant of this call.

    Raises SemcacheError for anything but a non-empty text: a tenant that is None by mistake must
    never become the default one, whose answers all share.
    """
    if namespace is own_namespace:
        return cache.settings.namespace
    value = namespace() if callable(namespace) else namespace
    check_namespace(value)
    return value


def present_writer(writer: Writer) -> str | None:
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

"""Whose answers a call may see: the tenant, fixed, told by the run's config, or asked for; and who
of the tenant asks.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from langchain_core.runnables.config import ensure_config
from semcache_core import SemanticCache, SemcacheError, check_namespace

Namespace: TypeAlias = str | Callable[[], str]
"""A tenant, or what gives the tenant of the present call."""

Writer: TypeAlias = str | Callable[[], str | None] | None
"""Who asks, and stores (`Request.writer`), or what gives who makes the present call; None is nobody
in particular, whose answers confirm nothing.
"""

CONFIG_KEY = "semcache_namespace"


def namespace_of_config() -> str:
    """The tenant in `config["configurable"]["semcache_namespace"]` of the run that is going on.

    Empty when the config names none: then it is the cache's own. LangChain shows the config of
    chains, graphs and agents to what runs inside them, not that of a plain `model.invoke`.
    """
    return namespace_in(ensure_config())


def namespace_in(config: Mapping[str, Any]) -> str:
    """The tenant that `config` names, or an empty text; raises SemcacheError for a wrong type."""
    configured = config.get("configurable", {})
    if CONFIG_KEY not in configured:
        return ""
    check_namespace(configured[CONFIG_KEY])
    return str(configured[CONFIG_KEY])


def present_namespace(namespace: Namespace, cache: SemanticCache) -> str:
    """The tenant of this call.

    Raises SemcacheError for anything but a non-empty text: a tenant that is None by mistake must
    never become the default one, whose answers all share.
    """
    if namespace is namespace_of_config:
        return namespace_of_config() or cache.settings.namespace
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

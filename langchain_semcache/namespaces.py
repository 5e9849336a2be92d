"""The tenant of a call, as the config of a LangChain run names it."""

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables.config import ensure_config
from semcache_core import SemanticCache, adapters, check_namespace
from semcache_core.adapters import Namespace, own_namespace

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
    """The tenant of this call; raises SemcacheError for anything but a non-empty text."""
    if namespace is namespace_of_config:
        namespace = namespace_of_config() or own_namespace
    return adapters.present_namespace(namespace, cache)

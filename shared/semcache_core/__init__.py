"""The core of semcache: embedding, hit prediction and storage behind one SemanticCache."""

from semcache_core.cache import SemanticCache
from semcache_core.embedding import as_embedder
from semcache_core.errors import SemcacheError
from semcache_core.explanation import CacheStats, Explanation
from semcache_core.request import Split, Splitter, digest, split_question
from semcache_core.settings import CacheOptions, CacheSettings, SharedOptions
from semcache_core.types import (
    Candidate,
    Clock,
    Embedder,
    Entry,
    Hit,
    Request,
    check_namespace,
)

__all__ = [
    "CacheOptions",
    "CacheSettings",
    "CacheStats",
    "Candidate",
    "Clock",
    "Embedder",
    "Entry",
    "Explanation",
    "Hit",
    "Request",
    "SemanticCache",
    "SemcacheError",
    "SharedOptions",
    "Split",
    "Splitter",
    "as_embedder",
    "check_namespace",
    "digest",
    "split_question",
]

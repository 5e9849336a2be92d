"""The core of semcache: embedding, hit prediction and storage behind one SemanticCache."""

from typing import TYPE_CHECKING

from semcache_core._utils.intervals import Measured
from semcache_core._utils.lazy import version_of
from semcache_core.admission import Admit, Redact
from semcache_core.cache import SemanticCache
from semcache_core.costs import Prices, Saved
from semcache_core.decision.same_answer import SameAnswer
from semcache_core.decision.verifier import Verifier
from semcache_core.embedding.wrappers import as_embedder
from semcache_core.errors import SemcacheError
from semcache_core.hits import last_hit, last_lookup, track_hits
from semcache_core.pipeline.explain import CacheStats, Explanation
from semcache_core.request import Split, Splitter, bypassing, digest, refreshing, split_question
from semcache_core.settings import CacheOptions, CacheSettings, SharedOptions
from semcache_core.transfer.transfer import Exported, Imported
from semcache_core.types import (
    Candidate,
    Clock,
    Embedder,
    Entry,
    Hit,
    Lookup,
    Request,
    Usage,
    check_namespace,
)

__all__ = [
    "Admit",
    "CacheOptions",
    "CacheSettings",
    "CacheStats",
    "Candidate",
    "Clock",
    "Embedder",
    "Entry",
    "Explanation",
    "Exported",
    "Hit",
    "Imported",
    "Lookup",
    "Measured",
    "Prices",
    "Redact",
    "Request",
    "SameAnswer",
    "Saved",
    "SemanticCache",
    "SemcacheError",
    "SharedOptions",
    "Split",
    "Splitter",
    "Usage",
    "Verifier",
    "__version__",
    "as_embedder",
    "bypassing",
    "check_namespace",
    "digest",
    "last_hit",
    "last_lookup",
    "refreshing",
    "split_question",
    "track_hits",
]

if TYPE_CHECKING:
    __version__: str
else:  # unseen by type checkers, which would take any name for one of this package
    __getattr__ = version_of(__name__)

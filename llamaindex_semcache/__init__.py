"""semcache for LlamaIndex, as in `Settings.llm = CachedLLM(llm=OpenAI(model="gpt-4o-mini"))`.

- `llm`: CachedLLM, around any LLM
- `documents`, `docstore`: answers that depend on documents, and are dropped when these change
- `kvstore`: SemcacheKVStore, for ingestion and embedding caches
- `events`: the event of a hit
- `verifier`: LLMVerifier, an LLM as the judge of hits
"""

from typing import TYPE_CHECKING

import semcache_core
from semcache_core import last_hit, last_lookup, track_hits

from llamaindex_semcache.docstore import InvalidatingDocstore
from llamaindex_semcache.documents import SourceNodes, Sources, document_tag, node_tag
from llamaindex_semcache.events import SemcacheHitEvent
from llamaindex_semcache.kvstore import SemcacheKVStore
from llamaindex_semcache.llm import CachedLLM
from llamaindex_semcache.verifier import LLMVerifier

__all__ = [
    "CachedLLM",
    "InvalidatingDocstore",
    "LLMVerifier",
    "SemcacheHitEvent",
    "SemcacheKVStore",
    "SourceNodes",
    "Sources",
    "__version__",
    "document_tag",
    "last_hit",
    "last_lookup",
    "node_tag",
    "track_hits",
]

if TYPE_CHECKING:
    __version__: str
else:  # unseen by type checkers, which would take any name for one of this package

    def __getattr__(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return semcache_core.__version__

"""SemanticCache in LlamaIndex: an LLM with a cache in front, stores, and documents that change.

Wherever an LLM goes:

    Settings.llm = CachedLLM(llm=OpenAI(model="gpt-4o-mini"))
"""

from semcache_core.adapters import last_hit

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
    "document_tag",
    "last_hit",
    "node_tag",
]

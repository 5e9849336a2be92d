"""The suites of the frameworks' caches, with PostgreSQL as the ledger and a Chroma server."""

from typing import Any

import chromadb
import pytest
from langchain_tests.integration_tests.cache import AsyncCacheTestSuite, SyncCacheTestSuite
from llamaindex.test_kvstore import KVStoreContract

from langchain_semcache import SemanticLLMCache
from llamaindex_semcache import SemcacheKVStore


@pytest.fixture
def shared(hosts: Any, chroma_server: int) -> Any:
    return hosts.open(chroma_client=chromadb.HttpClient("127.0.0.1", chroma_server))


class OnServers:
    @pytest.fixture
    def cache(self, shared: Any) -> Any:
        return SemanticLLMCache(cache=shared)


class TestLangChain(OnServers, SyncCacheTestSuite): ...


class TestLangChainAsync(OnServers, AsyncCacheTestSuite): ...


class TestKVStore(KVStoreContract):
    @pytest.fixture
    def kv(self, shared: Any) -> SemcacheKVStore:
        return SemcacheKVStore(cache=shared)

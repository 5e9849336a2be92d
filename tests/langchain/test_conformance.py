"""LangChain's own suites for caches, unmodified. They prove nothing about meaning."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests.cache import AsyncCacheTestSuite, SyncCacheTestSuite
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT

from langchain_semcache import SemanticLLMCache

OpenCache = Callable[..., SemanticLLMCache]


shipped = pytest.mark.skipif(
    not (DEFAULT_ARTEFACT / "calibration.json").exists(), reason="no artefact in this checkout"
)


class InMemory:
    @pytest.fixture
    def cache(self, open_cache: OpenCache) -> SemanticLLMCache:
        return open_cache(path=None)


class OnDisk:
    @pytest.fixture
    def cache(self, open_cache: OpenCache, tmp_path: Path) -> SemanticLLMCache:
        return open_cache(path=tmp_path / "cache")


class Shipped:
    """With the model and calibration that are shipped."""

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Iterator[Any]:
        cache = SemanticLLMCache(path=tmp_path / "cache")
        yield cache
        cache.cache.close()


class TestInMemory(InMemory, SyncCacheTestSuite): ...


class TestInMemoryAsync(InMemory, AsyncCacheTestSuite): ...


class TestOnDisk(OnDisk, SyncCacheTestSuite): ...


class TestOnDiskAsync(OnDisk, AsyncCacheTestSuite): ...


@shipped
class TestShipped(Shipped, SyncCacheTestSuite): ...


@shipped
class TestShippedAsync(Shipped, AsyncCacheTestSuite): ...

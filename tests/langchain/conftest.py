from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import WordEmbedder, calibrated
from langchain_core.globals import set_llm_cache

from langchain_semcache import SemanticLLMCache

OpenCache = Callable[..., SemanticLLMCache]


@pytest.fixture
def open_cache(tmp_path: Path) -> Iterator[OpenCache]:
    """Opens caches that match word sets by meaning: in memory unless a path is given."""
    opened = []
    artefact = calibrated(tmp_path / "artefact")

    def open_cache(**options: Any) -> SemanticLLMCache:
        embedder = options.pop("embedder", None) or WordEmbedder()
        options = {"path": None, "artefact": artefact} | options
        opened.append(SemanticLLMCache(embedder=embedder, **options))
        return opened[-1]

    yield open_cache
    for cache in opened:
        cache.cache.close()


@pytest.fixture
def cache(open_cache: OpenCache) -> SemanticLLMCache:
    return open_cache()


@pytest.fixture(autouse=True)
def no_global_cache() -> Iterator[None]:
    yield
    set_llm_cache(None)

"""A fake provider on loopback, and a cache that compares questions by their words."""

import os
from collections.abc import Iterator

import pytest
from fake_provider import Provider
from langchain_core.globals import set_llm_cache
from semcache_core import SemanticCache
from semcache_core.testing import open_word_cache

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks a server for prices


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture
def cache() -> Iterator[SemanticCache]:
    with open_word_cache() as cache:
        yield cache


@pytest.fixture(autouse=True)
def no_global_cache() -> Iterator[None]:
    yield
    set_llm_cache(None)

"""Copies and pickles of the adapters for LangChain."""

import pickle
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import pytest
from scripted_models import Chat
from semcache_core import SemanticCache

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache


def tenant() -> str:
    return "acme"


def model(cache: SemanticCache | None = None, **options: Any) -> CachedChatModel:
    return CachedChatModel(Chat(), cache=cache, **options)


@pytest.mark.parametrize("copied", [copy, deepcopy])
def test_a_copy_serves_from_the_same_cache(tmp_path: Path, copied: Any) -> None:
    with SemanticCache(path=tmp_path) as cache:
        cached = model(cache)
        assert cached.invoke("hi").content == "answer 1"
        other = copied(cached)
        assert other.semantic_cache is cache
        assert other.invoke("hi").content == "answer 1"
        assert (other.model is cached.model) == (copied is copy)
        for adapter in (SemanticLLMCache(cache=cache), SemanticCacheMiddleware(cache=cache)):
            assert copied(adapter).cache is cache


def test_an_unpickled_model_opens_its_path_again(tmp_path: Path) -> None:
    cached = model(path=tmp_path, namespace=tenant)
    assert cached.invoke("hi").content == "answer 1"
    copied = pickle.loads(pickle.dumps(cached))
    with cached.semantic_cache, copied.semantic_cache:
        assert copied.semantic_cache is not cached.semantic_cache
        answer = copied.invoke("hi")
        assert (
            answer.content == "answer 1" and answer.response_metadata["semcache"]["kind"] == "exact"
        )
        assert [entry.namespace for entry in copied.semantic_cache.entries()] == []


def test_an_unpickled_cache_of_langchain_opens_its_path_again(tmp_path: Path) -> None:
    cache = SemanticLLMCache(path=tmp_path, namespace=tenant)
    inner = Chat(cache=cache)
    assert inner.invoke("hi").content == "answer 1"
    copied = pickle.loads(pickle.dumps(cache))
    with cache.cache, copied.cache:
        again = Chat(cache=copied)
        assert again.invoke("hi").content == "answer 1"
        assert copied.stats().exact_hits == 1
        assert copied.stats().failures == {}

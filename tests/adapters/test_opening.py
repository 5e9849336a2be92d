"""An adapter is given an open cache, or what opens one, and never both."""

from collections.abc import Callable
from typing import Any

import pytest
from fakes import WordEmbedder
from langchain_core.language_models import FakeListChatModel
from llama_index.core.llms.mock import MockLLM
from semcache_core import SemcacheError
from semcache_core.adapters import open_cache

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache
from llamaindex_semcache import CachedLLM, SemcacheKVStore


def test_an_open_cache_is_shared(bench: Any) -> None:
    cache = bench.open(path=None)
    assert open_cache(cache, None, None, {}) is cache


def test_without_one_the_options_open_one(bench: Any) -> None:
    embedder = WordEmbedder()
    cache = open_cache(
        None, embedder, None, {"path": None, "artefact": bench.artefact, "ttl": 60.0}
    )
    bench.opened.append(cache)
    assert cache.settings.ttl == 60.0 and cache.settings.path is None


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ((None, None, {"ttl": 60.0, "path": None}), "path, ttl"),
        ((WordEmbedder(), None, {}), "embedder or chroma_client"),
        ((None, object(), {}), "embedder or chroma_client"),
    ],
)
def test_both_is_an_error_that_names_what_to_leave_out(bench: Any, told: Any, named: str) -> None:
    with pytest.raises(SemcacheError, match=f"together with {named}; pass these to SemanticCache"):
        open_cache(bench.open(path=None), *told)


@pytest.mark.parametrize("wrong", [True, False, "cache", object()])
def test_what_is_no_cache_is_an_error(wrong: Any) -> None:
    with pytest.raises(SemcacheError, match=r"cache must be a SemanticCache, got .*\.cache"):
        open_cache(wrong, None, None, {})


ADAPTERS: dict[str, Callable[..., Any]] = {
    "SemanticLLMCache": SemanticLLMCache,
    "CachedChatModel": lambda **given: CachedChatModel(FakeListChatModel(responses=["a"]), **given),
    "SemanticCacheMiddleware": SemanticCacheMiddleware,
    "CachedLLM": lambda **given: CachedLLM(MockLLM(), **given),
    "SemcacheKVStore": SemcacheKVStore,
}


@pytest.mark.parametrize("shared", [False, True], ids=["opens a cache", "shares a cache"])
@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_arguments_of_another_cache_name_ours(adapter: Any, shared: bool, bench: Any) -> None:
    own = {"cache": bench.open(path=None)} if shared else {"path": bench.path}
    theirs = {"embeddings": object(), "distance_threshold": 0.2}
    with pytest.raises(SemcacheError, match=r"embeddings is not.*embedder=.*max_error_rate="):
        adapter(**own, **theirs)
    assert not bench.path.exists()


def test_a_store_that_embeds_nothing_takes_an_embedder_all_the_same(bench: Any) -> None:
    store = SemcacheKVStore(path=None, embedder=WordEmbedder(), artefact=bench.artefact)
    bench.opened.append(store.cache)
    store.put("key", {"a": 1})
    assert store.get("key") == {"a": 1}

"""An adapter is given an open cache, or what opens one, and never both."""

from typing import Any

import pytest
from fakes import WordEmbedder
from semcache_core import SemcacheError
from semcache_core.adapters import open_cache


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

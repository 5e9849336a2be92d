"""Caches with more entries in a scope than are scanned."""

from semcache_core import Request, SemanticCache
from semcache_core.testing import run_background_round


def ask(i: int) -> str:
    return f"alpha{i} beta{i} gamma{i}"


def other_words(i: int) -> str:
    return f"gamma{i} alpha{i} beta{i}"


def fill(cache: SemanticCache, start: int = 0, stop: int = 120, scope: str = "") -> None:
    for i in range(start, stop):
        cache.update(Request(ask(i), scope), f"answer {scope}{i}")


def rounds(cache: SemanticCache, n: int = 3) -> None:
    """Run background rounds; three are enough for the index to hold what it should."""
    for _ in range(n):
        run_background_round(cache, index_all=True)


def assert_finds(cache: SemanticCache, start: int = 0, stop: int = 120, step: int = 1) -> None:
    for i in range(start, stop, step):
        hit = cache.lookup(Request(other_words(i)))
        assert hit is not None and hit.response == f"answer {i}", i


def settle(cache: SemanticCache) -> None:
    rounds(cache)

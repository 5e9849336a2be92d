"""Caches with more entries in a scope than are scanned."""

from semcache_core import Request, SemanticCache
from semcache_core.testing import engine_of


def ask(i: int) -> str:
    return f"alpha{i} beta{i} gamma{i}"


def other_words(i: int) -> str:
    return f"gamma{i} alpha{i} beta{i}"


def fill(cache: SemanticCache, start: int = 0, stop: int = 120, scope: str = "") -> None:
    for i in range(start, stop):
        cache.update(Request(ask(i), scope), f"answer {scope}{i}")


def settle(cache: SemanticCache, rounds: int = 3) -> None:
    """Background rounds that count the scopes each time, and try a broken index again at once."""
    parts = engine_of(cache)
    for _ in range(rounds):
        parts.retriever.count_requested.set()
        parts.background._index_sync._retry_at = 0.0
        parts.background.round()


def assert_finds(cache: SemanticCache, start: int = 0, stop: int = 120, step: int = 1) -> None:
    for i in range(start, stop, step):
        hit = cache.lookup(Request(other_words(i)))
        assert hit is not None and hit.response == f"answer {i}", i

"""Caches with more entries in a scope than are scanned."""

from semcache_core import Request, SemanticCache


def ask(i: int) -> str:
    return f"alpha{i} beta{i} gamma{i}"


def other_words(i: int) -> str:
    return f"gamma{i} alpha{i} beta{i}"


def fill(cache: SemanticCache, start: int = 0, stop: int = 120, scope: str = "") -> None:
    for i in range(start, stop):
        cache.update(Request(ask(i), scope), f"answer {scope}{i}")


def rounds(cache: SemanticCache, n: int = 3) -> None:
    """Of upkeep, in each of which scopes are counted, and a broken index is tried again."""
    parts = cache._use()
    for _ in range(n):
        parts.retriever.count_requested.set()
        parts.background._index_sync._retry_at = 0.0
        parts.background.round()


def assert_finds(cache: SemanticCache, start: int = 0, stop: int = 120, step: int = 1) -> None:
    for i in range(start, stop, step):
        hit = cache.lookup(Request(other_words(i)))
        assert hit is not None and hit.response == f"answer {i}", i


def settle(cache: SemanticCache) -> None:
    """Rounds until the index has what it should; a broken index is tried again at once."""
    parts = cache._use()
    parts.retriever.count_requested.set()
    for _ in range(3):
        parts.background._index_sync._retry_at = 0.0
        parts.background.round()

"""Helpers to test an app that uses semcache: fast, repeatable, and without the shipped model.

`open_word_cache` opens a cache that compares questions by their words. `ManualClock` moves its
time, `run_background_round` does the work of its background thread at once.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from semcache_core.cache import SemanticCache
from semcache_core.pipeline.engine import Engine
from semcache_core.types import Matrix, Vector

__all__ = [
    "WORD_ARTEFACT",
    "ManualClock",
    "WordEmbedder",
    "engine_of",
    "open_word_cache",
    "run_background_round",
]

DIMENSION = 64
WORD_ARTEFACT = Path(__file__).parent / "artefacts" / "words"
"""A calibration for `WordEmbedder`, with invented thresholds: at `max_error_rate=0.02` a question
is served at a cosine of 0.90, at 0.10 of 0.80. Questions of more than 40 words are not compared.
"""


class WordEmbedder:
    """An `Embedder` whose vectors depend on the words of a text, not on their order.

    Each word adds a fixed random direction. Texts of the same words get the same vector, so one is
    a hit by meaning for the other. Texts without a word in common are nearly orthogonal. If one of
    n words differs, the cosine is about (n - 1) / n. Case and question marks do not count.
    """

    fingerprint = hashlib.sha256(b"word embedder").hexdigest()
    dimension = DIMENSION

    def __init__(self) -> None:
        self.calls: list[str] = []
        """All texts that were embedded, in order."""

    def embed(self, texts: list[str]) -> Matrix:
        """One unit vector per text, shape (len(texts), 64)."""
        self.calls.extend(texts)
        return np.stack([self.embed_one(text) for text in texts])

    def reads(self, text: str, max_tokens: int) -> bool:
        """Whether the text has at most `max_tokens` words."""
        return len(text.split()) <= max_tokens

    def embed_one(self, text: str) -> Vector:
        """The vector of one text."""
        total = np.full(DIMENSION, 1e-3)
        for word in text.lower().replace("?", "").split():
            total += _direction(word)
        unit: Vector = (total / np.linalg.norm(total)).astype(np.float32)
        return unit


@lru_cache(maxsize=10_000)
def _direction(word: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "replace")).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=DIMENSION)


@dataclass
class ManualClock:
    """A clock for `SemanticCache(clock=...)` whose time, in seconds, only the test moves."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def open_word_cache(**options: Any) -> SemanticCache:
    """Open a cache with `WordEmbedder` and `WORD_ARTEFACT`, in memory unless `path` is given.

    Takes the arguments of `SemanticCache`. The caller closes it.
    """
    defaults = {"path": None, "embedder": WordEmbedder(), "artefact": WORD_ARTEFACT}
    return SemanticCache(**{**defaults, **options})


def run_background_round(cache: SemanticCache, *, index_all: bool = False) -> None:
    """Do in this thread what the background thread does once a second.

    That is: write hit counts, delete expired entries, evict, and update the vector index. With
    `index_all` look also for scopes that have outgrown `scan_limit`, which otherwise happens only
    now and then, and retry an index that failed without the usual pause.
    """
    engine = engine_of(cache)
    if index_all:
        engine.retriever.count_requested.set()
        engine.background._index_sync._retry_at = 0.0
    engine.background.round()


def engine_of(cache: SemanticCache) -> Engine:
    """The components of an open cache, for semcache's own tests. May change in any release."""
    return cache._use()

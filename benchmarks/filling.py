"""Fills a cache's ledger in one go, with the rows that `update` would write one at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from corpus import Matrix, Questions, clustered
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from semcache_core import Request, SemanticCache
from semcache_core.decision.calibration import Calibration, Threshold, load_calibration
from semcache_core.embedding.onnx import MODEL_FILE, TOKENIZER_FILE, OnnxEmbedder
from semcache_core.request import key_of
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import entries, vectors

from langchain_semcache.serialization import dump_generations

SERVED_COSINE = 0.7
"""Paraphrases lie far above it, strangers far below: the benchmark times calls, not answers."""
NAMESPACE = "default"
ANSWER = dump_generations(
    [
        ChatGeneration(
            message=AIMessage(
                "Open Settings, choose Account, and follow the steps there. " * 6,
                response_metadata={"model_name": "gpt-4o-mini", "finish_reason": "stop"},
                usage_metadata={"input_tokens": 58, "output_tokens": 72, "total_tokens": 130},
            )
        )
    ]
)


@dataclass(frozen=True)
class Stock:
    """Texts with their vectors under the artefact that is measured."""

    questions: Questions
    fingerprint: str
    stored: Matrix
    centres: Matrix


def stock(questions: Questions, artefact: Path) -> Stock:
    embedder = OnnxEmbedder(artefact)
    return Stock(
        questions,
        embedder.fingerprint,
        embedder.embed(questions.stored),
        embedder.embed(questions.centres),
    )


def artefact_for_timing(shipped: Path, out: Path) -> Path:
    """The same model with a threshold of our own.

    The shipped threshold may refuse a paraphrase that happens to be phrased far off; how long a
    call takes does not depend on it.
    """
    out.mkdir()
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (out / name).symlink_to((shipped / name).resolve())
    embedder = OnnxEmbedder.load(out)
    lam, c = 0.05, SERVED_COSINE / 0.05  # serves from a probability of one half
    rows = (Threshold(0.02, 0.5, 0.5, 1000, 0),)
    Calibration(
        embedder.fingerprint, embedder.dimension, lam, c, 64, rows, "nothing: for timing only"
    ).save(out)
    return out


def artefact_for_judging(shipped: Path, out: Path) -> Path:
    """The same model and the same evidence at a threshold that hardly anything fails.

    So a lookup does all that a lookup does, and paraphrases end as hits.
    """
    out.mkdir()
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (out / name).symlink_to((shipped / name).resolve())
    rows = (Threshold(0.02, 0.05, 0.5, 1000, 0),)
    replace(load_calibration(shipped), thresholds=rows).save(out)
    return out


@dataclass(frozen=True)
class Layout:
    """`size` entries over `scopes` scopes: question i of the stored ones is in scope i modulo."""

    size: int
    scopes: tuple[str, ...]

    def scope(self, i: int) -> str:
        return self.scopes[i % len(self.scopes)]


def fill(path: Path, stock: Stock, layout: Layout, seed: int) -> None:
    """A new ledger under `path`: the stored questions among clustered vectors, in random order.

    The order matters to Chroma: when one dense topic is stored first and only other topics after
    it, its HNSW graph (default settings) loses the way back to a third of the first ones.
    """
    filler = clustered(stock.centres, layout.size - len(stock.stored), seed)
    matrix = np.concatenate([stock.stored, filler])
    texts = [*stock.questions.stored, *(f"filler {i}" for i in range(len(filler)))]
    order = np.random.default_rng(seed).permutation(layout.size)
    requests = [Request(texts[i], layout.scope(i)) for i in order]
    ledger = Ledger.open(path, None)
    add_rows(ledger, requests, matrix[order], stock.fingerprint)
    ledger.close()


def add_rows(
    ledger: Ledger, requests: list[Request], matrix: Matrix, fingerprint: str, after: int = 0
) -> None:
    """Entries with ids from `after` + 1 on, all in one transaction."""
    now = time.time()
    entry_rows, vector_rows = [], []
    for entry_id, (request, vector) in enumerate(zip(requests, matrix, strict=True), after + 1):
        key = key_of(request, NAMESPACE)
        entry_rows.append(
            {
                "id": entry_id,
                "exact": key.exact,
                "partition": key.partition,
                "namespace": NAMESPACE,
                "scope": request.scope,
                "exact_only": False,
                "created": now,
                "used": now,
                "hits": 0,
                "question": request.question,
                "response": ANSWER,
            }
        )
        vector_rows.append(
            {
                "entry_id": entry_id,
                "partition": key.partition,
                "fingerprint": fingerprint,
                "vector": vector.tobytes(),
            }
        )
    with ledger.write() as connection:
        connection.execute(sa.insert(entries), entry_rows)
        connection.execute(sa.insert(vectors), vector_rows)


@contextmanager
def opened(path: Path, artefact: Path, embedder: object | None = None) -> Iterator[SemanticCache]:
    """The cache under `path`, with its index level with the ledger before it is handed out."""
    cache = SemanticCache(path=path, artefact=artefact, embedder=embedder)
    try:
        cache._use().background.round()
        yield cache
    finally:
        cache.close()

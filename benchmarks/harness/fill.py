"""Fills a ledger in one go with rows as `update` writes them, and opens caches over it."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from semcache_core import Request, SemanticCache
from semcache_core.decision.calibration import Threshold, load_calibration
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, MODEL_FILE, TOKENIZER_FILE, OnnxEmbedder
from semcache_core.request import key_of
from semcache_core.storage.entries import ImportedEntry, NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.testing import run_background_round

from harness.corpus import Matrix, Questions, clustered, questions
from langchain_semcache.serialization import dump_generations

E = TypeVar("E", bound=NewEntry)
SERVED_COSINE = 0.7
"""Paraphrases lie far above it, strangers far below: a benchmark times calls, not answers."""
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
    """Questions with their vectors under the artefact that is measured."""

    questions: Questions
    fingerprint: str
    stored: Matrix
    centres: Matrix


def stock(seed: int, artefact: Path) -> Stock:
    embedder, made = OnnxEmbedder(artefact), questions(seed)
    return Stock(
        made, embedder.fingerprint, embedder.embed(made.stored), embedder.embed(made.centres)
    )


def artefact_for_timing(out: Path) -> Path:
    """The shipped model that serves from a cosine of SERVED_COSINE on, and looks at nothing else.

    The shipped threshold may refuse a paraphrase; the time of a call does not depend on it.
    """
    lam = 0.05
    return _artefact(
        out,
        lam=lam,
        c=SERVED_COSINE / lam,  # a probability of one half there
        max_tokens=64,
        thresholds=(Threshold(0.02, 0.5, 0.5, 1000, 0),),
        calibrated_on="nothing: for timing only",
        weights=None,
        confidence=None,
    )


def artefact_for_judging(out: Path) -> Path:
    """The shipped model and weights with a threshold that nearly every candidate passes.

    So a lookup does everything that a lookup does, and paraphrases end as hits.
    """
    return _artefact(out, thresholds=(Threshold(0.02, 0.05, 0.5, 1000, 0),))


def _artefact(out: Path, **changes: Any) -> Path:
    out.mkdir()
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (out / name).symlink_to((DEFAULT_ARTEFACT / name).resolve())
    replace(load_calibration(DEFAULT_ARTEFACT), **changes).save(out)
    return out


@dataclass(frozen=True)
class Layout:
    """`size` entries over `scopes`: question i is in scope i modulo their number."""

    size: int
    scopes: tuple[str, ...]

    def scope(self, i: int) -> str:
        return self.scopes[i % len(self.scopes)]


CHUNK = 20_000
"""Rows in one transaction, and vectors in memory at once."""


def fill(path: Path, stock: Stock, layout: Layout, seed: int) -> None:
    """A new ledger: the stored questions at random places among clustered vectors.

    Stored first, a third of them would not be found again: Chroma's graph depends on the order.
    """
    rng = np.random.default_rng(seed)
    places = rng.choice(layout.size, len(stock.stored), replace=False)
    with closing(Ledger.open(path, None)) as ledger:
        for start in range(0, layout.size, CHUNK):
            n = min(CHUNK, layout.size - start)
            matrix = clustered(stock.centres, n, seed + 1 + start)
            asked = [Request(f"filler {i}", layout.scope(i)) for i in range(start, start + n)]
            for number in np.flatnonzero((places >= start) & (places < start + n)).tolist():
                at = int(places[number]) - start
                matrix[at] = stock.stored[number]
                asked[at] = Request(stock.questions.stored[number], layout.scope(number))
            new = zip(asked, matrix, strict=True)
            rows = [entry(one, vector, stock.fingerprint, ImportedEntry) for one, vector in new]
            ledger.entries.insert_newer(rows, 0.0)


def entry(
    request: Request, vector: Any, fingerprint: str, kind: type[E] = NewEntry, **more: Any
) -> E:
    """What `update` writes for a request; `more` are fields of NewEntry."""
    key = key_of(request, NAMESPACE)
    fields = {
        "exact": key.exact,
        "partition": key.partition,
        "namespace": NAMESPACE,
        "scope": request.scope,
        "exact_only": False,
        "question": request.question,
        "response": ANSWER,
        "created": time.time(),
        "expires": None,
        "cost": None,
        "tags": (),
        "fingerprint": fingerprint,
        "vector": vector,
    }
    return kind(**{**fields, **more})


@contextmanager
def opened(path: Path, artefact: Path) -> Iterator[SemanticCache]:
    """The cache under `path`; its index has caught up with the ledger."""
    with SemanticCache(path=path, artefact=artefact) as cache:
        run_background_round(cache)
        yield cache

"""Small stand-ins that behave like the real thing, with nothing random and nothing slow."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from semcache_core import Request, SemanticCache
from semcache_core.decision.calibration import Calibration, Threshold
from semcache_core.decision.guard import RULES
from semcache_core.decision.scoring import VETO, Weights
from semcache_core.request import key_of
from semcache_core.testing import ManualClock as ManualClock
from semcache_core.testing import WordEmbedder

WORDS = WordEmbedder.dimension


class PlacedEmbedder(WordEmbedder):
    """A text in `places` lies so many degrees from the first axis, on the way to the second or the
    one named: their cosines are those of the angles between them. Of other texts the words decide.
    """

    def __init__(self, places: Mapping[str, float | tuple[float, int]]) -> None:
        super().__init__()
        self._places = places

    def embed_one(self, text: str) -> np.ndarray:
        if (place := self._places.get(text)) is None:
            return super().embed_one(text)
        degrees, axis = place if isinstance(place, tuple) else (place, 1)
        vector = np.zeros(WORDS, np.float32)
        vector[0], vector[axis] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return vector


@dataclass
class FailingEmbedder(WordEmbedder):
    """Raises, or returns NaN, as the test says."""

    error: Exception | None = None
    nan: bool = False
    calls: list[str] = field(default_factory=list)

    def embed(self, texts: list[str]) -> np.ndarray:
        if self.error is not None:
            raise self.error
        rows = super().embed(texts)
        return rows * np.nan if self.nan else rows


MARGINS = Weights(-18.0, 20.0, ((0.1, 20.0),), dict.fromkeys(RULES, VETO))
"""As in `calibration` for what has no rival within .1; with one at the same cosine it takes .1 more
of similarity. For what the guard sees, a veto.
"""


def calibration(
    fingerprint: str = WordEmbedder.fingerprint,
    max_tokens: int = 40,
    weights: Weights | None = None,
) -> Calibration:
    """Serves at a cosine of .90 for a bound of 2 %, .80 for 10 %; nothing reaches 0.1 %."""
    lam, c = 0.05, 16.0

    def at(cosine: float) -> float:
        return float(1 / (1 + np.exp(-(cosine / lam - c))))

    rows = (
        Threshold(0.001, None, 0.0, 0, 0),
        Threshold(0.02, at(0.90), 0.3, 300, 5),
        Threshold(0.10, at(0.80), 0.6, 600, 50),
    )
    return Calibration(
        fingerprint, WORDS, lam, c, max_tokens, rows, "nothing: a test double", weights
    )


def calibrated(directory: Path, **changes: object) -> Path:
    """A directory with a calibration for WordEmbedder."""
    directory.mkdir(parents=True, exist_ok=True)
    calibration(**changes).save(directory)  # type: ignore[arg-type]
    return directory


class Sync:
    """A cache as it is, for tests of both forms."""

    def __init__(self, cache: SemanticCache) -> None:
        self.cache = cache

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.cache, name)(*args, **kwargs)

    async def get_or_create(self, request: Request, answer: str) -> str:
        return self.cache.get_or_create(request, lambda: answer)


class Async(Sync):
    """The same through the async twins."""

    async def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self.cache, f"a{name}")(*args, **kwargs)

    async def get_or_create(self, request: Request, answer: str) -> str:
        async def compute() -> str:
            return answer

        return await self.cache.aget_or_create(request, compute)


def entry_fields(question: str, **changes: Any) -> dict[str, Any]:
    """What a NewEntry of this question is made of, but for its vector."""
    scope, namespace = changes.get("scope", ""), changes.get("namespace", "default")
    key = key_of(Request(question, scope), namespace)
    fields: dict[str, Any] = {
        "exact": key.exact,
        "partition": key.partition,
        "namespace": namespace,
        "scope": scope,
        "exact_only": False,
        "question": question,
        "response": f"answer to {question}",
        "created": 100.0,
        "expires": None,
        "cost": None,
        "tags": (),
        "fingerprint": "model",
    }
    return fields | changes


def named(value: object) -> str:
    """What a test is called by: the same in every process, so without addresses and random ids."""
    return re.sub(r"0x[0-9a-f]+|lc_[0-9a-f-]+", "...", repr(value))

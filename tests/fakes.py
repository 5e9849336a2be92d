"""Small stand-ins that behave like the real thing, with nothing random and nothing slow."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from semcache_core.predictor import Calibration, Threshold

WORDS = 64


class WordEmbedder:
    """Each word of the text adds its own fixed direction: same words, same vector.

    "reset my password" and "my password reset" are equal, unrelated texts are nearly orthogonal.
    """

    fingerprint = hashlib.sha256(b"word embedder").hexdigest()
    dimension = WORDS

    def __init__(self) -> None:
        self.calls: list[str] = []

    def embed(self, texts: list[str]) -> np.ndarray:
        self.calls.extend(texts)
        return np.stack([self._one(text) for text in texts])

    def reads(self, text: str, max_tokens: int) -> bool:
        return len(text.split()) <= max_tokens

    def _one(self, text: str) -> np.ndarray:
        total = np.full(WORDS, 1e-3)
        for word in text.lower().replace("?", "").split():
            seed = int.from_bytes(
                hashlib.sha256(word.encode("utf-8", "replace")).digest()[:4], "big"
            )
            total += np.random.default_rng(seed).normal(size=WORDS)
        return (total / np.linalg.norm(total)).astype(np.float32)


@dataclass
class ManualClock:
    """Time that stands still until a test moves it."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


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


def calibration(fingerprint: str = WordEmbedder.fingerprint, max_tokens: int = 40) -> Calibration:
    """Serves at a cosine of .90 for a bound of 2 %, .80 for 10 %; nothing reaches 0.1 %."""
    lam, c = 0.05, 16.0

    def at(cosine: float) -> float:
        return float(1 / (1 + np.exp(-(cosine / lam - c))))

    rows = (
        Threshold(0.001, None, 0.0, 0, 0),
        Threshold(0.02, at(0.90), 0.3, 300, 5),
        Threshold(0.10, at(0.80), 0.6, 600, 50),
    )
    return Calibration(fingerprint, WORDS, lam, c, max_tokens, rows, "nothing: a test double")


def calibrated(directory: Path, **changes: object) -> Path:
    """A directory with a calibration for WordEmbedder."""
    directory.mkdir(parents=True, exist_ok=True)
    calibration(**changes).save(directory)  # type: ignore[arg-type]
    return directory

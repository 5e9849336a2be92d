"""The calibration of an artefact: weights, thresholds, and P(same answer) from a similarity."""

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from semcache_core._utils.files import write_whole
from semcache_core.decision.scoring import Weights, sigmoid
from semcache_core.errors import ArtefactError

FORMATS = (1, 2)
"""1 has no weights: similarity alone, and the guard is a veto."""
FILE_NAME = "calibration.json"


@dataclass(frozen=True)
class Threshold:
    """One row of the table: what was measured when serving at `probability` and above.

    `probability` is None where no threshold was shown to keep the error within the bound. `upper`
    is the confidence limit of the error there, None where only the measured error was looked at.
    """

    max_error_rate: float
    probability: float | None
    share_served: float
    served: int
    wrong: int
    upper: float | None = None


@dataclass(frozen=True)
class Calibration:
    """The weights that give a probability, and the table of thresholds to serve at.

    For two questions alone, P(same answer) = sigmoid(similarity / lambda - c), arXiv 2402.01173;
    `similarity` is a cosine. For candidates among everything stored, `judged_by` has more evidence,
    and the thresholds are on that probability. `confidence` is that of the rows' `upper`.
    `max_tokens` is the longest question that the calibration data covers; a longer one is never
    matched by meaning.
    """

    fingerprint: str
    dimension: int
    lam: float
    c: float
    max_tokens: int
    thresholds: tuple[Threshold, ...]
    calibrated_on: str
    weights: Weights | None = None
    confidence: float | None = None

    def probability(self, similarity: float) -> float:
        """P(the two questions have the same answer), in (0, 1)."""
        return sigmoid(similarity / self.lam - self.c)

    @cached_property
    def judged_by(self) -> Weights:
        """The weights that score a candidate: fitted ones, else similarity with a veto."""
        return self.weights or Weights.of_similarity(self.lam, self.c)

    def threshold(self, max_error_rate: float) -> float | None:
        """The probability to serve at, or None when no measured threshold keeps the bound.

        A bound between two rows gets the stricter row: nothing was measured in between.
        """
        rows = [row for row in self.thresholds if row.max_error_rate <= max_error_rate + 1e-12]
        if not rows:
            return None
        return max(rows, key=lambda row: row.max_error_rate).probability

    def served_from(self, probability: float) -> float | None:
        """The smallest bound of the table at which `probability` is served; None where none is."""
        for row in self.thresholds:
            if row.probability is not None and probability >= row.probability:
                return row.max_error_rate
        return None

    def save(self, directory: Path) -> None:
        """Write `calibration.json` into `directory`, replacing an older one in one step.

        Raises ArtefactError when it cannot be written.
        """
        data = asdict(self)
        data["lambda"] = data.pop("lam")
        text = json.dumps({"format": FORMATS[-1], **data}, indent=1) + "\n"
        write_whole(directory / FILE_NAME, [text.encode()], ArtefactError)


def load_calibration(directory: Path) -> Calibration:
    """Read and check `calibration.json`; ArtefactError names the file and what is wrong in it."""
    file = directory / FILE_NAME
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(
            f"{file} is missing; an artefact directory holds model.onnx, tokenizer.json and "
            "calibration.json (semcache_core.training makes them)"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{file} cannot be read as JSON: {error}; make it anew") from None
    try:
        return _parse(data)
    # OverflowError: Infinity as a whole number, or one too large for a float
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ArtefactError(f"{file} is malformed ({error!r}); calibrate it anew") from None


def _parse(data: Any) -> Calibration:
    if data["format"] not in FORMATS:
        raise ValueError(f"format is {data['format']!r}, this version reads {FORMATS}")
    rows = tuple(sorted((_row(row) for row in data["thresholds"]), key=lambda r: r.max_error_rate))
    lam, c = float(data["lambda"]), float(data["c"])
    if not (math.isfinite(lam) and lam > 0 and math.isfinite(c)):
        raise ValueError(f"lambda must be above 0 and c finite, got lambda={lam}, c={c}")
    return Calibration(
        fingerprint=str(data["fingerprint"]),
        dimension=int(data["dimension"]),
        lam=lam,
        c=c,
        max_tokens=int(data["max_tokens"]),
        thresholds=rows,
        calibrated_on=str(data["calibrated_on"]),
        weights=_weights(data.get("weights")),
        confidence=_share(data.get("confidence"), "confidence"),
    )


def _weights(data: Any) -> Weights | None:
    if data is None:
        return None
    weights = Weights(
        intercept=float(data["intercept"]),
        similarity=float(data["similarity"]),
        margins=tuple((float(knot), float(slope)) for knot, slope in data["margins"]),
        rules={str(rule): float(weight) for rule, weight in dict(data["rules"]).items()},
    )
    numbers = (weights.intercept, weights.similarity, *weights.rules.values())
    if not all(map(math.isfinite, (*numbers, *(n for pair in weights.margins for n in pair)))):
        raise ValueError("a weight is not finite")
    # a serving rule must never prefer what is less alike
    if weights.similarity <= 0 or any(knot <= 0 or slope < 0 for knot, slope in weights.margins):
        raise ValueError("a higher similarity or margin would count against a hit")
    if any(weight > 0 for weight in weights.rules.values()):
        raise ValueError("the weight of a rule must not be above 0")
    return weights


def _share(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if not 0 <= float(value) <= 1:  # written so that NaN fails too
        raise ValueError(f"{name} {value} is outside [0, 1]")
    return float(value)


def _row(row: Any) -> Threshold:
    probability = row["probability"]
    threshold = Threshold(
        max_error_rate=float(row["max_error_rate"]),
        probability=None if probability is None else float(probability),
        share_served=float(row["share_served"]),
        served=int(row["served"]),
        wrong=int(row["wrong"]),
        upper=_share(row.get("upper"), "upper"),
    )
    # written so that NaN fails too: it would compare false to everything and serve nothing, or all
    if not 0 < threshold.max_error_rate < 1:
        raise ValueError(f"max_error_rate {threshold.max_error_rate} is outside (0, 1)")
    if threshold.probability is not None and not 0 <= threshold.probability <= 1:
        raise ValueError(f"probability {threshold.probability} is outside [0, 1]")
    return threshold

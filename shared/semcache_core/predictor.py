"""P(same answer) from a similarity, and the threshold that an error bound asks for."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from semcache_core.errors import ArtefactError

FORMAT = 1
FILE_NAME = "calibration.json"


@dataclass(frozen=True)
class Threshold:
    """One row of the table: what was measured when serving at `probability` and above.

    `probability` is None where no threshold kept the error within the bound.
    """

    max_error_rate: float
    probability: float | None
    share_served: float
    served: int
    wrong: int


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(similarity / lambda - c), arXiv 2402.01173, with the table of thresholds.

    `similarity` is a cosine. `max_tokens` is the longest question that the calibration data
    covers; a longer one is never matched by meaning.
    """

    fingerprint: str
    dimension: int
    lam: float
    c: float
    max_tokens: int
    thresholds: tuple[Threshold, ...]
    calibrated_on: str

    def probability(self, similarity: float) -> float:
        """P(the two questions have the same answer), in (0, 1)."""
        x = similarity / self.lam - self.c
        # exp of a large positive number overflows; both forms are the same function
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    def threshold(self, max_error_rate: float) -> float | None:
        """The probability to serve at, or None when no measured threshold keeps the bound.

        A bound between two rows gets the stricter row: nothing was measured in between.
        """
        rows = [row for row in self.thresholds if row.max_error_rate <= max_error_rate + 1e-12]
        if not rows:
            return None
        return max(rows, key=lambda row: row.max_error_rate).probability

    def save(self, directory: Path) -> None:
        """Write `calibration.json` into `directory`, replacing an older one in one step."""
        data = asdict(self)
        data["lambda"] = data.pop("lam")
        target = directory / FILE_NAME
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps({"format": FORMAT, **data}, indent=1) + "\n")
        temporary.replace(target)


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
    if data["format"] != FORMAT:
        raise ValueError(f"format is {data['format']!r}, this version reads {FORMAT}")
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
    )


def _row(row: Any) -> Threshold:
    probability = row["probability"]
    threshold = Threshold(
        max_error_rate=float(row["max_error_rate"]),
        probability=None if probability is None else float(probability),
        share_served=float(row["share_served"]),
        served=int(row["served"]),
        wrong=int(row["wrong"]),
    )
    # written so that NaN fails too: it would compare false to everything and serve nothing, or all
    if not 0 < threshold.max_error_rate < 1:
        raise ValueError(f"max_error_rate {threshold.max_error_rate} is outside (0, 1)")
    if threshold.probability is not None and not 0 <= threshold.probability <= 1:
        raise ValueError(f"probability {threshold.probability} is outside [0, 1]")
    return threshold

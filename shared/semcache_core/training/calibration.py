"""From similarities to probabilities, and from error bounds to the probability to serve at."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from semcache_core.embedding import as_embedder
from semcache_core.errors import TrainingError
from semcache_core.predictor import Calibration, Threshold
from semcache_core.training.pairs import Pair, read_pairs
from semcache_core.training.streams import (
    SEEDS,
    Domain,
    Outcomes,
    domain_from_pairs,
    embed_texts,
    run_streams,
    similarities_of,
)
from semcache_core.types import Embedder

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2)
MIN_POSITIVES = 200
MISSING = 0.5
_COVERED = 0.99
_LONGEST = 8192
# with similarities between -1 and 1 this moves lambda by less than the sixth digit; none at all
# would send lambda to 0 on data that a similarity separates perfectly
_INVERSE_REGULARISATION = 1e4


def calibrate(
    embedder: object,
    pairs: str | Path | Sequence[Pair],
    streams: Sequence[Domain] | None = None,
    *,
    out: str | Path | None = None,
    seeds: Sequence[int] = SEEDS,
    calibrated_on: str | None = None,
) -> Calibration:
    """Calibrate an embedder on labelled pairs; with `out`, write `out/calibration.json`.

    `embedder` is whatever the cache takes: an `Embedder`, a sentence-transformers name or model,
    embeddings of LangChain or LlamaIndex. `pairs` is a JSON-lines file (see `read_pairs`) or the
    pairs themselves, which the embedder should not have been trained on. lambda and c are fitted
    on the pairs, each domain with the same weight; the thresholds are measured on `streams`, or on
    those built from the pairs of each domain. Other files in `out` are left alone.

    Raises TrainingError for fewer than 200 positive pairs, for pairs of one class, for labels
    outside [0, 1], and when a higher similarity does not mean a likelier same answer.
    """
    model = as_embedder(embedder)
    source = str(pairs) if isinstance(pairs, str | Path) else "the pairs"
    read = read_pairs(pairs) if isinstance(pairs, str | Path) else list(pairs)
    _check_pairs(read, source)
    domains = list(streams) if streams is not None else _domains(read)
    lam, c = fit_probability(
        similarities_of(model, read), [pair.same_answer for pair in read], _balanced_weights(read)
    )
    outcomes = [
        run_streams(domain, embed_texts(model, domain.texts), missing=MISSING, seeds=seeds)
        for domain in domains
    ]
    calibration = Calibration(
        fingerprint=model.fingerprint,
        dimension=model.dimension,
        lam=lam,
        c=c,
        max_tokens=max(covered_tokens(model, domain.texts) for domain in domains),
        thresholds=threshold_table(outcomes, lam, c),
        calibrated_on=calibrated_on or f"{len(read)} pairs, streams of {_names(domains)}",
    )
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        calibration.save(Path(out))
    return calibration


def fit_probability(
    similarities: Sequence[float] | NDArray[np.floating],
    labels: Sequence[float] | NDArray[np.floating],
    weights: Sequence[float] | NDArray[np.floating] | None = None,
) -> tuple[float, float]:
    """(lambda, c) of p(same answer) = sigmoid(similarity / lambda - c), arXiv 2402.01173.

    Maximum likelihood by logistic regression, practically without regularisation. All are [n]; a
    label between 0 and 1 counts for both classes in proportion. Raises TrainingError when a label
    is outside [0, 1], when there is one class only, and when the fitted lambda is not above 0.
    """
    x = np.asarray(similarities, np.float64)
    y = np.asarray(labels, np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    _check_labels(y)
    regression = LogisticRegression(C=_INVERSE_REGULARISATION, tol=1e-10, max_iter=1000)
    regression.fit(
        np.concatenate([x, x])[:, None],
        np.repeat([1, 0], len(y)),
        sample_weight=np.concatenate([w * y, w * (1 - y)]),
    )
    slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if not slope > 0:
        raise TrainingError(
            f"the fitted slope is {slope:.3g}: a higher similarity does not make the same answer "
            "likelier here; check the labels, or use another embedder"
        )
    return 1 / slope, -intercept


def threshold_table(
    outcomes: Sequence[Outcomes], lam: float, c: float, bounds: Sequence[float] = BOUNDS
) -> tuple[Threshold, ...]:
    """For each bound the probability to serve at, so that it held in every domain measured.

    `outcomes` holds one item per domain, of streams with half of the answers missing. Going down
    from the most similar, a domain's threshold is the last probability before the error among the
    served first exceeds the bound: a later dip below the bound is luck and is not taken. The error
    counts from where 1/bound *different* questions have been served on: before, one wrong answer
    alone would break the bound, and the seeds ask the same questions again. Where a domain never
    gets there within the bound, the probability is None. Whatever holds for a bound holds for a
    looser one, so thresholds never rise with the bound.

    The table takes the highest threshold of any domain; `served`, `wrong` (of all seeds together)
    and `share_served` (of all questions asked) are that domain's. The error is the measured one,
    without a margin: on other questions of a domain it comes out on either side of the bound.
    """
    if not outcomes:
        raise TrainingError("no streams were given; the table needs those of at least one domain")
    curves = [_curve(domain, lam, c) for domain in outcomes]
    strictest: dict[int, float | None] = {}
    rows = []
    for bound in sorted(bounds):
        for index, curve in enumerate(curves):
            strictest[index] = _lower(strictest.get(index), curve.threshold(bound))
        rows.append(_row(bound, curves, [strictest[index] for index in range(len(curves))]))
    return tuple(rows)


def covered_tokens(embedder: Embedder, texts: Sequence[str]) -> int:
    """The length in tokens, special ones included, that 99 % of the readable texts keep within.

    It is asked of `embedder.reads`, as the cache will ask it. Raises TrainingError when the
    embedder reads none of the texts.
    """
    readable = [text for text in texts if embedder.reads(text, _LONGEST)]
    if not readable:
        raise TrainingError(
            f"the embedder reads none of {len(texts)} questions, the first {list(texts[:1])!r}; "
            "calibrate on questions in a language that it was made for"
        )
    wanted = math.ceil(_COVERED * len(readable))
    return 1 + bisect_left(
        range(1, _LONGEST + 1),
        wanted,
        key=lambda tokens: sum(embedder.reads(text, tokens) for text in readable),
    )


@dataclass(frozen=True)
class _Curve:
    """A domain's outcomes from the most similar down, one point per distinct probability; [n]."""

    asked: int
    probability: NDArray[np.float64]
    served: NDArray[np.int64]
    wrong: NDArray[np.int64]
    different: NDArray[np.int64]

    def threshold(self, bound: float) -> float | None:
        counts = self.different * bound >= 1 - 1e-9
        broken = counts & (self.wrong > bound * self.served + 1e-9)
        within = len(broken) if not broken.any() else int(broken.argmax())
        if not counts[:within].any():
            return None
        return float(self.probability[within - 1])

    def at(self, probability: float) -> int | None:
        """The last point served at `probability`; None when nothing is."""
        within = int((self.probability >= probability).sum())
        return within - 1 if within else None


def _curve(outcomes: Outcomes, lam: float, c: float) -> _Curve:
    order = np.argsort(-outcomes.similarity, kind="stable")
    x = outcomes.similarity[order] / lam - c
    first_seen = np.zeros(len(order), np.int64)
    first_seen[np.unique(outcomes.question[order], return_index=True)[1]] = 1
    # equal similarities are served together or not at all
    last = np.flatnonzero(np.append(x[1:] != x[:-1], True))
    return _Curve(
        asked=len(order),
        probability=1 / (1 + np.exp(-np.clip(x[last], -700, None))),
        served=last + 1,
        wrong=np.cumsum(~outcomes.right[order], dtype=np.int64)[last],
        different=np.cumsum(first_seen)[last],
    )


def _lower(one: float | None, other: float | None) -> float | None:
    present = [value for value in (one, other) if value is not None]
    return min(present) if present else None


def _row(bound: float, curves: Sequence[_Curve], thresholds: Sequence[float | None]) -> Threshold:
    measured = [
        (threshold, curve)
        for threshold, curve in zip(thresholds, curves, strict=True)
        if threshold is not None
    ]
    if len(measured) < len(curves):
        return Threshold(bound, None, 0.0, 0, 0)
    threshold, curve = max(measured, key=lambda item: item[0])
    point = curve.at(threshold)
    assert point is not None  # the threshold is one of the curve's own points
    served, wrong = int(curve.served[point]), int(curve.wrong[point])
    return Threshold(bound, threshold, served / curve.asked, served, wrong)


def _check_pairs(pairs: Sequence[Pair], source: str) -> None:
    _check_labels(np.array([pair.same_answer for pair in pairs], np.float64))
    positives = sum(pair.positive for pair in pairs)
    if positives < MIN_POSITIVES:
        raise TrainingError(
            f"{source} has {positives} pairs with the same answer; calibration needs at least "
            f"{MIN_POSITIVES}, and as many with other answers"
        )


def _check_labels(labels: NDArray[np.float64]) -> None:
    outside = ~((labels >= 0) & (labels <= 1))  # written so that NaN is outside
    if outside.any():
        index = int(outside.argmax())
        raise TrainingError(
            f"same_answer of pair {index} is {labels[index]}; give a number from 0 (another "
            "answer) to 1 (the same)"
        )
    if not (labels > 0).any() or not (labels < 1).any():
        seen = "there are none" if not len(labels) else f"all {len(labels)} are {labels[0]:g}"
        raise TrainingError(
            f"the labels are of one class ({seen}); add pairs with the same answer (1) and "
            "look-alikes with another (0)"
        )


def _domains(pairs: Sequence[Pair]) -> list[Domain]:
    return [
        domain_from_pairs(name or "the pairs", [pair for pair in pairs if pair.domain == name])
        for name in sorted({pair.domain for pair in pairs if pair.positive})
    ]


def _names(domains: Sequence[Domain]) -> str:
    return " and ".join(f"{domain.name} ({len(domain.texts)} questions)" for domain in domains)


def _balanced_weights(pairs: Sequence[Pair]) -> list[float]:
    """Every domain weighs the same in sum; the weights average 1."""
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes[pair.domain] = sizes.get(pair.domain, 0) + 1
    return [len(pairs) / (len(sizes) * sizes[pair.domain]) for pair in pairs]

"""Fits the probability that a stored answer is right, and sets a threshold for each error bound."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from semcache_core.decision.calibration import Calibration
from semcache_core.decision.guard import RULES
from semcache_core.decision.scoring import Weights
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.wrappers import as_embedder
from semcache_core.errors import TrainingError
from semcache_core.settings import CacheSettings
from semcache_core.training.calibration.risk_control import CONFIDENCE, threshold_table
from semcache_core.training.calibration.streams import (
    SEEDS,
    Domain,
    Trial,
    decide,
    domain_from_edits,
    domain_from_pairs,
    run_trials,
    run_trials_once,
    similarities_of,
    split_asked,
)
from semcache_core.training.data.records import Pair, check_labels, read_pairs
from semcache_core.training.data.splits import answers_by_text
from semcache_core.types import Embedder

MIN_POSITIVES = 200
MIN_ANSWERS = 20
"""Different answers asked for, and among the look-alikes. Errors differ more between answers than
between questions, and fewer do not show by how much (Cameron and Miller 2015)."""
MISSING = 0.5
FITTED = 0.15
"""Share of the questions that the weights are fitted to; the others set the thresholds."""
EDITED = 1500
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
    trained_on: Sequence[Pair] = (),
    out: str | Path | None = None,
    seeds: Sequence[int] = SEEDS,
    calibrated_on: str | None = None,
    confidence: float = CONFIDENCE,
) -> Calibration:
    """Calibrate an embedder on labelled pairs; with `out`, write `out/calibration.json`.

    `embedder` is anything the cache takes. `pairs` is a JSON-lines file (see `read_pairs`) or the
    pairs themselves, which the embedder should not have been trained on.

    lambda and c are fitted on the pairs, each domain with the same weight. The rest is measured on
    `streams`, or on those built from the pairs of each domain: the weights of the evidence on a
    part of the questions and on edits made by rule; the thresholds on the other questions, with
    half of the answers missing, so that each keeps its bound with `confidence` (see
    `threshold_table`). `trained_on`, the pairs that the embedder was trained on, adds look-alikes
    to the streams where all answers are known (see `domain_from_pairs`).

    Raises TrainingError as `check_pairs` does, for a `confidence` out of range, and when a higher
    similarity does not mean a likelier same answer.
    """
    if not 0.5 <= confidence < 1:
        raise TrainingError(f"confidence is {confidence}; give a share from .5 to below 1, as .95")
    model = as_embedder(embedder)
    source = str(pairs) if isinstance(pairs, str | Path) else "the pairs"
    read = read_pairs(pairs) if isinstance(pairs, str | Path) else list(pairs)
    check_pairs(read, source)
    domains = list(streams) if streams is not None else _domains(read, trained_on)
    lam, c = fit_probability(
        similarities_of(model, read), [pair.same_answer for pair in read], _balanced_weights(read)
    )
    vectors = [embed_texts(model, domain.texts) for domain in domains]
    parts = [split_asked(domain, FITTED) for domain in domains]
    weights = fit_weights(
        [
            [
                trial
                for share in (0.0, MISSING)
                for trial in run_trials_once(fitted, own, missing=share, seeds=seeds)
            ]
            for (fitted, _), own in zip(parts, vectors, strict=True)
        ],
        _edited(model, domains),
        Weights.of_similarity(lam, c),
    )
    decided = [
        decide(held_out.name, run_trials(held_out, own, missing=MISSING, seeds=seeds), weights)
        for (_, held_out), own in zip(parts, vectors, strict=True)
    ]
    names = " and ".join(f"{one.name} ({len(one.texts)} questions)" for one in domains)
    calibration = Calibration(
        fingerprint=model.fingerprint,
        dimension=model.dimension,
        lam=lam,
        c=c,
        max_tokens=max(covered_tokens(model, domain.texts) for domain in domains),
        thresholds=threshold_table(decided, confidence=confidence),
        calibrated_on=calibrated_on or f"{len(read)} pairs, streams of {names}",
        weights=weights,
        confidence=confidence,
    )
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        calibration.save(Path(out))
    return calibration


def no_threshold(
    calibration: Calibration, bound: float = CacheSettings.model_fields["max_error_rate"].default
) -> str | None:
    """What to do where no threshold keeps `bound`, the cache's default; None where one does."""
    if calibration.threshold(bound) is not None:
        return None
    larger = [row.max_error_rate for row in calibration.thresholds if row.probability is not None]
    wider = (
        f"the smallest bound with a threshold is max_error_rate={min(larger):g}"
        if larger
        else f"none of the bounds up to {calibration.thresholds[-1].max_error_rate:g} has one"
    )
    return (
        f"no threshold was shown to keep the default bound, max_error_rate={bound:g}: a cache with "
        f"it serves exact repeats only; {wider}. Calibrate on more questions of more answers "
        "(more labelled traffic)" + (", or allow that bound" if larger else "")
    )


def _edited(model: Embedder, domains: Sequence[Domain]) -> list[Trial]:
    """Trials of edits and rewrites; the store holds the questions, as many of each domain."""
    each = EDITED // len(domains)
    texts = dict.fromkeys(
        text
        for domain in domains
        for text in np.random.default_rng(0).permutation(
            np.array(domain.texts, object)[~domain.rivals]
        )[:each]
    )
    edited = domain_from_edits("edited", list(texts))
    return run_trials(edited, embed_texts(model, edited.texts), missing=0, seeds=(0,))


def fit_probability(
    similarities: Sequence[float] | NDArray[np.floating],
    labels: Sequence[float] | NDArray[np.floating],
    weights: Sequence[float] | NDArray[np.floating] | None = None,
) -> tuple[float, float]:
    """(lambda, c) of p(same answer) = sigmoid(similarity / lambda - c), arXiv 2402.01173.

    Maximum likelihood by logistic regression, practically without regularisation. All are [n]; a
    label between 0 and 1 counts for both classes in proportion. Raises TrainingError for a label
    outside [0, 1], for labels of one class, and when the fitted lambda is not above 0.
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


def covered_tokens(embedder: Embedder, texts: Sequence[str]) -> int:
    """The length in tokens, special ones included, that 99 % of the readable texts keep within.

    Raises TrainingError when the embedder reads none of the texts.
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


def check_pairs(pairs: Sequence[Pair], source: str) -> None:
    """TrainingError, which calls the pairs `source`, when they are too few to calibrate on.

    That is for fewer than MIN_POSITIVES positive pairs, for fewer than MIN_ANSWERS different
    answers that are asked for or are in a pair with another answer, for pairs of one class, and for
    labels outside [0, 1].
    """
    _check_labels(np.array([pair.same_answer for pair in pairs], np.float64))
    positives = sum(pair.positive for pair in pairs)
    if positives < MIN_POSITIVES:
        raise TrainingError(
            f"{source} has {positives} pairs with the same answer; calibration needs at least "
            f"{MIN_POSITIVES}: label more pairs"
        )
    asked: set[tuple[str, int]] = set()
    alike: set[tuple[str, int]] = set()
    for domain in {pair.domain for pair in pairs}:
        own = [pair for pair in pairs if pair.domain == domain]
        answer = answers_by_text(own)
        for pair in own:
            one, other = (domain, answer[pair.prompt]), (domain, answer[pair.other])
            if pair.positive:
                asked.add(one)
            elif one != other:
                alike |= {one, other}
    if min(len(asked), len(alike)) < MIN_ANSWERS:
        raise TrainingError(
            f"{source} has questions of {len(asked)} different answers to ask, and look-alikes of "
            f"{len(alike)} (in pairs with same_answer 0); a bound needs at least {MIN_ANSWERS} of "
            "both: add questions of other answers, and label near ones (`semcache mine` finds them)"
        )


def _check_labels(labels: NDArray[np.float64]) -> None:
    check_labels(labels.tolist())
    if not (labels > 0).any() or not (labels < 1).any():
        seen = "there are none" if not len(labels) else f"all {len(labels)} are {labels[0]:g}"
        raise TrainingError(
            f"the labels are of one class ({seen}); add pairs with the same answer (1) and "
            "look-alikes with another (0)"
        )


def _domains(pairs: Sequence[Pair], trained_on: Sequence[Pair]) -> list[Domain]:
    return [
        domain_from_pairs(
            name or "the pairs",
            [pair for pair in pairs if pair.domain == name],
            [pair for pair in trained_on if pair.domain == name],
        )
        for name in sorted({pair.domain for pair in pairs if pair.positive})
    ]


def _balanced_weights(pairs: Sequence[Pair]) -> list[float]:
    """Every domain weighs the same in sum; the weights average 1."""
    sizes = Counter(pair.domain for pair in pairs)
    return [len(pairs) / (len(sizes) * sizes[pair.domain]) for pair in pairs]


KNOTS = (0.05, 0.15)
"""A margin counts most up to .05 and nothing beyond .15, in cosine."""

_ROUNDS = 3
# practically none, but a rule that never fires must not run away
_REGULARISATION_OF_WEIGHTS = 100.0


def fit_weights(
    natural: Sequence[Sequence[Trial]], edited: Sequence[Trial], start: Weights
) -> Weights:
    """Fit the weights by maximum likelihood on the nearest stored question of every trial.

    `natural` holds the questions of each domain, with and without their answers stored; all
    domains weigh the same. `edited` are questions changed by rule, for the weights of the guard's
    rules; an intercept and a slope of their own keep them from moving the weight of the similarity.
    A weight with the wrong sign (a margin against a hit, a difference for one) is left out. Margins
    depend on the weights of the rules, so the fit is repeated a few times.

    Raises TrainingError when the nearest one is always or never right, and when a higher
    similarity does not make the same answer likelier.
    """
    weights = Weights(
        start.intercept, start.similarity, tuple((knot, 0.0) for knot in KNOTS), start.rules
    )
    groups = [group for group in (*natural, edited) if group]
    share = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    own = np.concatenate([np.full(len(group), group is edited) for group in groups])
    right = np.concatenate([_right(group) for group in groups])
    if right.all() or not right.any():
        raise TrainingError(
            f"of {len(right)} questions the nearest stored one has the right answer "
            f"{'always' if right.all() else 'never'}; give questions of both kinds, or check the "
            "labels and the embedder"
        )
    for _ in range(_ROUNDS):
        features = np.concatenate([_features(group, weights) for group in groups])
        extra = own[:, None] * np.column_stack([np.ones(len(own)), features[:, 0]])
        weights = _fitted(features, extra, right, share * len(share) / share.sum())
    return weights


def _right(group: Sequence[Trial]) -> NDArray[np.bool_]:
    return np.array([trial.neighbours[0].answer == trial.answer for trial in group], np.bool_)


def _features(group: Sequence[Trial], weights: Weights) -> NDArray[np.float64]:
    """[n, 1 + knots + rules]: similarity, margin up to each knot, rules that fired.

    Margins are in units of their knot, because regularisation bends slopes of small numbers.
    """
    rows = []
    for trial in group:
        nearest = trial.nearest(weights)
        fired = {difference.rule for difference in nearest.differences}
        rows.append(
            (
                nearest.neighbour.similarity,
                *(min(nearest.margin / knot, 1.0) for knot in KNOTS),
                *(rule in fired for rule in RULES),
            )
        )
    return np.array(rows, np.float64)


def _fitted(
    features: NDArray[np.float64],
    extra: NDArray[np.float64],
    right: NDArray[np.bool_],
    share: NDArray[np.float64],
) -> Weights:
    sign = np.array([1] * (1 + len(KNOTS)) + [-1] * len(RULES))
    kept = np.ones(len(sign), np.bool_)
    while True:
        coefficients = np.zeros(len(sign))
        regression = LogisticRegression(C=_REGULARISATION_OF_WEIGHTS, tol=1e-8, max_iter=5000)
        regression.fit(np.column_stack([features[:, kept], extra]), right, sample_weight=share)
        coefficients[kept] = regression.coef_[0, : kept.sum()]
        signed = (coefficients * sign)[1:]
        if signed.min() >= 0:
            break
        kept[1 + signed.argmin()] = False
    similarity, *rest = coefficients.tolist()
    if not similarity > 0:
        raise TrainingError(
            f"the fitted weight of the similarity is {similarity:.3g}: a higher one does not make "
            "the same answer likelier here; check the labels, or use another embedder"
        )
    return Weights(
        intercept=float(regression.intercept_[0]),
        similarity=similarity,
        margins=tuple((knot, rest[at] / knot) for at, knot in enumerate(KNOTS)),
        rules=dict(zip(RULES, rest[len(KNOTS) :], strict=True)),
    )

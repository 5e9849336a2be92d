"""Fitting what every piece of evidence weighs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from semcache_core.errors import TrainingError
from semcache_core.evidence import Weights
from semcache_core.guard import RULES
from semcache_core.training.judging import Met

KNOTS = (0.05, 0.15)
"""A margin counts most up to .05 and nothing beyond .15, in cosine; found on public questions."""

_ROUNDS = 3
# practically none, but a rule that never fires must not run away
_INVERSE_REGULARISATION = 100.0


def fit_weights(natural: Sequence[Sequence[Met]], edited: Sequence[Met], start: Weights) -> Weights:
    """Maximum likelihood on the nearest stored question of every one met.

    `natural` holds the questions of each domain, with and without their answers stored; all
    domains weigh the same. `edited` are questions changed by rule, which show what a rule of the
    guard is worth: they get an intercept and a slope of their own, so that they say nothing about
    similarity. Whatever would come out with the wrong sign (a margin that speaks against a hit, a
    difference that speaks for one) is left out. Margins depend on what the rules weigh, so `start`
    is improved on a few times.

    Raises TrainingError when the nearest one is always right or never, and when a higher
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


def _right(group: Sequence[Met]) -> NDArray[np.bool_]:
    return np.array([met.neighbours[0].answer == met.answer for met in group], np.bool_)


def _features(group: Sequence[Met], weights: Weights) -> NDArray[np.float64]:
    """[n, 1 + knots + rules]: similarity, margin up to each knot, rules that fired.

    Margins are in units of their knot: small as they are, regularisation would bend the slopes.
    """
    rows = []
    for met in group:
        judged = met.nearest(weights)
        fired = {difference.rule for difference in judged.differences}
        rows.append(
            (
                judged.neighbour.similarity,
                *(min(judged.margin / knot, 1.0) for knot in KNOTS),
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
        regression = LogisticRegression(C=_INVERSE_REGULARISATION, tol=1e-8, max_iter=5000)
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

"""How much the verdicts on one entry lower its probability, compared with the calibration."""

import math
from collections.abc import Sequence

from semcache_core.decision.scoring import sigmoid

PRIOR_SCALE = 1.0
"""Standard deviation, in log-odds, of how far one entry lies from the calibration.

Chosen so that one wrong answer counts and is not for ever: wrong once at a probability of .95, an
entry has to reach .942 to be served where .871 was enough; 20 right ones at .95, the rate that was
promised, take all of it back, and 20 at .98 more than half. With 3 it would have to reach .995
after one wrong answer, with 0.3 only .880.
"""

_TINY = 1e-9  # probabilities of 0 and 1 have no log-odds
_MOST = 64.0  # beyond any root: log-odds end at 21, and e^43 wrong answers would have to follow
_HALVINGS = 50  # of _MOST: exact to 1e-13


def doubt(judgements: Sequence[tuple[float, bool]]) -> float:
    """The log-odds to take off an entry's probability, 0 or more, given what was judged of it.

    A judgement is the probability that was claimed and whether the answer was right. The result is
    the most probable b >= 0 when P(right) = sigmoid(logit(probability) - b) and b is drawn from the
    upper half of N(0, PRIOR_SCALE^2). Without evidence that is 0, the calibration of all entries.
    (vCache, arXiv 2502.03771, learns each entry's threshold from nothing and has to call the model
    until it knows enough.)

    >>> doubt([])
    0.0
    >>> round(doubt([(0.95, False)]), 2), round(doubt([(0.95, False)] + [(0.95, True)] * 5), 2)
    (0.89, 0.51)
    """
    odds = [_log_odds(probability) for probability, _ in judgements]
    right = sum(correct for _, correct in judgements)

    def slope(b: float) -> float:
        """Of the log-posterior; it only falls, so its one root is the maximum."""
        # fsum: the order of the judgements must not matter
        return math.fsum([*(sigmoid(x - b) for x in odds), -right, -b / PRIOR_SCALE**2])

    if slope(0.0) <= 0:
        return 0.0
    # Halving and no Newton steps: these overshoot where sigmoid is flat, and a bracket that is
    # always the same makes the result monotone in the evidence to the last bit.
    low, high = 0.0, _MOST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return high


def doubted(probability: float, doubt: float) -> float:
    """`probability` of an entry with this doubt: sigmoid(logit(probability) - doubt).

    >>> doubted(0.95, 0.0), round(doubted(0.95, 0.89), 3)
    (0.95, 0.886)
    """
    # not by way of log-odds: most entries have no doubt, and theirs must not change at all
    return probability / (probability + (1 - probability) * math.exp(doubt))


def _log_odds(probability: float) -> float:
    p = min(max(probability, _TINY), 1 - _TINY)
    return math.log(p / (1 - p))

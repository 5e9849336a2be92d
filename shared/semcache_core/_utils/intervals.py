"""Wilson intervals of an error rate."""

import math
from dataclasses import dataclass
from statistics import NormalDist

NOTHING = 2.0
"""The threshold at which nothing is served: above every probability, and JSON can write it."""
_TWO_SIDED = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Measured:
    """`n` answers were judged, `wrong` of them wrong: a sample of those it is about.

    `error` is the share, None where nothing was judged; `low` and `high` are the ends of its 95 %
    Wilson interval, then 0 and 1.
    """

    n: int
    wrong: int
    error: float | None
    low: float
    high: float

    @classmethod
    def of(cls, n: int, wrong: int) -> "Measured":
        error = wrong / n if n else None
        return cls(n, wrong, error, wilson(n, wrong, -_TWO_SIDED), wilson(n, wrong, _TWO_SIDED))


def wilson(n: int, wrong: int, z: float) -> float:
    """Limit of the error, |z| standard deviations out on the side of z's sign; 0 or 1 for no n.

    The score interval of Wilson (1927): of the closed forms the one that holds for few judgements
    and for errors near 0.
    """
    if n == 0:
        return 0.0 if z < 0 else 1.0
    share = wrong / n
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return min(1.0, max(0.0, (middle + reach) / (1 + z * z / n)))

"""Pairs that a similarity cannot tell apart."""

import numpy as np
from numpy.typing import NDArray


def matched_subset(
    reference: NDArray[np.floating],
    label: NDArray[np.floating],
    *,
    width: float = 0.02,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Rows, ascending, with as many positives as negatives in each bin of the reference score.

    The larger class of a bin is thinned at random. What is left cannot be told apart by the
    reference beyond the width of a bin: a score that ranks it has learned something else.
    """
    chooser = np.random.default_rng(seed)
    positive, bins = label > 0.5, np.floor(reference / width)
    kept: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for one in np.unique(bins):
        classes = [np.flatnonzero((bins == one) & which) for which in (positive, ~positive)]
        size = min(map(len, classes))
        kept += [chooser.permutation(rows)[:size] for rows in classes]
    return np.sort(np.concatenate(kept))

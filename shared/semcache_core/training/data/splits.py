"""Deals pairs to training, calibration and test so that no question is in two of them."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from semcache_core.errors import TrainingError
from semcache_core.training.data.records import MinedPair, Pair, texts_of

SPLITS = ("train", "calibration", "test")
SHARES = (0.6, 0.3, 0.1)
"""Fewer than a thousand questions to calibrate on seldom show a bound of 5 %."""


P = TypeVar("P", Pair, MinedPair)


def split_by_component(
    pairs: Sequence[P], shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[str, list[P]]:
    """Deal pairs to "train", "calibration" and "test" so that no question is in two of them.

    Questions connected by pairs, directly or through others, form a component, which goes to one
    split as a whole; `shares` (of the pairs) are kept as well as that allows. Each split has the
    order of `pairs`. Raises TrainingError as `deal` does.
    """
    number = {text: index for index, text in enumerate(texts_of(pairs))}
    component = components(len(number), ((number[p.prompt], number[p.other]) for p in pairs))
    of_pair = [component[number[pair.prompt]] for pair in pairs]
    split_of = deal(of_pair, shares, seed, "pairs")
    dealt: dict[str, list[P]] = {name: [] for name in SPLITS}
    for pair, name in zip(pairs, split_of, strict=True):
        dealt[name].append(pair)
    return dealt


def split_pairs(
    pairs: Sequence[P], shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[str, list[P]]:
    """The splits that the pairs themselves name, as mined ones do; else `split_by_component`.

    Raises TrainingError when only some pairs name a split, for other names than `SPLITS`, and when
    a question is in two splits.
    """
    if not any(pair.split for pair in pairs):
        return split_by_component(pairs, shares, seed)
    dealt: dict[str, list[P]] = {name: [] for name in SPLITS}
    home: dict[str, str] = {}
    for index, pair in enumerate(pairs, start=1):
        if pair.split not in dealt:
            raise TrainingError(
                f"pair {index} has the split {pair.split!r}; name one of {', '.join(SPLITS)} "
                "in every pair, or leave the field out of all of them"
            )
        for text in (pair.prompt, pair.other):
            if home.setdefault(text, pair.split) != pair.split:
                raise TrainingError(
                    f"{text!r} is in the splits {home[text]!r} and, in pair {index}, "
                    f"{pair.split!r}; leave the split out of all pairs to have them dealt anew"
                )
        dealt[pair.split].append(pair)
    return dealt


def part_of(pairs: Sequence[P], name: str) -> list[P]:
    """The pairs of the split `name`, or all of them where the pairs name no split.

    Raises TrainingError as `split_pairs` does, and when the split is empty.
    """
    if not any(pair.split for pair in pairs):
        return list(pairs)
    part = split_pairs(pairs)[name]
    if not part:
        raise TrainingError(
            f"no pair has the split {name!r}; give the file with all splits, or leave the field "
            "out of all pairs to use every one"
        )
    return part


def answers_by_text(pairs: Sequence[Pair]) -> dict[str, int]:
    """A number for each text of the pairs, equal for those of the same answer.

    These are connected by positive pairs or have the same known answer.
    """
    texts = texts_of(pairs)
    row = {text: index for index, text in enumerate(texts)}
    links = [(row[pair.prompt], row[pair.other]) for pair in pairs if pair.positive]
    first: dict[str, int] = {}
    links += [
        (first.setdefault(key, row[text]), row[text])
        for pair in pairs
        for text, key in zip((pair.prompt, pair.other), pair.answers, strict=True)
        if key
    ]
    return dict(zip(texts, components(len(row), links), strict=True))


def components(n: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `n` items the component it is in, named by one of its items; [n]."""
    parent = list(range(n))

    def root(index: int) -> int:
        while parent[index] != index:
            # shortens the path for the next time
            parent[index] = index = parent[parent[index]]
        return index

    for one, other in links:
        parent[root(one)] = root(other)
    return [root(index) for index in range(n)]


def deal(component: Sequence[int], shares: Sequence[float], seed: int, what: str) -> list[str]:
    """The split of each item, by its `component`; [items].

    Components go in random order to the split that lacks most, those larger than half of the
    smallest share first, the largest at the head. Raises TrainingError, which calls the items
    `what`, for unusable shares and when one above 0 stays empty.
    """
    wanted = _checked_shares(shares)
    if not component:
        raise TrainingError(f"there are no {what} to split; give some")
    names, sizes = np.unique(np.asarray(component, np.int64), return_counts=True)
    if len(names) < (wanted > 0).sum():
        raise TrainingError(
            f"{len(component)} {what} form {len(names)} connected component(s), the largest of "
            f"{sizes.max()}, so a share of {', '.join(f'{s:g}' for s in shares)} would stay empty; "
            f"give more {what}, remove those that connect everything, or split by hand"
        )
    room = wanted * len(component)
    large = room[wanted > 0].min() / 2
    order = sorted(
        np.random.default_rng(seed).permutation(len(names)).tolist(),
        key=lambda index: -sizes[index] if sizes[index] > large else 0,
    )
    home = np.zeros(len(names), np.int64)
    empty = wanted > 0
    for rank, index in enumerate(order):
        # the last components go where nothing is yet, if they are just enough for that
        scarce = len(order) - rank <= empty.sum()
        home[index] = np.where(empty, room, -np.inf).argmax() if scarce else room.argmax()
        room[home[index]] -= sizes[index]
        empty[home[index]] = False
    split_of = dict(zip(names.tolist(), home.tolist(), strict=True))
    return [SPLITS[split_of[name]] for name in component]


def _checked_shares(shares: Sequence[float]) -> NDArray[np.float64]:
    wanted = np.asarray(shares, np.float64)
    # written so that NaN fails
    if (
        wanted.shape != (len(SPLITS),)
        or not (wanted >= 0).all()
        or not abs(wanted.sum() - 1) < 1e-6
    ):
        raise TrainingError(
            f"the shares are {tuple(shares)!r}; give three numbers from 0 on that sum to 1: "
            f"of {', '.join(SPLITS)}"
        )
    return wanted

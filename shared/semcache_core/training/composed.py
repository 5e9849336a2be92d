"""Longer questions made of two: both parts must have the same answer for the whole to have it."""

import random
from collections.abc import Sequence

from semcache_core.training.pairs import Pair


def composed_pairs(pairs: Sequence[Pair], count: int, *, seed: int = 0) -> list[Pair]:
    """`count` pairs, each of two of `pairs` put one after the other on either side.

    One of the two has the same answer on both sides; the other has it in every second pair made.
    The label is the product of the two labels: two answers serve a double question only together.
    Short questions are all that most labelled sets have, and a model tuned on them takes a longer
    text for the same when most of it is. The same arguments give the same pairs; none without both
    labels among `pairs`.
    """
    chooser = random.Random(seed)
    alike = [pair for pair in pairs if pair.positive]
    unlike = [pair for pair in pairs if not pair.positive]
    if not alike or not unlike:
        return []
    made = []
    for number in range(count):
        parts = [chooser.choice(alike), chooser.choice(unlike if number % 2 else alike)]
        chooser.shuffle(parts)
        one, two = parts
        made.append(
            Pair(
                f"{one.prompt} {two.prompt}",
                f"{one.other} {two.other}",
                one.same_answer * two.same_answer,
                "composed",
            )
        )
    return made

"""Pairs made from bare questions: small edits that change the answer, rewrites that do not.

A similarity hardly moves when one number, name or negation changes, and moves too much when only
the wording does; labelled pairs show few of either.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from semcache_core.training.data.records import Pair
from semcache_core.training.data.word_edits import EDITS, REWRITES, Rule, Words, names_in


def synthetic_pairs(
    questions: Sequence[str], *, seed: int = 0, per_question: int = 1
) -> list[Pair]:
    """For each question up to `per_question` edits (same_answer 0) and as many rewrites (1).

    Of the rules that apply, the one used least so far is taken; `domain` of a pair names it, as
    `edit:number` or `rewrite:polite`. The same arguments give the same pairs.
    """
    words = Words(random.Random(seed), names_in(questions))
    used: Counter[str] = Counter()
    return [
        Pair(question, changed, label, f"{kind}:{name}")
        for question in questions
        for kind, rules, label in (("edit", EDITS, 0.0), ("rewrite", REWRITES, 1.0))
        for name, changed in _changes(question, rules, words, used, per_question)
    ]


def _changes(
    question: str, rules: dict[str, Rule], words: Words, used: Counter[str], most: int
) -> Iterator[tuple[str, str]]:
    found = 0
    for name in sorted(rules, key=lambda name: (used[name], words.random.random())):
        if found == most:
            return
        changed = rules[name](question, words)
        if changed is not None and changed.split() and changed != question:
            found += 1
            used[name] += 1
            yield name, changed


def composed_pairs(pairs: Sequence[Pair], count: int, *, seed: int = 0) -> list[Pair]:
    """`count` pairs, each of two of `pairs` put one after the other on either side.

    The label is the product of the two labels. Most labelled sets have short questions only, and a
    model tuned on them takes a longer text for the same when most of it is. The same arguments give
    the same pairs; none without both labels among `pairs`.
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

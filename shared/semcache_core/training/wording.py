"""What the rules for edits and rewrites share: finding a word, putting another in its place."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Words:
    """What a rule draws from: chance, and names seen in the questions themselves."""

    random: random.Random
    names: tuple[str, ...]


Rule: TypeAlias = Callable[[str, Words], str | None]
"""Gives the changed question, or None when the question offers nothing to change."""


def other(word: str, group: Sequence[str], words: Words) -> str:
    """One of `group` that is not `word`."""
    return words.random.choice([item for item in group if item != word.lower()])


def like(word: str, model: str) -> str:
    """`word` with the capitals of `model`."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def replace(question: str, match: re.Match[str], new: str) -> str:
    """`question` with `new` where `match` was found in it."""
    return question[: match.start()] + new + question[match.end() :]


def swap(question: str, instead: dict[str, tuple[str, ...]], words: Words) -> str | None:
    """One word of `question`, replaced by what `instead` gives for it; None if it has none."""
    found = [
        match
        for match in re.finditer(r"(?<!['’\w])[A-Za-z]+", question)
        if match[0].lower() in instead
    ]
    if not found:
        return None
    match = words.random.choice(found)
    new = like(words.random.choice(instead[match[0].lower()]), match[0])
    return replace(question, match, new)


def table(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Each word of a group, and what may stand in its place."""
    instead: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for word in group:
            others = tuple(other for other in group if other != word)
            instead[word] = (*instead.get(word, ()), *others)
    return instead

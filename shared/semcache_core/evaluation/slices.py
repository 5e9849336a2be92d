"""Kinds of pairs that a similarity finds easy or hard, by plain rules in English."""

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from semcache_core.guard import numbers
from semcache_core.training.pairs import Pair

Predicate: TypeAlias = Callable[[Pair], bool]

SHORT, LONG = 8, 20
"""A short pair has at most 8 words in its longer text, a long one more than 20."""

# "one" is left out: "which one" and "how does one" name no number
_NUMBER_WORDS = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19",
    "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70",
    "eighty": "80", "ninety": "90", "hundred": "100", "thousand": "1000", "million": "1000000",
    "billion": "1000000000", "dozen": "12",
}  # fmt: skip
_NEGATIONS = frozenset((
    "not", "no", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "without",
    "cannot", "cant", "dont", "doesnt", "didnt", "wont", "wouldnt", "shouldnt", "couldnt", "isnt",
    "arent", "wasnt", "werent", "havent", "hasnt", "hadnt", "aint",
))  # fmt: skip
_WH = {
    "what": "what", "why": "why", "when": "when", "where": "where", "who": "who", "whom": "who",
    "whose": "who", "how": "how", "which": "which",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def slices_of(pairs: Sequence[Pair]) -> dict[str, NDArray[np.bool_]]:
    """Which pairs are in each named slice, bool [pairs] each; a pair is in several.

    Numbers and negation look at both texts, the wh-word at the prompt, the length at the longer
    text. Every domain that the pairs name is a slice `source: NAME`. Slices may be empty.
    """
    sources = sorted({pair.domain for pair in pairs if pair.domain})
    named = PREDICATES | {f"source: {name}": _from(name) for name in sources}
    return {
        name: np.array([predicate(pair) for pair in pairs], np.bool_)
        for name, predicate in named.items()
    }


def _numbers(text: str) -> list[str]:
    """Those written in digits, and those in words as digits: "two" is 2, "a dozen" 12."""
    words = [_NUMBER_WORDS[word] for word in _words(text) if word in _NUMBER_WORDS]
    return sorted(numbers(text) + words)


def _numbers_appear(pair: Pair) -> bool:
    return bool(_numbers(pair.prompt) or _numbers(pair.other))


def _numbers_differ(pair: Pair) -> bool:
    return _numbers(pair.prompt) != _numbers(pair.other)


def _negated(text: str) -> bool:
    return any(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in _words(text))


def _negation_appears(pair: Pair) -> bool:
    return _negated(pair.prompt) or _negated(pair.other)


def _negation_differs(pair: Pair) -> bool:
    return _negated(pair.prompt) != _negated(pair.other)


def _wh(name: str) -> Predicate:
    return lambda pair: _wh_word(pair.prompt) == name


def _wh_word(text: str) -> str:
    stems = (re.split("['’]", word)[0] for word in _words(text))
    return next((_WH[stem] for stem in stems if stem in _WH), "other")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _length(pair: Pair) -> int:
    return max(len(pair.prompt.split()), len(pair.other.split()))


def _from(source: str) -> Predicate:
    return lambda pair: pair.domain == source


PREDICATES: dict[str, Predicate] = {
    "numbers: appear": _numbers_appear,
    "numbers: differ": _numbers_differ,
    "negation: in any": _negation_appears,
    "negation: in one only": _negation_differs,
    **{
        f"wh-word: {name}": _wh(name)
        for name in ("what", "why", "when", "where", "who", "how", "which", "other")
    },
    f"length: at most {SHORT} words": lambda pair: _length(pair) <= SHORT,
    f"length: {SHORT + 1} to {LONG} words": lambda pair: SHORT < _length(pair) <= LONG,
    f"length: over {LONG} words": lambda pair: _length(pair) > LONG,
}

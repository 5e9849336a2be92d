"""Whether two responses are the same answer."""

import hashlib
import re
import unicodedata
from collections.abc import Callable
from typing import Protocol

from semcache_core.decision.guard import differences, read
from semcache_core.errors import SettingsError
from semcache_core.types import Matrix

LONGEST = 10_000
"""Longer answers, in characters, are compared by words only: the guard's time grows faster."""

_EMBEDDED = 1_000  # characters; models read little more
_DECISIVE = frozenset({"number", "identifier", "negation", "opposite"})

_WITHIN_A_THOUSAND = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Layout and punctuation. Points and hyphens before a digit may be part of a number, "!" of "!=".
# Symbols and characters of other scripts are not matched and stay.
_LAYOUT = re.compile(
    r"[\"'()*;?\[\\\]_`{}~|&@\u00a1\u00a7\u00ab\u00b6\u00b7\u00bb\u00bf\u2010-\u2027"
    r"\u2030-\u205e\u3001-\u3003\u3008-\u3011\uff01\uff0c\uff1a\uff1b\uff1f]+"
    r"|[.,:/-](?!\d)|!(?!=)"
)


class SameAnswer(Protocol):
    """Compares two responses: would either do for a user who was given the other?

    It runs beside lookups, never within one, and may take its time: a call of a model is fine.
    """

    def __call__(self, one: str, other: str, /) -> bool: ...


def answer_digest(text: str) -> bytes:
    """SHA-256, 32 bytes, of the words of `text`: equal ones mean the same answer.

    Case, white space and the punctuation of prose do not count. Everything that can change what a
    sentence says does: the order of the words, signs and points of numbers, symbols such as % or <.
    `1,000` and `1000` are the same, as in `guard.numbers`.

    >>> answer_digest("Yes: **1,000** points.") == answer_digest("yes, 1000 points")
    True
    >>> answer_digest("-5 degrees") == answer_digest("5 degrees")
    False
    """
    # composed first, so that an accent belongs to its letter
    folded = unicodedata.normalize("NFC", text).casefold()
    words = _LAYOUT.sub(" ", _WITHIN_A_THOUSAND.sub("", folded)).split()
    return hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).digest()


def by_meaning(embed: Callable[[list[str]], Matrix], at_least: float = 0.92) -> SameAnswer:
    """A `SameAnswer` that compares words first, then meaning.

    In other words: the cosine of the unit vectors that `embed` gives of the first 1,000 characters
    is `at_least` or more, and the guard finds no other number, name in code, negation or opposite
    between the whole texts. Those longer than LONGEST are the same in the same words only.

    The .92 is chosen, not measured: no public set of paired answers was at hand. Where you can do
    better, with a model as the judge or by comparing fields of your answers, pass a `SameAnswer` of
    your own in place of this one. Raises SettingsError where `at_least` is no cosine, and whatever
    `embed` raises.
    """
    if not -1 <= at_least <= 1:  # written so that NaN fails too
        raise SettingsError(f"at_least is {at_least!r}; give a cosine from -1 to 1, such as 0.92")

    def same(one: str, other: str, /) -> bool:
        if answer_digest(one) == answer_digest(other):
            return True
        if max(len(one), len(other)) > LONGEST or _differ_in_what_decides(one, other):
            return False
        first, second = embed([one[:_EMBEDDED], other[:_EMBEDDED]])
        return float(first @ second) >= at_least

    return same


def _differ_in_what_decides(one: str, other: str) -> bool:
    return any(found.rule in _DECISIVE for found in differences(read(one), read(other)))

"""What decides an answer and hardly moves a similarity: numbers, units, opposites, negation."""

import re
from collections import Counter
from dataclasses import dataclass

from semcache_core.deciding_words import (
    ASKING,
    DIRECTED,
    LITTLE_WORDS,
    MEASURES,
    NEGATING_PREFIXES,
    NEGATIONS,
    NUMBERS,
    OPPOSITES,
    UNITS,
)

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[$€£]")
# a link, a file or host, names as in code, letters with digits
_IDENTIFIER = re.compile(
    r"https?://\S+|\b[\w-]+(?:\.[A-Za-z_]\w+)+\b|\b\w*[a-z]\w*_\w+\b|\b[a-z]+[A-Z]\w*\b"
    r"|\b(?=\w*\d)(?=\w*[A-Za-z])\w+\b"
)


_LITTLE = 4


def decisive_difference(one: str, other: str) -> str:
    """What makes these two questions ask for different answers, however alike they are; "" if
    nothing of this kind does.

    Each rule was kept because, among pairs of a cosine of .9 and more, it parts many questions
    that were edited to ask for something else and nearly none that people ask for the same; the
    figures are in docs/how-a-hit-is-decided.md.

    >>> decisive_difference("How do I enable alerts?", "How do I disable alerts?")
    'the opposite: enable, disable'
    """
    if not same_numbers(one, other):
        return "other numbers"
    if _identifiers_missing_in(other, one) and _identifiers_missing_in(one, other):
        return "other names of files, links or codes"
    changed = _changed(one, other)
    return (
        _other_count(changed)
        or _other_unit(changed)
        or _opposite(changed)
        or _turned_around(changed)
        or _negated(changed)
        or _asked_otherwise(changed)
    )


def same_numbers(one: str, other: str) -> bool:
    """Whether two questions name the same numbers, in whatever order.

    Order 1234 and order 1235 are nearer to each other, to an embedding, than most paraphrases.
    Measured at the threshold for 2 %: it costs 0.1 % of the right hits on Banking77 and 4 % on
    medical questions, which restate ages and doses freely.
    """
    return numbers(one) == numbers(other)


def numbers(text: str) -> list[str]:
    """The numbers in `text`, sorted: amounts, dates, ids. `1,000` and `1000` are the same.

    >>> numbers("Is flight LX 124 on 2024-05-01 at 1,000 feet?")
    ['1000', '124', '2024-05-01']
    """
    found = _NUMBER.findall(text)
    return sorted(re.sub(r",(?=\d{3}(?:\D|$))", "", number) for number in found)


def _identifiers_missing_in(text: str, source: str) -> bool:
    lowered = text.lower()
    return any(found.lower() not in lowered for found in _IDENTIFIER.findall(source))


@dataclass(frozen=True)
class _Changed:
    """The words of two questions, in order, and what each has that the other has not."""

    words: tuple[list[str], list[str]]
    only: tuple[frozenset[str], frozenset[str]]

    @property
    def all(self) -> frozenset[str]:
        return self.only[0] | self.only[1]

    @property
    def little(self) -> bool:
        """Where much is worded otherwise, an "out" for an "in" need not be what differs."""
        return max(map(len, self.only)) <= _LITTLE


def _changed(one: str, other: str) -> _Changed:
    words = (_words(one), _words(other))
    counts = (Counter(words[0]), Counter(words[1]))
    return _Changed(words, (frozenset(counts[0] - counts[1]), frozenset(counts[1] - counts[0])))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("’", "'"))


def _other_count(changed: _Changed) -> str:
    """Numbers in words: two cards, three cards."""
    left, right = ({NUMBERS[word] for word in only if word in NUMBERS} for only in changed.only)
    return "other numbers" if left and right and left != right else ""


def _other_unit(changed: _Changed) -> str:
    """Days against hours, March against June; days against dollars say nothing."""
    if not changed.little:
        return ""
    for word in sorted(changed.only[0] & UNITS.keys()):
        for other in sorted(changed.only[1] & UNITS.keys()):
            same_kind = {kind for kind, _ in UNITS[word]} & {kind for kind, _ in UNITS[other]}
            if same_kind and UNITS[word].isdisjoint(UNITS[other]):
                return f"another unit: {word}, {other}"
    return ""


def _opposite(changed: _Changed) -> str:
    if not changed.little:
        return ""
    left, right = changed.only
    for word in sorted(left):
        if found := OPPOSITES.get(word, frozenset()) & right:
            return f"the opposite: {word}, {min(found)}"
    for plain, negated in ((left, right), (right, left)):
        for word in sorted(negated):
            for prefix in NEGATING_PREFIXES:
                rest = word.removeprefix(prefix)
                if rest != word and len(rest) > 3 and rest in plain:
                    return f"the opposite: {rest}, {word}"
    return ""


def _turned_around(changed: _Changed) -> str:
    """The same words where their order counts: from Basel to Bern, from Bern to Basel."""
    one, other = ([w for w in words if w not in LITTLE_WORDS] for words in changed.words)
    if changed.all or one == other or DIRECTED.isdisjoint(changed.words[0]):
        return ""
    return "the same words the other way round"


def _negated(changed: _Changed) -> str:
    """A negation and nothing else: with other words too, it may be "not working" for "broken"."""
    parity = [sum(map(_is_negation, words)) % 2 for words in changed.words]
    if parity[0] == parity[1]:
        return ""
    if all(word in LITTLE_WORDS or _is_negation(word) for word in changed.all):
        return "a negation"
    return ""


def _is_negation(word: str) -> bool:
    return word in NEGATIONS or word.endswith("n't")


def _asked_otherwise(changed: _Changed) -> str:
    """Why for when, how long for how much, and nothing else; "which" may stand for "what"."""
    if not all(changed.only) or not changed.all <= ASKING.keys() | MEASURES:
        return ""
    left, right = map(_asked, changed.words)
    # "How much is the limit?" is "What is the limit?"
    measured = any(asked.startswith("how ") for asked in left | right)
    if left == right or ("what" in left ^ right and measured):
        return ""
    return "another question word"


def _asked(words: list[str]) -> set[str]:
    following = [*words[1:], ""]
    return {
        f"how {after}" if word == "how" and after in MEASURES else ASKING[word]
        for word, after in zip(words, following, strict=True)
        if word in ASKING
    }

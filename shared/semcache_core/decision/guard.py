"""Finds differences that change the answer and hardly the similarity: numbers, names, negation."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semcache_core.decision.lexicon import (
    ASKING,
    CONNECTING,
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
    r"https?://\S+|(?<![\w-])[\w-]+(?:\.[A-Za-z_]\w+)+\b|\b(?=\w*[a-z])_*[^\W_]+_\w+\b|\b[a-z]+[A-Z]\w*\b"
    r"|\b(?=\w*\d)(?=\w*[A-Za-z])\w+\b"
)
# a name inside a sentence; its first word is capitalised whatever it is
_NAME = re.compile(r"(?:(?<=\w )|(?<=[,;] ))[A-ZÀ-Þ]\w+")

# A letter that looks Latin is read as Latin, and courtesies are left out: "do nоt" with a Cyrillic
# letter, or followed by "please", is still a negation and nothing else.
_LOOKALIKES = str.maketrans("асеіорѕхуԁһјԛԝ’", "aceiopsxydhjqw'")
_COURTESY = re.compile(
    r"\b(?:please|kindly|hello|hi|hey|dear|cheers|regards"
    r"|(?:many )?thank(?:s| you)(?: a lot| so much| very much)?(?: in advance)?"
    r"|have a (?:nice|good|great) (?:day|one))\b"
)

_OPERATOR = re.compile(r"[<>=≤≥≠]=?|!=|&&|\|\||(?<=\d)\s?[-+*/%^]\s?(?=\d)")
_COMMUTING = re.compile(r"[+*×]")
_MOST_EXCHANGED = 3

_NO_NAMES = LITTLE_WORDS | ASKING.keys() | MEASURES

_LITTLE = 4


@dataclass(frozen=True)
class Difference:
    """One rule that fired: `rule` is its name in an artefact, `words` what a developer reads."""

    rule: str
    words: str


RULES = (
    "number",
    "identifier",
    "unit",
    "opposite",
    "order",
    "negation",
    "question word",
    "name",
)
"""The names of all rules, which are the keys of their weights in an artefact."""


@dataclass(frozen=True)
class Reading:
    """The features of a question that the guard compares.

    `kinds` are the distinct `words`; `negated` says that the number of negations is odd.
    """

    words: tuple[str, ...]
    kinds: frozenset[str]
    negated: bool
    numbers: tuple[str, ...]
    identifiers: frozenset[str]
    names: frozenset[str]
    lowered: str


def read(text: str) -> Reading:
    """Read the features of a question for `differences`."""
    if not text.isascii():
        # as the tokenizer does: accents off, other forms of a letter are the letter
        apart = unicodedata.normalize("NFKD", text)
        text = "".join(one for one in apart if not unicodedata.combining(one))
        text = text.translate(_LOOKALIKES)
    lowered = text.lower()
    words = tuple(_WORD.findall(_COURTESY.sub(" ", lowered)))
    return Reading(
        words=words,
        kinds=frozenset(words),
        negated=sum(map(_is_negation, words)) % 2 == 1,
        numbers=tuple(numbers(text)),
        identifiers=frozenset(found.lower() for found in _IDENTIFIER.findall(text)),
        names=frozenset(found.lower() for found in _NAME.findall(text)) - _NO_NAMES,
        lowered=lowered,
    )


def differences(one: Reading, other: Reading) -> tuple[Difference, ...]:
    """The signs that two questions ask for different answers, however similar they are.

    How much each rule counts is fitted and lies in the artefact (`Weights.rules`): people restate
    numbers and drop negations freely in some fields. What each is worth is measured by
    `benchmarks/paper/guard.py`; the figures are in docs/reference/guard.md.

    >>> differences(read("How do I enable alerts?"), read("How do I disable alerts?"))
    (Difference(rule='opposite', words='the opposite: enable, disable'),)
    """
    if one.lowered == other.lowered:
        return ()
    changed = _changed(one, other)
    found = (
        ("number", _other_number(one, other) or _other_count(changed)),
        ("identifier", _other(one.identifiers, other.identifiers, one, other, "names in code")),
        ("unit", _other_unit(changed)),
        ("opposite", _opposite(changed)),
        ("order", _turned_around(changed)),
        ("negation", _negated(changed)),
        ("question word", _asked_otherwise(changed)),
        ("name", _other(one.names, other.names, one, other, "names")),
    )
    return tuple(Difference(rule, words) for rule, words in found if words)


def numbers(text: str) -> list[str]:
    """The numbers in `text`, sorted: amounts, dates, ids. `1,000` and `1000` are the same.

    >>> numbers("Is flight LX 124 on 2024-05-01 at 1,000 feet?")
    ['1000', '124', '2024-05-01']
    """
    found = _NUMBER.findall(text)
    return sorted(re.sub(r",(?=\d{3}(?:\D|$))", "", number) for number in found)


def _other_number(one: Reading, other: Reading) -> str:
    """Other digits: order 1234 and order 1235 have closer vectors than most paraphrases."""
    if one.numbers == other.numbers:
        return ""
    left, right = Counter(one.numbers), Counter(other.numbers)
    return f"other numbers: {_listed(left - right)}, {_listed(right - left)}"


def _other(
    left: frozenset[str], right: frozenset[str], one: Reading, other: Reading, what: str
) -> str:
    """Names on both sides that the other side does not contain."""
    only = [name for name in sorted(left) if name not in other.lowered]
    lacking = [name for name in sorted(right) if name not in one.lowered]
    if not only or not lacking:
        return ""
    return f"other {what}: {_listed(only)}, {_listed(lacking)}"


def _listed(found: Iterable[str]) -> str:
    return " ".join(list(found)[:3]) or "none"


@dataclass(frozen=True)
class _Changed:
    """Two questions, and the words that only one of them has."""

    readings: tuple[Reading, Reading]
    only: tuple[frozenset[str], frozenset[str]]

    @property
    def all(self) -> frozenset[str]:
        return self.only[0] | self.only[1]

    @property
    def little(self) -> bool:
        """Whether few words differ. Else an "out" for an "in" need not be what decides."""
        return max(map(len, self.only)) <= _LITTLE


def _changed(one: Reading, other: Reading) -> _Changed:
    return _Changed((one, other), (_only_in(one, other), _only_in(other, one)))


def _only_in(one: Reading, other: Reading) -> frozenset[str]:
    if len(one.kinds) == len(one.words):
        return one.kinds - other.kinds
    return frozenset(Counter(one.words) - Counter(other.words))


def _other_count(changed: _Changed) -> str:
    """Other numbers in words: two cards, three cards."""
    left, right = ({NUMBERS[word] for word in only if word in NUMBERS} for only in changed.only)
    if not left or not right or left == right:
        return ""
    return f"other numbers: {_listed(map(str, sorted(left)))}, {_listed(map(str, sorted(right)))}"


def _other_unit(changed: _Changed) -> str:
    """Other units of one kind: days and hours, March and June; not days and dollars."""
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
    """The same words where their order counts: from Basel to Bern, from Bern to Basel; copy one to
    the other; 8 - 5, 5 - 8; > 5, >= 5.
    """
    first, second = changed.readings
    if changed.all:
        return ""
    if first.words == second.words:
        one, other = (
            [sign.strip() for sign in _OPERATOR.findall(each.lowered)] for each in (first, second)
        )
        return "" if one == other else f"another operator: {_listed(one)}, {_listed(other)}"
    told = "the same words the other way round"
    if not DIRECTED.isdisjoint(first.kinds):
        one, other = ([w for w in each.words if w not in LITTLE_WORDS] for each in (first, second))
        return "" if one == other else told
    return told if _are_exchanged(first, second) else ""


def _are_exchanged(one: Reading, other: Reading) -> bool:
    """Whether two words, or two or three each, have each other's place, and all others their own.

    They must be no question words and the like, and a word such as "to" or "but" must stand between
    them: with "and" or "is" the order is all the same, and a "password reset" is the reset of a
    password. Of numbers the order counts too.
    """
    left, right = one.words, other.words
    apart = [at for at, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1]]
    start, end = apart[0], apart[-1] + 1
    left, right = left[start:end], right[start:end]
    for size in range(1, min(_MOST_EXCHANGED, len(left) // 2) + 1):
        for last in range(1, min(_MOST_EXCHANGED, len(left) - size) + 1):
            between = left[size : len(left) - last]
            if right == (*left[len(left) - last :], *between, *left[:size]):
                exchanged = {*left[:size], *left[len(left) - last :]}
                if between:
                    return not (CONNECTING.isdisjoint(between) or exchanged & _NO_NAMES)
                figures = all(word.isdigit() for word in left)
                return figures and not _COMMUTING.search(one.lowered)
    return False


def _negated(changed: _Changed) -> str:
    """A negation as the only difference. With other words it may be "not working" for "broken"."""
    one, other = changed.readings
    if one.negated == other.negated:
        return ""
    if all(word in LITTLE_WORDS or _is_negation(word) for word in changed.all):
        return "a negation"
    return ""


def _is_negation(word: str) -> bool:
    return word in NEGATIONS or word.endswith("n't")


def _asked_otherwise(changed: _Changed) -> str:
    """Another question word as the only difference; "which" may stand for "what"."""
    if not all(changed.only) or not changed.all <= ASKING.keys() | MEASURES:
        return ""
    left, right = (_asked(each.words) for each in changed.readings)
    # "How much is the limit?" is "What is the limit?"
    measured = any(asked.startswith("how ") for asked in left | right)
    if left == right or ("what" in left ^ right and measured):
        return ""
    return "another question word"


def _asked(words: Sequence[str]) -> set[str]:
    following = [*words[1:], ""]
    return {
        f"how {after}" if word == "how" and after in MEASURES else ASKING[word]
        for word, after in zip(words, following, strict=True)
        if word in ASKING
    }

"""Rules that change one question: edits change its answer, rewrites keep it.

Their words are in `word_edits.json`.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

_WORDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Words:
    """Sources of a rule: a random generator, and the names found in the questions."""

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


def _swapping(groups: Sequence[Sequence[str]]) -> Rule:
    """A rule that replaces a word of a group by another word of that group."""
    instead: dict[str, list[str]] = {}
    for group in groups:
        for word in group:
            instead.setdefault(word, []).extend(other for other in group if other != word)

    def swap(question: str, words: Words) -> str | None:
        matches = re.finditer(r"(?<!['’\w])[A-Za-z]+", question)
        found = [match for match in matches if match[0].lower() in instead]
        if not found:
            return None
        match = words.random.choice(found)
        new = words.random.choice(instead[match[0].lower()])
        return replace(question, match, like(new, match[0]))

    return swap


_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)?(?![\w.]*\d)")
_AUXILIARY = re.compile(
    r"\b(is|are|was|were|can|could|should|would|will|do|does|did|has|have|must|may|might)\b", re.I
)
_NEGATION = re.compile(r"\s+(?:not|never)\b|n['’]t\b|(?<=\bcan)not\b", re.I)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][\w&+#-]+(?: [A-Z][\w&+#-]+)*")
_AROUND = (
    re.compile(r"\b(from) ([\w.' -]{2,30}?) (to) ([\w.'-]+(?: [A-Z][\w.'-]+)*)", re.I),
    re.compile(r"\b(convert|change|turn|move|translate|switch) ([\w.' -]{2,30}?) (into|to) "
               r"([\w.'-]+(?: [A-Z][\w.'-]+)*)", re.I),
    re.compile(r"\b(is|are|do|does|can|will) ([\w.'-]+(?: [A-Z][\w.'-]+)*) "
               r"(better than|bigger than|faster than|older than|owe|beat|replace|defeat|follow) "
               r"([\w.'-]+(?: [A-Z][\w.'-]+)*)", re.I),
)  # fmt: skip


_number_word = _swapping(_WORDS["numbers"])


def _number(question: str, words: Words) -> str | None:
    found = list(_NUMBER.finditer(question))
    if not found:
        return _number_word(question, words)
    match = words.random.choice(found)
    digits = match[0]
    while (changed := _other_number(digits, words)) == digits:
        pass
    return replace(question, match, changed)


def _other_number(digits: str, words: Words) -> str:
    """One digit changed, a digit more, or half or twice or ten times as much."""
    where = words.random.randrange(len(digits))
    if words.random.random() < 0.6 and digits[where].isdigit():
        return digits[:where] + words.random.choice("123456789") + digits[where + 1 :]
    if digits.isdigit() and len(digits) < 9:
        return str(words.random.choice((int(digits) + 1, int(digits) * 2, int(digits) * 10 + 5)))
    return words.random.choice("123456789") + digits


def _negation(question: str, words: Words) -> str | None:
    if found := _NEGATION.search(question):
        before = question[: found.start()].lower()
        if before.endswith((" wo", " sha")):  # won't, shan't: what is left is no word
            return None
        return replace(question, found, "n" if re.search(r"\bca$", before) else "")
    auxiliary = list(_AUXILIARY.finditer(question))
    if not auxiliary:
        return None
    # after the subject: "Is it safe" -> "Is it not safe"; else right behind the auxiliary
    match = auxiliary[0]
    rest = question[match.end() :]
    subject = re.match(r" (?:i|you|we|they|he|she|it|one|there|this|that)\b", rest, re.I)
    end = match.end() + (subject.end() if subject else 0)
    new = words.random.choice((" not", " not", " never")) if subject else " not"
    return question[:end] + new + question[end:]


def _name(question: str, words: Words) -> str | None:
    found = list(_NAME.finditer(question))
    if not found or len(words.names) < 2:
        return None
    match = words.random.choice(found)
    while (name := words.random.choice(words.names)) == match[0]:
        pass
    return replace(question, match, name)


def _wh_word(question: str, words: Words) -> str | None:
    for group, edge in ((_WORDS["measures"], ""), (_WORDS["question_words"], r"\b")):
        if match := re.search(f"{edge}(?:{'|'.join(group)}){edge}", question, re.I):
            return replace(question, match, like(other(match[0], group, words), match[0]))
    return None


def _turned_around(question: str, words: Words) -> str | None:
    for pattern in _AROUND:
        if (match := pattern.search(question)) and match[2].lower() != match[4].lower():
            first, one, between, two = match.groups()
            return replace(question, match, f"{first} {two} {between} {one}")
    return None


def names_in(questions: Sequence[str]) -> tuple[str, ...]:
    """Capitalised words inside sentences, each once; they replace each other."""
    found = dict.fromkeys(name for question in questions for name in _NAME.findall(question))
    return tuple(found)


EDITS: dict[str, Rule] = {
    "number": _number,
    "unit": _swapping(_WORDS["units"]),
    "opposite": _swapping(_WORDS["opposites"]),
    "negation": _negation,
    "name": _name,
    "wh-word": _wh_word,
    "asked-for": _swapping(_WORDS["asked_for"]),
    "turned-around": _turned_around,
}


def _polite(question: str, words: Words) -> str | None:
    greeting: str = words.random.choice(_WORDS["greetings"])
    keep = greeting.rstrip()[-1] in ":!?."
    return greeting + (question if keep else question[:1].lower() + question[1:])


def _thankful(question: str, words: Words) -> str | None:
    return f"{question.rstrip()}{words.random.choice(_WORDS['thanks'])}"


def _case(question: str, words: Words) -> str | None:
    return words.random.choice((str.lower, str.upper, str.title))(question)


def _punctuation(question: str, words: Words) -> str | None:
    bare = question.rstrip("?!. ")
    return bare + words.random.choice(("", " ?", "??", "...", "?!", ".", "!", " ??"))


def _spacing(question: str, words: Words) -> str | None:
    parts = question.split(" ")
    if len(parts) < 3:
        return None
    where = words.random.randrange(1, len(parts))
    return " ".join([*parts[:where], "", *parts[where:]]) + words.random.choice(("", " ", "\n"))


def _contraction(question: str, words: Words) -> str | None:
    both = [pair for ways in _WORDS["contractions"] for pair in (ways, ways[::-1])]
    words.random.shuffle(both)
    for old, new in both:
        if match := re.search(rf"\b{re.escape(old)}(?!\w)", question, re.I):
            return replace(question, match, like(new, match[0][:1]))
    return None


def _phrase(question: str, words: Words) -> str | None:
    phrases = _WORDS["phrases"]
    for group in words.random.sample(phrases, len(phrases)):
        longest_first = "|".join(sorted(group, key=len, reverse=True))
        if found := re.search(rf"\b(?:{longest_first})\b", question, re.I):
            return replace(question, found, like(other(found[0], group, words), found[0][:1]))
    return None


def _typing_slip(question: str, words: Words) -> str | None:
    """Two neighbouring letters of a longer word exchanged, dropped or doubled."""
    found = list(re.finditer(r"\b[a-z]{6,}\b", question))
    if not found:
        return None
    match = words.random.choice(found)
    word, i = match[0], words.random.randrange(1, len(match[0]) - 2)
    slips = (word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i + 1 :],
             word[:i] + word[i] + word[i:])  # fmt: skip
    return replace(question, match, words.random.choice(slips))


REWRITES: dict[str, Rule] = {
    "polite": _polite,
    "thankful": _thankful,
    "case": _case,
    "punctuation": _punctuation,
    "spacing": _spacing,
    "contraction": _contraction,
    "synonym": _swapping(_WORDS["synonyms"]),
    "phrase": _phrase,
    "typing-slip": _typing_slip,
}

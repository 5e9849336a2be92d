"""Rules that change one question: edits change its answer, rewrites keep it."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


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


_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)?(?![\w.]*\d)")
_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_UNITS = (
    ("seconds", "minutes", "hours", "days", "weeks", "months", "years"),
    ("second", "minute", "hour", "day", "week", "month", "year"),
    ("grams", "kilograms", "pounds", "ounces", "tons"),
    ("mg", "g", "kg", "lb", "oz"),
    ("metres", "meters", "kilometres", "kilometers", "miles", "feet", "inches"),
    ("km", "cm", "mm", "m", "ft"),
    ("dollars", "euros", "pounds", "rupees", "yen"),
    ("usd", "eur", "gbp", "inr", "jpy"),
    ("celsius", "fahrenheit", "kelvin"),
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    ("january", "february", "march", "april", "june", "july", "august", "october", "december"),
    ("morning", "afternoon", "evening", "night"),
    ("spring", "summer", "autumn", "winter"),
)  # fmt: skip
_OPPOSITES = (
    "enable disable", "increase decrease", "before after", "buy sell", "open close", "start stop",
    "add remove", "create delete", "install uninstall", "upload download",
    "import export", "send receive", "deposit withdraw", "lock unlock", "connect disconnect",
    "accept reject", "allow block", "gain lose", "high low", "higher lower", "highest lowest",
    "best worst", "good bad", "better worse", "cheap expensive", "cheapest dearest", "hot cold",
    "hard easy", "fast slow", "faster slower", "long short", "longer shorter", "large small",
    "largest smallest", "biggest smallest", "big small", "more less", "most least", "max min",
    "maximum minimum", "first last", "oldest youngest", "old new", "early late", "safe dangerous",
    "legal illegal", "public private", "male female", "men women", "man woman", "boys girls",
    "boy girl", "husband wife", "mother father", "son daughter", "brother sister", "north south",
    "east west", "northern southern", "left right", "up down", "inside outside", "with without",
    "above below", "over under", "borrow lend", "hire fire", "love hate", "like dislike",
    "positive negative", "advantages disadvantages", "pros cons", "strengths weaknesses",
    "causes effects", "symptoms treatments", "cause cure", "win lose", "winner loser", "true false",
    "encrypt decrypt", "encode decode", "compress decompress", "push pull", "upgrade downgrade",
    "ascending descending", "asc desc", "parents children", "teacher student", "employer employee",
    "buyer seller", "doctor patient", "profit loss", "income expense", "debit credit", "rise fall",
    "arrive leave", "arrival departure", "incoming outgoing", "online offline",
    "married single", "temporary permanent", "physical virtual", "raw cooked",
    "wet dry", "day night", "today tomorrow", "yesterday tomorrow", "always never", "all none",
    "anyone nobody", "everyone nobody", "vertical horizontal", "inner outer", "input output",
    "read write", "client server", "frontend backend", "android ios", "windows linux",
    "iphone android", "python java", "mac windows", "facebook twitter", "google bing",
    "visa mastercard", "car bike", "cats dogs", "cat dog", "coffee tea", "water milk",
)  # fmt: skip
_WH = ("what", "why", "when", "where", "who", "how", "which")
_MEASURES = (
    "how long", "how often", "how much", "how many", "how far", "how old", "how big", "how soon",
)  # fmt: skip
_ASKED = (
    "cost", "price", "size", "age", "colour", "name", "weight", "height", "speed", "cause",
    "purpose", "meaning", "origin", "benefit", "history", "population", "owner", "author",
)  # fmt: skip
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


def _number(question: str, words: Words) -> str | None:
    found = list(_NUMBER.finditer(question))
    if not found:
        return swap(question, _NUMBER_TABLE, words)
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


def _unit(question: str, words: Words) -> str | None:
    return swap(question, _UNIT_TABLE, words)


def _opposite(question: str, words: Words) -> str | None:
    return swap(question, _OPPOSITE_TABLE, words)


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
    if measure := re.search("|".join(_MEASURES), question, re.I):
        return replace(question, measure, like(other(measure[0], _MEASURES, words), measure[0]))
    match = re.search(rf"\b(?:{'|'.join(_WH)})\b", question, re.I)
    if match is None:
        return None
    return replace(question, match, like(other(match[0], _WH, words), match[0]))


def _asked(question: str, words: Words) -> str | None:
    return swap(question, _ASKED_TABLE, words)


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


_NUMBER_TABLE = table([_NUMBER_WORDS])
_ASKED_TABLE = table([_ASKED])
_UNIT_TABLE = table(_UNITS)
_OPPOSITE_TABLE = table([pair.split() for pair in _OPPOSITES])

EDITS: dict[str, Rule] = {
    "number": _number,
    "unit": _unit,
    "opposite": _opposite,
    "negation": _negation,
    "name": _name,
    "wh-word": _wh_word,
    "asked-for": _asked,
    "turned-around": _turned_around,
}

_GREETINGS = (
    "Hi, ", "Hello, ", "Hey, ", "Hi there! ", "Please tell me: ", "Quick question: ",
    "I have a question: ", "Could you tell me: ", "I was wondering: ", "Please help: ",
    "Hello! I would like to know: ", "Can you help me? ", "Sorry to bother you. ", "Question: ",
    "Just wondering, ", "Excuse me, ", "Please, ", "Hey guys, ", "Good morning. ",
)  # fmt: skip
_THANKS = (" Thanks!", " Thank you.", " thanks", " Please help.", " Thanks in advance.", " please",
           " Please let me know.", " Any help is appreciated.", " Cheers")  # fmt: skip
_CONTRACTIONS = (
    ("what is", "what's"), ("how is", "how's"), ("where is", "where's"), ("who is", "who's"),
    ("do not", "don't"), ("does not", "doesn't"), ("did not", "didn't"), ("is not", "isn't"),
    ("are not", "aren't"), ("cannot", "can't"), ("will not", "won't"), ("i am", "I'm"),
    ("i have", "I've"), ("it is", "it's"), ("that is", "that's"), ("i will", "I'll"),
    ("they are", "they're"), ("you are", "you're"), ("we are", "we're"), ("i would", "I'd"),
)  # fmt: skip
_SAME = (
    "begin start", "buy purchase", "big large", "quick fast", "fix repair", "mobile cell",
    "photo picture", "film movie", "colour color", "favourite favorite", "organise organize",
    "centre center", "behaviour behavior", "someone somebody", "everyone everybody",
    "anyone anybody", "maybe perhaps", "also too", "whole entire", "ill sick", "kids children",
    "mum mom", "pc computer", "info information", "app application", "ok okay", "tv television",
    "automobile car", "doctor physician", "bike bicycle", "difficult hard", "error mistake",
    "quickly fast", "incorrect wrong", "finish complete", "allow permit", "need require",
    "get obtain", "show display", "help assist", "ask inquire", "rich wealthy", "happy glad",
)  # fmt: skip
_PHRASES = (
    ("how do i", "how can i", "how could i", "how would i", "how does one", "how should i",
     "what should i do to", "what is the way to", "how to"),
    ("what is the best way to", "what's the best way to", "which is the best way to"),
    ("is it possible to", "is there a way to", "can i", "could i", "am i able to"),
    ("why is", "why's", "what is the reason that"),
    ("tell me", "explain to me", "let me know"),
    ("i want to", "i would like to", "i'd like to", "i wish to"),
    ("what does", "whats does"),
    ("because of", "due to"),
    ("for example", "for instance", "e.g."),
    ("a lot of", "lots of", "many"),
    ("right now", "at the moment", "currently", "at present"),
)  # fmt: skip


def _polite(question: str, words: Words) -> str | None:
    greeting = words.random.choice(_GREETINGS)
    keep = greeting.rstrip()[-1] in ":!?."
    return greeting + (question if keep else question[:1].lower() + question[1:])


def _thankful(question: str, words: Words) -> str | None:
    return question.rstrip() + words.random.choice(_THANKS)


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
    both = [pair for ways in _CONTRACTIONS for pair in (ways, ways[::-1])]
    words.random.shuffle(both)
    for old, new in both:
        if match := re.search(rf"\b{re.escape(old)}(?!\w)", question, re.I):
            return replace(question, match, like(new, match[0][:1]))
    return None


def _synonym(question: str, words: Words) -> str | None:
    return swap(question, _SAME_TABLE, words)


def _phrase(question: str, words: Words) -> str | None:
    for group in words.random.sample(_PHRASES, len(_PHRASES)):
        found = re.search(
            rf"\b(?:{'|'.join(sorted(group, key=len, reverse=True))})\b", question, re.I
        )
        if found:
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


_SAME_TABLE = table([pair.split() for pair in _SAME])

REWRITES: dict[str, Rule] = {
    "polite": _polite,
    "thankful": _thankful,
    "case": _case,
    "punctuation": _punctuation,
    "spacing": _spacing,
    "contraction": _contraction,
    "synonym": _synonym,
    "phrase": _phrase,
    "typing-slip": _typing_slip,
}

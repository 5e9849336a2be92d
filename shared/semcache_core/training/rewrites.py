"""Rewrites after which a question still has the same answer."""

import re

from semcache_core.training.wording import Rule, Words, like, other, replace, swap, table

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

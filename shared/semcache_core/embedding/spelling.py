"""Corrects typing slips in English questions, so that they do not move a question's vector.

The words and how often they occur are pyspellchecker's. What it takes for a correction is not used:
that is the most frequent word within one slip, so that "acount" would be a count.
"""

import json
import re
from collections.abc import Iterator
from functools import cache

from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, TOKENIZER_FILE

_WORD = re.compile(r"(?<![\w'’@#./\\])(?<![\s-]-)[A-Za-z][a-z]{3,19}(?![\w'’@/\\]|\.\w)")
_LEAST = 200
"""How often a word occurs in the dictionary's corpus, at least, to be what was meant."""
_LEAST_OF_SHORT = {4: 20_000, 5: 5_000, 6: 5_000}
"""A shorter word that is in no dictionary, here by its letters, is often a name, a brand or a drug,
unless two letters are exchanged or one is doubled."""
_FAR_MORE = 10
_TERMS = frozenset(
    """
    adware backend backends carbs daemon enum enums frontend frontends gotchas influencers
    jailbreak millennials mutex mutexes paleo podcasts postgres printf scanf skillset
    statins struct structs timelines usernames viber volte webhook webhooks
    """.split()
)
"""Words that neither the subtitles nor the model's tokens have, and that look like a slip."""
_BRITISH = (
    *(("our", "or"), ("ise", "ize"), ("isa", "iza"), ("isi", "izi"), ("yse", "yze")),
    *(("ysi", "yzi"), ("tre", "ter"), ("ogue", "og"), ("mme", "m"), ("ence", "ense")),
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    key: set(row[max(0, at - 1) : at + 2]) - {key} for row in _ROWS for at, key in enumerate(row)
}


def corrected(text: str) -> str:
    """`text` with its slips corrected; `text` itself in most cases.

    A word is corrected that is in no dictionary, has four small letters or more (the first of the
    text may be a capital) and is one slip away from one common word that begins alike. Names, codes
    and addresses are left as they are.

    >>> corrected("How do I cancle my subscripton?")
    'How do I cancel my subscription?'
    """

    known = _dictionary()
    if known.keys() >= set(_WORD.findall(text.lower())):
        return text  # nearly always; it takes half of the time

    def meant(found: re.Match[str]) -> str:
        word = found[0]
        lowered = word.lower()
        if lowered in known or (word != lowered and found.start() > 0):
            return word
        other = _meant(lowered, known)
        return word if other is None else word[0] + other[1:]

    return _WORD.sub(meant, text)


def is_word(word: str) -> bool:
    """Whether a word in small letters is an English one, or one slip away from a common one."""
    known = _dictionary()
    plain = word.replace("’", "'")
    if known.get(plain, 0) > 0 or known.get(plain.partition("'")[0], 0) > 0:
        return True
    return _WORD.fullmatch(word) is not None and _meant(word, known) is not None


@cache
def _dictionary() -> dict[str, int]:
    """How often words occur: 0 for those that film subtitles lack and that are no slips, as the
    model has a token for them ("statin", "linux"), or they are in `_TERMS`.

    It takes 0.15 s to read, at the first question.
    """
    from spellchecker import SpellChecker

    frequency = SpellChecker(language="en", distance=1).word_frequency.dictionary
    tokens = json.loads((DEFAULT_ARTEFACT / TOKENIZER_FILE).read_text(encoding="utf-8"))
    for word in (*_TERMS, *tokens["model"]["vocab"]):
        frequency.setdefault(word, 0)
    return dict(frequency)


def _meant(word: str, frequency: dict[str, int]) -> str | None:
    """The word that was meant, by the commonest kind of slip that explains it; None in doubt."""
    for least, candidates in _kinds(word):
        common = sorted(
            (found, one) for one in candidates if (found := frequency.get(one, 0)) >= least
        )
        if common:
            *others, (most, best) = common
            return best if not others or most >= _FAR_MORE * others[-1][0] else None
    return None


def _kinds(word: str) -> Iterator[tuple[int, set[str]]]:
    """What `word` would be without a slip, kind by kind, and how common it must be then.

    The first letter is never changed.
    """
    after_first, short = range(1, len(word)), _LEAST_OF_SHORT.get(len(word), _LEAST)
    certain = _LEAST if len(word) > 5 else short
    yield _LEAST, {word.replace(british, american) for british, american in _BRITISH} - {word}
    # two letters in each other's place, a double letter typed once, a single one typed twice
    yield (
        certain,
        {f"{word[:i]}{word[i + 1]}{word[i]}{word[i + 2 :]}" for i in after_first[:-1]} - {word},
    )
    yield certain, {word[:i] + word[i - 1] + word[i:] for i in range(1, len(word) + 1)}
    yield certain, {word[:i] + word[i + 1 :] for i in after_first if word[i] == word[i - 1]}
    if len(word) > 4:  # a letter left out, or the key beside it
        yield (
            short,
            {word[:i] + one + word[i:] for i in range(1, len(word) + 1) for one in _LETTERS},
        )
        yield (
            short,
            {word[:i] + one + word[i + 1 :] for i in after_first for one in _NEIGHBOURS[word[i]]},
        )
    if len(word) > 6:  # one too many: that makes names and terms of shorter words
        yield _LEAST, {word[:i] + word[i + 1 :] for i in after_first}

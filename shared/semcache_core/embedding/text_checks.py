"""Embedders: ONNX Runtime by default, or a model the user brings. Heavy imports happen on use."""

import unicodedata
from collections.abc import Callable

_UNPRINTED = frozenset(("Cc", "Cf", "Cn", "Co"))
_MARKS = frozenset(("Mn", "Me"))


def unprinted_characters(text: str) -> set[str]:
    """Characters in `text` that are not shown: controls, joiners, tags, private and unassigned."""
    if text.isascii() and text.isprintable():
        return set()
    return {
        one
        for one in set(text)
        if one not in "\t\n\r" and (unicodedata.category(one) in _UNPRINTED or one == "\ufffd")
    }


def hides_characters(text: str, tokens: Callable[[str], list[int]]) -> bool:
    """Whether the tokenizer drops a character of `text`: a whole instruction can be written in
    those, and the question with it gets the vector of the question alone.

    Asked of each by itself, as scripts that are written with marks and joiners have tokens for
    them. An accent on a letter is no such character: BERT's vocabulary has none, but a word is
    rarely another one for want of it.
    """
    if text.isascii() and text.isprintable():
        return False
    composed = unicodedata.normalize("NFC", text)
    suspects = unprinted_characters(composed) | {
        c for c in composed if unicodedata.category(c) in _MARKS
    }
    if not suspects:  # nearly every question: it need not be tokenized again
        return False
    seen = tokens(composed)
    return any(tokens(composed.replace(one, "")) == seen for one in suspects)


def without_surrogates(text: str) -> str:
    """`text` with lone surrogates replaced: the tokenizer takes only valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")

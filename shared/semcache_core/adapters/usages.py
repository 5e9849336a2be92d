"""What a model's answer took, from what a provider says of it."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from semcache_core.types import Usage, is_count

Q = TypeVar("Q")
A = TypeVar("A")

UsageOf: TypeAlias = Callable[[Q, A], Usage]
"""What the answer to a question took, but for the seconds."""


def unknown_usage(question: object, answer: object) -> Usage:
    """For a framework, or an answer, that tells nothing of it."""
    return Usage()


def told_usage(model: object, tokens_in: object, tokens_out: object) -> Usage:
    """As far as it is plausible: providers say what they like, and an answer must be stored all
    the same.
    """
    return Usage(
        model=model if isinstance(model, str) and model else None,
        tokens_in=tokens_in if is_count(tokens_in) else None,  # type: ignore[arg-type]
        tokens_out=tokens_out if is_count(tokens_out) else None,  # type: ignore[arg-type]
    )

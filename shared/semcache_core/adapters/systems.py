"""System texts: what may differ in them, and a hint where a date in one is why nothing is found."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from semcache_core.adapters.dates import find_date
from semcache_core.errors import SemcacheError
from semcache_core.explanation import Explanation

Normaliser: TypeAlias = Callable[[str], str]
"""Takes out of a system text what may differ between calls that an answer may be shared by."""


def normalised(normalise: Normaliser, text: str) -> str:
    """`text` for the comparison; raises SemcacheError when `normalise` gives something else."""
    normal = normalise(text)
    if not isinstance(normal, str):  # None would make all system texts one
        raise SemcacheError(
            f"normalise_system must give a str, got {normal!r}; return the text unchanged instead"
        )
    return normal


def system_blocks(messages: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The text blocks of the system messages of a canonical conversation (see `read_turn`)."""
    for message in messages:
        if isinstance(message, dict) and message.get("type") == "system":
            content = message.get("content")
            for block in content if isinstance(content, list) else ():
                if isinstance(block, dict) and isinstance(block.get("text"), str):
                    yield block


def normalise_systems(messages: Iterable[Any], normalise: Normaliser | None) -> None:
    """Apply `normalise`, where there is one, to the system texts of a canonical conversation."""
    if normalise is not None:
        for block in system_blocks(messages):
            block["text"] = normalised(normalise, block["text"])


def hinted(explanation: Explanation, system_texts: Iterable[str]) -> Explanation:
    """`explanation`, with a hint where a date in the system texts may be why nothing is found.

    `system_texts` are as they are compared. The ledger holds only digests of scopes, so nothing
    can tell what other scopes differ in.
    """
    if explanation.hit is not None or not explanation.scope_is_empty:
        return explanation
    found = find_date("\n".join(system_texts))
    if found is None:
        return explanation
    hint = (
        f"the system prompt holds {found!r}; if that changes from call to call, no earlier "
        "answer can be found: leave it out, or pass normalise_system"
    )
    return replace(explanation, hint=hint)

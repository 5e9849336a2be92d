"""System texts: what may differ in them, and a hint where a date in one is why nothing is found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

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


def hinted(explanation: Explanation, system_texts: Sequence[str]) -> Explanation:
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

"""A stored answer given as a stream: in which pieces, and how fast."""

import math
import re

from semcache_core.errors import SemcacheError

# A word with the space before it, as models write; text without spaces in parts of 20.
_PIECE = re.compile(r"\s*\S{1,20}|\s+\Z")


def pieces(text: str) -> list[str]:
    """`text` in parts of the size that a model streams; joined they are `text` again."""
    return _PIECE.findall(text)


def check_pace(pace: object, what: str) -> None:
    """Raise SemcacheError unless `pace` is None or the seconds between two of `what`."""
    if pace is not None and not (isinstance(pace, int | float) and 0 <= pace < math.inf):
        raise SemcacheError(
            f"pace must be the seconds between two {what}, got {pace!r}; leave it out for none"
        )

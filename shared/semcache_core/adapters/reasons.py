"""Why a model stopped: whether its answer is all there."""

import re
from enum import Enum

# Parts of a finish reason, of any provider, that say the answer is not all there. An answer with
# a reason that is unknown here is taken as whole.
_CUT_SHORT = re.compile(
    "length|max_|max-|_limit|exceed|insufficient|incomplete|pause|truncat"
    "|filter|safety|recitation|refus|block|prohibited|spii|guardrail|interven|sensitive|toxic"
    "|error|fail|malformed|invalid|unexpected|cancel|abort|timeout|in_progress|queued"
)

REASON_FIELDS = (
    "finish_reason",
    "finishReason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "status",
)
"""Where providers say why they stopped."""


def cut_short(reason: object) -> bool:
    """Whether this finish reason says that the answer is cut short, refused or filtered.

    What is neither a text nor a member of an enum says nothing.
    """
    if isinstance(reason, Enum):  # of an integer the text would be its number
        return bool(_CUT_SHORT.search(f"{reason.name} {reason.value}".lower()))
    return isinstance(reason, str) and bool(_CUT_SHORT.search(reason.lower()))

"""What the adapters share: they know a framework each, and this knows none."""

from semcache_core.adapters.asking import Answers, Asked, Kind
from semcache_core.adapters.audits import Audits
from semcache_core.adapters.calls import CachedCalls
from semcache_core.adapters.hits import described, last_hit, note
from semcache_core.adapters.judge import (
    JUDGE_PROMPT,
    check_judge_prompt,
    told_to_judge,
    verdict,
)
from semcache_core.adapters.opening import given_or_opened
from semcache_core.adapters.reasons import REASON_FIELDS, cut_short
from semcache_core.adapters.replaying import check_pace, pieces
from semcache_core.adapters.systems import (
    Normaliser,
    hinted,
    normalise_systems,
    normalised,
    system_blocks,
)
from semcache_core.adapters.tenants import (
    Namespace,
    Writer,
    check_given,
    check_writer,
    own_namespace,
    present_namespace,
    present_writer,
)
from semcache_core.adapters.turns import (
    CALL_IDS,
    CallIds,
    Turn,
    UncachedTools,
    read_text,
    read_turn,
    with_call_ids,
)
from semcache_core.adapters.usages import UsageOf, told_usage, unknown_usage

__all__ = [
    "CALL_IDS",
    "JUDGE_PROMPT",
    "REASON_FIELDS",
    "Answers",
    "Asked",
    "Audits",
    "CachedCalls",
    "CallIds",
    "Kind",
    "Namespace",
    "Normaliser",
    "Turn",
    "UncachedTools",
    "UsageOf",
    "Writer",
    "check_given",
    "check_judge_prompt",
    "check_pace",
    "check_writer",
    "cut_short",
    "described",
    "given_or_opened",
    "hinted",
    "last_hit",
    "normalise_systems",
    "normalised",
    "note",
    "own_namespace",
    "pieces",
    "present_namespace",
    "present_writer",
    "read_text",
    "read_turn",
    "system_blocks",
    "told_to_judge",
    "told_usage",
    "unknown_usage",
    "verdict",
    "with_call_ids",
]

"""What the adapters share: they know a framework each, and this knows none."""

from semcache_core.adapters.asking import Answers, Asked, Kind
from semcache_core.adapters.audits import Audits
from semcache_core.adapters.calls import CachedCalls
from semcache_core.adapters.flights import AsyncFlight, AsyncFlights, Flight, Flights, Outcome
from semcache_core.adapters.hits import described, last_hit, note
from semcache_core.adapters.judge import (
    JUDGE_PROMPT,
    check_judge_prompt,
    told_to_judge,
    verdict,
)
from semcache_core.adapters.opening import given_or_opened
from semcache_core.adapters.reasons import REASON_FIELDS, cut_short
from semcache_core.adapters.systems import Normaliser, hinted, normalised
from semcache_core.adapters.tenants import (
    Namespace,
    Writer,
    check_given,
    check_writer,
    own_namespace,
    present_namespace,
    present_writer,
)
from semcache_core.adapters.turns import CallIds, Turn, UncachedTools, read_text, read_turn

__all__ = [
    "JUDGE_PROMPT",
    "REASON_FIELDS",
    "Answers",
    "Asked",
    "AsyncFlight",
    "AsyncFlights",
    "Audits",
    "CachedCalls",
    "CallIds",
    "Flight",
    "Flights",
    "Kind",
    "Namespace",
    "Normaliser",
    "Outcome",
    "Turn",
    "UncachedTools",
    "Writer",
    "check_given",
    "check_judge_prompt",
    "check_writer",
    "cut_short",
    "described",
    "given_or_opened",
    "hinted",
    "last_hit",
    "normalised",
    "note",
    "own_namespace",
    "present_namespace",
    "present_writer",
    "read_text",
    "read_turn",
    "told_to_judge",
    "verdict",
]

"""What the two adapter packages share; nothing here knows a framework.

- `calls`: looks up, asks the model and stores, for calls that run at the same time
- `demands`: what a request demands of its answer, such as JSON or a tool call
- `conversation`: splits a conversation into its question and the rest
- `options`: checks arguments, opens the cache, finds the tenant and the writer of a call
- `answers`: finish reasons, usage, the last hit, replay, and a model as the judge
- `audits`: asks the model in the background what it says to a question that was a hit
"""

from typing import Any

from semcache_core.adapters.answers import (
    JUDGE_PROMPT,
    REASON_FIELDS,
    JudgeVerifier,
    UsageOf,
    check_judge_prompt,
    cut_short,
    described,
    judge_input,
    pieces,
    unknown_usage,
    usage_from,
    verdict,
)
from semcache_core.adapters.audits import Audits
from semcache_core.adapters.calls import AnswerCodec, CachedCalls, ModelCall, PendingCall
from semcache_core.adapters.conversation import (
    CALL_IDS,
    CallIds,
    Normaliser,
    Turn,
    UncachedTools,
    hinted,
    normalise_systems,
    normalised,
    parts_of,
    read_text,
    read_turn,
    system_blocks,
    with_call_ids,
)
from semcache_core.adapters.demands import Demands, demands_of
from semcache_core.adapters.options import (
    Namespace,
    Writer,
    check_given,
    check_pace,
    check_writer,
    current_namespace,
    current_writer,
    open_cache,
    own_namespace,
)
from semcache_core.hits import (
    FAILED,
    NOT_CACHED,
    call_answered,
    last_hit,
    last_lookup,
    set_last_hit,
    set_last_lookup,
    track_hits,
)

__all__ = [
    "CALL_IDS",
    "FAILED",
    "JUDGE_PROMPT",
    "NOT_CACHED",
    "REASON_FIELDS",
    "AnswerCodec",
    "Audits",
    "CachedCalls",
    "CallIds",
    "Demands",
    "JudgeVerifier",
    "ModelCall",
    "Namespace",
    "Normaliser",
    "PendingCall",
    "Turn",
    "UncachedTools",
    "UsageOf",
    "Writer",
    "call_answered",
    "check_given",
    "check_judge_prompt",
    "check_pace",
    "check_writer",
    "current_namespace",
    "current_writer",
    "cut_short",
    "demands_of",
    "described",
    "hinted",
    "judge_input",
    "last_hit",
    "last_lookup",
    "normalise_systems",
    "normalised",
    "open_cache",
    "own_namespace",
    "parts_of",
    "pieces",
    "read_text",
    "read_turn",
    "set_last_hit",
    "set_last_lookup",
    "system_blocks",
    "track_hits",
    "unknown_usage",
    "usage_from",
    "verdict",
    "with_call_ids",
]

# Names of earlier releases, which stay importable: old name -> present name.
_RENAMED = {
    "Answers": "AnswerCodec",
    "Asked": "PendingCall",
    "Kind": "ModelCall",
    "given_or_opened": "open_cache",
    "note": "set_last_hit",
    "present_namespace": "current_namespace",
    "present_writer": "current_writer",
    "told_to_judge": "judge_input",
    "told_usage": "usage_from",
}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[_RENAMED[name]]

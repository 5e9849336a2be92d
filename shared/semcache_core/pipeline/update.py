"""What an app says about answers: a new one to store, the model's own beside a hit, feedback."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semcache_core.decision.same_answer import answer_digest
from semcache_core.embedding.batching import embed_one
from semcache_core.errors import RequestError
from semcache_core.pipeline.engine import Engine
from semcache_core.pipeline.lookup import is_only_exact
from semcache_core.quality.verdicts import ServedHit, Verdict
from semcache_core.request import Key, key_of, mode_of, part_digests
from semcache_core.storage.entries import NewEntry, size_of
from semcache_core.storage.eviction import text_bytes
from semcache_core.transfer.jsonl import EntriesFile
from semcache_core.transfer.transfer import Imported, Importer, Progress
from semcache_core.types import Request, Usage, Vector


@dataclass(frozen=True)
class Answer:
    """The arguments of one `SemanticCache.update`, checked."""

    response: str
    ttl: float | None
    tags: Sequence[str]
    cost: float | None
    text: str | None
    usage: Usage
    wraps: bool = False


def update(engine: Engine, request: Request, answer: Answer, started: float) -> int | None:
    """Store an answer; returns the entry's id, None where it is refused. See `SemanticCache`.

    `started` is when the call began, by `time.perf_counter`.
    """
    if mode_of(request) == "bypass":
        return None
    key, now = key_of(request, engine.settings.namespace), engine.clock()
    with engine.telemetry.span("semcache.update", started, key.namespace) as span:
        entry_id = _store(engine, request, key, answer, now)
        engine.counters.add("refused" if entry_id is None else "update")
        result = "refused" if entry_id is None else "stored"
        engine.telemetry.updated(result, key.namespace, span)
        return entry_id


def _store(engine: Engine, request: Request, key: Key, answer: Answer, now: float) -> int | None:
    admitted = engine.admission.admitted(request, answer.response, answer.wraps)
    if admitted is None:
        return None
    text = admitted.response
    if answer.text is not None:
        # redacted too: a digest of four secret digits is as good as the digits
        text = engine.admission.text(answer.text)
        if answer.text.strip() and not text.strip():
            return None
    new = _new_entry(engine, request, key, admitted.response, text, answer, now)
    if too_large(engine, new):
        # an older answer goes: the app has a newer one, and would be served the older instead
        engine.ledger.entries.delete_exact(key.exact, now)
        return None
    _flush_before_eviction(engine)
    entry_id = engine.ledger.entries.insert(new, engine.limits)
    _compare(engine, key, request.question, text, now)
    engine.background.written += 1
    return entry_id


def _new_entry(
    engine: Engine, request: Request, key: Key, response: str, text: str, answer: Answer, now: float
) -> NewEntry:
    ttl = engine.settings.ttl if answer.ttl is None else answer.ttl
    vector, usage = None, answer.usage
    if matched_by_meaning(engine, request):
        vector = engine.vector_cache.embed(engine.embedder, request.question, key.namespace)
    return NewEntry(
        exact=key.exact,
        partition=key.partition,
        namespace=key.namespace,
        scope=request.scope,
        exact_only=request.exact_only,
        question=request.question,
        response=response,
        created=now,
        expires=None if ttl is None else now + ttl,
        cost=engine.prices.cost(usage) if answer.cost is None else answer.cost,
        tags=(*request.tags, *answer.tags),
        fingerprint=engine.embedder.fingerprint,
        vector=vector,
        writer=request.writer,
        answer=engine.comparer.same_as(key, text),
        answer_digest=answer_digest(text),
        answer_text=None if answer.text is None else text,
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        seconds=usage.seconds,
        parts=_parts(engine, request),
    )


def _parts(engine: Engine, request: Request) -> str | None:
    """The parts of the scope as they are stored; an error there is no reason not to store."""
    with engine.counters.failing_open("parts"):
        return None if request.parts is None else json.dumps(part_digests(request.parts()))
    return None


def matched_by_meaning(engine: Engine, request: Request) -> bool:
    """Whether an entry of this request gets a vector."""
    return not is_only_exact(engine, request) and engine.embedder.reads(
        request.question, engine.max_tokens
    )


def too_large(engine: Engine, new: NewEntry) -> bool:
    """Whether an entry is larger than a setting allows; says so in the log, once per setting."""
    settings = engine.settings
    for name, size, most in (
        ("max_response_bytes", text_bytes(new.response), settings.max_response_bytes),
        ("max_bytes", size_of(new), settings.max_bytes),
    ):
        if most is not None and size > most:
            engine.counters.warn_once(
                f"larger than {name}",
                f"an answer of {size:,} bytes is not stored, as {name} is {most:,}; the app "
                "goes on without it; raise the limit to keep such answers; this is logged "
                "once, stats().refused counts on",
            )
            return True
    return False


def _flush_before_eviction(engine: Engine) -> None:
    """Write the hits counted so far where entries may be evicted: eviction goes by use."""
    if engine.limits.bounded:
        engine.hit_counter.flush(engine.ledger)


def _compare(engine: Engine, key: Key, question: str, text: str, now: float) -> None:
    """Compare the model's own answer with that of a hit which was withheld or audited."""
    verdict = engine.comparer.compare(key, question, text, now)
    if verdict is not None:
        engine.telemetry.judged(verdict.source, verdict.correct)


def audited(engine: Engine, request: Request, answer: str) -> None:
    """Compare what the model answers with the hit that was served; see `SemanticCache.audited`."""
    key, now = key_of(request, engine.settings.namespace), engine.clock()
    if engine.admission.storable(request.question):
        _compare(engine, key, request.question, engine.admission.text(answer), now)


def feedback(engine: Engine, entry_id: int, correct: bool, request: Request | None) -> None:
    """Keep what the app says of a hit; see `SemanticCache.feedback`."""
    stored = engine.verdicts.stored(entry_id)
    if stored is None:
        raise RequestError(
            f"there is no entry {entry_id!r}; pass the entry_id of a hit on this cache"
        )
    namespace, question = stored
    served = engine.verdicts.last_served(entry_id)
    if request is not None:
        served = _served_for(engine, entry_id, request)
    engine.counters.add("feedback")
    engine.telemetry.judged("feedback", correct)
    if served is None:  # the entry only ever answered its own question
        if not correct:
            engine.ledger.entries.delete(entry_id)
        return
    verdict = Verdict(
        namespace=namespace,
        entry_id=entry_id,
        asked=served.asked,
        stored=question,
        similarity=served.similarity,
        probability=served.probability,
        correct=correct,
        source="feedback",
        at=engine.clock(),
    )
    engine.verdicts.judge(verdict, served.asked_key)


def _served_for(engine: Engine, entry_id: int, request: Request) -> ServedHit | None:
    """The hit by meaning of this entry for this request; None where the question is its own."""
    key, now = key_of(request, engine.settings.namespace), engine.clock()
    entry = engine.ledger.lookups.find(key.exact, now)
    if entry is not None and entry.id == entry_id:
        return None
    for served in reversed(engine.verdicts.served_of(entry_id)):
        if served.asked_key == key.exact:
            return served
    raise RequestError(
        f"entry {entry_id} is not known to have answered {request.question!r}; pass the "
        "request of the hit, or leave it out for the entry's last one"
    )


def import_entries(
    engine: Engine, file: str | os.PathLike[str], embed: bool, progress: Progress | None
) -> Imported:
    """Store the entries of a file; see `SemanticCache.import_entries`."""
    _flush_before_eviction(engine)
    importer = Importer(
        ledger=engine.ledger,
        admission=engine.admission,
        embedder=engine.embedder if embed else None,
        readable=lambda question: matched_by_meaning(engine, Request(question)),
        namespace=engine.settings.namespace,
        ttl=engine.settings.ttl,
        limits=engine.limits,
        too_large=lambda new: too_large(engine, new),
        now=engine.clock(),
    )
    with EntriesFile(Path(file)) as source:
        imported = importer.take(source, progress)
    engine.background.written += imported.stored
    return imported


def rebuild(engine: Engine) -> int:
    """Embed what lacks a vector of the present model, then build the index anew."""

    def embed(question: str) -> Vector | None:
        if not matched_by_meaning(engine, Request(question)):
            return None
        return embed_one(engine.embedder, question)

    return engine.rebuild(embed)

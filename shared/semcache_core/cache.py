"""SemanticCache: what it does with a question, top to bottom."""

import asyncio
import contextvars
import logging
import math
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self, Unpack

from semcache_core.admission import Admission, Admit, Redact
from semcache_core.costs import Prices
from semcache_core.decision.decide import Decision, HitDecider
from semcache_core.decision.same_answer import SameAnswer, answer_digest
from semcache_core.decision.verifier import Verifier
from semcache_core.embedding.batching import embed_one
from semcache_core.embedding.cpu import usable_cores
from semcache_core.errors import LedgerError, RequestError, SemcacheError
from semcache_core.observability.gauges import Levels, estimates
from semcache_core.observability.metrics import StageTimer, Telemetry, ignore_stage
from semcache_core.observability.tracing import Span
from semcache_core.pipeline.engine import Engine, open_engine
from semcache_core.pipeline.explain import CacheStats, Explanation
from semcache_core.pipeline.single_flight import AsyncSingleFlight, SingleFlight
from semcache_core.quality.verdicts import ServedHit, Source, Verdict
from semcache_core.request import Key, key_of
from semcache_core.settings import CacheOptions, settings_from
from semcache_core.storage.entries import NewEntry, size_of
from semcache_core.storage.eviction import text_bytes
from semcache_core.storage.ledger import Ledger
from semcache_core.transfer.jsonl import EntriesFile
from semcache_core.transfer.transfer import Exported, Imported, Importer, Progress, write_entries
from semcache_core.types import (
    Candidate,
    Clock,
    Entry,
    Hit,
    Request,
    Usage,
    Vector,
    check_namespace,
    check_request,
    check_seconds,
    check_tags,
    is_amount,
)

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")
T = TypeVar("T")

ASYNC_THREADS = 32  # when each may wait for a remote embedder
RETRY_SECONDS = 10.0
"""Between two tries to open a ledger that was lost while the cache was open."""
UNKNOWN = Usage()

_INHERITED: list[object] = []
"""What a forked child must never close, and so never drop."""


class SemanticCache:
    """Remembers answers and serves them for the same question in other words.

    The keyword arguments are the fields of `CacheSettings`; each can also be set in the
    environment as SEMCACHE_<NAME>. `embedder` replaces the shipped model (a sentence-transformers
    name or model, LangChain or LlamaIndex embeddings, or any `Embedder`) and needs an `artefact`
    calibrated for it, without which only exact repeats are served. `chroma_client` puts the vector
    index on a Chroma server. `clock` gives the time in seconds since the epoch.

    `verifier` is asked for a second opinion where the probability is not quite enough. `admit` and
    `redact` see everything before it is stored. `same_answer` says whether two answers are the
    same, where one of them is known to be right; left out, their words and then their meaning.
    `prices` says what models charge, for what hits save.

    Methods raise SemcacheError and nothing else; `get_or_create` and the adapters for LangChain
    fail open instead: they count and log the error and call the model. Safe to use from many
    threads, from asyncio (the a* methods), from forked children and from several processes.
    """

    def __init__(
        self,
        *,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        clock: Clock = time.time,
        verifier: Verifier | None = None,
        same_answer: SameAnswer | None = None,
        admit: Admit | None = None,
        redact: Redact | None = None,
        prices: Prices | None = None,
        **options: Unpack[CacheOptions],
    ) -> None:
        self.settings = settings_from(options)
        self._admission = Admission(admit, redact)
        self._verifier = verifier
        self._same_answer = same_answer
        self._embedder = embedder
        self._chroma_client = chroma_client
        self._clock = clock
        self._prices = prices or Prices()
        told = weakref.WeakMethod(self._levels)
        self._telemetry = Telemetry(told, self.settings.namespace_in_telemetry)
        self._warned: set[str] = set()
        self._closed = False
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._parts: Engine | None = None
        self._problem = ""
        self._retry_at = 0.0
        self._forget_process()
        self._use()
        _watch_forks(weakref.ref(self))

    # -- the main job --------------------------------------------------------------------------

    def lookup(self, request: Request, *, audits: bool = False) -> Hit | None:
        """The remembered answer to this question, or None.

        With `shadow`, and for the share `audit_rate` of the hits by meaning, the answer is withheld
        so that the model is called; the `update` that follows shows whether it was right. With
        `audits` a sampled hit is given, marked `audited`: the caller asks the model all the same,
        while the user has the answer already, and hands what it says to `audited`.
        """
        started = time.perf_counter()
        parts = self._use()
        key, now = self._key(request), self._clock()
        with self._telemetry.span("semcache.lookup", started, key.namespace) as span:
            decision = self._exactly(parts, key, now)
            if decision is None:
                ended = self._telemetry.stages(started, span)
                ended("find")
                decision = self._by_meaning(parts, request, key, now, ended)
            hit = self._hit(decision, now)
            if decision.served is not None:
                hit = self._unless_withheld(parts, key, request, decision, hit, now, audits)
            elif hit is None and decision.near:
                parts.watch.missed(key, decision.near, decision.held_back, "shadow")
            if hit is not None:
                parts.touches.add(hit.entry_id, now)
            if span is not None:
                span.looked_up(hit, decision.near[0].similarity if decision.near else None)
        result = "miss" if hit is None else hit.kind
        self._count(result)
        self._telemetry.looked_up(result, time.perf_counter() - started, key.namespace)
        return hit

    def _exactly(self, parts: Engine, key: Key, now: float) -> Decision | None:
        entry = parts.ledger.lookups.find(key.exact, now)
        return None if entry is None else Decision("the question is the same", entry=entry)

    def _by_meaning(
        self,
        parts: Engine,
        request: Request,
        key: Key,
        now: float,
        ended: StageTimer = ignore_stage,
    ) -> Decision:
        if reason := self._why_not_by_meaning(parts, request):
            return Decision(reason)
        if not parts.ledger.lookups.has_vectors(key.partition, parts.embedder.fingerprint, now):
            return Decision(_EMPTY_SCOPE)
        if not self._reads(parts, request.question):
            return Decision(_UNREADABLE)
        with self._gate:
            vector = parts.vector_cache.embed(parts.embedder, request.question, key.namespace)
            ended("embed")
            by_meaning = HitDecider(parts, self.settings.confirmations)
            return by_meaning.decide(request, key, vector, now, ended)

    def _unless_withheld(
        self,
        parts: Engine,
        key: Key,
        request: Request,
        decision: Decision,
        hit: Hit | None,
        now: float,
        audits: bool,
    ) -> Hit | None:
        """A hit by meaning, unless the model is to be asked before it may be served."""
        assert decision.served is not None and hit is not None
        source: Source = "shadow" if self.settings.shadow else "audit"
        sampled = self.settings.shadow or parts.audit.sampled(self.settings.audit_rate)
        withheld = sampled and (self.settings.shadow or not audits)
        if sampled:
            parts.watch.missed(key, decision.near, decision.served, source)
            self._telemetry.sampled(source, withheld)
        if withheld:
            self._count(f"withheld {source}")
            return None
        if self._admission.storable(request.question):
            parts.watch.served(key, request.question, decision.served, now)
        return replace(hit, audited=sampled)

    def update(
        self,
        request: Request,
        response: str,
        ttl: float | None = None,
        tags: Sequence[str] = (),
        cost: float | None = None,
        answer: str | None = None,
        usage: Usage = UNKNOWN,
    ) -> int | None:
        """Remember `response` as the answer; returns the entry's id, None where it is not stored:
        because `admit` or `redact` forbid that, or it is larger than the settings allow.

        Durable, and visible to every lookup on this path, when it returns. An older answer to the
        same request is replaced. `ttl` is in seconds (None: the cache's own). `answer` is the text
        of the answer where `response` wraps it in more: answers are compared by it. `usage` is what
        the model took to make it, and `cost` what that cost, in any unit you like (None: by the
        cache's `prices`): so much is saved by each hit.
        """
        if not isinstance(response, str):
            raise RequestError(f"response must be a str, got {response!r}; serialise it first")
        if ttl is not None:
            check_seconds("ttl", ttl, above=0)
        check_request(request)
        check_tags(tags)
        started = time.perf_counter()
        if not isinstance(usage, Usage):
            raise RequestError(f"usage must be a Usage, got {usage!r}; write Usage(seconds=...)")
        if cost is None:
            cost = self._prices.cost(usage)
        elif not is_amount(cost):
            raise RequestError(f"cost must be a number from 0 on, got {cost!r}; or leave it out")
        parts = self._use()
        key, now = self._key(request), self._clock()
        with self._telemetry.span("semcache.update", started, key.namespace) as span:
            admitted = self._admission.admitted(request, response)
            if admitted is None:
                self._refused(key, span)
                return None
            # redacted too: a digest of four secret digits is as good as the digits
            said = admitted.response if answer is None else self._admission.text(answer)
            new = self._new_entry(parts, request, key, admitted.response, now)
            new = replace(
                new,
                expires=self._expiry(ttl, now),
                tags=(*request.tags, *tags),
                answer=parts.watch.same_as(key, said),
                answer_digest=answer_digest(said),
                answer_text=None if answer is None else said,
                cost=cost,
                tokens_in=usage.tokens_in,
                tokens_out=usage.tokens_out,
                seconds=usage.seconds,
            )
            if self._too_large(new):
                # an older answer goes: the app has a newer one, and would be served that instead
                parts.ledger.entries.delete_exact(key.exact, now)
                self._refused(key, span)
                return None
            if parts.limits.bounded:
                parts.touches.flush(parts.ledger)  # eviction goes by use
            entry_id = parts.ledger.entries.insert(new, parts.limits)
            self._answered(parts, key, request.question, said, now)
            parts.background.written += 1
            self._count("update")
            self._telemetry.updated("stored", key.namespace, span)
            return entry_id

    def _refused(self, key: Key, span: Span | None) -> None:
        self._count("refused")
        self._telemetry.updated("refused", key.namespace, span)

    def _too_large(self, new: NewEntry) -> bool:
        response, whole = text_bytes(new.response), size_of(new)
        for name, size, most in (
            ("max_response_bytes", response, self.settings.max_response_bytes),
            ("max_bytes", whole, self.settings.max_bytes),
        ):
            if most is not None and size > most:
                self.warn_once(
                    f"larger than {name}",
                    f"an answer of {size:,} bytes is not stored, as {name} is {most:,}; the app "
                    "goes on without it; raise the limit to keep such answers; this is logged "
                    "once, stats().refused counts on",
                )
                return True
        return False

    def _answered(self, parts: Engine, key: Key, question: str, said: str, now: float) -> None:
        """The model's own answer is known: judge the one that was withheld, or audited."""
        judgement = parts.watch.answered(key, question, said, now)
        if judgement is not None:
            self._telemetry.judged(judgement.source, judgement.correct)

    def audited(self, request: Request, answer: str) -> None:
        """Say what the model itself answers to a request whose hit was marked `audited`.

        Compared and counted as what an `update` brings, but not stored. `answer` is its text, as
        in `update`. Without such a hit before it, nothing happens; where `redact` changes the
        question neither, as a judgement keeps it.
        """
        parts = self._use()
        key, now = self._key(request), self._clock()
        if self._admission.storable(request.question):
            self._answered(parts, key, request.question, self._admission.text(answer), now)

    def _new_entry(
        self, parts: Engine, request: Request, key: Key, response: str, now: float
    ) -> NewEntry:
        vector = None
        by_meaning = not self._why_not_by_meaning(parts, request)
        if by_meaning and self._reads(parts, request.question):
            vector = parts.vector_cache.embed(parts.embedder, request.question, key.namespace)
        return NewEntry(
            exact=key.exact,
            partition=key.partition,
            namespace=key.namespace,
            scope=request.scope,
            exact_only=request.exact_only,
            question=request.question,
            response=response,
            created=now,
            expires=None,
            cost=None,
            tags=(),
            fingerprint=parts.embedder.fingerprint,
            vector=vector,
            writer=request.writer,
        )

    def _expiry(self, ttl: float | None, now: float) -> float | None:
        ttl = self.settings.ttl if ttl is None else ttl
        return None if ttl is None else now + ttl

    def get_or_create(self, request: Request, compute: Callable[[], str]) -> str:
        """The remembered answer, else `compute()`'s, which is then remembered.

        Identical requests at the same time are computed once (single-flight). An error of
        `compute` reaches every caller as itself and nothing is stored. The cache fails open: its
        own errors are counted and logged, and `compute` is called.
        """

        def create() -> str:
            # again: the flight before this one may have ended between our lookup and now
            if (hit := self._open_lookup(again)) is not None:
                return hit.response
            started = time.perf_counter()
            response = compute()
            usage = Usage(seconds=time.perf_counter() - started)
            with self.failing_open("update"):
                self.update(request, response, usage=usage)
            return response

        # what was withheld by meaning stays withheld
        again = replace(request, exact_only=True)
        hit = self._open_lookup(request)
        if hit is not None:
            return hit.response
        return self._flights.run(self._key(request).exact, create)

    def feedback(
        self, entry_id: int, correct: bool = False, *, request: Request | None = None
    ) -> None:
        """Say of a hit whether its answer was right; `entry_id` is `Hit.entry_id`.

        It is about the request given, or about the last one that this entry answered by meaning.
        A wrong answer is never again given to that question by this entry, which from now on needs
        a higher probability for others too; the pair is kept for training (`semcache export
        --feedback`). An answer that is wrong for the entry's own question is forgotten.
        Raises RequestError when the entry is gone, or never answered that request.
        """
        parts = self._use()
        stored = parts.records.stored(entry_id)
        if stored is None:
            raise RequestError(
                f"there is no entry {entry_id!r}; pass the entry_id of a hit on this cache"
            )
        namespace, question = stored
        served = parts.records.last_served(entry_id)
        if request is not None:
            served = self._pairing(parts, entry_id, request)
        self._count("feedback")
        self._telemetry.judged("feedback", correct)
        if served is None:  # only its own question was ever answered from it
            if not correct:
                parts.ledger.entries.delete(entry_id)
            return
        judgement = Verdict(
            namespace=namespace,
            entry_id=entry_id,
            asked=served.asked,
            stored=question,
            similarity=served.similarity,
            probability=served.probability,
            correct=correct,
            source="feedback",
            at=self._clock(),
        )
        parts.records.judge(judgement, served.asked_key)

    def _pairing(self, parts: Engine, entry_id: int, request: Request) -> ServedHit | None:
        """How this entry came to answer this request; None where the question is its own."""
        key, now = self._key(request), self._clock()
        entry = parts.ledger.lookups.find(key.exact, now)
        if entry is not None and entry.id == entry_id:
            return None
        for served in reversed(parts.records.served_of(entry_id)):
            if served.asked_key == key.exact:
                return served
        raise RequestError(
            f"entry {entry_id} is not known to have answered {request.question!r}; pass the "
            "request of the hit, or leave it out for the entry's last one"
        )

    def explain(self, request: Request) -> Explanation:
        """Why a lookup of this request would hit or miss; changes nothing.

        Counts nothing either but what the verifier is asked: it is, where a lookup would ask it.
        """
        parts = self._use()
        key, now = self._key(request), self._clock()
        decision = self._exactly(parts, key, now) or self._by_meaning(parts, request, key, now)
        if self.settings.shadow and decision.served is not None:
            decision = replace(decision, said=f"{decision.reason}, but {_SHADOW}", entry=None)
        return Explanation(
            question=request.question,
            hit=self._hit(decision, now),
            reason=decision.reason,
            threshold=None if parts.threshold is None else parts.audit.threshold,
            max_error_rate=self.settings.max_error_rate,
            candidates=tuple(self._candidates(parts, decision, key, now)),
            scope_is_empty=decision.reason == _EMPTY_SCOPE,
        )

    def _candidates(
        self, parts: Engine, decision: Decision, key: Key, now: float
    ) -> Iterator[Candidate]:
        for judged in decision.judgement or ():
            entry = parts.ledger.lookups.get(judged.neighbour.entry_id, key.partition, now)
            if entry is not None:
                yield Candidate(
                    entry,
                    judged.neighbour.similarity,
                    judged.probability,
                    judged.margin,
                    tuple(difference.words for difference in judged.differences),
                )

    def warm_up(self, index_seconds: float = 30.0) -> None:
        """Open the embedding model and the index, for which else the first questions wait.

        For servers, before they take requests: half a second in which the event loop would stall
        by up to 0.15 s, also while the model is opened on another thread. The index of scopes too
        large to scan takes seconds more (seven for a million entries), and is waited for no longer
        than `index_seconds`. Fails open: a server starts without its cache too, and lookups try
        again. Does nothing where only exact repeats are served. A process forked later opens its
        own.
        """
        with self.failing_open("warm_up"):
            parts = self._use()
            if parts.threshold is not None:
                embed_one(parts.embedder, "warm")
                parts.retriever.await_index(index_seconds)

    # -- housekeeping --------------------------------------------------------------------------

    def entries(self, scope: str = "", namespace: str | None = None) -> list[Entry]:
        """The live entries of one scope of a namespace (None: this cache's own), oldest first."""
        key = self._key(Request("", scope, namespace))
        return self._use().ledger.lookups.entries_of(key.namespace, key.partition, self._clock())

    def forget(self, request: Request) -> bool:
        """Forget the entry of exactly this request; False when there is none.

        Whatever else answers it by meaning stays: see `feedback` for an answer that is wrong.
        """
        key = self._key(request)
        return self._use().ledger.entries.delete_exact(key.exact, self._clock()) > 0

    def clear(self, namespace: str | None = None, *, all_namespaces: bool = False) -> int:
        """Forget one namespace (None: this cache's own), or all; returns how many entries went."""
        chosen = self._chosen(namespace, all_namespaces)
        return self._use().ledger.entries.clear(chosen)

    def invalidate(
        self,
        tags: Sequence[str] | None = None,
        namespace: str | None = None,
        older_than: float | None = None,
        *,
        all_namespaces: bool = False,
    ) -> int:
        """Forget entries of a namespace (None: this cache's own), or of all, that meet all
        conditions given.

        `tags`: entries with any of them; `older_than`: entries stored more seconds ago than that.
        Returns how many went. With no condition at all it is RequestError: use `clear`.
        """
        if tags is None and older_than is None:
            raise RequestError("invalidate needs tags or older_than; to forget all, use clear()")
        chosen = self._chosen(namespace, all_namespaces)
        if tags is not None:
            check_tags(tags)
        if older_than is not None:
            check_seconds("older_than", older_than, above=-math.inf)
        before = None if older_than is None else self._clock() - older_than
        return self._use().ledger.entries.invalidate(tags, chosen, before)

    def rebuild(self) -> int:
        """Make the vector index anew from the ledger; returns how many entries were re-embedded.

        Entries without a vector of the present model (stored under another one) get theirs.
        """
        parts = self._use()
        return parts.rebuild(lambda question: self._vector_for_rebuild(parts, question))

    def export_entries(
        self,
        file: str | os.PathLike[str],
        namespace: str | None = None,
        *,
        all_namespaces: bool = False,
        vectors: bool = False,
    ) -> Exported:
        """Write the live entries of a namespace (None: this cache's own), or of all, to `file`.

        JSON lines (see the docs), readable by you alone; an older file is replaced when all is
        written. With `vectors`, those of this cache's model are written too. While others store, a
        request whose answer is replaced is there with the old answer, the new one, or both.
        """
        chosen = self._chosen(namespace, all_namespaces)
        parts = self._use()
        return write_entries(
            parts.ledger,
            Path(file),
            self._clock(),
            chosen,
            parts.embedder.fingerprint if vectors else None,
        )

    def import_entries(
        self,
        file: str | os.PathLike[str],
        *,
        embed: bool = True,
        progress: Progress | None = None,
    ) -> Imported:
        """Store the entries of an export, or of a log of `{"question", "response"}` lines.

        `admit` and `redact` see each of them, as in `update`, and what is too large is not stored.
        An entry that is here already stays if it is as new or newer, or the line has no time.
        Nothing is stored of a file with a line that is wrong. Done again, after a crash too, it
        leaves the same entries. With `embed` an entry without a vector of this cache's model gets
        one; without, the file's are kept as they are, and `rebuild` makes what is missing.
        `progress` is told how many are done of how many.
        """
        parts = self._use()
        if parts.limits.bounded:
            parts.touches.flush(parts.ledger)  # eviction goes by use
        intake = Importer(
            ledger=parts.ledger,
            admission=self._admission,
            embedder=parts.embedder if embed else None,
            readable=lambda question: self._matched_by_meaning(parts, question),
            namespace=self.settings.namespace,
            ttl=self.settings.ttl,
            limits=parts.limits,
            too_large=self._too_large,
            now=self._clock(),
        )
        with EntriesFile(Path(file)) as source:
            imported = intake.take(source, progress)
        parts.background.written += imported.stored
        return imported

    def stats(self) -> CacheStats:
        """Counts of this process since it opened the cache, and the size of the ledger."""
        parts = self._use()
        entries: int | None = None
        taken: int | None = None
        claimed: float | None = None
        measured = parts.audit.measured()
        with suppress(LedgerError):  # what hits saved is known when they are written
            parts.touches.flush(parts.ledger)
        with suppress(LedgerError):  # what failed matters most when the ledger is broken
            entries = parts.ledger.count(now=self._clock())
            taken = parts.ledger.space().bytes
            claimed = parts.records.claimed_error()
            measured = parts.measured()
        counts = Counter(self._counts)
        failed = {n.removeprefix("failed "): c for n, c in counts.items() if n.startswith("failed")}
        return CacheStats(
            entries=entries,
            exact_hits=counts["exact"],
            semantic_hits=counts["semantic"],
            misses=counts["miss"],
            updates=counts["update"],
            failures=failed,
            max_error_rate=self.settings.max_error_rate,
            threshold=None if parts.threshold is None else parts.audit.threshold,
            indexed_scopes=len(parts.retriever.indexed),
            withheld=counts["withheld audit"] + counts["withheld shadow"],
            refused=counts["refused"],
            feedback=counts["feedback"],
            claimed_error=claimed,
            measured=measured,
            verification=parts.verification.counts() if parts.verification else None,
            saved=parts.touches.saved,
            bytes=taken,
            max_bytes=self.settings.max_bytes,
        )

    def _levels(self) -> Levels | None:
        """What the gauges show of a cache that is open; it opens none."""
        if (parts := self._parts) is None:
            return None
        ledger, claimed = parts.ledger, parts.records.claimed_error
        with self.failing_open("telemetry"):
            return Levels(
                ledger=ledger.name,
                entries=ledger.count(now=self._clock()),
                bytes=ledger.space().bytes,
                disk=ledger.bytes_on_disk(),
                index_lag=ledger.index_state(parts.embedder.fingerprint).not_indexed(
                    self.settings.scan_limit
                ),
                wrong=estimates(self.settings.max_error_rate, claimed(), parts.measured()),
            )
        return None

    def sizes(self) -> dict[str, int]:
        """What the ledger holds over all namespaces: how many of them, hits ever, bytes on disk."""
        ledger = self._use().ledger
        return {
            "namespaces": ledger.namespaces(),
            "hits_ever": ledger.hits_ever(),
            "bytes": ledger.bytes_on_disk(),
        }

    def close(self) -> None:
        """Write what is pending and let go of the files. Closing twice does nothing."""
        self._telemetry.close()
        with self._opening:
            self._closed = True
            self._parts = None
        self._threads.shutdown(wait=False)
        if self._finalizer is not None:
            self._finalizer()

    @contextmanager
    def failing_open(self, operation: str) -> Iterator[None]:
        """Swallow any error of the cache, count it in `stats().failures`, log each kind once.

        The one boundary behind which an error cannot reach the app; adapters use it too.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self._count(f"failed {operation}")
            self._telemetry.failed(operation)
            self.warn_once(
                f"{operation} {type(error).__name__}",
                f"{operation} failed, the app goes on without it: {error!r}; this is logged once, "
                "stats().failures counts on",
            )

    def warn_once(self, about: str, text: str) -> None:
        """Log a warning, once per `about` in the life of this cache."""
        if about not in self._warned:
            self._warned.add(about)
            log.warning("semcache: %s", text)

    # -- helpers -------------------------------------------------------------------------------

    def _use(self) -> Engine:
        """What the cache works with, opened at first use and again in a forked child."""
        parts = self._parts
        if parts is not None and parts.ledger.displaced:
            self._let_go(parts)
            parts = self._parts
        if parts is None:
            with self._opening:
                if self._closed:
                    raise SemcacheError(_CLOSED)
                if self._parts is None:
                    self._parts = self._opened()
                    if self._finalizer is not None:
                        self._finalizer.detach()
                    # also when the cache is dropped, or the interpreter ends, without close()
                    self._finalizer = weakref.finalize(self, self._parts.close)
                parts = self._parts
            if parts.threshold is None:
                self.warn_once("exact only", parts.why_exact_only)
        parts.background.start()
        return parts

    def _opened(self) -> Engine:
        """Not tried again at every call while it fails: the model's files are read each time."""
        if time.monotonic() < self._retry_at:
            raise LedgerError(self._problem)
        try:
            return open_engine(
                self.settings,
                self._embedder,
                self._chroma_client,
                self._clock,
                self._verifier,
                self._same_answer,
                self._telemetry.saved,
                self._telemetry.evicted,
            )
        except LedgerError as error:
            self._problem, self._retry_at = str(error), time.monotonic() + RETRY_SECONDS
            raise

    def _let_go(self, parts: Engine) -> None:
        """Close what works with a file that is no longer there; the next use opens it anew."""
        with self._opening:
            if self._parts is parts:
                self._parts = None
                # closed first, as only one at a time may own the index
                parts.close()

    def _forget_process(self) -> None:
        """Begin anew: when the cache is made, and in a forked child.

        A child has none of its parent's threads, may have inherited held locks, and must not
        touch the parent's SQLite or Chroma. What it inherited is kept and never closed: closing
        a connection that another process made is what corrupts it.
        """
        if self._finalizer is not None and (detached := self._finalizer.detach()) is not None:
            _INHERITED.append(detached[1])
        self._parts = None
        self._retry_at = 0.0
        self._counts: Counter[str] = Counter()
        self._opening = threading.Lock()
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(self._async_threads(), "semcache")
        self._gate = self._make_gate()
        self._flights: SingleFlight[str] = SingleFlight()
        self._async_flights: AsyncSingleFlight[str] = AsyncSingleFlight()

    def _make_gate(self) -> AbstractContextManager[object]:
        """No more lookups by meaning at once than the machine can work on: 32 threads that fight
        for the interpreter's lock made 320 lookups a second on two cores, taking turns 420. None
        for a user's embedder or a verifier, which may be waiting for a network.
        """
        own = self._embedder is None and self._verifier is None
        return threading.Semaphore(usable_cores() + 1) if own else nullcontext()

    def _async_threads(self) -> int:
        """Few for the shipped model: on two cores 4 threads made 299 lookups a second and stalled
        the event loop by 17 ms at most, 32 made 189 and stalled it by 147 ms.
        """
        return usable_cores() + 2 if self._embedder is None else ASYNC_THREADS

    def _chosen(self, namespace: str | None, all_namespaces: bool) -> str | None:
        """The namespace that is meant, this cache's own if none is named; None for all."""
        check_namespace(namespace, optional=True)
        own = self.settings.namespace if namespace is None else namespace
        return None if all_namespaces else own

    def _key(self, request: Request) -> Key:
        check_request(request)
        return key_of(request, self.settings.namespace)

    def _why_not_by_meaning(self, parts: Engine, request: Request) -> str:
        """Why this request is only matched exactly; empty when it may be matched by meaning."""
        if request.exact_only:
            return "this request asks for an exact match only"
        if not request.question.strip():
            return "an empty question is never matched by meaning"
        return "" if parts.threshold is not None else parts.why_exact_only

    def _reads(self, parts: Engine, question: str) -> bool:
        assert parts.calibration is not None
        return parts.embedder.reads(question, parts.calibration.max_tokens)

    def _matched_by_meaning(self, parts: Engine, question: str) -> bool:
        """Whether an entry of this question gets a vector."""
        reason = self._why_not_by_meaning(parts, Request(question))
        return not reason and self._reads(parts, question)

    def _vector_for_rebuild(self, parts: Engine, question: str) -> Vector | None:
        if not self._matched_by_meaning(parts, question):
            return None
        return embed_one(parts.embedder, question)

    def _hit(self, decision: Decision, now: float) -> Hit | None:
        if (entry := decision.entry) is None:
            return None
        judged = decision.served
        return Hit(
            response=entry.response,
            kind="exact" if judged is None else "semantic",
            probability=1.0 if judged is None else judged.probability,
            similarity=1.0 if judged is None else judged.neighbour.similarity,
            question=entry.question,
            entry_id=entry.id,
            age_s=max(0.0, now - entry.created),
        )

    def _open_lookup(self, request: Request) -> Hit | None:
        with self.failing_open("lookup"):
            return self.lookup(request)
        return None

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- async twins: the same, on threads, so that the event loop never waits for a disk ---------

    async def in_thread(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run `call` on one of the cache's threads, with the caller's context variables."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        if self._closed:
            raise SemcacheError(_CLOSED)  # the threads would raise a bare RuntimeError
        return await loop.run_in_executor(self._threads, lambda: context.run(call, *args, **kwargs))

    async def alookup(self, request: Request, *, audits: bool = False) -> Hit | None:
        """See `lookup`."""
        return await self.in_thread(self.lookup, request, audits=audits)

    async def aupdate(
        self,
        request: Request,
        response: str,
        ttl: float | None = None,
        tags: Sequence[str] = (),
        cost: float | None = None,
        answer: str | None = None,
        usage: Usage = UNKNOWN,
    ) -> int | None:
        """See `update`."""
        return await self.in_thread(self.update, request, response, ttl, tags, cost, answer, usage)

    async def aaudited(self, request: Request, answer: str) -> None:
        """See `audited`."""
        await self.in_thread(self.audited, request, answer)

    async def aget_or_create(self, request: Request, compute: Callable[[], Awaitable[str]]) -> str:
        """See `get_or_create`. A cancelled caller harms no other that waits for the same."""

        async def open_lookup(request: Request) -> Hit | None:
            with self.failing_open("lookup"):
                return await self.alookup(request)
            return None

        async def create() -> str:
            if (hit := await open_lookup(again)) is not None:
                return hit.response
            started = time.perf_counter()
            response = await compute()
            usage = Usage(seconds=time.perf_counter() - started)
            with self.failing_open("update"):
                await self.aupdate(request, response, usage=usage)
            return response

        again = replace(request, exact_only=True)
        hit = await open_lookup(request)
        if hit is not None:
            return hit.response
        return await self._async_flights.run(self._key(request).exact, create)

    async def afeedback(
        self, entry_id: int, correct: bool = False, *, request: Request | None = None
    ) -> None:
        """See `feedback`."""
        await self.in_thread(self.feedback, entry_id, correct, request=request)

    async def aexplain(self, request: Request) -> Explanation:
        """See `explain`."""
        return await self.in_thread(self.explain, request)

    async def awarm_up(self, index_seconds: float = 30.0) -> None:
        """See `warm_up`."""
        with self.failing_open("warm_up"):
            await self.in_thread(self.warm_up, index_seconds)

    async def aclear(self, namespace: str | None = None, *, all_namespaces: bool = False) -> int:
        """See `clear`."""
        return await self.in_thread(self.clear, namespace, all_namespaces=all_namespaces)

    async def ainvalidate(
        self,
        tags: Sequence[str] | None = None,
        namespace: str | None = None,
        older_than: float | None = None,
        *,
        all_namespaces: bool = False,
    ) -> int:
        """See `invalidate`."""
        return await self.in_thread(
            self.invalidate, tags, namespace, older_than, all_namespaces=all_namespaces
        )

    async def aentries(self, scope: str = "", namespace: str | None = None) -> list[Entry]:
        """See `entries`."""
        return await self.in_thread(self.entries, scope, namespace)

    async def aforget(self, request: Request) -> bool:
        """See `forget`."""
        return await self.in_thread(self.forget, request)

    async def arebuild(self) -> int:
        """See `rebuild`."""
        return await self.in_thread(self.rebuild)

    async def aexport_entries(
        self,
        file: str | os.PathLike[str],
        namespace: str | None = None,
        *,
        all_namespaces: bool = False,
        vectors: bool = False,
    ) -> Exported:
        """See `export_entries`."""
        return await self.in_thread(
            self.export_entries, file, namespace, all_namespaces=all_namespaces, vectors=vectors
        )

    async def aimport_entries(
        self,
        file: str | os.PathLike[str],
        *,
        embed: bool = True,
        progress: Progress | None = None,
    ) -> Imported:
        """See `import_entries`; `progress` is called on another thread."""
        return await self.in_thread(self.import_entries, file, embed=embed, progress=progress)

    async def astats(self) -> CacheStats:
        """See `stats`."""
        return await self.in_thread(self.stats)

    async def aclose(self) -> None:
        """See `close`."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _watch_forks(reference: "weakref.ref[SemanticCache]") -> None:
    """Fork hooks cannot be unregistered: they must not keep the cache alive."""

    forking = threading.Lock()
    left: list[Ledger] = []

    def before() -> None:
        forking.acquire()
        if (cache := reference()) is not None and (parts := cache._process.engine) is not None:
            left.append(parts.ledger)
            parts.ledger.before_fork()

    def in_parent() -> None:
        while left:
            left.pop().after_fork()
        forking.release()

    def in_child() -> None:
        forking.release()
        _INHERITED.extend(left)
        left.clear()
        if (cache := reference()) is not None:
            cache._process.forget()
            _INHERITED.append(cache._chroma_client)
            cache._chroma_client = None

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


_CLOSED = "this cache is closed; open a new SemanticCache"
_EMPTY_SCOPE = "nothing is stored for this namespace and scope"
_SHADOW = "shadow mode serves nothing by meaning"
_UNREADABLE = (
    "the question is longer than what was calibrated, or has characters the model has no token for"
)

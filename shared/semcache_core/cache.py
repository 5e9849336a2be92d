"""SemanticCache: each public method checks its arguments and calls the pipeline.

How a lookup goes is in `pipeline/lookup.py`; what an update does is in `pipeline/update.py`.
"""

import asyncio
import functools
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, TypeVar

from typing_extensions import ParamSpec, Self, Unpack

from semcache_core.admission import Admission, Admit, Redact
from semcache_core.costs import Prices
from semcache_core.decision.same_answer import SameAnswer
from semcache_core.decision.verifier import Verifier
from semcache_core.embedding.batching import embed_one
from semcache_core.errors import RequestError
from semcache_core.hits import FAILED, last_lookup, set_last_lookup
from semcache_core.pipeline import update as updates
from semcache_core.pipeline.computation import Computation
from semcache_core.pipeline.engine import Engine, EngineOptions, picklable_arguments
from semcache_core.pipeline.explain import CacheStats, Explanation, explain, read_stats
from semcache_core.pipeline.lookup import lookup
from semcache_core.pipeline.process import Process
from semcache_core.request import as_request, key_of, mode_of
from semcache_core.settings import CacheOptions, settings_from
from semcache_core.transfer.transfer import Exported, Imported, Progress, write_entries
from semcache_core.types import (
    Clock,
    Entry,
    Hit,
    Lookup,
    Request,
    Usage,
    check_namespace,
    check_seconds,
    check_tags,
    is_amount,
)

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

P = ParamSpec("P")
T = TypeVar("T")
UNKNOWN = Usage()


def _async_twin(
    method: "Callable[Concatenate[SemanticCache, P], T]",
) -> "Callable[Concatenate[SemanticCache, P], Coroutine[Any, Any, T]]":
    """The method as a coroutine that runs on a thread, so that the event loop never waits for it.

    It has the same parameters, docstring and errors.
    """

    @functools.wraps(method)
    async def twin(self: "SemanticCache", /, *args: P.args, **kwargs: P.kwargs) -> T:
        # by name, so that a subclass changes both forms at once
        return await self.in_thread(getattr(self, method.__name__), *args, **kwargs)

    twin.__name__ = f"a{method.__name__}"
    twin.__qualname__ = f"SemanticCache.{twin.__name__}"
    return twin


class SemanticCache:
    """A semantic response cache: serves an earlier answer when a new question means the same.

    The keyword arguments are the fields of `CacheSettings`; each can also be set in the
    environment as SEMCACHE_<NAME>. `embedder` replaces the shipped model (a sentence-transformers
    name or model, LangChain or LlamaIndex embeddings, or any `Embedder`). It needs an `artefact`
    calibrated for it; without one, only exact repeats are served. `chroma_client` puts the vector
    index on a Chroma server. `clock` gives the time in seconds since the epoch.

    `verifier` gives a second opinion where the probability is not quite enough. `admit` and
    `redact` see everything before it is stored. `same_answer` compares a stored answer with one
    that is known to be right; by default their words and then their meaning are compared.
    `prices` says what models charge, to compute what hits save.

    Methods raise SemcacheError and nothing else. `get_or_create` and the adapters fail open
    instead: they count and log the error and call the model. Safe to use from many threads, from
    asyncio (each method has an async twin, such as `alookup`), from forked children and from
    several processes.

    A copy is the same cache. Unpickled, it opens its path again, or another, empty cache for
    `path=None`. A pickle holds the settings, also the password in a `ledger_url`.
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
        self._clock = clock
        self._process = Process(
            EngineOptions(
                settings=self.settings,
                clock=clock,
                embedder=embedder,
                chroma_client=chroma_client,
                verifier=verifier,
                same_answer=same_answer,
                admission=Admission(admit, redact),
                prices=prices or Prices(),
            )
        )
        # for adapters: how they count and log errors, and leave the event loop's thread
        self.failing_open = self._process.counters.failing_open
        self.warn_once = self._process.counters.warn_once
        self.in_thread = self._process.in_thread
        self._use()
        self._process.watch_forks()

    def _use(self) -> Engine:
        return self._process.use()

    # -- lookups and answers -------------------------------------------------------------------

    def lookup(self, request: Request | str, *, audits: bool = False) -> Hit | None:
        """The stored answer to this question, or None.

        In shadow mode, and for the share `audit_rate` of the hits by meaning, the answer is
        withheld so that the model is called; the `update` that follows shows whether it was right.
        With `audits` a sampled hit is returned, marked `audited`: the caller asks the model all
        the same, while the user has the answer already, and hands its answer to `audited`.
        `last_lookup()` then says why it is a hit or a miss.
        """
        started, decided = time.perf_counter(), FAILED
        try:
            decided = lookup(self._use(), as_request(request), started, audits)
        finally:
            set_last_lookup(decided)
        return decided.hit

    async def alookup(self, request: Request | str, *, audits: bool = False) -> Hit | None:
        """See `lookup`."""

        def looked_up() -> tuple[Hit | None, Lookup | None]:
            return self.lookup(request, audits=audits), last_lookup()

        decided: Lookup | None = FAILED
        try:
            hit, decided = await self.in_thread(looked_up)
        finally:
            set_last_lookup(decided)
        return hit

    def update(
        self,
        request: Request | str,
        response: str,
        ttl: float | None = None,
        tags: Sequence[str] = (),
        cost: float | None = None,
        answer: str | None = None,
        usage: Usage = UNKNOWN,
        wraps: bool = False,
    ) -> int | None:
        """Store `response` as the answer; returns the entry's id. None where it is not stored:
        because `admit` or `redact` forbid that, it is larger than the settings allow, or the call
        bypasses the cache.

        Durable, and visible to every lookup on this path, when it returns. An older answer to the
        same request is replaced. `ttl` is in seconds (None: the cache's own). `answer` is the text
        of the answer where `response` wraps it in more: answers are compared by it. `wraps` says
        that `response` is JSON, whose texts `redact` then sees one by one. `usage` is what
        the model took to make it, and `cost` what that cost, in any unit you like (None: by the
        cache's `prices`): so much is saved by each hit.
        """
        if not isinstance(response, str):
            raise RequestError(f"response must be a str, got {response!r}; serialise it first")
        if ttl is not None:
            check_seconds("ttl", ttl, above=0)
        check_tags(tags)
        if not isinstance(usage, Usage):
            raise RequestError(f"usage must be a Usage, got {usage!r}; write Usage(seconds=...)")
        if cost is not None and not is_amount(cost):
            raise RequestError(f"cost must be a number from 0 on, got {cost!r}; or leave it out")
        started = time.perf_counter()
        given = updates.Answer(response, ttl, tags, cost, answer, usage, wraps)
        return updates.update(self._use(), as_request(request), given, started)

    aupdate = _async_twin(update)

    def audited(self, request: Request | str, answer: str) -> None:
        """Say what the model itself answers to a request whose hit was marked `audited`.

        It is compared and counted as by an `update`, but not stored. `answer` is its text, as in
        `update`. Does nothing without such a hit before it, or where `redact` changes the question.
        """
        updates.audited(self._use(), as_request(request), answer)

    aaudited = _async_twin(audited)

    def get_or_create(self, request: Request | str, compute: Callable[[], str]) -> str:
        """The stored answer; else that of `compute()`, which is then stored.

        Identical requests at the same time are computed once (single-flight). An error of
        `compute` reaches every caller as itself and nothing is stored. The cache fails open: its
        own errors are counted and logged, and `compute` is called.
        """
        computation = Computation(self, as_request(request), self._look_again)
        if (hit := computation.stored()) is not None:
            return hit.response
        try:
            flight = self._flight(computation.request)
            return self._process.flights.run(flight, lambda: computation.create(compute))
        finally:
            set_last_lookup(computation.decided)

    async def aget_or_create(
        self, request: Request | str, compute: Callable[[], Awaitable[str]]
    ) -> str:
        """See `get_or_create`. A cancelled caller harms no other that waits for the same."""
        computation = Computation(self, as_request(request), self._look_again)
        if (hit := await computation.astored()) is not None:
            return hit.response
        try:
            flight = self._flight(computation.request)
            create = functools.partial(computation.acreate, compute)
            return await self._process.async_flights.run(flight, create)
        finally:
            set_last_lookup(computation.decided)

    def _look_again(self, request: Request) -> Lookup:
        return lookup(self._use(), request, time.perf_counter(), again=True)

    def _flight(self, request: Request) -> bytes:
        """What identical calls have in common."""
        return key_of(request, self.settings.namespace).exact + mode_of(request).encode()

    def feedback(
        self, entry_id: int, correct: bool = False, *, request: Request | str | None = None
    ) -> None:
        """Say of a hit whether its answer was right; `entry_id` is `Hit.entry_id`.

        It is about the request given, or about the last one that this entry answered by meaning.
        A wrong answer is never again given to that question by this entry, which from now on needs
        a higher probability for others too; the pair is kept for training (`semcache export
        --feedback`). An answer that is wrong for the entry's own question is forgotten.
        Raises RequestError when the entry is gone, or never answered that request.
        """
        known = None if request is None else as_request(request)
        updates.feedback(self._use(), entry_id, correct, known)

    afeedback = _async_twin(feedback)

    def explain(self, request: Request | str) -> Explanation:
        """Why a lookup of this request would hit or miss; changes nothing.

        Nothing is counted, except that the verifier is asked where a lookup would ask it.
        """
        return explain(self._use(), as_request(request))

    aexplain = _async_twin(explain)

    # -- housekeeping --------------------------------------------------------------------------

    def warm_up(self, index_seconds: float = 30.0) -> None:
        """Open the embedding model and the index before the first questions.

        For servers, before they take requests: opening the model takes half a second, in which the
        event loop would stall by up to 0.15 s even if another thread does it. The index of scopes
        too large to scan takes seconds more (seven for a million entries); it is waited for no
        longer than `index_seconds`. Fails open: a server starts without its cache too, and lookups
        try again. Does nothing where only exact repeats are served. A process forked later opens
        its own.
        """
        with self.failing_open("warm_up"):
            engine = self._use()
            if engine.decider is not None:
                embed_one(engine.embedder, "warm")
                engine.retriever.await_index(index_seconds)

    async def awarm_up(self, index_seconds: float = 30.0) -> None:
        """See `warm_up`."""
        with self.failing_open("warm_up"):
            await self.in_thread(self.warm_up, index_seconds)

    def entries(self, scope: str = "", namespace: str | None = None) -> list[Entry]:
        """The live entries of one scope of a namespace (None: this cache's own), oldest first."""
        key = key_of(Request("", scope, namespace), self.settings.namespace)
        return self._use().ledger.lookups.entries_of(key.namespace, key.partition, self._clock())

    aentries = _async_twin(entries)

    def forget(self, request: Request | str) -> bool:
        """Delete the entry of exactly this request; False when there is none.

        Other entries that answer it by meaning stay: see `feedback` for an answer that is wrong.
        """
        key = key_of(as_request(request), self.settings.namespace)
        return self._use().ledger.entries.delete_exact(key.exact, self._clock()) > 0

    aforget = _async_twin(forget)

    def clear(self, namespace: str | None = None, *, all_namespaces: bool = False) -> int:
        """Delete one namespace (None: this cache's own), or all; returns how many entries went."""
        chosen = self._chosen(namespace, all_namespaces)
        return self._use().ledger.entries.clear(chosen)

    aclear = _async_twin(clear)

    def invalidate(
        self,
        tags: Sequence[str] | None = None,
        namespace: str | None = None,
        older_than: float | None = None,
        *,
        all_namespaces: bool = False,
    ) -> int:
        """Delete the entries of a namespace (None: this cache's own), or of all, that meet all
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

    ainvalidate = _async_twin(invalidate)

    def _chosen(self, namespace: str | None, all_namespaces: bool) -> str | None:
        """The namespace that is meant, this cache's own if none is named; None for all."""
        check_namespace(namespace, optional=True)
        own = self.settings.namespace if namespace is None else namespace
        return None if all_namespaces else own

    def rebuild(self) -> int:
        """Build the vector index anew from the ledger; returns how many entries were embedded.

        Entries without a vector of the present model (stored under another one) get theirs.
        """
        return updates.rebuild(self._use())

    arebuild = _async_twin(rebuild)

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
        engine = self._use()
        fingerprint = engine.embedder.fingerprint if vectors else None
        return write_entries(engine.ledger, Path(file), self._clock(), chosen, fingerprint)

    aexport_entries = _async_twin(export_entries)

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
        Nothing is stored of a file with a wrong line. Repeated, also after a crash, it leaves the
        same entries. With `embed` an entry without a vector of this cache's model gets one;
        without, the file's are kept as they are, and `rebuild` makes what is missing.
        `progress` is called with how many are done of how many; in `aimport_entries` on another
        thread.
        """
        return updates.import_entries(self._use(), file, embed, progress)

    aimport_entries = _async_twin(import_entries)

    def stats(self) -> CacheStats:
        """Counts of this process since it opened the cache, and the size of the ledger."""
        return read_stats(self._use())

    astats = _async_twin(stats)

    def sizes(self) -> dict[str, int]:
        """Sums over all namespaces: how many of them, hits ever, bytes on disk."""
        ledger = self._use().ledger
        return {
            "namespaces": ledger.namespaces(),
            "hits_ever": ledger.hits_ever(),
            "bytes": ledger.bytes_on_disk(),
        }

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Raises SettingsError for an argument that cannot be pickled."""
        return functools.partial(type(self), **picklable_arguments(self._process.options)), ()

    def close(self) -> None:
        """Write what is pending and close the files. Closing twice does nothing."""
        self._process.close()

    async def aclose(self) -> None:
        """See `close`."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

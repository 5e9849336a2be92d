"""Looks up, asks the model and stores, for calls of any framework.

A framework describes itself by three objects: a `ModelCall` for each way to ask its model, an
`AnswerCodec` that writes and reads its answers, and a function from a question to a `Request`.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from semcache_core.adapters.answers import UsageOf, unknown_usage
from semcache_core.adapters.audits import Audits
from semcache_core.cache import SemanticCache
from semcache_core.hits import (
    BYPASS,
    FAILED,
    NOT_CACHED,
    call_answered,
    last_lookup,
    set_last_lookup,
)
from semcache_core.pipeline.single_flight import AsyncSingleFlight, Outcome, SingleFlight
from semcache_core.request import digest, mode_of
from semcache_core.types import Hit, Lookup, Request, Usage

Q = TypeVar("Q")
T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True)
class ModelCall(Generic[Q, T, A]):
    """One way to ask the model: for a whole answer, or for a stream of items.

    `ask` and `aask` yield items; `copy` keeps an item as it is now, as the reader may change it;
    `whole` makes an answer of all items, or None where there is none.
    """

    ask: Callable[[Q], Generator[T, None, None]]
    aask: Callable[[Q], AsyncGenerator[T, None]]
    copy: Callable[[T], T]
    whole: Callable[[Q, Sequence[T]], A | None]


class AnswerCodec(Protocol[A]):
    """Writes, reads and judges a framework's answers.

    Any method may raise: then the answer is not stored, or the lookup is a miss.
    """

    def dump(self, answer: A) -> str:
        """Return the answer as text, without any mark of an earlier hit."""
        ...

    def load(self, text: str, hit: Hit | None) -> A:
        """Read what `dump` wrote: new objects with fresh ids, marked as `hit`.

        Without a hit, the model just gave the answer to another caller of the same question.
        """
        ...

    def is_storable(self, answer: A) -> bool:
        """Return False for an answer that must not be repeated: empty, cut short, refused."""
        ...

    def calls_tools(self, answer: A) -> bool:
        """Whether the answer calls a tool; then it is stored for the same request only."""
        ...

    def words(self, answer: A) -> str | None:
        """Return the text by which two answers are compared; None where it is not all of one."""
        ...


@dataclass
class PendingCall(Generic[Q, A]):
    """A call in progress. `request` is None where the call is not cached.

    `answer` takes the place of the model's. Without a `hit`, the model just gave it to another
    caller. `lookup` is what the cache decided.
    """

    question: Q
    request: Request | None = None
    answer: A | None = None
    lookup: Lookup = FAILED

    @property
    def hit(self) -> Hit | None:
        return self.lookup.hit

    @property
    def key(self) -> str:
        """Equal for calls that may share one answer."""
        request = self.request
        assert request is not None
        # what may be served to one writer need not be confirmed for another
        return digest(
            [request.namespace, request.scope, request.question, request.writer, request.mode]
        )


@dataclass
class Record(Generic[T]):
    """The items so far, for storing; `sound` until one could not be copied.

    `seconds` is how long the model took, without the time that the reader of a stream takes.
    """

    items: list[T] = field(default_factory=list)
    sound: bool = True
    seconds: float = 0.0


class CachedCalls(Generic[Q, A]):
    """Looks up, asks and stores; identical calls at the same time share one lookup and one answer.

    Fails open: where the cache fails, the model is asked. An error of the model reaches all callers
    that wait for its answer. A hit that is audited is audited once for all callers.

    `read` makes the request of a question, None for one that is not cached. `unobserved` makes the
    question of an audit, which the app's callbacks and caches must not see. `answers` is the codec,
    or returns it for a question. `usage` reads what an answer took. `clock` is in seconds.
    """

    def __init__(
        self,
        cache: SemanticCache,
        read: Callable[[Q], Request | None],
        answers: AnswerCodec[A] | Callable[[Q], AnswerCodec[A]],
        unobserved: Callable[[Q], Q],
        usage: UsageOf[Q, A] = unknown_usage,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cache, self._read = cache, read
        self._answers, self._unobserved = answers, unobserved
        self._usage, self._clock = usage, clock
        self._flights: dict[int, tuple[SingleFlight[Any], AsyncSingleFlight[Any]]] = {}
        self._audits = Audits(cache)

    def ask(self, question: Q) -> PendingCall[Q, A]:
        """Read the question; `items` then answers it."""
        with self._cache.failing_open("lookup"):
            request = self._read(question)
            if request is None:
                return PendingCall(question, lookup=NOT_CACHED)
            if (mode := mode_of(request)) == "bypass":
                return PendingCall(question, lookup=BYPASS)
            return PendingCall(
                question, request if mode == "normal" else replace(request, mode=mode)
            )
        return PendingCall(question)

    async def aask(self, question: Q, context: Context | None = None) -> PendingCall[Q, A]:
        """See `ask`. The question is read in `context`, by default in the caller's."""
        await asyncio.sleep(0)  # a burst has begun all its calls before threads take turns with it
        with self._cache.failing_open("lookup"):
            if context is None:
                return await self._cache.in_thread(self.ask, question)
            return await self._cache.in_thread(context.run, self.ask, question)
        return PendingCall(question)

    def items(self, pending: PendingCall[Q, A], call: ModelCall[Q, T, A]) -> Iterator[T]:
        """Yield the model's items. None come where the answer is found: it is then in `pending`.

        Sets `last_lookup()`: None at the start, and what was decided at the end.
        """
        set_last_lookup(pending.lookup if pending.request is None else None)
        if pending.request is None:
            yield from call.ask(pending.question)
            return
        while True:
            key, (flight, _) = pending.key, self._of_this_process()
            shared, leads = flight.join(key, partial(self._run_and_store, pending, call))
            try:
                if leads:
                    yield from shared.items()
                else:
                    shared.wait()
            finally:
                flight.leave(key, shared)
            if isinstance(shared.error, Exception):
                set_last_lookup(shared.outcome.lookup)
                raise shared.error
            if shared.error is None:  # else the thread that ran it was interrupted: start again
                break
        if not leads:
            self._share(pending, shared.outcome)
            if pending.answer is None:
                yield from call.ask(pending.question)
        call_answered(pending.lookup)

    async def aitems(
        self, pending: PendingCall[Q, A], call: ModelCall[Q, T, A]
    ) -> AsyncGenerator[T, None]:
        set_last_lookup(pending.lookup if pending.request is None else None)
        leads = False
        while pending.request is not None:
            key, (_, flight), ended = pending.key, self._of_this_process(), True
            shared, leads = flight.join(key, partial(self._arun_and_store, pending, call))
            try:
                if leads:
                    async for item in shared.items():
                        yield item
                else:
                    ended = await shared.wait()
            except Exception:
                set_last_lookup(shared.outcome.lookup)
                raise
            finally:
                await flight.leave(key, shared)
            if ended and isinstance(shared.error, Exception):
                set_last_lookup(shared.outcome.lookup)
                raise shared.error
            if ended and shared.error is None:
                break
        if not leads:
            if pending.request is not None:
                with self._cache.failing_open("lookup"):
                    await self._cache.in_thread(self._share, pending, shared.outcome)
            if pending.answer is None:
                async with aclosing(call.aask(pending.question)) as plain:
                    async for item in plain:
                        yield item
        call_answered(pending.lookup)

    # -- the leader's work -------------------------------------------------------------------------

    def _run_and_store(
        self, pending: PendingCall[Q, A], call: ModelCall[Q, T, A], outcome: Outcome
    ) -> Generator[T, None, None]:
        self._look_up(pending, outcome)
        if pending.hit is not None and pending.hit.audited:
            self._audits.start(partial(self._audit, pending, call))
        if pending.answer is not None:
            return
        record: Record[T] = Record()
        with closing(call.ask(pending.question)) as items:
            since = self._clock()
            for item in items:
                record.seconds += self._clock() - since
                self._copy(record, item, call)
                yield item
                since = self._clock()
            record.seconds += self._clock() - since
        self._store(pending, record, call, outcome)

    async def _arun_and_store(
        self, pending: PendingCall[Q, A], call: ModelCall[Q, T, A], outcome: Outcome
    ) -> AsyncGenerator[T, None]:
        with self._cache.failing_open("lookup"):
            await self._cache.in_thread(self._look_up, pending, outcome)
        if pending.hit is not None and pending.hit.audited:
            self._audits.astart(partial(self._aaudit, pending, call))
        if pending.answer is not None:
            return
        record: Record[T] = Record()
        async with aclosing(call.aask(pending.question)) as items:
            since = self._clock()
            async for item in items:
                record.seconds += self._clock() - since
                self._copy(record, item, call)
                yield item
                since = self._clock()
            record.seconds += self._clock() - since
        with self._cache.failing_open("update"):
            await self._cache.in_thread(self._store, pending, record, call, outcome)

    def _look_up(self, pending: PendingCall[Q, A], outcome: Outcome) -> None:
        assert pending.request is not None
        with self._cache.failing_open("lookup"):
            hit, decided = self._cache.lookup(pending.request, audits=True), last_lookup()
            if hit is not None:
                pending.answer = self._codec(pending.question).load(hit.response, hit)
                outcome.text = hit.response
            pending.lookup = decided or FAILED
        outcome.lookup = pending.lookup

    def _copy(self, record: Record[T], item: T, call: ModelCall[Q, T, A]) -> None:
        if record.sound:
            record.sound = False
            with self._cache.failing_open("update"):
                record.items.append(call.copy(item))
                record.sound = True

    def _store(
        self,
        pending: PendingCall[Q, A],
        record: Record[T],
        call: ModelCall[Q, T, A],
        outcome: Outcome,
    ) -> None:
        """Store an answer that may be repeated; waiters get any answer that can be written."""
        request, answers = pending.request, self._codec(pending.question)
        assert request is not None
        with self._cache.failing_open("update"):
            answer = call.whole(pending.question, record.items) if record.sound else None
            if answer is None:
                return
            outcome.text = answers.dump(answer)
            if answers.is_storable(answer):
                exact_only = request.exact_only or answers.calls_tools(answer)
                usage = replace(self._usage_of(pending.question, answer), seconds=record.seconds)
                self._cache.update(
                    replace(request, exact_only=exact_only),
                    outcome.text,
                    answer=answers.words(answer),
                    usage=usage,
                    wraps=True,
                )

    def _codec(self, question: Q) -> AnswerCodec[A]:
        return self._answers(question) if callable(self._answers) else self._answers

    def _usage_of(self, question: Q, answer: A) -> Usage:
        """An error here is no reason not to store the answer."""
        with self._cache.failing_open("usage"):
            return self._usage(question, answer)
        return Usage()

    # -- audits and waiters ------------------------------------------------------------------------

    def _audit(self, pending: PendingCall[Q, A], call: ModelCall[Q, T, A]) -> None:
        question = self._unobserved(pending.question)
        with closing(call.ask(question)) as items:
            self._compare(pending, call.whole(question, list(items)))

    async def _aaudit(self, pending: PendingCall[Q, A], call: ModelCall[Q, T, A]) -> None:
        question = self._unobserved(pending.question)
        async with aclosing(call.aask(question)) as items:
            given = [item async for item in items]
        await self._cache.in_thread(self._compare, pending, call.whole(question, given))

    def _compare(self, pending: PendingCall[Q, A], answer: A | None) -> None:
        """Compare the served answer with the model's, if that is words and storable."""
        assert pending.request is not None
        answers = self._codec(pending.question)
        if answer is None or not answers.is_storable(answer):
            return
        said = answers.words(answer)
        if said is not None:
            self._cache.audited(pending.request, said)

    def _share(self, pending: PendingCall[Q, A], outcome: Outcome) -> None:
        """Give a waiter the leader's answer, as objects of its own."""
        with self._cache.failing_open("lookup"):
            decided = outcome.lookup or FAILED
            if outcome.text is not None:
                pending.answer = self._codec(pending.question).load(outcome.text, decided.hit)
            pending.lookup = decided

    def _of_this_process(self) -> tuple[SingleFlight[Any], AsyncSingleFlight[Any]]:
        """A forked child would wait for threads and event loops that it does not have."""
        pid = os.getpid()
        return self._flights.get(pid) or self._flights.setdefault(
            pid, (SingleFlight(), AsyncSingleFlight())
        )

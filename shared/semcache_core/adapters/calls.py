"""What a framework says of its calls: how a model is asked, how its answers are written down."""

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
from semcache_core.pipeline.single_flight import AsyncSingleFlight, Outcome, SingleFlight
from semcache_core.request import digest
from semcache_core.types import Hit, Request, Usage

Q = TypeVar("Q")
T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True)
class ModelCall(Generic[Q, T, A]):
    """One way to ask the model: for a whole answer, or for a stream of it.

    `ask` and `aask` give items; `copy` keeps an item as it is now, for who reads it may change it;
    `whole` makes an answer of all items, None where there is none.
    """

    ask: Callable[[Q], Generator[T, None, None]]
    aask: Callable[[Q], AsyncGenerator[T, None]]
    copy: Callable[[T], T]
    whole: Callable[[Q, Sequence[T]], A | None]


class AnswerCodec(Protocol[A]):
    """How a framework's answers are written, read and judged. Any of it may raise: then the answer
    is not stored, or the lookup is a miss.
    """

    def dump(self, answer: A) -> str:
        """The answer as text, without what tells how it was come by."""
        ...

    def load(self, text: str, hit: Hit | None) -> A:
        """What `dump` was given: objects of the caller's own, with fresh ids, marked as `hit`.

        Without a hit, the model just gave the answer to another one who asked the same.
        """
        ...

    def is_storable(self, answer: A) -> bool:
        """False for what must not be repeated: empty, cut short, refused, broken."""
        ...

    def calls_tools(self, answer: A) -> bool:
        """Whether it asks for a tool: then it is stored for the very same request only."""
        ...

    def words(self, answer: A) -> str | None:
        """What a user reads, by which two answers are compared; None where that is not all."""
        ...


@dataclass
class PendingCall(Generic[Q, A]):
    """Where a call stands. `request` is None where it is not cached at all.

    `answer` is to be given in place of the model's; without a `hit`, the model just gave it to
    another caller.
    """

    question: Q
    request: Request | None = None
    answer: A | None = None
    hit: Hit | None = None

    @property
    def key(self) -> str:
        """Equal for calls that may share one answer."""
        asked = self.request
        assert asked is not None
        # what may be served to one writer need not be confirmed for another
        return digest([asked.namespace, asked.scope, asked.question, asked.writer])


@dataclass
class Record(Generic[T]):
    """The items so far, for storing; `sound` until one could not be kept.

    `seconds` is how long they were waited for: not the time that who reads a stream takes.
    """

    items: list[T] = field(default_factory=list)
    sound: bool = True
    seconds: float = 0.0


class CachedCalls(Generic[Q, A]):
    """Looks up, asks and stores. Fails open: an error of the cache only means that the model is
    asked, an error of the model reaches all who wait for it.

    `read` makes the request of a question, None for one that is not cached. `unobserved` makes the
    question that an audit asks: none of the app's own callbacks and caches may hear of it.

    All who ask the same at the same time are one lookup too: a burst of one question would else
    embed it once for each of them. A hit that is audited is one audit of them all.

    `usage` says what an answer took, for what its hits save; `clock` is in seconds.
    """

    def __init__(
        self,
        cache: SemanticCache,
        read: Callable[[Q], Request | None],
        answers: AnswerCodec[A],
        unobserved: Callable[[Q], Q],
        usage: UsageOf[Q, A] = unknown_usage,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cache, self._read = cache, read
        self._answers, self._unobserved = answers, unobserved
        self._usage, self._clock = usage, clock
        self._flights: dict[int, SingleFlight[Any]] = {}
        self._async_flights: AsyncSingleFlight[Any] = AsyncSingleFlight()
        self._audits = Audits(cache)

    def ask(self, question: Q) -> PendingCall[Q, A]:
        """Read the question. What comes of it, `items` tells."""
        with self._cache.failing_open("lookup"):
            return PendingCall(question, self._read(question))
        return PendingCall(question)

    async def aask(self, question: Q, context: Context | None = None) -> PendingCall[Q, A]:
        """See `ask`. It is read in `context`, left out in the caller's own."""
        await asyncio.sleep(0)  # a burst has begun all its calls before threads take turns with it
        with self._cache.failing_open("lookup"):
            if context is None:
                return await self._cache.in_thread(self.ask, question)
            return await self._cache.in_thread(context.run, self.ask, question)
        return PendingCall(question)

    def items(self, asked: PendingCall[Q, A], kind: ModelCall[Q, T, A]) -> Iterator[T]:
        """What the model gives. Nothing where there is an answer already: then it is in `asked`."""
        leads = False
        while asked.request is not None:
            key, flights = asked.key, self._of_this_process()
            flight, leads = flights.join(key, lambda outcome: self._flown(asked, kind, outcome))
            try:
                if leads:
                    yield from flight.items()
                else:
                    flight.wait()
            finally:
                flights.leave(key, flight)
            if isinstance(flight.error, Exception):
                raise flight.error
            if flight.error is None:  # else whoever fetched was interrupted: ask anew
                break
        if not leads:
            if asked.request is not None:
                self._share(asked, flight.outcome)
            if asked.answer is None:
                yield from kind.ask(asked.question)

    async def aitems(
        self, asked: PendingCall[Q, A], kind: ModelCall[Q, T, A]
    ) -> AsyncGenerator[T, None]:
        """See `items`."""
        leads = False
        while asked.request is not None:
            key, flights = asked.key, self._async_flights
            flight, leads = flights.join(key, lambda outcome: self._aflown(asked, kind, outcome))
            try:
                if leads:
                    async for item in flight.items():
                        yield item
                else:
                    await flight.wait()
            finally:
                await flights.leave(key, flight)
            if isinstance(flight.error, Exception):
                raise flight.error
            if flight.error is None:
                break
        if not leads:
            if asked.request is not None:
                with self._cache.failing_open("lookup"):
                    await self._cache.in_thread(self._share, asked, flight.outcome)
            if asked.answer is None:
                async with aclosing(kind.aask(asked.question)) as plain:
                    async for item in plain:
                        yield item

    # -- what sync and async share -----------------------------------------------------------------

    def _flown(
        self, asked: PendingCall[Q, A], kind: ModelCall[Q, T, A], outcome: Outcome
    ) -> Generator[T, None, None]:
        self._look(asked, outcome)
        if asked.hit is not None and asked.hit.audited:
            self._audits.start(partial(self._audit, asked, kind))
        if asked.answer is not None:
            return
        record: Record[T] = Record()
        with closing(kind.ask(asked.question)) as items:
            since = self._clock()
            for item in items:
                record.seconds += self._clock() - since
                self._recorded(record, item, kind)
                yield item
                since = self._clock()
            record.seconds += self._clock() - since
        self._keep(asked, record, kind, outcome)

    async def _aflown(
        self, asked: PendingCall[Q, A], kind: ModelCall[Q, T, A], outcome: Outcome
    ) -> AsyncGenerator[T, None]:
        with self._cache.failing_open("lookup"):
            await self._cache.in_thread(self._look, asked, outcome)
        if asked.hit is not None and asked.hit.audited:
            self._audits.astart(partial(self._aaudit, asked, kind))
        if asked.answer is not None:
            return
        record: Record[T] = Record()
        async with aclosing(kind.aask(asked.question)) as items:
            since = self._clock()
            async for item in items:
                record.seconds += self._clock() - since
                self._recorded(record, item, kind)
                yield item
                since = self._clock()
            record.seconds += self._clock() - since
        with self._cache.failing_open("update"):
            await self._cache.in_thread(self._keep, asked, record, kind, outcome)

    def _look(self, asked: PendingCall[Q, A], outcome: Outcome) -> None:
        assert asked.request is not None
        with self._cache.failing_open("lookup"):
            hit = self._cache.lookup(asked.request, audits=True)
            if hit is not None:
                asked.answer = self._answers.load(hit.response, hit)
                asked.hit = outcome.hit = hit
                outcome.text = hit.response

    def _recorded(self, record: Record[T], item: T, kind: ModelCall[Q, T, A]) -> None:
        if record.sound:
            record.sound = False
            with self._cache.failing_open("update"):
                record.items.append(kind.copy(item))
                record.sound = True

    def _keep(
        self,
        asked: PendingCall[Q, A],
        record: Record[T],
        kind: ModelCall[Q, T, A],
        outcome: Outcome,
    ) -> None:
        """Store what may be repeated; those who wait get all that can be written down."""
        asking, answers = asked.request, self._answers
        assert asking is not None
        with self._cache.failing_open("update"):
            answer = kind.whole(asked.question, record.items) if record.sound else None
            if answer is None:
                return
            outcome.text = answers.dump(answer)
            if answers.is_storable(answer):
                exact_only = asking.exact_only or answers.calls_tools(answer)
                stored = replace(asking, exact_only=exact_only)
                usage = replace(self._used(asked.question, answer), seconds=record.seconds)
                self._cache.update(stored, outcome.text, answer=answers.words(answer), usage=usage)

    def _used(self, question: Q, answer: A) -> Usage:
        """What cannot be read of it is not known, and no reason not to store the answer."""
        with self._cache.failing_open("usage"):
            return self._usage(question, answer)
        return Usage()

    def _audit(self, asked: PendingCall[Q, A], kind: ModelCall[Q, T, A]) -> None:
        question = self._unobserved(asked.question)
        with closing(kind.ask(question)) as items:
            self._judge(asked, kind.whole(question, list(items)))

    async def _aaudit(self, asked: PendingCall[Q, A], kind: ModelCall[Q, T, A]) -> None:
        question = self._unobserved(asked.question)
        async with aclosing(kind.aask(question)) as items:
            given = [item async for item in items]
        await self._cache.in_thread(self._judge, asked, kind.whole(question, given))

    def _judge(self, asked: PendingCall[Q, A], answer: A | None) -> None:
        """Compare what was served with what the model says, if that is words and storable."""
        assert asked.request is not None
        if answer is None or not self._answers.is_storable(answer):
            return
        said = self._answers.words(answer)
        if said is not None:
            self._cache.audited(asked.request, said)

    def _share(self, asked: PendingCall[Q, A], outcome: Outcome) -> None:
        """Give what another caller was given, as objects of this one's own."""
        with self._cache.failing_open("lookup"):
            if outcome.text is not None:
                asked.answer = self._answers.load(outcome.text, outcome.hit)
                asked.hit = outcome.hit

    def _of_this_process(self) -> SingleFlight[Any]:
        """A forked child would wait for threads that it does not have."""
        pid = os.getpid()
        return self._flights.get(pid) or self._flights.setdefault(pid, SingleFlight())

"""Calls of a chat model that the cache answers, or else the model once for all who ask the same."""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from langchain_core.load import dumps
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables.config import set_config_context
from semcache_core import Explanation, Hit, Request, SemanticCache, SemcacheError, digest

from langchain_semcache.asking import Kind, Question, RunManager
from langchain_semcache.audits import Audits
from langchain_semcache.delegating import unobserved
from langchain_semcache.flights import AsyncFlights, Flights, Outcome
from langchain_semcache.formats import shown
from langchain_semcache.generations import (
    as_stored,
    dump_generations,
    is_storable,
    load_generations,
    plain_text,
)
from langchain_semcache.hits import mark
from langchain_semcache.requests import RequestReader

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """To be given in place of the model's; without a hit, the model just gave it to another."""

    generations: list[ChatGeneration]
    hit: Hit | None = None


@dataclass
class Asked:
    """Where a call stands. `request` is None where it is not cached at all."""

    question: Question
    request: Request | None = None
    answer: Answer | None = None

    @property
    def key(self) -> str:
        asked = self.request
        assert asked is not None
        # what may be served to one writer need not be confirmed for another
        return digest([asked.namespace, asked.scope, asked.question, asked.writer])

    @property
    def audited(self) -> bool:
        hit = None if self.answer is None else self.answer.hit
        return hit is not None and hit.audited


@dataclass
class Record(Generic[T]):
    """The items so far, for storing; `sound` until one could not be kept."""

    items: list[T] = field(default_factory=list)
    sound: bool = True


class CachedCalls:
    """Looks up, asks and stores. Fails open: an error of the cache only means that the model is
    asked, an error of the model reaches all who wait for it.

    All who ask the same at the same time are one lookup too: a burst of one question would else
    embed it once for each of them. A hit that is audited is one audit of them all.
    """

    def __init__(self, cache: SemanticCache, reader: RequestReader) -> None:
        self._cache, self._reader = cache, reader
        self._flights: dict[int, Flights[Any]] = {}
        self._async_flights: AsyncFlights[Any] = AsyncFlights()
        self._audits = Audits(cache)

    def ask(self, question: Question) -> Asked:
        """Read the question. What comes of it, `items` tells."""
        with self._cache.failing_open("lookup"):
            return Asked(question, self.read(question))
        return Asked(question)

    async def aask(self, question: Question) -> Asked:
        """See `ask`."""
        await asyncio.sleep(0)  # a burst has begun all its calls before threads take turns with it
        with self._cache.failing_open("lookup"):
            return await self._cache.in_thread(self.ask, question)
        return Asked(question)

    def items(self, asked: Asked, kind: Kind[T], run: RunManager | None) -> Iterator[T]:
        """What the model gives. Nothing where there is an answer already: then it is in `asked`."""
        leads = False
        while asked.request is not None:
            key, flights = asked.key, self._of_this_process()
            flight, leads = flights.join(key, lambda out: self._flown(asked, kind, run, out))
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
                asked.answer = self._shared(flight.outcome)
            if asked.answer is None:
                yield from kind.ask(asked.question, run)

    async def aitems(
        self, asked: Asked, kind: Kind[T], run: RunManager | None
    ) -> AsyncGenerator[T, None]:
        """See `items`."""
        leads = False
        while asked.request is not None:
            key, flights = asked.key, self._async_flights
            flight, leads = flights.join(key, lambda out: self._aflown(asked, kind, run, out))
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
                    asked.answer = await self._cache.in_thread(self._shared, flight.outcome)
            if asked.answer is None:
                async with aclosing(kind.aask(asked.question, run)) as plain:
                    async for item in plain:
                        yield item

    def read(self, question: Question) -> Request | None:
        """The request, the same as SemanticLLMCache's for the same call; None: not cached."""
        model, config = question.model, question.config
        llm_string = model._get_llm_string(stop=question.stop, **shown(question.arguments))
        prompt = dumps(question.messages)
        if config is None:
            return self._reader.read(prompt, llm_string, model)
        with set_config_context(config) as context:  # for what tells the tenant
            return context.run(self._reader.read, prompt, llm_string, model)

    def explain(self, question: Question) -> Explanation:
        """Why the answer would be found, or not; raises SemcacheError where nothing is asked."""
        request = self.read(question)
        if request is None:
            raise SemcacheError(
                f"this call of a {type(question.model).__name__} is not cached: an argument or a "
                "message shows only the name of a class or the address of an object"
            )
        return self._reader.hinted(self._cache.explain(request), dumps(question.messages))

    # -- what sync and async share -----------------------------------------------------------------

    def _flown(
        self, asked: Asked, kind: Kind[T], run: RunManager | None, outcome: Outcome
    ) -> Generator[T, None, None]:
        self._look(asked, outcome)
        if asked.audited:
            self._audits.start(partial(self._audit, asked, kind))
        if asked.answer is not None:
            return
        record: Record[T] = Record()
        with closing(kind.ask(asked.question, run)) as items:
            for item in items:
                self._recorded(record, item, kind)
                yield item
        self._keep(asked, record, kind, outcome)

    async def _aflown(
        self, asked: Asked, kind: Kind[T], run: RunManager | None, outcome: Outcome
    ) -> AsyncGenerator[T, None]:
        with self._cache.failing_open("lookup"):
            await self._cache.in_thread(self._look, asked, outcome)
        if asked.audited:
            self._audits.astart(partial(self._aaudit, asked, kind))
        if asked.answer is not None:
            return
        record: Record[T] = Record()
        async with aclosing(kind.aask(asked.question, run)) as items:
            async for item in items:
                self._recorded(record, item, kind)
                yield item
        with self._cache.failing_open("update"):
            await self._cache.in_thread(self._keep, asked, record, kind, outcome)

    def _look(self, asked: Asked, outcome: Outcome) -> None:
        assert asked.request is not None
        with self._cache.failing_open("lookup"):
            hit = self._cache.lookup(asked.request, audits=True)
            if hit is not None:
                asked.answer = _loaded(hit.response, hit)
                outcome.text, outcome.hit = hit.response, hit

    def _recorded(self, record: Record[T], item: T, kind: Kind[T]) -> None:
        if record.sound:
            record.sound = False
            with self._cache.failing_open("update"):
                record.items.append(kind.copy(item))
                record.sound = True

    def _keep(self, asked: Asked, record: Record[T], kind: Kind[T], outcome: Outcome) -> None:
        """Store what may be repeated; those who wait get all that can be written down."""
        assert asked.request is not None
        with self._cache.failing_open("update"):
            generations = kind.whole(asked.question, record.items) if record.sound else []
            if not generations:
                return
            outcome.text = dump_generations(generations)
            if is_storable(generations):
                stored, answer = as_stored(asked.request, generations), plain_text(generations)
                self._cache.update(stored, outcome.text, answer=answer)

    def _audit(self, asked: Asked, kind: Kind[T]) -> None:
        question = _unobserved(asked.question)
        with closing(kind.ask(question, None)) as items:
            self._judge(asked, kind.whole(question, list(items)))

    async def _aaudit(self, asked: Asked, kind: Kind[T]) -> None:
        question = _unobserved(asked.question)
        async with aclosing(kind.aask(question, None)) as items:
            given = [item async for item in items]
        await self._cache.in_thread(self._judge, asked, kind.whole(question, given))

    def _judge(self, asked: Asked, generations: list[ChatGeneration]) -> None:
        """Compare what was served with what the model says, if that is words and storable."""
        assert asked.request is not None
        said = plain_text(generations) if is_storable(generations) else None
        if said is not None:
            self._cache.audited(asked.request, said)

    def _shared(self, outcome: Outcome) -> Answer | None:
        with self._cache.failing_open("lookup"):
            return None if outcome.text is None else _loaded(outcome.text, outcome.hit)
        return None

    def _of_this_process(self) -> Flights[Any]:
        """A forked child would wait for threads that it does not have."""
        pid = os.getpid()
        return self._flights.get(pid) or self._flights.setdefault(pid, Flights())


def _unobserved(question: Question) -> Question:
    return replace(question, model=unobserved(question.model))


def _loaded(text: str, hit: Hit | None) -> Answer:
    """Objects of the caller's own, with fresh ids."""
    generations = load_generations(text)
    mark(generations, hit)
    chat = [one for one in generations if isinstance(one, ChatGeneration)]
    if len(chat) != len(generations):
        raise ValueError("a stored response holds a text model's generation")
    return Answer(chat, hit)

"""Responds to calls: with the stored answer or the model's, whole or as a stream of items."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from llama_index.core.bridge.pydantic import BaseModel
from semcache_core import Hit, SemanticCache
from semcache_core.adapters import AnswerCodec, CachedCalls, Demands, ModelCall, demands_of

from llamaindex_semcache.calls import chat_items, completion_items
from llamaindex_semcache.events import announce
from llamaindex_semcache.request import Question, RequestReader
from llamaindex_semcache.serialization import ChatAnswers, CompletionAnswers, usage_of
from llamaindex_semcache.structured import PredictionAnswers
from llamaindex_semcache.templates import Templates
from llamaindex_semcache.wrapper import unobserved

A = TypeVar("A")

Codec: TypeAlias = AnswerCodec[A] | Callable[[Question], AnswerCodec[A]]


@dataclass(frozen=True)
class Responder(Generic[A]):
    """Responds to calls of one kind: chats, completions or predictions.

    `replay` makes the items of a stream from a stored answer; they come `pace` seconds apart.
    """

    cache: SemanticCache
    calls: CachedCalls[Question, A]
    replay: Callable[[A], Iterator[A]]
    pace: float | None

    def answer(self, question: Question, call: ModelCall[Question, A, A]) -> A:
        pending = self.calls.ask(question)
        items = list(self.calls.items(pending, call))
        self._announce(pending.hit)
        return items[0] if pending.answer is None else pending.answer

    async def aanswer(self, question: Question, call: ModelCall[Question, A, A]) -> A:
        pending = await self.calls.aask(question)
        items = [item async for item in self.calls.aitems(pending, call)]
        self._announce(pending.hit)
        return items[0] if pending.answer is None else pending.answer

    def stream(
        self, question: Question, call: ModelCall[Question, A, A]
    ) -> Generator[A, None, None]:
        """Yield the answer in items. The model is asked when the first item is read.

        The tenant and the writer are those of the present context. The stream may be read in
        another one, such as by a web server when the endpoint has returned.
        """
        return self._stream(copy_context(), question, call)

    def astream(
        self, question: Question, call: ModelCall[Question, A, A]
    ) -> AsyncGenerator[A, None]:
        """See `stream`. Other tasks get a turn between two items, without a pace too."""
        return self._astream(copy_context(), question, call)

    def _stream(
        self, context: Context, question: Question, call: ModelCall[Question, A, A]
    ) -> Generator[A, None, None]:
        pending = context.run(self.calls.ask, question)
        yield from self.calls.items(pending, call)
        if pending.answer is not None:
            self._announce(pending.hit)
            for number, item in enumerate(self.replay(pending.answer)):
                if number and self.pace:
                    time.sleep(self.pace)
                yield item

    async def _astream(
        self, context: Context, question: Question, call: ModelCall[Question, A, A]
    ) -> AsyncGenerator[A, None]:
        pending = await self.calls.aask(question, context)
        async with aclosing(self.calls.aitems(pending, call)) as items:
            async for item in items:
                yield item
        if pending.answer is not None:
            self._announce(pending.hit)
            for number, item in enumerate(self.replay(pending.answer)):
                if number:
                    await asyncio.sleep(self.pace or 0)
                yield item

    def _announce(self, hit: Hit | None) -> None:
        """Send the event of a hit; an answer shared with another call is not a hit."""
        if hit is not None:
            with self.cache.failing_open("announce"):
                announce(hit)


class Responders:
    """All responders for one cache."""

    def __init__(
        self, cache: SemanticCache, reader: RequestReader, templates: Templates, pace: float | None
    ) -> None:
        self.reader, self.templates = reader, templates

        def responder(answers: Codec[A], replay: Callable[[A], Iterator[A]]) -> Responder[A]:
            calls = CachedCalls(cache, reader.read, answers, _unobserved, usage_of)
            return Responder(cache, calls, replay, pace)

        self.chats = responder(lambda asked: ChatAnswers(partial(_demands, asked)), chat_items)
        self.completions = responder(
            lambda asked: CompletionAnswers(partial(_demands, asked)), completion_items
        )
        self.predictions = responder(_prediction_codec, lambda answer: iter([answer]))


def _demands(question: Question) -> Demands:
    return demands_of(question.llm, question.arguments, question.parse)


def _prediction_codec(question: Question) -> AnswerCodec[BaseModel]:
    assert question.output is not None
    return PredictionAnswers(question.output)


def _unobserved(question: Question) -> Question:
    return replace(question, llm=unobserved(question.llm))

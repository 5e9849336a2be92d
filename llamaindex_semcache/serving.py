"""What an app is given: the answer of the cache, or of the model, whole or as a stream of items."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, TypeVar

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.bridge.pydantic import BaseModel
from semcache_core import SemanticCache
from semcache_core.adapters import AnswerCodec, CachedCalls, ModelCall, PendingCall, set_last_hit

from llamaindex_semcache.calls import chat_items, completion_items
from llamaindex_semcache.events import announce
from llamaindex_semcache.request import Call, CallReader
from llamaindex_semcache.serialization import ChatAnswers, CompletionAnswers, usage_of
from llamaindex_semcache.structured import Predictions
from llamaindex_semcache.templates import Templates
from llamaindex_semcache.wrapper import unobserved

A = TypeVar("A")

_CLASSES = 64
"""Of so many output classes at a time, identical predictions are one call of the LLM."""


@dataclass(frozen=True)
class Serving(Generic[A]):
    """AnswerCodec calls of one kind: chats, completions, or predictions of one class.

    `replay` makes the items of a stream of a stored answer; they come `pace` seconds apart.
    """

    cache: SemanticCache
    calls: CachedCalls[Call, A]
    replay: Callable[[A], Iterator[A]]
    pace: float | None

    def answer(self, call: Call, kind: ModelCall[Call, A, A]) -> A:
        """The whole answer."""
        asked = self.calls.ask(call)
        set_last_hit(None)
        given = list(self.calls.items(asked, kind))
        return given[0] if asked.answer is None else self._served(asked, asked.answer)

    async def aanswer(self, call: Call, kind: ModelCall[Call, A, A]) -> A:
        """See `answer`."""
        asked = await self.calls.aask(call)
        set_last_hit(None)
        given = [item async for item in self.calls.aitems(asked, kind)]
        return given[0] if asked.answer is None else self._served(asked, asked.answer)

    def stream(self, call: Call, kind: ModelCall[Call, A, A]) -> Generator[A, None, None]:
        """The answer in items. Nothing is asked before the first one is wanted.

        For the tenant and the writer of now: whoever reads the stream may do so in another context,
        such as a web server that sends it on when the endpoint has returned.
        """
        return self._stream(copy_context(), call, kind)

    def _stream(
        self, context: Context, call: Call, kind: ModelCall[Call, A, A]
    ) -> Generator[A, None, None]:
        asked = context.run(self.calls.ask, call)
        set_last_hit(None)
        yield from self.calls.items(asked, kind)
        if asked.answer is not None:
            for number, item in enumerate(self.replay(self._served(asked, asked.answer))):
                if number and self.pace:
                    time.sleep(self.pace)
                yield item

    def astream(self, call: Call, kind: ModelCall[Call, A, A]) -> AsyncGenerator[A, None]:
        """See `stream`. Between two items other tasks have their turn, without a pace too."""
        return self._astream(copy_context(), call, kind)

    async def _astream(
        self, context: Context, call: Call, kind: ModelCall[Call, A, A]
    ) -> AsyncGenerator[A, None]:
        asked = await self.calls.aask(call, context)
        set_last_hit(None)
        async with aclosing(self.calls.aitems(asked, kind)) as items:
            async for item in items:
                yield item
        if asked.answer is not None:
            for number, item in enumerate(self.replay(self._served(asked, asked.answer))):
                if number:
                    await asyncio.sleep(self.pace or 0)
                yield item

    def _served(self, asked: PendingCall[Call, A], answer: A) -> A:
        """`answer`, told of as the hit that it is; what another call just got is none."""
        set_last_hit(asked.hit)
        if asked.hit is not None:
            with self.cache.failing_open("announce"):
                announce(asked.hit)
        return answer


@dataclass(frozen=True)
class Served:
    """All that answers calls for one cache. A class reads its own predictions, so each has one."""

    reader: CallReader
    templates: Templates
    chats: Serving[ChatResponse]
    completions: Serving[CompletionResponse]
    predictions: Callable[[type[BaseModel]], Serving[BaseModel]]


def served_by(
    cache: SemanticCache, reader: CallReader, templates: Templates, pace: float | None
) -> Served:
    """All of it, for calls that `reader` reads."""

    def serving(answers: AnswerCodec[A], replay: Callable[[A], Iterator[A]]) -> Serving[A]:
        calls = CachedCalls(cache, reader.read, answers, _unobserved, usage_of)
        return Serving(cache, calls, replay, pace)

    @lru_cache(_CLASSES)
    def predictions(output: type[BaseModel]) -> Serving[BaseModel]:
        return serving(Predictions(output), lambda answer: iter([answer]))

    return Served(
        reader,
        templates,
        serving(ChatAnswers(), chat_items),
        serving(CompletionAnswers(), completion_items),
        predictions,
    )


def _unobserved(call: Call) -> Call:
    return replace(call, llm=unobserved(call.llm))

"""Identical calls at the same time are one call of the model, and nobody is harmed by another."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from scripted_models import Streaming
from semcache_core import SemanticCache
from semcache_core.pipeline.single_flight import AsyncSharedCall, SharedCall

from langchain_semcache import CachedChatModel, SemanticLLMCache, last_hit

ASK = "how warm is it"
CUT = {"finish_reason": "length"}


@pytest.fixture
def model() -> Streaming:
    return Streaming()


@pytest.fixture
def ours(cache: SemanticLLMCache, model: Streaming) -> CachedChatModel:
    return CachedChatModel(model, cache=cache.cache)


def invoked(ours: CachedChatModel) -> AIMessage:
    return ours.invoke(ASK)


def streamed(ours: CachedChatModel) -> AIMessage:
    first, *others = ours.stream(ASK)
    return first + others if others else first


SYNC = {"invoke": invoked, "stream": streamed}
every_pair = pytest.mark.parametrize("led", SYNC)
every_other = pytest.mark.parametrize("waits", SYNC)


class Gate:
    """Holds the model back until the test has seen that the others wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._waiting = threading.Semaphore(0)
        self.entered, self.go = threading.Event(), threading.Event()
        wait = SharedCall.wait

        def counted(flight: SharedCall[Any]) -> None:
            self._waiting.release()
            wait(flight)

        monkeypatch.setattr(SharedCall, "wait", counted)

    def __call__(self, then: Any = None) -> Any:
        self.entered.set()
        assert self.go.wait(30)
        return then

    def open_when(self, waiting: int) -> None:
        for _ in range(waiting):
            assert self._waiting.acquire(timeout=30)
        self.go.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def script(model: Streaming, led: str, gate: Any, answer: Any) -> None:
    """The model halts at the gate and then gives `answer`."""
    if led == "stream":
        parts = list(answer) if isinstance(answer, list) else [answer]
        model.answering(["It ", gate, *parts], "asked again")
    else:
        model.answering(lambda: gate(answer), "asked again")


def together(
    ours: CachedChatModel, threads: ThreadPoolExecutor, gate: Gate, led: str, waits: str, n: int = 4
) -> list["Future[AIMessage]"]:
    """The leader's future, then those of `n` who wait for it."""
    leader = threads.submit(SYNC[led], ours)
    assert gate.entered.wait(30)
    others = [threads.submit(SYNC[waits], ours) for _ in range(n)]
    gate.open_when(n)
    return [leader, *others]


# -- threads ---------------------------------------------------------------------------------------


@every_pair
@every_other
def test_one_call_answers_all_who_ask_at_once(
    ours: CachedChatModel,
    model: Streaming,
    gate: Gate,
    threads: ThreadPoolExecutor,
    led: str,
    waits: str,
) -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    message = AIMessageChunk if led == "stream" else AIMessage
    script(model, led, gate, message("is warm", usage_metadata=usage))
    leader, *others = (f.result(30) for f in together(ours, threads, gate, led, waits))
    assert model.asked == 1
    assert leader.usage_metadata == usage and "semcache" not in leader.response_metadata
    for other in others:
        assert other.text == leader.text
        assert other.usage_metadata == dict.fromkeys(usage, 0)
        assert other.response_metadata["semcache"]["kind"] == "shared"
    assert len({message.id for message in (leader, *others)}) == 5
    others[0].content = "changed"
    assert others[1].text == leader.text
    assert ours.invoke(ASK).text == leader.text
    assert model.asked == 1


@every_pair
@every_other
def test_an_error_of_the_model_reaches_all_as_itself(
    ours: CachedChatModel,
    model: Streaming,
    gate: Gate,
    threads: ThreadPoolExecutor,
    led: str,
    waits: str,
) -> None:
    error = ConnectionError("no network")
    script(model, led, gate, error)
    for future in together(ours, threads, gate, led, waits):
        assert future.exception(30) is error
    assert model.asked == 1
    assert ours.invoke(ASK).text == "asked again"
    assert ours.stats().failures == {}


@every_pair
@every_other
def test_an_answer_that_is_not_stored_reaches_all(
    ours: CachedChatModel,
    model: Streaming,
    gate: Gate,
    threads: ThreadPoolExecutor,
    led: str,
    waits: str,
) -> None:
    message = AIMessageChunk if led == "stream" else AIMessage
    script(model, led, gate, message("is", response_metadata=CUT))
    texts = {future.result(30).text for future in together(ours, threads, gate, led, waits)}
    assert len(texts) == 1 and model.asked == 1
    assert ours.invoke(ASK).text == "asked again"


@every_pair
def test_an_interrupted_leader_leaves_the_asking_to_the_others(
    ours: CachedChatModel, model: Streaming, gate: Gate, threads: ThreadPoolExecutor, led: str
) -> None:
    script(model, led, gate, KeyboardInterrupt())
    leader, *others = together(ours, threads, gate, led, "invoke")
    assert isinstance(leader.exception(30), KeyboardInterrupt)
    assert {other.result(30).text for other in others} == {"asked again"}
    assert model.asked == 2


def test_an_answer_that_cannot_be_written_down_is_asked_for_by_each(
    ours: CachedChatModel, model: Streaming, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    odd = AIMessage([{"type": "text", "text": "It is", "of": object()}])
    model.answering(lambda: gate(odd), "again", "again")
    leader, *others = together(ours, threads, gate, "invoke", "invoke", 2)
    assert leader.result(30).text == "It is"
    assert [other.result(30).text for other in others] == ["again"] * 2
    assert model.asked == 3


def test_a_stream_that_is_not_read_on_holds_nobody_up(
    ours: CachedChatModel, model: Streaming
) -> None:
    model.answering("It is warm")
    stream = ours.stream(ASK)
    first = next(stream)
    assert ours.invoke(ASK).text == "It is warm"  # on this very thread
    assert [chunk.content for chunk in ours.stream(ASK)] == ["It", " is", " warm", ""]
    assert first.content + "".join(chunk.content for chunk in stream) == "It is warm"
    assert model.asked == 1


def test_two_streams_in_turn_are_one_call(ours: CachedChatModel, model: Streaming) -> None:
    model.answering("It is warm")
    both = list(zip(ours.stream(ASK), ours.stream(ASK), strict=False))
    assert "".join(one.content for one, _ in both) == "It is warm"
    assert "".join(other.content for _, other in both) == "It is warm"
    assert model.asked == 1


def test_a_stream_that_is_closed_early_is_read_on_by_who_waits(
    ours: CachedChatModel, model: Streaming, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    script(model, "stream", gate, "is warm")
    stream = ours.stream(ASK)
    next(stream)
    waiting = threads.submit(invoked, ours)
    assert gate.entered.wait(30)
    stream.close()
    gate.open_when(1)
    assert waiting.result(30).text == "It is warm"
    assert model.asked == 1 and model.open_streams == 0
    assert ours.invoke(ASK).text == "It is warm"


def test_other_questions_tenants_and_arguments_do_not_wait(
    ours: CachedChatModel, model: Streaming, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    model.answering(lambda: gate("warm"), "5", "7", "9")
    leader = threads.submit(invoked, ours)
    assert gate.entered.wait(30)
    ada: Any = {"configurable": {"semcache_namespace": "ada"}}
    assert [
        ours.invoke("how cold is it").text,
        ours.invoke(ASK, ada).text,
        ours.invoke(ASK, stop=["."]).text,
    ] == ["5", "7", "9"]
    gate.go.set()
    assert leader.result(30).text == "warm"


def test_who_may_not_be_served_does_not_wait_for_one_who_may(
    open_cache: Callable[..., SemanticLLMCache], gate: Gate, threads: ThreadPoolExecutor
) -> None:
    """An answer that nobody has confirmed is served to its own writer only."""
    model, writer = Streaming(), threading.local()
    ours = CachedChatModel(
        model, cache=open_cache(confirmations=1).cache, writer=lambda: writer.name
    )

    def ask_as(name: str, question: str) -> str:
        writer.name = name
        return ours.invoke(question).text

    assert ask_as("ada", ASK) == "answer 1"
    lookup = ours.semantic_cache.lookup

    def slow(request: Any, **told: Any) -> Any:
        hit = lookup(request, **told)
        return gate(hit) if request.writer == "ada" else hit

    ours.semantic_cache.lookup = slow  # type: ignore[method-assign]
    leader = threads.submit(ask_as, "ada", "is it how warm")
    assert gate.entered.wait(30)
    other = threads.submit(ask_as, "bob", "is it how warm")
    assert other.result(30) == "answer 2"
    gate.go.set()
    assert leader.result(30) == "answer 1"


def test_who_asks_during_a_lookup_gets_the_same_hit(
    ours: CachedChatModel, model: Streaming, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    """A burst of one question is looked up, and embedded, once."""
    assert invoked(ours).text == "answer 1"
    lookup = ours.semantic_cache.lookup

    def slow(request: Any, **told: Any) -> Any:
        return gate(lookup(request, **told))

    def ask(way: Any) -> Any:
        message = way(ours)
        return message, last_hit()

    ours.semantic_cache.lookup = slow  # type: ignore[method-assign]
    leader = threads.submit(ask, invoked)
    assert gate.entered.wait(30)
    others = [threads.submit(ask, way) for way in (invoked, streamed)]
    gate.open_when(2)
    answers = [future.result(30) for future in (leader, *others)]
    for message, hit in answers:
        assert message.text == "answer 1"
        assert message.response_metadata["semcache"]["kind"] == hit.kind == "exact"
    assert len({message.id for message, _ in answers}) == 3
    assert ours.stats().exact_hits == 1 and model.asked == 1


def test_who_waited_has_no_hit(
    ours: CachedChatModel, model: Streaming, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    model.answering(lambda: gate("warm"))
    leader = threads.submit(invoked, ours)
    assert gate.entered.wait(30)
    other = threads.submit(lambda: (invoked(ours).text, last_hit()))
    gate.open_when(1)
    assert other.result(30) == ("warm", None)
    assert leader.result(30).text == "warm"


# -- asyncio ---------------------------------------------------------------------------------------


async def ainvoked(ours: CachedChatModel) -> AIMessage:
    return await ours.ainvoke(ASK)


async def astreamed(ours: CachedChatModel) -> AIMessage:
    first, *others = [chunk async for chunk in ours.astream(ASK)]
    return first + others if others else first


ASYNC: dict[str, Callable[[CachedChatModel], Coroutine[Any, Any, AIMessage]]] = {
    "invoke": ainvoked,
    "stream": astreamed,
}


class AsyncGate:
    """See `Gate`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._waiting = asyncio.Semaphore(0)
        self.entered, self.go = asyncio.Event(), asyncio.Event()
        self.cancelled = False
        wait = AsyncSharedCall.wait

        async def counted(flight: AsyncSharedCall[Any]) -> bool:
            self._waiting.release()
            return await wait(flight)

        monkeypatch.setattr(AsyncSharedCall, "wait", counted)

    async def __call__(self, then: Any = None) -> Any:
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return then

    async def wait_for(self, waiting: int) -> None:
        for _ in range(waiting):
            await asyncio.wait_for(self._waiting.acquire(), 30)


@pytest.fixture
async def agate(monkeypatch: pytest.MonkeyPatch) -> AsyncGate:
    return AsyncGate(monkeypatch)


async def tasks_of(
    ours: CachedChatModel, gate: AsyncGate, led: str, waits: str, n: int = 4
) -> list["asyncio.Task[AIMessage]"]:
    leader = asyncio.create_task(ASYNC[led](ours))
    await asyncio.wait_for(gate.entered.wait(), 30)
    others = [asyncio.create_task(ASYNC[waits](ours)) for _ in range(n)]
    await gate.wait_for(n)
    return [leader, *others]


@every_pair
@every_other
async def test_async_one_call_answers_all_who_ask_at_once(
    ours: CachedChatModel, model: Streaming, agate: AsyncGate, led: str, waits: str
) -> None:
    script(model, led, agate, "is warm")
    tasks = await tasks_of(ours, agate, led, waits)
    agate.go.set()
    leader, *others = await asyncio.gather(*tasks)
    assert model.asked == 1
    for other in others:
        assert other.text == leader.text
        assert other.response_metadata["semcache"]["kind"] == "shared"
    assert len({message.id for message in (leader, *others)}) == 5
    assert (await ours.ainvoke(ASK)).text == leader.text
    assert model.asked == 1


@every_pair
@every_other
async def test_async_an_error_of_the_model_reaches_all_as_itself(
    ours: CachedChatModel, model: Streaming, agate: AsyncGate, led: str, waits: str
) -> None:
    error = ConnectionError("no network")
    script(model, led, agate, error)
    tasks = await tasks_of(ours, agate, led, waits)
    agate.go.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [error] * 5
    assert model.asked == 1
    assert (await ours.ainvoke(ASK)).text == "asked again"


@every_pair
@every_other
async def test_async_an_answer_that_is_not_stored_reaches_all(
    ours: CachedChatModel, model: Streaming, agate: AsyncGate, led: str, waits: str
) -> None:
    message = AIMessageChunk if led == "stream" else AIMessage
    script(model, led, agate, message("is", response_metadata=CUT))
    tasks = await tasks_of(ours, agate, led, waits)
    agate.go.set()
    assert len({answer.text for answer in await asyncio.gather(*tasks)}) == 1
    assert model.asked == 1
    assert (await ours.ainvoke(ASK)).text == "asked again"


@every_pair
@every_other
async def test_async_one_who_is_cancelled_harms_no_other(
    ours: CachedChatModel, model: Streaming, agate: AsyncGate, led: str, waits: str
) -> None:
    script(model, led, agate, "is warm")
    tasks = await tasks_of(ours, agate, led, waits)
    gone, left = [*tasks[:1], *tasks[1:3]], tasks[3:]  # the leader among them
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    assert all(task.cancelled() for task in gone)
    agate.go.set()
    texts = {answer.text for answer in await asyncio.gather(*left)}
    assert len(texts) == 1 and model.asked == 1 and not agate.cancelled
    assert {(await ours.ainvoke(ASK)).text} == texts


@every_pair
async def test_async_the_model_is_cancelled_when_nobody_waits_any_more(
    ours: CachedChatModel, model: Streaming, agate: AsyncGate, led: str
) -> None:
    script(model, led, agate, "is warm")
    for task in await tasks_of(ours, agate, led, "invoke"):
        assert not agate.cancelled
        task.cancel()
        await asyncio.wait([task])
    assert agate.cancelled and model.open_streams == 0
    assert ours.stats().entries == 0
    assert (await ours.ainvoke(ASK)).text == "asked again"


@every_pair
async def test_async_an_interrupted_leader_leaves_the_asking_to_the_others(
    ours: CachedChatModel, model: Streaming, agate: AsyncGate, led: str
) -> None:
    """As where a provider's own timeout cancels what it should not."""
    script(model, led, agate, asyncio.CancelledError())
    leader, *others = await tasks_of(ours, agate, led, "invoke")
    agate.go.set()
    await asyncio.wait([leader, *others])
    assert leader.cancelled() or leader.exception()  # as LangChain makes of it
    assert {other.result().text for other in others} == {"asked again"}
    assert model.asked == 2


async def test_async_an_answer_that_cannot_be_written_down_is_asked_for_by_each(
    ours: CachedChatModel, model: Streaming, agate: AsyncGate
) -> None:
    odd = AIMessage([{"type": "text", "text": "It is", "of": object()}])
    model.answering(lambda: agate(odd), "again", "again")
    tasks = await tasks_of(ours, agate, "invoke", "invoke", 2)
    agate.go.set()
    texts = [answer.text for answer in await asyncio.gather(*tasks)]
    assert texts == ["It is", "again", "again"] and model.asked == 3


async def test_async_a_stream_that_is_not_read_on_holds_nobody_up(
    ours: CachedChatModel, model: Streaming
) -> None:
    model.answering("It is warm")
    stream = ours.astream(ASK)
    first = await anext(stream)
    assert (await ours.ainvoke(ASK)).text == "It is warm"  # in this very task
    assert first.content + "".join([chunk.content async for chunk in stream]) == "It is warm"
    assert model.asked == 1


async def test_200_calls_of_20_questions_are_20_calls_of_the_model(
    open_cache: Callable[..., SemanticLLMCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, model = open_cache(), Streaming()
    ours = CachedChatModel(model, cache=cache.cache)
    threads: set[threading.Thread] = set()
    for name in ("lookup", "update"):
        method = getattr(SemanticCache, name)

        def noticed(*args: Any, method: Any = method, **told: Any) -> Any:
            threads.add(threading.current_thread())
            return method(*args, **told)

        monkeypatch.setattr(SemanticCache, name, noticed)
    ask = (ours.ainvoke(f"what is the number {number % 20}") for number in range(200))
    answers = await asyncio.gather(*ask)
    assert model.asked == 20
    assert len({answer.id for answer in answers}) == 200
    for number in range(20):
        assert len({answer.text for answer in answers[number::20]}) == 1
    assert threading.main_thread() not in threads  # the event loop never waited for a disk
    assert cache.stats().entries == 20 and cache.stats().failures == {}


def test_event_loops_in_several_threads_are_one_call_of_the_model(
    ours: CachedChatModel, model: Streaming, threads: ThreadPoolExecutor
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    async def answer() -> str:
        asked.set()
        await asyncio.to_thread(go_on.wait, 30)
        return "It is warm"

    model.answering(answer)
    found = [threads.submit(lambda: asyncio.run(ours.ainvoke(ASK)).text)]
    assert asked.wait(30)
    found += [threads.submit(lambda: asyncio.run(ours.ainvoke(ASK)).text) for _ in range(7)]
    _, calls = ours._parts()
    _, flight = calls._of_this_process()
    while sum(one.callers for one in flight._calls.values()) < 8:
        threading.Event().wait(0.001)
    go_on.set()
    assert [one.result(30) for one in found] == ["It is warm"] * 8
    assert model.asked == 1

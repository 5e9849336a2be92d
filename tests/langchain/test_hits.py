"""How an app learns of a hit: in the answer, by last_hit(), and by a callback event."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.utils.uuid import uuid7
from scripted_models import Chat, Streaming
from semcache_core import Hit

from langchain_semcache import CachedChatModel, SemanticLLMCache, last_hit, track_hits
from langchain_semcache.serialization import EVENT

ASK = "hi there"


@pytest.fixture
def ours(cache: SemanticLLMCache) -> CachedChatModel:
    model = Streaming().answering("hello my friend")
    return CachedChatModel(model, cache=cache.cache)


class Hearing(BaseCallbackHandler):
    def __init__(self, error: Exception | None = None) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.runs: list[Any] = []
        self.tags: list[Any] = []
        self.error = error
        self.raise_error = error is not None

    def on_chat_model_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        self.runs.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **kwargs: Any) -> None:
        assert run_id == self.runs[-1]
        self.heard.append((name, data))
        self.tags.append((kwargs["tags"], kwargs["metadata"].get("user")))
        if self.error is not None:
            raise self.error


class HearingAsync(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        self.heard.append((name, data))


# -- in the answer ---------------------------------------------------------------------------------


def test_an_answer_from_the_cache_says_so(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering("hello")
    assert "semcache" not in model.invoke(ASK).response_metadata
    hits = [model.invoke(text) for text in (ASK, "there hi", ASK)]
    marks = [hit.response_metadata["semcache"] for hit in hits]
    assert [mark["kind"] for mark in marks] == ["exact", "semantic", "exact"]
    assert [set(mark) for mark in marks] == [{"kind", "probability", "age_s", "entry_id"}] * 3
    assert marks[0]["probability"] == 1.0 and 0.9 < marks[1]["probability"] < 1.0
    assert len({mark["entry_id"] for mark in marks}) == 1
    assert all(mark["age_s"] >= 0 for mark in marks)
    assert len({hit.id for hit in hits}) == 3


def test_a_text_model_s_answer_stays_a_text(cache: SemanticLLMCache) -> None:
    model = FakeListLLM(responses=["hello", "other"], cache=cache)
    assert [model.invoke(ASK), model.invoke(ASK)] == ["hello"] * 2
    assert last_hit() is not None


def test_a_mark_in_the_history_does_not_count(cache: SemanticLLMCache) -> None:
    ours = CachedChatModel(Streaming().answering("one", "two"), cache=cache.cache)
    first = ours.invoke(ASK)
    for answer in (first, ours.invoke(ASK), ours.invoke("there hi")):
        assert ours.invoke([HumanMessage(ASK), answer, HumanMessage("go on")]).text == "two"


def test_a_mark_of_another_cache_is_not_stored(cache: SemanticLLMCache) -> None:
    mark = {"kind": "exact", "probability": 1.0, "age_s": 3.0, "entry_id": 7}
    message = AIMessage("hello", response_metadata={"semcache": mark, "a": 1})
    model = Chat(cache=cache).answering(message)
    assert model.invoke(ASK).response_metadata["semcache"] == mark
    hit = model.invoke(ASK).response_metadata
    assert hit["a"] == 1 and hit["semcache"]["entry_id"] != 7
    found = cache.cache.lookup(cache._reader.read(*_asked(model)))
    assert found is not None and "semcache" not in found.response


def _asked(model: Chat) -> tuple[str, str, Chat]:
    from langchain_core.load import dumps

    return dumps([HumanMessage(ASK)]), model._get_llm_string(), model


def test_what_another_cache_found_by_meaning_is_not_stored(cache: SemanticLLMCache) -> None:
    """A guess built on a guess would be wrong more often than either was allowed to be."""
    mark = {"kind": "semantic", "probability": 0.99, "age_s": 3.0, "entry_id": 7}
    model = Chat(cache=cache).answering(AIMessage("hello", response_metadata={"semcache": mark}))
    assert [model.invoke(ASK).text for _ in range(2)] == ["hello", "answer 2"]


def test_one_cached_model_may_hold_another(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("hello")
    inner = CachedChatModel(model, cache=cache.cache, namespace="inner")
    outer = CachedChatModel(inner, cache=cache.cache, namespace="outer")
    for way in (outer.invoke, lambda text: next(iter(outer.stream(text)))):
        assert way(ASK).text == "hello"
    assert model.asked == 1


# -- last_hit() ------------------------------------------------------------------------------------


def test_last_hit_is_of_the_last_call(cache: SemanticLLMCache, ours: CachedChatModel) -> None:
    for model in (Chat(cache=cache, model_name="other"), ours):
        model.invoke(ASK)
        assert last_hit() is None
        model.invoke("there hi")
        found = last_hit()
        assert isinstance(found, Hit)
        assert (found.kind, found.question) == ("semantic", ASK)
        model.invoke("another question")
        assert last_hit() is None


def test_last_hit_in_and_after_a_stream(ours: CachedChatModel) -> None:
    for kind in (None, "exact"):
        for _ in ours.stream(ASK):
            assert (last_hit() and last_hit().kind) == kind
        assert (last_hit() and last_hit().kind) == kind
    list(ours.stream("another question"))
    assert last_hit() is None


async def test_last_hit_after_async_calls(ours: CachedChatModel) -> None:
    for kind in (None, "exact"):
        await ours.ainvoke(ASK)
        assert (last_hit() and last_hit().kind) == kind
    async for _ in ours.astream("there hi"):
        assert last_hit().kind == "semantic"
    async for _ in ours.astream("another question"):
        assert last_hit() is None
    await ours.ainvoke(ASK)
    await ours.ainvoke("a third question")
    assert last_hit() is None


async def test_last_hit_is_of_the_own_task(ours: CachedChatModel) -> None:
    await ours.ainvoke(ASK)

    async def ask(text: str) -> Any:
        await ours.ainvoke(text)
        return last_hit() and last_hit().kind

    both = await asyncio.gather(ask(ASK), ask("another question"))
    assert both == ["exact", None]
    assert last_hit() is None


def test_an_error_is_no_hit(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("hello", ConnectionError(), ConnectionError())
    ours = CachedChatModel(model, cache=cache.cache)
    for way in (ours.invoke, lambda text: list(ours.stream(text))):
        for _ in range(2):
            ours.invoke(ASK)
        assert last_hit() is not None
        with pytest.raises(ConnectionError):
            way("another question")
        assert last_hit() is None


def test_a_cache_that_fails_gives_no_hit(ours: CachedChatModel) -> None:
    for _ in range(2):
        ours.invoke(ASK)
    assert last_hit() is not None
    ours.semantic_cache.close()
    ours.invoke(ASK)
    assert last_hit() is None


# -- the event -------------------------------------------------------------------------------------


async def ainvoked(model: CachedChatModel, text: str, config: Any) -> Any:
    return await model.ainvoke(text, config)


async def astreamed(model: CachedChatModel, text: str, config: Any) -> Any:
    return [chunk async for chunk in model.astream(text, config)]


async def from_v3(model: CachedChatModel, text: str, config: Any) -> Any:
    return await (await model.astream_events(text, config, version="v3")).output


WAYS: dict[str, Callable[..., Any]] = {
    "invoke": lambda model, text, config: model.invoke(text, config),
    "batch": lambda model, text, config: model.batch([text], config),
    "stream": lambda model, text, config: list(model.stream(text, config)),
    "stream_events": lambda model, text, config: (
        model.stream_events(text, config, version="v3").output
    ),
    "ainvoke": lambda model, text, config: asyncio.run(ainvoked(model, text, config)),
    "astream": lambda model, text, config: asyncio.run(astreamed(model, text, config)),
    "astream_events": lambda model, text, config: asyncio.run(from_v3(model, text, config)),
    "chain": lambda model, text, config: (model | RunnableLambda(str)).invoke(text, config),
}
every_way = pytest.mark.parametrize("way", WAYS)
pytestmark = pytest.mark.filterwarnings("ignore:The method .* is in beta")


@every_way
def test_handlers_hear_of_a_hit_and_not_of_a_miss(ours: CachedChatModel, way: str) -> None:
    handler, other = Hearing(), HearingAsync()
    config: Any = {"callbacks": [handler, other], "tags": ["a"], "metadata": {"user": "ada"}}
    WAYS[way](ours, ASK, config)
    assert handler.heard == other.heard == []
    WAYS[way](ours, "there hi", config)
    [(name, data)] = handler.heard
    assert (name, data["kind"]) == (EVENT, "semantic")
    assert set(data) == {"kind", "probability", "age_s", "entry_id"}
    assert other.heard == handler.heard
    if way != "chain":  # a step of a chain has tags of its own
        assert handler.tags == [(["a"], "ada")]


@every_way
def test_a_handler_that_fails_does_not_lose_the_answer(ours: CachedChatModel, way: str) -> None:
    ours.invoke(ASK)
    handler = Hearing(RuntimeError("broken"))
    assert WAYS[way](ours, ASK, {"callbacks": [handler]})
    assert len(handler.heard) == 1
    assert ours.stats().failures == {"announce": 1}


def test_handlers_of_the_model_hear_it_too(cache: SemanticLLMCache) -> None:
    handler = Hearing()
    ours = CachedChatModel(Streaming(callbacks=[handler]), cache=cache.cache)
    for _ in range(2):
        ours.invoke(ASK)
        list(ours.stream(ASK))
    assert len(handler.heard) == 3


def test_a_handler_that_wants_no_such_events_gets_none(ours: CachedChatModel) -> None:
    class Deaf(Hearing):
        ignore_custom_event = True

    handler = Deaf()
    for _ in range(2):
        ours.invoke(ASK, {"callbacks": [handler]})
    assert handler.heard == []


def test_a_run_keeps_the_id_it_was_given(ours: CachedChatModel) -> None:
    for way in ("invoke", "stream", "ainvoke", "astream", "stream_events"):
        handler, run_id = Hearing(), uuid7()
        ours.invoke(ASK)
        WAYS[way](ours, ASK, {"callbacks": [handler], "run_id": run_id})
        assert handler.runs == [run_id]
        assert len(handler.heard) == 1


async def test_events_of_a_hit_are_a_stream_with_the_event_first(ours: CachedChatModel) -> None:
    kinds = []
    for _ in range(2):
        events = [event async for event in ours.astream_events(ASK, version="v2")]
        kinds.append([(event["event"], event["name"]) for event in events])
        assert len({event["run_id"] for event in events}) == 1
    assert ("on_custom_event", EVENT) not in kinds[0]
    assert kinds[1][:2] == [("on_chat_model_start", "Streaming"), ("on_custom_event", EVENT)]
    assert kinds[1].count(("on_chat_model_stream", "Streaming")) == 4


async def test_a_node_that_invokes_streams_its_hit(ours: CachedChatModel) -> None:
    """As LangGraph's agents do it: the model is invoked, and the app reads the events."""
    chain = RunnableLambda(ours.invoke)
    for _ in range(2):
        events = [event async for event in chain.astream_events(ASK, version="v2")]
        chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
        assert "".join(chunk.content for chunk in chunks) == "hello my friend"
        assert len(chunks) == 4
    assert [e["name"] for e in events if e["event"] == "on_custom_event"] == [EVENT]


def test_no_warning_is_logged_for_a_hit(
    ours: CachedChatModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        ours.invoke(ASK, {"callbacks": [Hearing()]})
    assert not caplog.records


# -- after chains, and in a block ------------------------------------------------------------------

PROMPT = ChatPromptTemplate([("human", "{text}")])


def asking(cache: SemanticLLMCache, wrapped: bool) -> Any:
    """A model that asks the cache, by our wrapper or by LangChain's own hook."""
    inner = Streaming(cache=None if wrapped else cache, disable_streaming=True)
    inner.answering("yes", "no")
    return CachedChatModel(inner, cache=cache.cache) if wrapped else inner


@pytest.mark.parametrize("wrapped", [True, False])
def test_last_hit_after_a_chain_is_never_an_older_one(
    cache: SemanticLLMCache, wrapped: bool
) -> None:
    model = asking(cache, wrapped)
    for text in ("hi there", "there hi"):
        model.invoke(text)
    assert last_hit() is not None
    (PROMPT | model).invoke({"text": "another question"})
    assert last_hit() is None
    (PROMPT | model).invoke({"text": "hi there"})
    assert last_hit() is not None


@pytest.mark.parametrize("wrapped", [True, False])
async def test_last_hit_after_an_async_chain_is_right_or_none(
    cache: SemanticLLMCache, wrapped: bool
) -> None:
    model = asking(cache, wrapped)
    for text in ("hi there", "there hi"):
        model.invoke(text)
    assert last_hit() is not None
    await (PROMPT | model).ainvoke({"text": "another question"})
    assert last_hit() is None


async def _in_a_thread(model: Any, text: str) -> None:
    await asyncio.to_thread(model.invoke, text)


async def _in_a_task(model: Any, text: str) -> None:
    await asyncio.create_task(model.ainvoke(text))


async def _in_a_batch(model: Any, text: str) -> None:
    model.batch([text])


async def _in_an_async_batch(model: Any, text: str) -> None:
    await model.abatch([text])


async def _in_a_chain(model: Any, text: str) -> None:
    (PROMPT | model).invoke({"text": text})


async def _in_an_async_chain(model: Any, text: str) -> None:
    await (PROMPT | model).ainvoke({"text": text})


async def _in_a_stream(model: Any, text: str) -> None:
    async for _ in model.astream(text):
        pass


@pytest.mark.parametrize(
    "ask",
    [
        *(_in_a_thread, _in_a_task, _in_a_batch, _in_an_async_batch, _in_a_chain),
        *(_in_an_async_chain, _in_a_stream),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_block_collects_the_hits_of_all_calls_in_it(
    cache: SemanticLLMCache, wrapped: bool, ask: Callable[[Any, str], Any]
) -> None:
    model = asking(cache, wrapped)
    model.invoke("hi there")
    model.invoke("hi there")
    with track_hits() as hits:
        assert hits == []
        for text in ("there hi", "hi there", "another question"):
            await ask(model, text)
        assert [hit.kind for hit in hits] == ["semantic", "exact"]
        with track_hits() as inner_hits:
            await ask(model, "hi there")
    await ask(model, "hi there")
    assert [hit.kind for hit in inner_hits] == ["exact"]
    assert [hit.kind for hit in hits] == ["semantic", "exact", "exact"]

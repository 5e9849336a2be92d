"""The agent middleware: by meaning once in a turn, exactly after that, and never in the way."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import FailingEmbedder, WordEmbedder, calibrated
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from scripted_models import Chat, OllamaLike
from semcache_core import Request, SemanticCache, SemcacheError
from thermometer import Thermometer, calling, kinds

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache, last_hit

QUESTION = "how warm is it"
PARAPHRASE = "is it how warm"
USAGE = ("input_tokens", "output_tokens", "total_tokens")

Opened = Callable[..., SemanticCacheMiddleware]
Asker = Callable[..., Awaitable[list[BaseMessage]]]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    caches = []
    artefact = calibrated(tmp_path / "artefact")

    def open_middleware(**options: Any) -> SemanticCacheMiddleware:
        embedder = options.pop("embedder", None) or WordEmbedder()
        options = {"path": None, "artefact": artefact} | options
        middleware = SemanticCacheMiddleware(embedder=embedder, **options)
        caches.append(middleware.cache)
        return middleware

    yield open_middleware
    for cache in caches:
        cache.close()


@pytest.fixture
def cached(opened: Opened) -> SemanticCacheMiddleware:
    return opened()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asker:
    """Runs an agent on a question; each test that takes it holds for both ways."""

    async def ask(
        agent: Any, question: Any = QUESTION, config: Any = None, **configurable: Any
    ) -> list[BaseMessage]:
        config = {"recursion_limit": 10, "configurable": configurable} | (config or {})
        given = question if isinstance(question, list) else [("user", question)]
        if request.param == "async":
            return (await agent.ainvoke({"messages": given}, config))["messages"]
        return agent.invoke({"messages": given}, config)["messages"]

    return ask


def answered(request: ModelRequest[Any]) -> ModelResponse[Any]:
    """What langchain does at the end of all middleware, for a request without schemas."""
    system = [request.system_message] if request.system_message else []
    return ModelResponse(result=[request.model.invoke([*system, *request.messages])])


def asked_of(model: Any, question: str = QUESTION, **fields: Any) -> ModelRequest[Any]:
    return ModelRequest(**{"model": model, "messages": [HumanMessage(question)], **fields})


# -- at the same time ----------------------------------------------------------------------------


async def test_agents_that_ask_the_same_at_once_share_one_call(
    cached: SemanticCacheMiddleware,
) -> None:
    asked: list[str] = []

    async def slow(request: ModelRequest[Any]) -> ModelResponse[Any]:
        asked.append(QUESTION)
        await asyncio.sleep(0.05)
        return ModelResponse(result=[AIMessage("warm", id="msg-1")])

    request = asked_of(Chat())
    given = await asyncio.gather(*(cached.awrap_model_call(request, slow) for _ in range(3)))
    messages = [response.result[0] for response in given]
    assert [message.text for message in messages] == ["warm"] * 3
    assert len({message.id for message in messages}) == 3
    assert asked == [QUESTION]


def test_threads_that_ask_the_same_at_once_share_one_call(
    cached: SemanticCacheMiddleware,
) -> None:
    run: ContextVar[int] = ContextVar("run")
    asked: list[int] = []
    all_here = threading.Barrier(3)

    def slow(request: ModelRequest[Any]) -> ModelResponse[Any]:
        asked.append(run.get())
        threading.Event().wait(0.2)
        return ModelResponse(result=[AIMessage("warm")])

    def ask(number: int, given: list[str]) -> None:
        run.set(number)
        all_here.wait()
        given.append(cached.wrap_model_call(asked_of(model), slow).result[0].text)

    model, given = Chat(), list[str]()
    threads = [threading.Thread(target=ask, args=(number, given)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == ["warm"] * 3
    assert len(asked) == 1


# -- turns -----------------------------------------------------------------------------------------


async def test_a_thread_that_asks_twice_keeps_both_answers(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat().answering("hello", "again")
    agent = create_agent(model, [], middleware=[cached], checkpointer=InMemorySaver())
    for thread in ("one", "two"):
        await ask(agent, "hi there", thread_id=thread)
        messages = await ask(agent, "hi there", thread_id=thread)
        assert kinds(messages) == ["human", "ai", "human", "ai"]
        assert [messages[1].text, messages[3].text] == ["hello", "again"]
        assert messages[1].id != messages[3].id
    assert model.asked == 2
    assert cached.stats().exact_hits == 2


async def test_a_paraphrase_costs_no_call_when_no_tool_is_needed(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat().answering("warm")
    agent = create_agent(model, [Thermometer().tool()], middleware=[cached])
    assert [(await ask(agent, q))[-1].text for q in (QUESTION, PARAPHRASE)] == ["warm", "warm"]
    assert model.asked == 1
    assert cached.stats().semantic_hits == 1


async def test_a_hit_says_so_and_has_an_id_of_its_own_and_no_usage(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    answer = AIMessage("warm", usage_metadata=dict.fromkeys(USAGE, 7), id="msg-1")  # type: ignore[arg-type]
    agent = create_agent(Chat().answering(answer), [], middleware=[cached])
    first = (await ask(agent))[-1]
    hits = [(await ask(agent, question))[-1] for question in (QUESTION, PARAPHRASE)]
    assert "semcache" not in first.response_metadata
    said = [hit.response_metadata["semcache"] for hit in hits]
    assert [each["kind"] for each in said] == ["exact", "semantic"]
    assert said[0]["entry_id"] == said[1]["entry_id"]
    assert said[1]["probability"] < said[0]["probability"] == 1.0
    assert [hit.usage_metadata for hit in hits] == [dict.fromkeys(USAGE, 0)] * 2  # type: ignore[attr-defined]
    assert len({message.id for message in (first, *hits)}) == 3


async def test_an_agent_s_run_is_replayed_with_the_tool_s_fresh_result(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    thermometer = Thermometer()
    model = Chat().answering(calling(), "10 degrees", "20 degrees")
    agent = create_agent(model, [thermometer.tool()], middleware=[cached])
    runs = [await ask(agent) for _ in range(2)]
    assert model.asked == 2  # the second run took both steps from the cache
    thermometer.shows = "20 C"
    runs.append(await ask(agent))
    assert model.asked == 3  # its first step only: the result is another
    assert thermometer.read == 3
    assert [messages[-1].text for messages in runs] == ["10 degrees", "10 degrees", "20 degrees"]
    for messages in runs:
        assert kinds(messages) == ["human", "ai", "tool", "ai"]
        assert messages[2].tool_call_id == messages[1].tool_calls[0]["id"]  # type: ignore[attr-defined]
    assert len({messages[1].tool_calls[0]["id"] for messages in runs}) == 3  # type: ignore[attr-defined]


async def test_an_answer_that_calls_tools_is_not_served_by_meaning(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat().answering(calling(), "10 degrees", calling("call_2", "Bern"), "12 degrees")
    agent = create_agent(model, [Thermometer().tool()], middleware=[cached])
    await ask(agent)
    messages = await ask(agent, PARAPHRASE)
    assert kinds(messages) == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"place": "Bern"}  # type: ignore[attr-defined]
    assert messages[-1].text == "12 degrees"


@pytest.mark.parametrize("call_id", ["call_1", "call_9"])
async def test_a_step_after_a_tool_hits_whatever_ids_and_usage_its_history_has(
    cached: SemanticCacheMiddleware, ask: Asker, call_id: str
) -> None:
    model = Chat().answering(calling(), "10 degrees")
    agent = create_agent(model, [Thermometer().tool()], middleware=[cached])
    await ask(agent)
    step = calling(call_id)
    step.response_metadata = {"id": "chatcmpl-2", "semcache": {"kind": "exact"}}
    result = {"role": "tool", "content": "10 C", "tool_call_id": call_id, "name": "weather"}
    assert (await ask(agent, [("user", QUESTION), step, result]))[-1].text == "10 degrees"
    assert model.asked == 2


async def test_after_a_tool_result_nothing_is_served_by_meaning(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat().answering("10 degrees", "12 degrees")
    agent = create_agent(model, [Thermometer().tool()], middleware=[cached])
    result = {"role": "tool", "content": "10 C", "tool_call_id": "call_1", "name": "weather"}
    for question, answer in ((QUESTION, "10 degrees"), (PARAPHRASE, "12 degrees")):
        given = [("user", question), calling(), result]
        assert (await ask(agent, given))[-1].text == answer


def test_a_question_of_several_lines_is_served_to_no_other(
    cached: SemanticCacheMiddleware,
) -> None:
    model = Chat()
    for question in ("how warm\nis it", "how warm is it"):
        cached.wrap_model_call(asked_of(model, question), answered)
    assert model.asked == 2


async def test_a_later_turn_is_served_by_meaning_after_the_same_turns_only(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat().answering("in May", "in June")
    agent = create_agent(model, [], middleware=[cached])
    for before, question, answer in (
        ("Basel", QUESTION, "in May"),
        ("Basel", PARAPHRASE, "in May"),
        ("Bern", QUESTION, "in June"),
    ):
        given = [("user", before), ("ai", "nice"), ("user", question)]
        assert (await ask(agent, given))[-1].text == answer
    assert model.asked == 2


# -- what must be equal ----------------------------------------------------------------------------


@tool
def weather(place: str) -> str:
    """The weather in a place."""
    return "10 C"


def other_weather() -> Any:
    @tool
    def weather(place: str, day: str = "today") -> str:
        """The weather in a place."""
        return "10 C"

    return weather


TOLD: dict[str, Any] = {
    "system_message": SystemMessage("be brief"),
    "tools": [weather],
    "tool_choice": "auto",
    "model_settings": {"seed": 1},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"system_message": SystemMessage("be polite")},
        {"system_message": None},
        {"tools": []},
        {"tools": [weather, {"type": "web_search"}]},
        {"tools": [other_weather()]},
        {"tools": [weather.model_copy(update={"description": "The weather anywhere."})]},
        {"tool_choice": "none"},
        {"tool_choice": None},
        {"model_settings": {"seed": 2}},
        {"model_settings": {}},
        {"model": Chat(model_name="gpt-2")},
        {"model": Chat(temperature=1.0)},
        {"model": OllamaLike()},
        {"messages": [HumanMessage("hello"), AIMessage("hi"), HumanMessage(QUESTION)]},
        {
            "messages": [
                HumanMessage([{"type": "image", "url": "x"}, {"type": "text", "text": "?"}])
            ]
        },
    ],
)
def test_whatever_the_model_is_told_otherwise_makes_a_miss(
    cached: SemanticCacheMiddleware, changed: dict[str, Any]
) -> None:
    request = asked_of(Chat(), **TOLD)
    other = request.override(**changed)  # type: ignore[typeddict-item]
    for each in (request, other):
        cached.wrap_model_call(each, answered)
    assert cached.stats().misses == 2
    assert cached.stats().entries == 2
    for each in (request, other):
        cached.wrap_model_call(each, answered)
    assert cached.stats().exact_hits == 2


def test_what_the_model_is_not_told_does_not_count(cached: SemanticCacheMiddleware) -> None:
    request = asked_of(Chat(), **TOLD)
    cached.wrap_model_call(request, answered)
    state: Any = {"messages": [], "user_name": "Ada"}
    again = request.override(state=state, tools=[weather.model_copy(update={"tags": ["x"]})])
    cached.wrap_model_call(again, answered)
    assert cached.stats().exact_hits == 1


def test_a_copy_of_the_model_with_another_temperature_is_another_model(
    cached: SemanticCacheMiddleware,
) -> None:
    for model in (warm := Chat(temperature=0.5), warm.model_copy(update={"temperature": 0.9})):
        cached.wrap_model_call(asked_of(model), answered)
    assert cached.stats().misses == 2


async def test_agents_of_other_names_sign_their_own_answers(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat()
    for name in ("clerk", "guide", "clerk"):
        agent = create_agent(model, [], name=name, middleware=[cached])
        assert (await ask(agent))[-1].name == name
    assert model.asked == 2


def test_a_model_that_shows_nothing_of_itself_is_not_cached(
    cached: SemanticCacheMiddleware, warnings_of: Any
) -> None:
    """Such as a fallback chain, of which nothing tells who will answer."""
    model: Any = RunnableLambda(lambda messages: AIMessage("warm"))
    for _ in range(2):
        response = cached.wrap_model_call(asked_of(model), answered)
        assert response.result[0].text == "warm"
    assert cached.stats().entries == 0
    assert len(warnings_of("a RunnableLambda and no chat model")) == 1
    with pytest.raises(SemcacheError, match="RunnableLambda"):
        cached.explain(asked_of(model))


# -- tenants ---------------------------------------------------------------------------------------


async def test_the_config_of_the_run_names_the_tenant(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat().answering("5", "7", "9")
    agent = create_agent(model, [], middleware=[cached])
    for question in (QUESTION, PARAPHRASE):
        for tenant, answer in (("ada", "5"), ("bob", "7"), (None, "9")):
            configured = {"semcache_namespace": tenant} if tenant else {}
            assert (await ask(agent, question, **configured))[-1].text == answer
    assert model.asked == 3


async def test_a_given_tenant_and_a_callable_one_never_share(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    tenant: ContextVar[Any] = ContextVar("tenant")
    model = Chat().answering("5", "7", "9")
    fixed = SemanticCacheMiddleware(cache=cached.cache, namespace="ada")
    called = SemanticCacheMiddleware(cache=cached.cache, namespace=tenant.get)
    answers = [(await ask(create_agent(model, [], middleware=[fixed])))[-1].text]
    for name in ("ada", "bob", "cyd", "bob"):
        tenant.set(name)
        agent = create_agent(model, [], middleware=[called])
        answers.append((await ask(agent, semcache_namespace="eve"))[-1].text)
    assert answers == ["5", "5", "7", "9", "7"]


@pytest.mark.parametrize("wrong", [None, "", 7, ["ada"]])
async def test_a_wrong_tenant_is_neither_served_nor_stored(
    cached: SemanticCacheMiddleware, ask: Asker, wrong: Any
) -> None:
    model = Chat()
    agent = create_agent(model, [], middleware=[cached])
    await ask(agent)
    for _ in range(2):
        await ask(agent, semcache_namespace=wrong)
    assert model.asked == 3
    assert cached.stats().entries == 1
    assert cached.stats().failures == {"lookup": 2}


def test_a_tenant_that_is_none_is_an_error_where_it_is_given(opened: Opened) -> None:
    with pytest.raises(SemcacheError, match="namespace must be a non-empty str, got None"):
        opened(namespace=None)


async def test_where_python_hides_the_config_no_tenant_is_guessed(
    cached: SemanticCacheMiddleware, monkeypatch: pytest.MonkeyPatch, warnings_of: Any
) -> None:
    """Before 3.11, LangGraph cannot show it to async code: the default tenant would get all."""
    monkeypatch.setattr("langchain_semcache.middleware.sys", SimpleNamespace(version_info=(3, 10)))
    fixed = SemanticCacheMiddleware(cache=cached.cache, namespace="ada")

    async def aanswered(request: ModelRequest[Any]) -> ModelResponse[Any]:
        return answered(request)

    model = Chat()
    for middleware in (cached, cached, fixed, fixed):
        await middleware.awrap_model_call(asked_of(model), aanswered)
    assert model.asked == 3
    assert cached.cache.clear(namespace="ada") == 1
    assert len(warnings_of("before Python 3.11")) == 1


# -- hits as the app and its traces see them -------------------------------------------------------


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.seen.append((name, data))


async def test_callbacks_are_told_of_hits_only(cached: SemanticCacheMiddleware, ask: Asker) -> None:
    agent = create_agent(Chat(), [], middleware=[cached])
    events = Events()
    answers = [(await ask(agent, config={"callbacks": [events]}))[-1] for _ in range(2)]
    assert events.seen == [("semcache_hit", answers[1].response_metadata["semcache"])]


async def test_a_callback_that_fails_costs_nothing(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    class Broken(Events):
        raise_error = True

        def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
            raise ValueError("broken")

    agent = create_agent(model := Chat().answering("warm"), [], middleware=[cached])
    for _ in range(2):
        assert (await ask(agent, config={"callbacks": [Broken()]}))[-1].text == "warm"
    assert model.asked == 1


async def test_last_hit_is_that_of_the_last_step(cached: SemanticCacheMiddleware) -> None:
    request = asked_of(Chat())

    async def aanswered(request: ModelRequest[Any]) -> ModelResponse[Any]:
        assert last_hit() is None  # the model is about to answer
        return answered(request)

    await cached.awrap_model_call(request, aanswered)
    for _ in range(2):
        await cached.awrap_model_call(request, aanswered)
        assert (hit := last_hit()) is not None and hit.kind == "exact"
        await cached.awrap_model_call(asked_of(Chat(model_name="gpt-2")), aanswered)
        cached.cache.clear()
        await cached.awrap_model_call(request, aanswered)
        assert last_hit() is None
        cached.wrap_model_call(request, answered)
        assert last_hit() is not None


def test_a_hit_is_streamed_as_one_message(cached: SemanticCacheMiddleware) -> None:
    agent = create_agent(Chat().answering("warm"), [], middleware=[cached])
    given: Any = {"messages": [("user", QUESTION)]}
    for _ in range(2):
        parts = [part for part, _ in agent.stream(given, stream_mode="messages")]
        assert "".join(part.text for part in parts) == "warm"
    assert [part.response_metadata["semcache"]["kind"] for part in parts] == ["exact"]


def test_a_hit_that_is_changed_changes_no_other(cached: SemanticCacheMiddleware) -> None:
    request = asked_of(Chat().answering(AIMessage([{"type": "text", "text": "warm"}])))
    for _ in range(3):
        message = cached.wrap_model_call(request, answered).result[0]
        assert message.text == "warm"
        message.content[0]["text"] = "cold"  # type: ignore[index]
        message.additional_kwargs["x"] = 1


# -- other middleware and other caches -------------------------------------------------------------


class Greets(AgentMiddleware[Any, Any, Any]):
    """Puts the name of whoever asks into the system prompt."""

    def __init__(self, who: str = "Ada") -> None:
        super().__init__()
        self.who = who

    def _told(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        return request.override(system_message=SystemMessage(f"You talk to {self.who}."))

    def wrap_model_call(self, request: ModelRequest[Any], handler: Any) -> Any:
        return handler(self._told(request))

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Any) -> Any:
        return await handler(self._told(request))


async def test_what_middleware_before_it_changes_is_seen(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model, greets = Chat().answering("hi Ada", "hi Bob"), Greets()
    agent = create_agent(model, [], middleware=[greets, cached])
    for greets.who in ("Ada", "Bob", "Ada"):
        assert (await ask(agent))[-1].text == f"hi {greets.who}"
    assert model.asked == 2


async def test_with_middleware_behind_it_the_model_asks_with_what_reaches_it(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    """It sees one request for Ada and Bob, the model sees two."""
    model, greets = Chat().answering("hi Ada", "hi Bob"), Greets()
    agent = create_agent(model, [], middleware=[cached, greets])
    for greets.who in ("Ada", "Bob", "Ada"):
        assert (await ask(agent))[-1].text == f"hi {greets.who}"
    answer = (await ask(agent, PARAPHRASE))[-1]
    assert answer.text == "hi Ada" and answer.response_metadata["semcache"]["kind"] == "semantic"
    assert model.asked == 2 and model.cache is None


class Rewrites(AgentMiddleware[Any, Any, Any]):
    """Shows the model a file and other tools, and asks for the model's class, as the tail of
    middleware of a deep agent does.
    """

    file = "ten degrees"
    tools_shown = True

    def _changed(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        assert type(request.model) is Chat
        system = SystemMessage(f"The file says: {self.file}")
        shown = request.tools if self.tools_shown else []
        return request.override(system_message=system, tools=shown)

    def wrap_model_call(self, request: ModelRequest[Any], handler: Any) -> Any:
        return handler(self._changed(request))

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Any) -> Any:
        return await handler(self._changed(request))


async def test_middleware_behind_it_may_change_files_and_tools(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    rewrites = Rewrites()
    agent = create_agent(model := Chat(), [Thermometer().tool()], middleware=[cached, rewrites])
    first = (await ask(agent))[-1].text
    assert (await ask(agent))[-1].text == first and model.asked == 1
    rewrites.file = "forty degrees"
    assert (await ask(agent))[-1].text != first and model.asked == 2
    rewrites.tools_shown = False
    assert (await ask(agent))[-1].text != first and model.asked == 3
    rewrites.file, rewrites.tools_shown = "ten degrees", True
    assert (await ask(agent))[-1].text == first and model.asked == 3


@pytest.mark.parametrize("own", ["uncached_tools", "no cache wanted"])
async def test_with_middleware_behind_it_some_models_are_not_cached(
    opened: Opened, ask: Asker, warnings_of: Any, own: str
) -> None:
    cached = opened(uncached_tools=["clock"] if own == "uncached_tools" else [])
    model, greets = Chat(cache=None if own == "uncached_tools" else False), Greets()
    agent = create_agent(model, [], middleware=[cached, greets])
    for _ in range(2):
        await ask(agent)
    assert model.asked == 2 and cached.stats().entries == 0
    assert len(warnings_of("put SemanticCacheMiddleware last")) == 1


async def test_middleware_that_wraps_no_model_call_may_follow(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    class Counts(AgentMiddleware[Any, Any, Any]):
        def before_model(self, state: Any, runtime: Any) -> None:
            return None

    agent = create_agent(model := Chat(), [], middleware=[cached, Counts()])
    for _ in range(2):
        await ask(agent)
    assert model.asked == 1


async def test_a_model_with_a_cache_of_its_own_is_asked_once(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    set_llm_cache(SemanticLLMCache(cache=cached.cache))
    thermometer = Thermometer()
    model = Chat().answering(calling(), "10 degrees")
    agent = create_agent(model, [thermometer.tool()], middleware=[cached])
    for _ in range(3):
        messages = await ask(agent)
        assert kinds(messages) == ["human", "ai", "tool", "ai"]
        assert messages[-1].text == "10 degrees"
    assert (model.asked, thermometer.read) == (2, 3)
    assert cached.stats().failures == {}


async def test_cached_models_are_told_apart_by_the_model_in_them(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    models = [Chat(temperature=each).answering(f"at {each}") for each in (0.0, 1.0)]
    for model in (*models, *models):
        behind = CachedChatModel(model=model, cache=cached.cache)
        answer = (await ask(create_agent(behind, [], middleware=[cached])))[-1]
        assert answer.text == f"at {model.temperature}"
    assert [model.asked for model in models] == [1, 1]
    assert cached.stats().failures == {}


@pytest.mark.parametrize(("kind", "stored"), [("semantic", 0), ("exact", 1)])
def test_a_guess_of_a_cache_behind_this_one_is_not_stored(
    cached: SemanticCacheMiddleware, kind: str, stored: int
) -> None:
    """It would else be served for a third question: a guess built on a guess."""
    answer = AIMessage("warm", response_metadata={"semcache": {"kind": kind}})
    cached.wrap_model_call(asked_of(Chat().answering(answer)), answered)
    assert cached.stats().entries == stored


# -- tools that differ from call to call -----------------------------------------------------------


async def test_after_a_tool_that_is_named_nothing_is_cached(opened: Opened, ask: Asker) -> None:
    cached = opened(uncached_tools=["weather"])
    script = [calling(), "10 degrees", "10 degrees", "in May", "in June"]
    agent = create_agent(
        model := Chat().answering(*script), [Thermometer().tool()], middleware=[cached]
    )
    history = [await ask(agent) for _ in range(2)][1]
    assert model.asked == 3  # what calls the tool is replayed, what follows it is not
    for answer in ("in May", "in June"):  # nor is the next turn, which still shows its result
        assert (await ask(agent, [*history, ("user", "and when")]))[-1].text == answer
    assert cached.stats().entries == 1


async def test_a_named_tool_that_was_not_called_changes_nothing(opened: Opened, ask: Asker) -> None:
    cached = opened(uncached_tools=("clock",))
    agent = create_agent(
        model := Chat().answering(calling(), "10 degrees"),
        [Thermometer().tool()],
        middleware=[cached],
    )
    for _ in range(2):
        await ask(agent)
    assert model.asked == 2


def test_an_answer_for_which_the_provider_ran_a_named_tool_is_not_stored(opened: Opened) -> None:
    searched = AIMessage([{"type": "web_search_call", "id": "ws_1"}, {"type": "text", "text": "x"}])
    model = Chat().answering(searched, searched, searched)
    for names, stored in (((), 1), (("web_search",), 0)):
        cached = opened(uncached_tools=names)
        cached.wrap_model_call(asked_of(model), answered)
        assert cached.stats().entries == stored


# -- dates in the system prompt --------------------------------------------------------------------


def dated(model: Any, day: int, **fields: Any) -> ModelRequest[Any]:
    system = SystemMessage(f"Be brief. Today is 2026-11-{day}.")
    return asked_of(model, **{"system_message": system, **fields})


def test_normalise_system_makes_two_dates_one_scope(opened: Opened) -> None:
    cached = opened(normalise_system=lambda text: text.partition("Today is")[0])
    model = Chat()
    for day in (25, 26):
        cached.wrap_model_call(dated(model, day), answered)
    assert model.asked == 1
    assert model._asked[0][0].text == "Be brief. Today is 2026-11-25."
    polite = SystemMessage("Be polite. Today is 2026-11-26.")
    cached.wrap_model_call(dated(model, 26, system_message=polite), answered)
    assert model.asked == 2


def test_it_is_off_by_default(cached: SemanticCacheMiddleware) -> None:
    for day in (25, 26):
        cached.wrap_model_call(dated(model := Chat(), day), answered)
        assert model.asked == 1


def test_only_system_texts_are_normalised(opened: Opened) -> None:
    cached = opened(normalise_system=lambda text: "")
    for question in ("aaa", "bbb"):
        history = [HumanMessage(question), AIMessage(question), HumanMessage(QUESTION)]
        cached.wrap_model_call(dated(Chat(), 25, messages=history), answered)
    assert cached.stats().misses == 2


@pytest.mark.parametrize("given", [None, 7])
def test_a_normaliser_that_gives_no_text_serves_nothing(opened: Opened, given: Any) -> None:
    cached = opened(normalise_system=lambda text: given)
    model = Chat()
    for system in ("be brief", "be polite"):
        cached.wrap_model_call(asked_of(model, system_message=SystemMessage(system)), answered)
    assert model.asked == 2
    assert cached.stats().failures == {"lookup": 2}
    with pytest.raises(SemcacheError, match="normalise_system must give a str"):
        cached.explain(asked_of(model, system_message=SystemMessage("be brief")))


def test_explain_names_the_date_that_may_be_why_nothing_is_found(
    cached: SemanticCacheMiddleware,
) -> None:
    model = Chat()
    cached.wrap_model_call(dated(model, 25), answered)
    explained = cached.explain(dated(model, 26))
    assert explained.hit is None
    assert "the system prompt holds '2026-11-26'" in explained.hint
    assert "pass normalise_system" in str(explained)


def test_explain_gives_no_hint_where_a_date_is_not_why(
    cached: SemanticCacheMiddleware, opened: Opened
) -> None:
    model = Chat()
    cached.wrap_model_call(dated(model, 25), answered)
    hit, other_question = dated(model, 25), dated(model, 25, messages=[HumanMessage("who are you")])
    undated = asked_of(model, "What was on 2026-11-25?", system_message=SystemMessage("Be brief."))
    for request in (hit, other_question, undated):
        assert cached.explain(request).hint == ""
    without = opened(normalise_system=lambda text: text.partition("Today is")[0])
    assert without.explain(dated(model, 25)).hint == ""


def test_explain_sees_the_call_as_a_lookup_does(cached: SemanticCacheMiddleware) -> None:
    request = asked_of(Chat(), **TOLD)
    cached.wrap_model_call(request, answered)
    assert cached.explain(request).hit is not None
    assert cached.explain(request.override(tools=[])).hit is None
    assert cached.stats().lookups == 1


# -- never in the way ------------------------------------------------------------------------------


async def test_an_embedder_that_fails_costs_no_answer(opened: Opened, ask: Asker) -> None:
    cached = opened(embedder=FailingEmbedder(error=RuntimeError("down")))
    agent = create_agent(model := Chat(), [], middleware=[cached])
    for _ in range(2):
        assert (await ask(agent))[-1].text.startswith("answer")
    assert model.asked == 2
    assert cached.stats().failures == {"update": 2}


async def test_a_closed_cache_costs_no_answer(cached: SemanticCacheMiddleware, ask: Asker) -> None:
    cached.cache.close()
    agent = create_agent(model := Chat(), [], middleware=[cached])
    assert (await ask(agent))[-1].text == "answer 1"
    assert model.asked == 1


async def test_a_cache_that_is_closed_meanwhile_costs_no_answer(
    cached: SemanticCacheMiddleware,
) -> None:
    async def aanswered(request: ModelRequest[Any]) -> ModelResponse[Any]:
        cached.cache.close()
        return answered(request)

    response = await cached.awrap_model_call(asked_of(Chat()), aanswered)
    assert response.result[0].text == "answer 1"


async def test_a_stored_row_that_is_broken_is_a_miss_and_is_replaced(
    cached: SemanticCacheMiddleware, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = create_agent(Chat(), [], middleware=[cached])
    with monkeypatch.context() as patch:
        patch.setattr("langchain_semcache.agent_answers.dump_answer", lambda *_: '{"answer": "[]"}')
        await ask(agent)
    assert [(await ask(agent))[-1].text for _ in range(2)] == ["answer 2", "answer 2"]
    assert cached.stats().failures == {"lookup": 1}


async def test_an_error_of_the_model_passes_as_itself_and_is_not_stored(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    error = ConnectionError("provider down")
    agent = create_agent(model := Chat().answering(error, "warm"), [], middleware=[cached])
    with pytest.raises(ConnectionError) as raised:
        await ask(agent)
    assert raised.value is error
    assert model.asked == 1
    assert [(await ask(agent))[-1].text for _ in range(2)] == ["warm", "warm"]
    assert cached.stats().failures == {}


@pytest.mark.parametrize(
    "answer",
    [
        AIMessage(""),
        AIMessage("war", response_metadata={"finish_reason": "length"}),
        AIMessage("no", additional_kwargs={"refusal": "no"}),
    ],
)
async def test_what_must_not_be_repeated_is_not_stored(
    cached: SemanticCacheMiddleware, ask: Asker, answer: AIMessage
) -> None:
    agent = create_agent(Chat().answering(answer), [], middleware=[cached])
    assert (await ask(agent))[-1].content == answer.content
    assert cached.stats().entries == 0
    assert cached.stats().failures == {}


class Waits(WordEmbedder):
    """Once it has begun, it embeds when the event loop has shown that it is free."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.free = threading.Event(), threading.Event()

    def embed(self, texts: list[str]) -> np.ndarray:
        self.begun.set()
        if not self.free.wait(5):
            raise TimeoutError("the event loop is blocked")
        return super().embed(texts)


@pytest.mark.parametrize("step", ["lookup", "update"])
async def test_an_async_agent_never_blocks_the_event_loop(opened: Opened, step: str) -> None:
    embedder = Waits()
    cached = opened(embedder=embedder)
    agent = create_agent(Chat(), [], middleware=[cached])
    if step == "lookup":  # in an empty scope only the update embeds
        embedder.free.set()
        await agent.ainvoke({"messages": [("user", "who are you")]})
        embedder.begun.clear()
        embedder.free.clear()

    async def free() -> None:
        await asyncio.to_thread(embedder.begun.wait, 10)
        embedder.free.set()

    given: Any = {"messages": [("user", QUESTION)]}
    await asyncio.gather(agent.ainvoke(given), free())
    assert cached.stats().failures == {}
    assert cached.stats().updates == (2 if step == "lookup" else 1)


def test_secrets_and_prompts_never_reach_the_disk(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cached = opened(path=path)
    model = Chat(default_headers={"Authorization": "Bearer SENTINEL"})
    settings = {"extra_headers": {"x-key": "SENTINEL"}}
    tools = [{"type": "mcp", "authorization": "SENTINEL"}]
    system = SystemMessage("SENTINEL")
    request = asked_of(model, system_message=system, tools=tools, model_settings=settings)
    cached.wrap_model_call(request, answered)
    assert cached.stats().entries == 1
    cached.cache.close()
    assert not any(b"SENTINEL" in file.read_bytes() for file in path.rglob("*") if file.is_file())


# -- making one ------------------------------------------------------------------------------------


def test_an_open_cache_can_be_shared(cached: SemanticCacheMiddleware) -> None:
    other = SemanticCacheMiddleware(cache=cached.cache)
    for middleware in (cached, other):
        middleware.wrap_model_call(asked_of(Chat()), answered)
    assert cached.stats().exact_hits == 1
    assert cached.stats().failures == {}  # outside of a run there is nobody to tell of the hit


@pytest.mark.parametrize("options", [{"path": None}, {"embedder": "x"}, {"chroma_client": "x"}])
def test_an_open_cache_and_what_opens_one_exclude_each_other(options: dict[str, Any]) -> None:
    with SemanticCache(path=None) as cache, pytest.raises(SemcacheError, match="cache= was given"):
        SemanticCacheMiddleware(cache=cache, **options)


def test_entries_of_the_other_adapters_are_never_taken_for_its_own(
    cached: SemanticCacheMiddleware,
) -> None:
    set_llm_cache(SemanticLLMCache(cache=cached.cache))
    Chat().answering("plain").invoke(QUESTION)
    set_llm_cache(None)
    response = cached.wrap_model_call(asked_of(Chat().answering("in an agent")), answered)
    assert response.result[0].text == "in an agent"
    assert cached.cache.lookup(Request(QUESTION)) is None


def test_without_langchain_the_error_names_the_extra() -> None:
    """In a process of its own: here langchain is loaded already."""
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "import langchain_semcache\n"
        "assert 'langgraph' not in sys.modules and 'torch' not in sys.modules\n"
        "try: langchain_semcache.SemanticCacheMiddleware\n"
        "except langchain_semcache.cache.SemcacheError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "semcache-core[agents]"' in run.stdout


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import langchain_semcache

    with pytest.raises(AttributeError, match="no attribute 'SemanticCacheMiddlewear'"):
        langchain_semcache.SemanticCacheMiddlewear  # noqa: B018

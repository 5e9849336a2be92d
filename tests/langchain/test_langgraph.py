"""The key of a LangGraph node's cache: ids do not count, all else does."""

import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum, IntEnum
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import CachePolicy
from pydantic import BaseModel
from typing_extensions import TypedDict

from langchain_semcache.langgraph import cache_key


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    language: str


class Graph:
    """A graph of one node, which counts how often it runs."""

    def __init__(self, key_func: Callable[..., str] = cache_key, schema: type = State) -> None:
        self.ran = 0

        def answer(state: Any) -> dict[str, Any]:
            self.ran += 1
            return {"messages": [AIMessage(f"answer {self.ran}")]}

        graph = StateGraph(schema)
        graph.add_node("answer", answer, cache_policy=CachePolicy(key_func=key_func))
        graph.add_edge(START, "answer")
        graph.add_edge("answer", END)
        self.compiled = graph.compile(checkpointer=InMemorySaver(), cache=InMemoryCache())
        self._threads = 0

    def config(self, **configurable: Any) -> RunnableConfig:
        self._threads += 1
        return {"configurable": {"thread_id": str(self._threads), **configurable}}


Asker = Callable[..., Awaitable[str]]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asker:
    async def ask(graph: Graph, messages: Any, language: str = "en", **configurable: Any) -> str:
        given = {"messages": messages, "language": language}
        config = graph.config(**configurable)
        if request.param == "async":
            return str((await graph.compiled.ainvoke(given, config))["messages"][-1].text)
        return str(graph.compiled.invoke(given, config)["messages"][-1].text)

    return ask


def conversation(mark: str, question: str = "and today?") -> list[Any]:
    """The same conversation, with whatever differs from run to run marked."""
    call = {"name": "weather", "args": {"place": "Basel"}, "id": f"call_{mark}"}
    return [
        HumanMessage("how warm is it", id=f"h-{mark}"),
        AIMessage(
            "",
            id=f"a-{mark}",
            tool_calls=[call],  # type: ignore[list-item]
            usage_metadata={"input_tokens": len(mark), "output_tokens": 1, "total_tokens": 1},
            response_metadata={"id": f"chatcmpl-{mark}", "semcache": {"age_s": len(mark)}},
        ),
        ToolMessage("10 C", tool_call_id=f"call_{mark}", name="weather", artifact=mark),
        HumanMessage(question, id=f"q-{mark}"),
    ]


async def test_the_same_conversation_with_other_ids_hits(ask: Asker) -> None:
    graph = Graph()
    answers = [await ask(graph, conversation(mark)) for mark in ("a", "bb", "ccc")]
    assert answers == ["answer 1"] * 3
    assert graph.ran == 1


async def test_another_text_or_other_state_misses(ask: Asker) -> None:
    graph = Graph()
    await ask(graph, conversation("a"))
    await ask(graph, conversation("a", "and tomorrow?"))
    await ask(graph, conversation("a"), language="de")
    await ask(graph, conversation("a")[:-1])
    assert graph.ran == 4


async def test_a_question_is_never_matched_by_meaning(ask: Asker) -> None:
    graph = Graph()
    for question in ("how warm is it", "is it how warm"):
        await ask(graph, [("user", question)])
    assert graph.ran == 2


async def test_two_tenants_do_not_share(ask: Asker) -> None:
    graph = Graph()
    answers = [
        await ask(graph, conversation("a"), **configured)
        for configured in (
            {"semcache_namespace": "ada"},
            {"semcache_namespace": "bob"},
            {},
            {"semcache_namespace": "ada"},
            {"semcache_namespace": "bob"},
            {},
        )
    ]
    assert answers == ["answer 1", "answer 2", "answer 3"] * 2


@pytest.mark.parametrize("wrong", [None, "", 7])
async def test_a_wrong_tenant_is_served_nothing_and_stops_nothing(
    ask: Asker, wrong: Any, warnings_of: Any
) -> None:
    graph = Graph()
    for _ in range(2):
        await ask(graph, conversation("a"), semcache_namespace=wrong)
    await ask(graph, conversation("a"))
    assert graph.ran == 3
    assert len(warnings_of(f"namespace must be a non-empty str, got {wrong!r}")) <= 1


async def test_the_app_may_wrap_it(ask: Asker) -> None:
    def of_messages(state: Any) -> str:
        return cache_key(state["messages"])

    graph = Graph(of_messages)
    for tenant, language in (("ada", "en"), ("ada", "de"), ("bob", "en")):
        await ask(graph, conversation("a"), language, semcache_namespace=tenant)
    assert graph.ran == 2


def test_tasks_of_the_functional_api_are_cached_with_all_their_arguments() -> None:
    ran = []

    @task(cache_policy=CachePolicy(key_func=cache_key))
    def answer(messages: Any, language: str = "en") -> str:
        ran.append(language)
        return f"answer {len(ran)}"

    @entrypoint(cache=InMemoryCache())
    def flow(given: Any) -> str:
        return str(answer(given["messages"], language=given["language"]).result())

    def run(mark: str, language: str, tenant: str) -> str:
        config: RunnableConfig = {"configurable": {"semcache_namespace": tenant}}
        return str(flow.invoke({"messages": conversation(mark), "language": language}, config))

    first = run("a", "en", "ada")
    assert run("bb", "en", "ada") == first
    assert len({first, run("a", "de", "ada"), run("a", "en", "bob")}) == 3


def test_a_graph_inside_a_node_sees_the_tenant_of_the_outer_run() -> None:
    inner = Graph()

    def ask_inner(state: Any) -> dict[str, Any]:
        result = inner.compiled.invoke({"messages": conversation("a")}, {"configurable": {}})
        return {"messages": [result["messages"][-1]]}

    outer = StateGraph(State)
    outer.add_node("ask", ask_inner)
    outer.add_edge(START, "ask")
    compiled = outer.compile()
    for tenant in ("ada", "bob", "ada"):
        config: RunnableConfig = {"configurable": {"semcache_namespace": tenant, "thread_id": "1"}}
        compiled.invoke({"messages": []}, config)
    assert inner.ran == 2


# -- the key itself --------------------------------------------------------------------------------


class Colour(Enum):
    RED = 1


class Level(IntEnum):
    ONE = 1


class Settings(BaseModel):
    level: int = 1


class Others(BaseModel):
    level: int = 1


@dataclass
class Plain:
    level: int = 1


DIFFERENT: list[Any] = [
    None,
    True,
    1,
    1.0,
    "1",
    [],
    (),
    {},
    set(),
    [1],
    (1,),
    {"a": 1},
    {"a": "1"},
    {1: "a"},
    {"1": "a"},
    {1},
    b"1",
    date(2026, 11, 25),
    date(2026, 11, 26),
    Colour.RED,
    Level.ONE,
    Settings(),
    Settings(level=2),
    Others(),
    Plain(),
    Plain(2),
    Document("x"),
    Document("x", metadata={"page": 1}),
    HumanMessage("x"),
    HumanMessage("x", name="ada"),
    AIMessage("x"),
    [HumanMessage("x"), AIMessage("x")],
    [HumanMessage("x"), 1],
    [[HumanMessage("x")], [AIMessage("x")]],
]


def test_whatever_differs_has_another_key() -> None:
    assert len({cache_key(value) for value in DIFFERENT}) == len(DIFFERENT)
    assert cache_key(1, 2) != cache_key(2, 1) != cache_key([2, 1])
    assert cache_key(x=1) != cache_key(y=1) != cache_key(1)


@pytest.mark.parametrize("value", DIFFERENT, ids=str)
def test_the_same_value_has_the_same_key(value: Any) -> None:
    assert cache_key(value) == cache_key(value)


def test_it_counts_which_call_a_result_belongs_to() -> None:
    calls = [{"name": "weather", "args": {"place": p}, "id": p} for p in ("Basel", "Bern")]
    asked = AIMessage("", tool_calls=calls)  # type: ignore[arg-type]
    right, wrong = (
        [asked, ToolMessage("10 C", tool_call_id=one), ToolMessage("12 C", tool_call_id=other)]
        for one, other in (("Basel", "Bern"), ("Bern", "Basel"))
    )
    assert cache_key(right) != cache_key(wrong)


def test_the_order_of_keys_and_sets_does_not_count() -> None:
    assert cache_key({"a": 1, "b": 2}) == cache_key({"b": 2, "a": 1})
    assert cache_key({"x", "y", "z"}) == cache_key({"z", "y", "x"})


def test_ids_do_not_count_wherever_the_messages_are() -> None:
    for wrap in (tuple, lambda ms: {"x": [1, ms]}, lambda ms: ms[0], lambda ms: {"x": ms[1]}):
        assert cache_key(wrap(conversation("a"))) == cache_key(wrap(conversation("bb")))


def test_the_key_is_the_same_in_another_process() -> None:
    code = (
        "from langchain_semcache.langgraph import cache_key\n"
        "from langchain_core.messages import HumanMessage\n"
        "print(cache_key({'messages': [HumanMessage('x')], 'tags': {'a', 'b', 'c', 'd'}}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given = {"messages": [HumanMessage("x", id="1")], "tags": {"d", "c", "b", "a"}}
    assert run.stdout.strip() == cache_key(given)


@pytest.mark.parametrize("value", [lambda: 1, threading.Lock(), (x for x in "a")], ids=type)
def test_what_cannot_be_compared_shares_nothing(value: Any, warnings_of: Any) -> None:
    assert cache_key(value) != cache_key(value)


def test_what_is_endless_shares_nothing() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert cache_key(endless) != cache_key(endless)


def test_a_langgraph_that_shows_no_config_shares_nothing() -> None:
    """The tenant would have to be guessed."""
    asks: dict[str, Any] = {"__name__": "langgraph.pregel", "cache_key": cache_key}
    exec("def ask(): return cache_key(1)", asks)
    assert asks["ask"]() != asks["ask"]()
    exec("def ask(config): return cache_key(1)", asks)
    assert asks["ask"]({"configurable": {}}) == cache_key(1)


def test_an_object_hidden_in_a_message_shares_nothing() -> None:
    message = HumanMessage("x", additional_kwargs={"client": object()})
    assert cache_key([message]) != cache_key([message])

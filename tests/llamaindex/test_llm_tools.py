"""Tools and agents with a CachedLLM: the same calls and steps in any state of the cache."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.agent.react import ReActChatFormatter, ReActOutputParser
from llama_index.core.agent.workflow import (
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import FunctionTool
from scripted_llms import ScriptedCallingLLM, ScriptedLLM, calling, said, user
from semcache_core import SemcacheError

from llamaindex_semcache import CachedLLM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


def clock() -> str:
    """The time."""
    return "noon"


WEATHER, CLOCK = FunctionTool.from_defaults(weather), FunctionTool.from_defaults(clock)
Script = Callable[[Sequence[ChatMessage], dict[str, Any]], ChatResponse]


def _one_by_one(*calls: ChatResponse) -> Script:
    """Each call once, in this order, and then an answer of what they gave."""

    def script(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
        results = [m.content for m in messages if m.role == MessageRole.TOOL]
        asked = next(m.content for m in reversed(messages) if m.role == MessageRole.USER)
        if len(results) < len(calls):
            return calls[len(results)].model_copy(deep=True)
        return said(f"{asked}: {' '.join(map(str, results))}")

    return script


async def _run(agent: Any, question: str) -> tuple[str, list[tuple[str, Any]]]:
    """The answer, and the tools that were run."""
    handler = agent.run(user_msg=question, max_iterations=8)
    ran = [
        (event.tool_name, event.tool_kwargs)
        async for event in handler.stream_events()
        if isinstance(event, ToolCallResult)
    ]
    return str(await handler), ran


# -- agents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
async def test_an_agent_takes_the_same_steps_in_any_state_of_the_cache(
    bench: Bench, streaming: bool
) -> None:
    """Traps 4 and 15: with the last user text as the key it would call the tool for ever."""
    script = _one_by_one(calling("weather", city="Basel"), calling("clock", "call_9"))
    inner = ScriptedCallingLLM(script=script)
    expected = await _run(
        FunctionAgent(tools=[WEATHER, CLOCK], llm=inner, streaming=streaming), "shall I go"
    )
    assert inner.calls == 3
    llm = CachedLLM(llm=inner, cache=bench.open())
    agent = FunctionAgent(tools=[WEATHER, CLOCK], llm=llm, streaming=streaming)
    for _ in range(3):
        assert await _run(agent, "shall I go") == expected
    assert inner.calls == 6  # of the cached runs the first asked
    assert llm.stats().exact_hits == 6 and llm.stats().failures == {}


async def test_a_paraphrase_never_gets_the_tool_calls_of_another_question(bench: Bench) -> None:
    """Trap 5: answers that call tools are served exactly only."""
    inner = ScriptedCallingLLM(script=_one_by_one(calling("weather", city="Basel")))
    agent = FunctionAgent(tools=[WEATHER], llm=CachedLLM(llm=inner, cache=bench.open()))
    await _run(agent, "is it wet")
    assert (await _run(agent, "wet is it"))[0] == "wet is it: It rains in Basel."
    assert inner.calls == 4


async def test_an_agent_that_was_given_a_plain_answer_shares_it_by_meaning(bench: Bench) -> None:
    inner = ScriptedCallingLLM("hello")
    agent = FunctionAgent(tools=[WEATHER], llm=CachedLLM(llm=inner, cache=bench.open()))
    for question in ("hi there", "there hi"):
        assert await _run(agent, question) == ("hello", [])
    assert inner.calls == 1


async def test_a_react_agent_takes_the_same_steps_too(bench: Bench) -> None:
    inner = ScriptedLLM(script=_react)
    expected = await _run(ReActAgent(tools=[WEATHER], llm=inner), "is it wet")
    assert expected[1] == [("weather", {"city": "Basel"})]
    llm = CachedLLM(llm=inner, cache=bench.open())
    for _ in range(2):
        assert await _run(ReActAgent(tools=[WEATHER], llm=llm), "is it wet") == expected
    assert inner.calls == 4 and llm.stats().failures == {}


def _react(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    last = str(messages[-1].content)
    if "It rains" in last:
        return said("Thought: I can answer now.\nAnswer: It is wet.")
    return said('Thought: I need it.\nAction: weather\nAction Input: {"city": "Basel"}')


async def test_a_code_agent_needs_no_tools_of_the_llm(bench: Bench) -> None:
    """It asks every FunctionCallingLLM for tool calls, and CachedLLM is one whatever is in it."""
    llm = CachedLLM(llm=ScriptedLLM("It is wet."), cache=bench.open())
    agent = CodeActAgent(code_execute_fn=lambda code: code, llm=llm, tools=[WEATHER])
    assert await _run(agent, "is it wet") == ("It is wet.", [])


async def test_a_workflow_of_agents_runs(bench: Bench) -> None:
    inner = ScriptedCallingLLM(script=_one_by_one(calling("weather", city="Basel")))
    llm = CachedLLM(llm=inner, cache=bench.open())
    workflow = AgentWorkflow.from_tools_or_functions([weather], llm=llm)
    for _ in range(2):
        answer, ran = await _run(workflow, "is it wet")
        assert answer == "is it wet: It rains in Basel."
        assert ran == [("weather", {"city": "Basel"})]
    assert inner.calls == 2


# -- tools without an agent ------------------------------------------------------------------------


async def test_predict_and_call_runs_the_tool_that_a_hit_names(bench: Bench) -> None:
    inner = ScriptedCallingLLM(calling("weather", city="Basel"))
    llm = CachedLLM(llm=inner, cache=bench.open())
    for _ in range(2):
        assert llm.predict_and_call([WEATHER], "is it wet").response == "It rains in Basel."
        called = await llm.apredict_and_call([WEATHER], "is it wet")
        assert called.response == "It rains in Basel."
    assert inner.calls == 1
    assert inner.arguments[0]["tools"][0]["function"]["name"] == "weather"


def test_an_llm_without_tools_is_asked_by_text(bench: Bench) -> None:
    inner = ScriptedLLM(script=_react)
    llm = CachedLLM(llm=inner, cache=bench.open())
    how = {"react_chat_formatter": ReActChatFormatter(), "output_parser": ReActOutputParser()}
    for _ in range(2):
        assert llm.predict_and_call([WEATHER], "is it wet", **how).response == "It rains in Basel."
    assert inner.calls == 1
    with pytest.raises(SemcacheError, match="ScriptedLLM is no FunctionCallingLLM"):
        llm.chat_with_tools([WEATHER], "is it wet")
    assert llm.get_tool_calls_from_response(said("no"), error_on_no_tool_call=False) == []


def test_a_tool_with_another_field_is_a_miss(bench: Bench) -> None:
    """Trap 8."""
    inner = ScriptedCallingLLM(calling("weather", city="Basel"))
    llm = CachedLLM(llm=inner, cache=bench.open())

    def other(city: str, day: str = "today") -> str:
        """The weather in a city."""
        return ""

    wider = FunctionTool.from_defaults(other, name="weather")
    for tool in (WEATHER, wider, WEATHER, wider):
        llm.chat_with_tools([tool], "is it wet")
    assert inner.calls == 2


def test_whether_a_tool_must_be_called_matters(bench: Bench) -> None:
    inner = ScriptedCallingLLM("no", calling("weather", city="Basel"))
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert llm.chat_with_tools([WEATHER], "hi there").message.content == "no"
    called = llm.chat_with_tools([WEATHER], "hi there", tool_required=True)
    assert llm.get_tool_calls_from_response(called)[0].tool_kwargs == {"city": "Basel"}
    assert [a["tool_choice"] for a in inner.arguments] == ["auto", "required"]


class Older(ScriptedCallingLLM):
    """From before there was `tool_required`."""

    def _prepare_chat_with_tools(  # type: ignore[override]
        self,
        tools: Any,
        user_msg: Any = None,
        chat_history: Any = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        return {"messages": user(str(user_msg)), "tools": [], **kwargs}


def test_an_integration_that_does_not_know_tool_required_is_not_told_of_it(bench: Bench) -> None:
    inner = Older("hello")
    llm = CachedLLM(llm=inner, cache=bench.open())
    llm.chat_with_tools([WEATHER], "hi", tool_required=True)
    assert inner.arguments == [{"tools": []}]


class OneCall(ScriptedCallingLLM):
    """Changes the response that it validates, as integrations do."""

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Any, allow_parallel_tool_calls: bool = False, **_: Any
    ) -> ChatResponse:
        if not allow_parallel_tool_calls:
            response.message.blocks = response.message.blocks[:1]
        return response


def test_the_llms_own_validation_is_done_on_hits_too(bench: Bench) -> None:
    two = calling("weather", city="Basel")
    two.message.blocks += calling("clock", "call_2").message.blocks
    llm = CachedLLM(llm=OneCall(two), cache=bench.open())
    for parallel in (False, True, False):
        answer = llm.chat_with_tools([WEATHER], "hi", allow_parallel_tool_calls=parallel)
        assert len(answer.message.blocks) == 1 + parallel


def test_each_hit_has_tool_call_ids_of_its_own(bench: Bench) -> None:
    """Trap 5: the same id twice in one conversation is an error to some providers."""
    llm = CachedLLM(llm=ScriptedCallingLLM(calling("weather", city="Basel")), cache=bench.open())
    ids = []
    for _ in range(3):
        [block] = llm.chat(user("is it wet")).message.blocks
        assert isinstance(block, ToolCallBlock) and block.tool_kwargs == {"city": "Basel"}
        ids.append(block.tool_call_id)
    assert ids[0] == "call_abc123DEF456" and len(set(ids)) == 3


async def test_after_a_tool_that_is_not_cached_the_llm_is_asked_again(bench: Bench) -> None:
    inner = ScriptedCallingLLM(script=_one_by_one(calling("clock")))
    llm = CachedLLM(llm=inner, cache=bench.open(), uncached_tools=["clock"])
    agent = FunctionAgent(tools=[CLOCK], llm=llm)
    for _ in range(2):
        await _run(agent, "how late is it")
    assert inner.calls == 3  # the call of the clock is the same each time, what follows is not


async def test_llamaindexs_own_mock_calls_tools_through_the_cache(bench: Bench) -> None:
    """It hands the tools themselves to `chat`, not their schemas."""
    llm = CachedLLM(llm=MockFunctionCallingLLM(is_chat_model=True), cache=bench.open())
    agent = FunctionAgent(tools=[CLOCK], llm=llm)
    for _ in range(2):
        assert await _run(agent, "how late is it") == ("Tool calls complete.", [("clock", {})])
    assert llm.stats().exact_hits == 2 and llm.stats().failures == {}

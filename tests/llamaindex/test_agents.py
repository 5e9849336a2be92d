"""Agents and workflows with a CachedLLM: the same steps in any state of the cache."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import Memory
from llama_index.core.tools import FunctionTool
from scripted_llms import Script, ScriptedCallingLLM, ScriptedLLM, calling, said

from llamaindex_semcache import CachedLLM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


def clock() -> str:
    """The time."""
    return "noon"


WEATHER, CLOCK = FunctionTool.from_defaults(weather), FunctionTool.from_defaults(clock)


def one_by_one(*names: str) -> Script:
    """Calls each tool once, in this order, and then answers what they gave."""

    def script(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
        last = max(n for n, m in enumerate(messages) if m.role == MessageRole.USER)
        results = [m.content for m in messages[last:] if m.role == MessageRole.TOOL]
        if len(results) < len(names):
            name = names[len(results)]
            arguments = {"city": "Basel"} if name == "weather" else {}
            return calling(name, f"call_{len(messages)}", **arguments)
        return said(f"{messages[last].content}: {' '.join(map(str, results))}")

    return script


def _by_text(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    last = str(messages[-1].content)
    if "noon" in last:
        return said("Thought: I can answer now.\nAnswer: It is wet at noon.")
    if "It rains" in last:
        return said("Thought: And when?\nAction: clock\nAction Input: {}")
    return said('Thought: I need it.\nAction: weather\nAction Input: {"city": "Basel"}')


async def run(agent: Any, question: str, **options: Any) -> tuple[str, list[tuple[str, Any]]]:
    """The answer, and the tools that were run."""
    handler = agent.run(user_msg=question, max_iterations=8, **options)
    ran = [
        (event.tool_name, event.tool_kwargs)
        async for event in handler.stream_events()
        if isinstance(event, ToolCallResult)
    ]
    return str(await handler), ran


# -- the same steps --------------------------------------------------------------------------------

KINDS: dict[str, tuple[type[FunctionAgent | ReActAgent], type[ScriptedLLM], Script]] = {
    "functions": (FunctionAgent, ScriptedCallingLLM, one_by_one("weather", "clock")),
    "react": (ReActAgent, ScriptedLLM, _by_text),
}
# what was asked before: the calls of the LLM that are left of three
STATES = {"empty": 3, "warm": 0, "paraphrase": 3, "half warm": 2, "cleared": 3}


async def _bring_to(state: str, agent: Any, inner: ScriptedLLM, llm: CachedLLM) -> None:
    if state in ("warm", "cleared"):
        await run(agent, "shall I go")
    if state == "cleared":
        llm.semantic_cache.clear()
    if state == "paraphrase":
        await run(agent, "I shall go")
    if state == "half warm":
        script = inner._script
        assert script is not None
        inner._script = _breaking(script)
        with pytest.raises(ConnectionError):
            await run(agent, "shall I go")
        inner._script = script


def _breaking(script: Script) -> Script:
    """As `script`, but its second call fails."""
    calls = count(1)

    def breaking(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
        if next(calls) == 2:
            raise ConnectionError("no network")
        return script(messages, arguments)

    return breaking


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_takes_the_same_steps_in_any_state_of_the_cache(
    bench: Bench, kind: str, state: str, streaming: bool
) -> None:
    """Traps 4, 5 and 15: with the last user text as the key it would call the tool for ever."""
    agents, llms, script = KINDS[kind]
    inner = llms(script=script)
    llm = CachedLLM(llm=inner, cache=bench.open())
    tools: Any = [WEATHER, CLOCK]
    expected = await run(agents(tools=tools, llm=inner, streaming=streaming), "shall I go")
    assert expected[1] == [("weather", {"city": "Basel"}), ("clock", {})] and inner.calls == 3
    agent = agents(tools=tools, llm=llm, streaming=streaming)
    await _bring_to(state, agent, inner, llm)
    calls = inner.calls
    assert await run(agent, "shall I go") == expected
    assert inner.calls == calls + STATES[state]
    assert await run(agent, "shall I go") == expected
    assert inner.calls == calls + STATES[state] and llm.stats().failures == {}


async def test_a_paraphrase_never_gets_the_tool_calls_of_another_question(bench: Bench) -> None:
    """Trap 5: answers that call tools are served exactly only."""
    inner = ScriptedCallingLLM(script=one_by_one("weather"))
    agent = FunctionAgent(tools=[WEATHER], llm=CachedLLM(llm=inner, cache=bench.open()))
    await run(agent, "is it wet")
    assert (await run(agent, "wet is it"))[0] == "wet is it: It rains in Basel."
    assert inner.calls == 4


async def test_an_agent_that_was_given_a_plain_answer_shares_it_by_meaning(bench: Bench) -> None:
    inner = ScriptedCallingLLM("hello")
    agent = FunctionAgent(tools=[WEATHER], llm=CachedLLM(llm=inner, cache=bench.open()))
    for question in ("hi there", "there hi"):
        assert await run(agent, question) == ("hello", [])
    assert inner.calls == 1


async def test_an_agent_streams_a_hit_and_tells_of_it(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedCallingLLM("hello to you"), cache=bench.open())
    agent = FunctionAgent(tools=[WEATHER], llm=llm)
    streamed = []
    for _ in range(2):
        handler = agent.run(user_msg="hi there")
        events = [event async for event in handler.stream_events()]
        streamed.append("".join(e.delta for e in events if isinstance(e, AgentStream)))
        [output] = [e for e in events if isinstance(e, AgentOutput)]
        await handler
    assert streamed == ["hello to you"] * 2
    assert isinstance(output.raw, dict) and output.raw["semcache"]["kind"] == "exact"


async def test_an_agent_with_a_memory_is_asked_what_follows_on_it(bench: Bench) -> None:
    inner = ScriptedCallingLLM(script=one_by_one("weather"))
    llm = CachedLLM(llm=inner, cache=bench.open())
    agent = FunctionAgent(tools=[WEATHER], llm=llm)
    told = []
    for _ in range(2):
        memory = Memory.from_defaults(tokenizer_fn=str.split)
        told.append([await run(agent, "is it wet", memory=memory) for _ in range(2)])
    assert told[0] == told[1]
    assert inner.calls == 4  # the second question follows on the first: it is another one


async def test_after_a_tool_that_is_not_cached_the_llm_is_asked_again(bench: Bench) -> None:
    inner = ScriptedCallingLLM(script=one_by_one("clock"))
    llm = CachedLLM(llm=inner, cache=bench.open(), uncached_tools=["clock"])
    agent = FunctionAgent(tools=[CLOCK], llm=llm)
    for _ in range(2):
        await run(agent, "how late is it")
    assert inner.calls == 3  # the call of the clock is the same each time, what follows is not


async def test_a_code_agent_needs_no_tools_of_the_llm(bench: Bench) -> None:
    """It asks every FunctionCallingLLM for tool calls, and CachedLLM is one whatever is in it."""
    llm = CachedLLM(llm=ScriptedLLM("It is wet."), cache=bench.open())
    agent = CodeActAgent(code_execute_fn=lambda code: code, llm=llm, tools=[WEATHER])
    assert await run(agent, "is it wet") == ("It is wet.", [])


async def test_llamaindexs_own_mock_calls_tools_through_the_cache(bench: Bench) -> None:
    """It hands the tools themselves to `chat`, not their schemas."""
    llm = CachedLLM(llm=MockFunctionCallingLLM(is_chat_model=True), cache=bench.open())
    agent = FunctionAgent(tools=[CLOCK], llm=llm)
    for _ in range(2):
        assert await run(agent, "how late is it") == ("Tool calls complete.", [("clock", {})])
    assert llm.stats().exact_hits == 2 and llm.stats().failures == {}


# -- workflows -------------------------------------------------------------------------------------


async def test_a_workflow_of_one_agent_runs(bench: Bench) -> None:
    inner = ScriptedCallingLLM(script=one_by_one("weather"))
    llm = CachedLLM(llm=inner, cache=bench.open())
    workflow = AgentWorkflow.from_tools_or_functions([weather], llm=llm)
    for _ in range(2):
        answer, ran = await run(workflow, "is it wet")
        assert answer == "is it wet: It rains in Basel."
        assert ran == [("weather", {"city": "Basel"})]
    assert inner.calls == 2


def _two_agents(llm: Any) -> AgentWorkflow:
    desk = FunctionAgent(
        name="desk",
        description="Knows who knows.",
        system_prompt="You are the desk.",
        tools=[CLOCK],
        llm=llm,
        can_handoff_to=["forecaster"],
    )
    forecaster = FunctionAgent(
        name="forecaster",
        description="Knows the weather.",
        system_prompt="You are the forecaster.",
        tools=[WEATHER],
        llm=llm,
    )
    return AgentWorkflow(agents=[desk, forecaster], root_agent="desk")


def _at_the_desk(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    if "You are the desk." in str(messages[0].content):
        return calling("handoff", "call_1", to_agent="forecaster", reason="of the weather")
    if messages[-1].content == "It rains in Basel.":
        return said("It is wet.")
    return calling("weather", "call_2", city="Basel")


async def test_agents_hand_over_to_each_other_from_the_cache(bench: Bench) -> None:
    inner = ScriptedCallingLLM(script=_at_the_desk)
    expected = await run(_two_agents(inner), "is it wet")
    assert [name for name, _ in expected[1]] == ["handoff", "weather"] and inner.calls == 3
    llm = CachedLLM(llm=inner, cache=bench.open())
    for _ in range(3):
        assert await run(_two_agents(llm), "is it wet") == expected
    assert inner.calls == 6 and llm.stats().failures == {}
    assert await run(_two_agents(llm), "wet is it") == expected  # asked anew: it calls tools
    assert inner.calls == 9

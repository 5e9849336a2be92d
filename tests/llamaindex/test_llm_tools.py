"""Tools with a CachedLLM, as LLM and app call them themselves."""

from typing import Any

import pytest
from conftest import Bench
from llama_index.core.agent.react import ReActChatFormatter, ReActOutputParser
from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.tools import FunctionTool
from scripted_llms import ScriptedCallingLLM, ScriptedLLM, calling, said, user
from semcache_core import SemcacheError

from llamaindex_semcache import CachedLLM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


WEATHER = FunctionTool.from_defaults(weather)


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
    inner = ScriptedLLM('Thought: I need it.\nAction: weather\nAction Input: {"city": "Basel"}')
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

"""Agents: the same run twice, threads that remember, and models that call tools."""

from collections.abc import Callable
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel
from scripted_models import Chat, OllamaLike
from thermometer import Thermometer, calling, kinds

from langchain_semcache import SemanticLLMCache

OpenCache = Callable[..., SemanticLLMCache]


def ask(model: BaseChatModel, thermometer: Thermometer, question: str = "how warm is it") -> Any:
    agent = create_agent(model, [thermometer.tool()])
    return agent.invoke({"messages": [("user", question)]}, {"recursion_limit": 10})["messages"]


def test_an_agent_s_run_is_replayed_to_its_end(cache: SemanticLLMCache) -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    first = calling("call_1")
    first.usage_metadata = usage
    first.response_metadata = {"finish_reason": "tool_calls", "id": "chatcmpl-1"}
    model, thermometer = Chat(cache=cache).answering(first, "10 degrees"), Thermometer()
    runs = [ask(model, thermometer) for _ in range(3)]
    assert model.asked == 2
    assert thermometer.read == 3  # a tool may do something: it runs each time
    for messages in runs:
        assert kinds(messages) == ["human", "ai", "tool", "ai"]
        assert messages[-1].content == "10 degrees"
        assert messages[2].tool_call_id == messages[1].tool_calls[0]["id"]
    assert len({messages[1].tool_calls[0]["id"] for messages in runs}) == 3


def test_a_step_hits_whatever_ids_and_usage_its_history_has(cache: SemanticLLMCache) -> None:
    model, thermometer = Chat(cache=cache).answering(calling("call_1"), "10 degrees"), Thermometer()
    ask(model, thermometer)
    step = calling("call_2")
    step.usage_metadata = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    step.response_metadata = {"id": "chatcmpl-2"}
    result = {"role": "tool", "content": "10 C", "tool_call_id": "call_2", "name": "weather"}
    history = [("user", "how warm is it"), step, result]
    agent = create_agent(model, [thermometer.tool()])
    assert agent.invoke({"messages": history})["messages"][-1].content == "10 degrees"
    assert model.asked == 2


def test_another_result_of_a_tool_is_asked_about_again(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(calling("call_1"), "10 degrees", "20 degrees")
    assert ask(model, Thermometer("10 C"))[-1].content == "10 degrees"
    assert ask(model, Thermometer("20 C"))[-1].content == "20 degrees"
    assert model.asked == 3


def test_a_paraphrase_for_an_agent_that_calls_tools_is_asked_again(
    cache: SemanticLLMCache,
) -> None:
    script = [calling("call_1"), "10 degrees", calling("call_2", "Bern"), "12 degrees"]
    model = Chat(cache=cache).answering(*script)
    assert ask(model, Thermometer())[-1].content == "10 degrees"
    messages = ask(model, Thermometer(), "is it how warm")
    assert messages[1].tool_calls[0]["args"] == {"place": "Bern"}
    assert messages[-1].content == "12 degrees"


def test_an_agent_over_a_model_that_says_nothing_is_replayed(cache: SemanticLLMCache) -> None:
    model = OllamaLike(cache=cache).answering(calling("call_1"), "10 degrees")
    for _ in range(2):
        assert ask(model, Thermometer())[-1].content == "10 degrees"
    other = OllamaLike(model="qwen", cache=cache).answering("cold")
    assert ask(other, Thermometer())[-1].content == "cold"
    assert (model.asked, other.asked) == (2, 1)


def test_agents_with_other_tools_never_share(cache: SemanticLLMCache) -> None:
    @tool
    def weather(place: str, day: str) -> str:
        """The weather in a place."""
        return "10 C"

    model = Chat(cache=cache)
    ask(model, Thermometer())
    create_agent(model, [weather]).invoke({"messages": [("user", "how warm is it")]})
    create_agent(model, []).invoke({"messages": [("user", "how warm is it")]})
    assert model.asked == 3


def test_agents_with_other_system_prompts_never_share(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    for system in ("be brief", "be polite"):
        agent = create_agent(model, [], system_prompt=system)
        agent.invoke({"messages": [("user", "how warm is it")]})
    assert model.asked == 2


class Narrow(BaseModel):
    """An answer."""

    text: str


def wide() -> type[BaseModel]:
    class Narrow(BaseModel):
        """An answer."""

        text: str
        sure: bool = True

    return Narrow


def test_another_response_format_of_the_same_name_is_asked_again(cache: SemanticLLMCache) -> None:
    def structured(schema: type[BaseModel]) -> Any:
        agent = create_agent(model, [], response_format=schema)
        return agent.invoke({"messages": [("user", "how warm is it")]})["structured_response"]

    answer = {"name": "Narrow", "args": {"text": "cold"}, "id": "call_1", "type": "tool_call"}
    model = Chat(cache=cache).answering(*[AIMessage("", tool_calls=[answer])] * 2)
    assert [structured(Narrow).text for _ in range(2)] == ["cold", "cold"]
    assert model.asked == 1
    assert structured(wide()).sure
    assert model.asked == 2


def test_a_thread_that_asks_twice_keeps_both_answers(cache: SemanticLLMCache) -> None:
    """LangGraph replaces a message whose id it has seen: with a repeated id, [H, A, H]."""
    model = Chat(cache=cache).answering("hello")
    agent = create_agent(model, [], checkpointer=InMemorySaver())
    for thread in ("one", "two"):
        config: Any = {"configurable": {"thread_id": thread}}
        agent.invoke({"messages": [("user", "hi there")]}, config)
        messages = agent.invoke({"messages": [("user", "hi there")]}, config)["messages"]
        assert kinds(messages) == ["human", "ai", "human", "ai"]
    assert model.asked == 2  # both threads ask the same two things
    assert cache.stats().exact_hits == 2


def test_stored_and_served_answers_in_one_thread_have_ids_of_their_own(
    cache: SemanticLLMCache,
) -> None:
    model = Chat(cache=cache).answering(AIMessage("hello", id="msg-1"))
    state: list[BaseMessage] = []
    for _ in range(3):
        state.append(model.invoke("hi there"))
    assert model.asked == 1
    assert len({message.id for message in state}) == 3


async def test_an_agent_s_run_is_replayed_async(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(calling("call_1"), "10 degrees")
    for _ in range(2):
        agent = create_agent(model, [Thermometer().tool()])
        result = await agent.ainvoke({"messages": [("user", "how warm is it")]})
        assert result["messages"][-1].content == "10 degrees"
    assert model.asked == 2

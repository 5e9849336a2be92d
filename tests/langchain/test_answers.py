"""Structured answers of agents: what is stored, what a hit rebuilds, and with which schema."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import WordEmbedder, calibrated
from langchain.agents import create_agent
from langchain.agents.middleware import ModelResponse
from langchain.agents.structured_output import (
    AutoStrategy,
    ProviderStrategy,
    StructuredOutputValidationError,
    ToolStrategy,
)
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel, field_validator
from scripted_models import Chat
from semcache_core.adapters import Demands
from typing_extensions import TypedDict

from langchain_semcache import SemanticCacheMiddleware
from langchain_semcache.agent_answers import asks_for_tools, dump_answer, load_answer

QUESTION = "how warm is it"
PARAPHRASE = "is it how warm"

Asker = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[SemanticCacheMiddleware]:
    artefact = calibrated(tmp_path / "artefact")
    cached = SemanticCacheMiddleware(path=None, embedder=WordEmbedder(), artefact=artefact)
    yield cached
    cached.cache.close()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, cached: SemanticCacheMiddleware) -> Asker:
    async def ask(model: Any, response_format: Any, question: str = QUESTION) -> dict[str, Any]:
        agent = create_agent(model, [], response_format=response_format, middleware=[cached])
        given: Any = {"messages": [("user", question)]}
        config: Any = {"recursion_limit": 8}
        run = agent.ainvoke(given, config) if request.param == "async" else None
        return agent.invoke(given, config) if run is None else await run

    return ask


class Warmth(BaseModel):
    """How warm it is."""

    degrees: int


@dataclass
class WarmthData:
    """How warm it is."""

    degrees: int


class WarmthDict(TypedDict):
    """How warm it is."""

    degrees: int


SCHEMA = {
    "title": "warmth",
    "description": "How warm it is.",
    "type": "object",
    "properties": {"degrees": {"type": "integer"}},
}


def calling(name: str = "Warmth", **args: Any) -> AIMessage:
    args = args or {"degrees": 10}
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "call_1"}])  # type: ignore[list-item]


SCHEMAS = [
    (Warmth, "Warmth", Warmth(degrees=10)),
    (WarmthData, "WarmthData", WarmthData(10)),
    (WarmthDict, "WarmthDict", {"degrees": 10}),
    (SCHEMA, "warmth", {"degrees": 10}),
]


@pytest.mark.parametrize("strategy", [ToolStrategy, AutoStrategy, lambda schema: schema])
@pytest.mark.parametrize(("schema", "name", "made"), SCHEMAS)
async def test_a_structured_answer_by_a_made_up_tool_is_made_again_on_a_hit(
    cached: SemanticCacheMiddleware, ask: Asker, strategy: Any, schema: Any, name: str, made: Any
) -> None:
    model = Chat().answering(calling(name))
    results = [await ask(model, strategy(schema)) for _ in range(2)]
    assert model.asked == 1
    assert [result["structured_response"] for result in results] == [made, made]
    assert type(results[1]["structured_response"]) is type(made)
    first, again = (result["messages"] for result in results)
    assert [message.type for message in again] == ["human", "ai", "tool"]
    assert again[2].content == first[2].content == f"Returning structured response: {made}"
    assert again[2].tool_call_id == again[1].tool_calls[0]["id"] != first[2].tool_call_id
    assert len({message.id for message in (*first, *again)}) == 6
    assert cached.stats().failures == {}


@pytest.mark.parametrize(("schema", "name", "made"), SCHEMAS)
async def test_a_provider_s_structured_answer_is_made_again_also_for_a_paraphrase(
    ask: Asker, schema: Any, name: str, made: Any
) -> None:
    model = Chat().answering('{"degrees": 10}')
    for question in (QUESTION, QUESTION, PARAPHRASE):
        result = await ask(model, ProviderStrategy(schema), question)
        assert result["structured_response"] == made
        assert [message.type for message in result["messages"]] == ["human", "ai"]
    assert model.asked == 1


async def test_the_format_that_a_model_takes_by_itself_is_made_again(ask: Asker) -> None:
    model = Chat(model_name="gpt-4o").answering('{"degrees": 10}')
    for question in (QUESTION, PARAPHRASE):
        assert (await ask(model, Warmth, question))["structured_response"] == Warmth(degrees=10)
    assert model.asked == 1


async def test_a_call_of_a_made_up_tool_is_not_served_by_meaning(ask: Asker) -> None:
    model = Chat().answering(calling(degrees=10), calling(degrees=20))
    for question, degrees in ((QUESTION, 10), (PARAPHRASE, 20), (QUESTION, 10)):
        assert (await ask(model, Warmth, question))["structured_response"].degrees == degrees
    assert model.asked == 2


async def test_each_schema_of_a_union_is_made_again(ask: Asker) -> None:
    class Cold(BaseModel):
        """It is cold."""

        why: str

    model = Chat().answering(calling("Cold", why="winter"), calling(degrees=10))
    for question, made in (("one", Cold(why="winter")), ("two", Warmth(degrees=10))):
        for _ in range(2):
            assert (await ask(model, ToolStrategy(Warmth | Cold), question))[
                "structured_response"
            ] == made
    assert model.asked == 2


def with_fields(**fields: Any) -> type[BaseModel]:
    return type(
        "Warmth",
        (BaseModel,),
        {"__doc__": "How warm it is.", "__annotations__": fields, "__module__": __name__},
    )


@pytest.mark.parametrize(
    "other",
    [
        with_fields(degrees=float),
        with_fields(degrees=int, sure=bool | None),
        ToolStrategy(Warmth, tool_message_content="done"),
        WarmthData,
    ],
)
async def test_another_schema_of_the_same_name_is_asked_again(ask: Asker, other: Any) -> None:
    name = "WarmthData" if other is WarmthData else "Warmth"
    model = Chat().answering(calling(), calling(name, degrees=20, sure=None))
    await ask(model, Warmth)
    assert await ask(model, other)
    assert model.asked == 2


async def test_the_same_fields_in_a_class_made_anew_are_the_same_format(ask: Asker) -> None:
    """As after a restart: the answer is of the class that the agent has now."""
    model = Chat().answering(calling())
    for kind in (with_fields(degrees=int), with_fields(degrees=int)):
        assert type((await ask(model, kind))["structured_response"]) is kind
    assert model.asked == 1


async def test_an_answer_that_a_stricter_class_refuses_is_asked_again(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    def warmth(most: int) -> type[BaseModel]:
        class Warmth(BaseModel):
            """How warm it is."""

            degrees: int

            @field_validator("degrees")
            @classmethod
            def check(cls, value: int) -> int:
                if value > most:  # the schema does not show this
                    raise ValueError("too warm")
                return value

        return Warmth

    model = Chat().answering(calling(degrees=10), calling(degrees=5))
    assert (await ask(model, warmth(40)))["structured_response"].degrees == 10
    for _ in range(2):
        assert (await ask(model, warmth(6)))["structured_response"].degrees == 5
    assert model.asked == 2
    assert cached.stats().failures == {"lookup": 1}


async def test_a_failed_attempt_is_not_stored(cached: SemanticCacheMiddleware, ask: Asker) -> None:
    """langchain tells the model what was wrong and asks again; so it must the next time."""
    script = [calling(degrees="hot"), calling(degrees=10)]
    model = Chat().answering(*script, *script)
    for calls in (2, 3):  # the second attempt is replayed after the same failed first one
        assert (await ask(model, Warmth))["structured_response"] == Warmth(degrees=10)
        assert model.asked == calls
    assert cached.stats().entries == 1


async def test_a_plain_answer_where_a_structure_was_asked_for_is_not_stored(
    cached: SemanticCacheMiddleware, ask: Asker
) -> None:
    model = Chat().answering("10 degrees", calling(degrees=10))
    assert (await ask(model, Warmth))["structured_response"] == Warmth(degrees=10)
    assert cached.stats().entries == 1
    assert cached.stats().failures == {}


async def test_json_that_does_not_fit_raises_langchain_s_own_error_each_time(ask: Asker) -> None:
    model = Chat().answering("{}", "{}")
    for _ in range(2):
        with pytest.raises(StructuredOutputValidationError):
            await ask(model, ProviderStrategy(Warmth))
    assert model.asked == 2


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy, AutoStrategy])
async def test_a_schema_that_gets_a_name_at_random_is_not_cached(
    cached: SemanticCacheMiddleware, ask: Asker, warnings_of: Any, strategy: Any
) -> None:
    """An answer calls the made-up tool by its name: the next agent's tool has another one."""
    schema = {key: value for key, value in SCHEMA.items() if key != "title"}
    model = Chat()
    with pytest.raises(Exception):  # noqa: B017 - the scripted answer fits no schema
        await ask(model, strategy(schema))
    assert cached.stats().entries == 0
    assert warnings_of('add a "title"')


# -- the text itself -------------------------------------------------------------------------------


def response(*messages: Any, made: Any = None) -> ModelResponse[Any]:
    return ModelResponse(result=list(messages), structured_response=made)


def result(call_id: str = "call_1", **fields: Any) -> ToolMessage:
    return ToolMessage("done", tool_call_id=call_id, name="Warmth", **fields)


@pytest.mark.parametrize(
    "answer",
    [
        response(),
        response(HumanMessage("hi")),
        response(AIMessage("hi"), AIMessage("there")),
        response(AIMessage("hi"), result()),
        response(calling(), result("call_2"), made=Warmth(degrees=10)),
        response(calling(), result(artifact={"x": 1}), made=Warmth(degrees=10)),
        response(calling(), result(), made=Warmth(degrees=11)),
        response(calling(), result(), made={"degrees": 10}),
        response(calling(), result(), made=WarmthData(10)),
        response(AIMessage('{"degrees": 10}'), made=Warmth(degrees=11)),
    ],
)
def test_what_a_hit_could_not_give_back_is_not_stored(answer: ModelResponse[Any]) -> None:
    assert dump_answer(answer, ToolStrategy(Warmth), Demands()) is None


def test_the_structured_object_itself_is_never_stored() -> None:
    class Account(BaseModel):
        degrees: int
        note: str = "SENTINEL"

    text = dump_answer(
        response(calling("Account"), result(), made=Account(degrees=10)),
        ToolStrategy(Account),
        Demands(),
    )
    assert text is not None and "SENTINEL" not in text
    assert load_answer(text, ToolStrategy(Account)).structured_response == Account(degrees=10)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"answer": "[]", "results": [], "how": null}', '"x"']
)
def test_other_texts_are_no_answer(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        load_answer(text, None)


def test_only_what_calls_a_tool_asks_for_tools() -> None:
    assert asks_for_tools(response(calling()))
    assert not asks_for_tools(response(AIMessage("hi")))
    assert not asks_for_tools(response())

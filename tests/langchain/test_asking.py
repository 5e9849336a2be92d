"""How a model is asked: with what it is told, in its turn, and closed when nobody reads on."""

from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from scripted_models import Chat, Streaming

from langchain_semcache.asking import STREAM, WHOLE, Kind, Question

KINDS = pytest.mark.parametrize("kind", [WHOLE, STREAM], ids=["whole", "stream"])


def question(model: Any, **arguments: Any) -> Question:
    return Question(model, [HumanMessage("how warm is it")], ["."], arguments)


def answer(kind: Kind[Any], asked: Question, run: Any = None) -> list[ChatGeneration]:
    return kind.whole(asked, list(kind.ask(asked, run)))


async def aanswer(kind: Kind[Any], asked: Question, run: Any = None) -> list[ChatGeneration]:
    return kind.whole(asked, [item async for item in kind.aask(asked, run)])


@KINDS
async def test_all_items_together_are_the_answer(kind: Kind[Any]) -> None:
    asked = question(Streaming().answering("quite warm", "cold today"))
    assert [one.text for one in answer(kind, asked)] == ["quite warm"]
    assert [one.text for one in await aanswer(kind, asked)] == ["cold today"]


@KINDS
async def test_the_answer_has_the_content_that_its_model_was_told_to_give(kind: Kind[Any]) -> None:
    [generation] = answer(kind, question(Streaming(output_version="v1").answering("warm")))
    assert isinstance(generation.message, AIMessage)
    assert generation.message.content == [{"type": "text", "text": "warm"}]


class Noting(Streaming):
    """Keeps what it was told."""

    told: list[Any]

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.told.append((stop, run_manager, kwargs))
        return super()._generate(messages)

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        self.told.append((stop, run_manager, kwargs))
        yield from super()._stream(messages)


@KINDS
def test_a_model_is_told_of_stops_arguments_and_the_run_if_there_is_one(kind: Kind[Any]) -> None:
    model, run = Noting(told=[]), CallbackManagerForLLMRun.get_noop_manager()
    for given in (run, None):
        answer(kind, question(model, temperature=1.0), given)
    assert model.told == [(["."], run, {"temperature": 1.0}), (["."], None, {"temperature": 1.0})]


def test_a_model_that_takes_no_run_manager_gets_none() -> None:
    class Plain(Chat):
        def _generate(self, messages: Any, stop: Any = None) -> ChatResult:  # type: ignore[override]
            return super()._generate(messages)

    run = CallbackManagerForLLMRun.get_noop_manager()
    assert answer(WHOLE, question(Plain().answering("warm")), run)[0].text == "warm"


class Turns(BaseRateLimiter):
    def __init__(self) -> None:
        self.taken: list[str] = []

    def acquire(self, *, blocking: bool = True) -> bool:
        self.taken.append(f"sync {blocking}")
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.taken.append(f"async {blocking}")
        return True


@KINDS
async def test_a_rate_limiter_is_waited_for(kind: Kind[Any]) -> None:
    turns = Turns()
    asked = question(Streaming(rate_limiter=turns))
    answer(kind, asked)
    await aanswer(kind, asked)
    assert turns.taken == ["sync True", "async True"]


async def test_a_stream_that_is_closed_closes_the_models() -> None:
    model = Streaming().answering("quite warm", "quite warm")
    stream, astream = STREAM.ask(question(model), None), STREAM.aask(question(model), None)
    next(stream)
    await anext(astream)
    assert model.open_streams == 2
    stream.close()
    await astream.aclose()
    assert model.open_streams == 0

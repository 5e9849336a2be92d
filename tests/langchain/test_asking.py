"""How a model is asked: with what it is told, in its turn, and closed when nobody reads on."""

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from scripted_models import Chat, Streaming
from semcache_core.adapters import ModelCall

from langchain_semcache.calls import CHAT, CHAT_STREAM, without_run
from langchain_semcache.request import Question

ChatKind = ModelCall[Question, Any, list[ChatGeneration]]
KINDS = pytest.mark.parametrize("kind", [CHAT, CHAT_STREAM], ids=["whole", "stream"])


def question(model: Any, run: Any = None, **arguments: Any) -> Question:
    return Question(model, [HumanMessage("how warm is it")], ["."], arguments, run=run)


def answer(kind: ChatKind, asked: Question) -> list[ChatGeneration]:
    return kind.whole(asked, list(kind.ask(asked))) or []


async def aanswer(kind: ChatKind, asked: Question) -> list[ChatGeneration]:
    return kind.whole(asked, [item async for item in kind.aask(asked)]) or []


@KINDS
async def test_all_items_together_are_the_answer(kind: ChatKind) -> None:
    asked = question(Streaming().answering("quite warm", "cold today"))
    assert [one.text for one in answer(kind, asked)] == ["quite warm"]
    assert [one.text for one in await aanswer(kind, asked)] == ["cold today"]


@KINDS
async def test_the_answer_has_the_content_that_its_model_was_told_to_give(kind: ChatKind) -> None:
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
def test_a_model_is_told_of_stops_arguments_and_the_run_if_there_is_one(kind: ChatKind) -> None:
    model, run = Noting(told=[]), CallbackManagerForLLMRun.get_noop_manager()
    for given in (run, None):
        answer(kind, question(model, given, temperature=1.0))
    assert model.told == [(["."], run, {"temperature": 1.0}), (["."], None, {"temperature": 1.0})]


def test_a_model_that_takes_no_run_manager_gets_none() -> None:
    class Plain(Chat):
        def _generate(self, messages: Any, stop: Any = None) -> ChatResult:  # type: ignore[override]
            return super()._generate(messages)

    run = CallbackManagerForLLMRun.get_noop_manager()
    assert answer(CHAT, question(Plain().answering("warm"), run))[0].text == "warm"


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
async def test_a_rate_limiter_is_waited_for(kind: ChatKind) -> None:
    turns = Turns()
    asked = question(Streaming(rate_limiter=turns))
    answer(kind, asked)
    await aanswer(kind, asked)
    assert turns.taken == ["sync True", "async True"]


async def test_a_stream_that_is_closed_closes_the_models() -> None:
    model = Streaming().answering("quite warm", "quite warm")
    stream, astream = CHAT_STREAM.ask(question(model)), CHAT_STREAM.aask(question(model))
    next(stream)
    await anext(astream)
    assert model.open_streams == 2
    stream.close()
    await astream.aclose()
    assert model.open_streams == 0


def test_a_question_without_its_run_tells_nobody_of_the_app() -> None:
    model = Noting(told=[], callbacks=[BaseCallbackHandler()])
    run = CallbackManagerForLLMRun.get_noop_manager()
    asked = without_run(question(model, run, temperature=1.0))
    answer(CHAT, asked)
    assert model.told == [(["."], None, {"temperature": 1.0})]
    assert asked.model.callbacks is None and asked.model.cache is False


def test_no_chunks_are_no_answer() -> None:
    assert CHAT_STREAM.whole(question(Streaming()), []) is None

"""Two models never share an answer; one model shares its own with itself."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import Generation
from pydantic import BaseModel, create_model
from scripted_models import Chat, OllamaLike, Scripted

from langchain_semcache import SemanticLLMCache
from langchain_semcache.model_identity import read_llm_string


async def by_invoke(model: Any, question: str) -> str:
    return str(model.invoke(question).content)


async def by_ainvoke(model: Any, question: str) -> str:
    return str((await model.ainvoke(question)).content)


async def by_batch(model: Any, question: str) -> str:
    return str(model.batch([question, question], config={"max_concurrency": 1})[1].content)


async def by_abatch(model: Any, question: str) -> str:
    return str((await model.abatch([question]))[0].content)


async def by_task(model: Any, question: str) -> str:
    return str((await asyncio.create_task(model.ainvoke(question))).content)


async def by_thread(model: Any, question: str) -> str:
    return str((await asyncio.to_thread(model.invoke, question)).content)


async def by_chain(model: Any, question: str) -> str:
    return str((model | (lambda message: message)).invoke(question).content)


WAYS = [by_invoke, by_ainvoke, by_batch, by_abatch, by_task, by_thread, by_chain]
Ask = Callable[[Any, str], Any]


# -- models that say nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("ask", WAYS)
async def test_llama_and_qwen_never_share(cache: SemanticLLMCache, ask: Ask) -> None:
    llama = OllamaLike(model="llama3", cache=cache).answering("llama")
    qwen = OllamaLike(model="qwen", cache=cache).answering("qwen")
    assert llama._get_llm_string() == qwen._get_llm_string()
    assert await ask(llama, "who are you") == "llama"
    assert await ask(qwen, "who are you") == "qwen"
    assert await ask(qwen, "you are who") == "qwen"
    assert await ask(llama, "you are who") == "llama"
    assert (llama.asked, qwen.asked) == (1, 1)


def test_an_equal_model_made_elsewhere_shares(cache: SemanticLLMCache) -> None:
    OllamaLike(cache=cache).invoke("who are you")
    other = OllamaLike(cache=cache, tags=["elsewhere"], metadata={"a": 1}, verbose=True)
    other.invoke("you are who")
    assert other.asked == 0


def test_a_counter_among_the_fields_breaks_no_hit(cache: SemanticLLMCache) -> None:
    model = OllamaLike(cache=cache)
    for question in ("one two", "three four", "one two", "four three"):
        model.invoke(question)
    assert (model.asked, model.calls) == (2, 2)


@pytest.mark.parametrize(
    "change", [{"temperature": 1.0}, {"mirostat": 1}, {"model": "llama3:70b"}], ids=str
)
def test_other_parameters_never_share(cache: SemanticLLMCache, change: dict[str, Any]) -> None:
    OllamaLike(cache=cache).invoke("who are you")
    for other in (
        OllamaLike(cache=cache, **change),
        OllamaLike(cache=cache).model_copy(update=change),
    ):
        other.answering("other")
        assert other.invoke("who are you").content == "other"
        cache.clear()
        OllamaLike(cache=cache).invoke("who are you")


@pytest.mark.parametrize("name", ["temperature", "mirostat", "model"])
def test_a_parameter_set_later_counts(cache: SemanticLLMCache, name: str) -> None:
    model = OllamaLike(cache=cache)
    model.invoke("who are you")
    setattr(model, name, "qwen" if name == "model" else 1)
    model.invoke("who are you")
    assert model.asked == 2


def test_a_model_that_says_nothing_is_warned_about_once(
    cache: SemanticLLMCache, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "semcache"):
        for name in ("llama3", "qwen", "llama3"):
            OllamaLike(model=name, cache=cache).invoke("who are you")
        Chat(cache=cache).invoke("who are you")
    assert len(caplog.records) == 1
    assert "OllamaLike does not tell" in caplog.text


@pytest.mark.parametrize("argument", ["reasoning", "num_predict", "think", "temperature"])
def test_a_bound_argument_does_not_make_up_for_a_name(
    cache: SemanticLLMCache, argument: str
) -> None:
    llama, qwen = OllamaLike(cache=cache), OllamaLike(model="qwen", cache=cache)
    llama.bind(**{argument: 1}).invoke("who are you")
    qwen.bind(**{argument: 1}).invoke("who are you")
    assert (llama.asked, qwen.asked) == (1, 1)


def test_a_nameless_model_shares_with_itself_alone(cache: SemanticLLMCache) -> None:
    one = GenericFakeChatModel(messages=iter(["a", "b"]), cache=cache)
    two = GenericFakeChatModel(messages=iter(["c", "d"]), cache=cache)
    assert [m.invoke("who are you").content for m in (one, two, one, two)] == ["a", "c", "a", "c"]


def test_a_dead_model_s_place_in_memory_is_no_name(cache: SemanticLLMCache) -> None:
    answers = set()
    for n in range(20):  # most of these land where the one before was
        model = GenericFakeChatModel(messages=iter([f"answer {n}"]), cache=cache)
        answers.add(model.invoke("who are you").content)
        del model
    assert len(answers) == 20


class NamesItsModelOnly(OllamaLike):
    """As LangChain's guide to custom models shows it, and OllamaLLM does."""

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model}


def test_parameters_beside_a_told_name_count(cache: SemanticLLMCache) -> None:
    for temperature in (0.0, 1.0):
        model = NamesItsModelOnly(temperature=temperature, cache=cache)
        model.invoke("who are you")
        model.invoke("you are who")
        assert model.asked == 1


class TextModel(FakeListLLM):
    temperature: float = 0.0


def test_parameters_of_a_text_model_count(cache: SemanticLLMCache) -> None:
    one = TextModel(responses=["a", "b"], cache=cache)
    other = TextModel(responses=["a", "b"], temperature=1.0, cache=cache, i=1)
    assert [one.invoke("hi there"), one.invoke("there hi"), other.invoke("hi there")] == [
        *("a", "a", "b")
    ]


class Mood(Enum):
    GOOD = 1
    BAD = 2


@dataclass
class Options:
    top: int


class Nested(BaseModel):
    level: int


class Rich(OllamaLike):
    value: Any = None


def shout(text: str) -> str:
    return text.upper()


def whisper(text: str) -> str:
    return text.lower()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({1: 2}, {1: 3}),
        ({1, 2}, {1, 3}),
        (Mood.GOOD, Mood.BAD),
        (Options(1), Options(2)),
        (Nested(level=1), Nested(level=2)),
        ([Nested(level=1)], [Nested(level=2)]),
        (b"a", b"b"),
        (OllamaLike(model="a"), OllamaLike(model="b")),
        (GenericFakeChatModel(messages=iter([])), GenericFakeChatModel(messages=iter([]))),
        (Nested, Options),
        (shout, whisper),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fields_of_any_kind_count(cache: SemanticLLMCache, one: Any, other: Any) -> None:
    models = [Rich(value=value, cache=cache) for value in (one, one, other)]
    for model in models:
        model.invoke("who are you")
    assert [model.asked for model in models] == [1, 0, 1]


# -- models that say much --------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"temperature": 1.0}, {"model_name": "gpt-2"}], ids=str)
def test_other_serialisable_models_never_share(
    cache: SemanticLLMCache, change: dict[str, Any]
) -> None:
    first = Chat(cache=cache)
    first.invoke("who are you")
    others = [Chat(cache=cache, **change), first.model_copy(update=change)]
    assert others[1]._get_llm_string() == first._get_llm_string()  # made once, and copied along
    for other in others:
        other.answering("other")
        cache.clear()
        first.invoke("who are you")
        assert other.invoke("you are who").content == "other"


def test_a_parameter_of_a_serialisable_model_set_later_counts(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache, temperature=1.0)
    model.invoke("who are you")
    model.temperature = 0.0  # its default, which LangChain does not show
    model.invoke("who are you")
    assert model.asked == 2
    model.temperature = 1.0
    model.invoke("who are you")
    assert model.asked == 2


def test_how_a_model_is_watched_does_not_count(cache: SemanticLLMCache) -> None:
    Chat(cache=cache).invoke("who are you")
    other = Chat(cache=cache, tags=["a"], metadata={"b": 1}, name="c", disable_streaming=True)
    other.invoke("you are who")
    assert other.asked == 0


class Wrapper(Chat):
    """Serialisable, around a model that is not: LangChain's text is the same for any of them."""

    inner: BaseChatModel

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        return self.inner._generate(messages)


def test_a_wrapped_model_counts(cache: SemanticLLMCache) -> None:
    llama, qwen = (
        Wrapper(inner=OllamaLike(model=name).answering(name), cache=cache)
        for name in ("llama3", "qwen")
    )
    assert llama._get_llm_string() == qwen._get_llm_string()
    assert llama.invoke("who are you").content == "llama3"
    assert qwen.invoke("who are you").content == "qwen"
    assert qwen.invoke("you are who").content == "qwen"


# -- arguments of the call -------------------------------------------------------------------------


def tool_schema(**fields: Any) -> type[BaseModel]:
    """A tool that asks for the weather."""
    return create_model("weather", __doc__="The weather.", **fields)


@pytest.mark.parametrize("kind", [Chat, OllamaLike])
def test_another_schema_of_a_tool_of_the_same_name_misses(
    cache: SemanticLLMCache, kind: type[Scripted]
) -> None:
    model = kind(cache=cache)
    narrow, wide = tool_schema(place=(str, ...)), tool_schema(place=(str, ...), day=(str, ...))
    for schema in (narrow, wide, narrow):
        model.bind_tools([schema]).invoke("who are you")
    assert model.asked == 2
    model.bind_tools([wide]).invoke("you are who")
    model.invoke("who are you")
    assert model.asked == 3


class Opaque:
    pass


@pytest.mark.parametrize("kind", [Chat, OllamaLike])
@pytest.mark.parametrize(
    "argument",
    [Opaque(), [Opaque()], {"a": test_a_wrapped_model_counts}],
)
def test_an_argument_that_shows_no_fields_is_not_cached(
    cache: SemanticLLMCache, kind: type[Scripted], argument: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = kind(cache=cache)
    with caplog.at_level(logging.WARNING, "semcache"):
        for _ in range(3):
            model.invoke("who are you", response_format=argument)
    assert model.asked == 3
    assert cache.stats().entries == 0
    assert len([r for r in caplog.records if "not cached" in r.message]) == 1


@pytest.mark.parametrize("kind", [Chat, OllamaLike])
def test_a_class_among_the_arguments_counts_with_its_fields(
    cache: SemanticLLMCache, kind: type[Scripted]
) -> None:
    model = kind(cache=cache).answering('{"place": ""}', '{"place": "", "day": ""}')
    narrow, wide = tool_schema(place=(str, ...)), tool_schema(place=(str, ...), day=(str, ...))
    for _ in range(2):
        assert model.invoke("who are you", response_format=narrow).text == '{"place": ""}'
        assert "day" in model.invoke("who are you", response_format=wide).text
    assert model.asked == 2


def test_text_that_looks_like_a_class_is_cached(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    for _ in range(2):
        model.invoke("who are you", hint="<class 'str'> or <Thing at 0x7f>")
    assert model.asked == 1


def test_equal_arguments_in_plain_data_are_cached(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering("{}", "{}")
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    model.invoke("who are you", response_format=schema)
    model.invoke("you are who", response_format=schema)
    assert model.asked == 1
    model.invoke("who are you", response_format=schema | {"strict": True})
    assert model.asked == 2


# -- direct calls ----------------------------------------------------------------------------------


def test_a_text_that_names_no_model_is_not_cached_without_one(cache: SemanticLLMCache) -> None:
    cache.update("hi", "[('_type', 'chat-ollama'), ('stop', None)]", [Generation(text="a")])
    assert cache.lookup("hi", "[('_type', 'chat-ollama'), ('stop', None)]") is None


class Router(Chat):
    def look_up_for(self, other: Chat) -> Any:
        assert isinstance(self.cache, SemanticLLMCache)
        return self.cache.lookup("hi", other._get_llm_string())


def test_a_model_may_look_up_for_another(cache: SemanticLLMCache) -> None:
    model = Chat(temperature=1.0)
    cache.update("hi", model._get_llm_string(), [Generation(text="a")])
    assert Router(cache=cache).look_up_for(model) == [Generation(text="a")]


def test_texts_that_differ_never_share(cache: SemanticLLMCache) -> None:
    llm_strings = ["", "a", "[('model', 'a')]", "[('model', 'b')]", '{"type": "constructor"}']
    for llm_string in llm_strings:
        assert cache.lookup("hi", llm_string) is None
        cache.update("hi", llm_string, [Generation(text=llm_string or "empty")])
    for llm_string in llm_strings:
        assert cache.lookup("hi", llm_string) == [Generation(text=llm_string or "empty")]


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "\x00", "[(", "{}---[('a', <X at 0x1>)]", "null"]
)
def test_any_llm_string_can_be_read(text: str) -> None:
    assert read_llm_string(text).digest


def test_an_answer_of_one_model_is_not_its_neighbour_s_history(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    model.invoke([AIMessage("a"), *model._convert_input("hi").to_messages()])
    model.invoke("hi")
    assert model.asked == 2

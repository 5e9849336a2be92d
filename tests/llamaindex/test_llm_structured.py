"""Structured predictions through CachedLLM: by the LLM's own methods, or from the cache."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from pydantic import BaseModel, Field, field_validator
from scripted_llms import ScriptedCallingLLM, ScriptedLLM, calling, said, user

from llamaindex_semcache import CachedLLM, last_hit

PROMPT = PromptTemplate("From these lines:\n{context_str}\n\nextract what {query_str} asks for.")
LINES = "Basel lies on the Rhine.\nBern lies on the Aare."


class City(BaseModel):
    name: str
    river: str = ""


BASEL = '{"name": "Basel", "river": "Rhine"}'


class NativeLLM(ScriptedLLM):
    """Has structured methods of its own, as OpenAI's integration has, that add to `llm_kwargs`."""

    def structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        llm_kwargs["response_format"] = output_cls
        messages = self._extend_messages(prompt.format_messages(**prompt_args))
        return output_cls.model_validate_json(self._next(messages, llm_kwargs).message.content)

    async def astructured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        return self.structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)

    def stream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        whole = self.structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        for number in range(1, len(output_cls.model_fields) + 1):
            names = list(output_cls.model_fields)[:number]
            yield output_cls.model_construct(**{name: getattr(whole, name) for name in names})

    async def astream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> AsyncGenerator[Any, None]:
        async def items() -> AsyncGenerator[Any, None]:
            for item in self.stream_structured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            ):
                yield item

        return items()


async def _predict(llm: LLM, way: str, query: str, output: type[Any] = City, **more: Any) -> Any:
    given = {"context_str": LINES, "query_str": query, **more}
    if way == "whole":
        return llm.structured_predict(output, PROMPT, **given)
    if way == "awhole":
        return await llm.astructured_predict(output, PROMPT, **given)
    if way == "stream":
        return list(llm.stream_structured_predict(output, PROMPT, **given))[-1]
    items = await llm.astream_structured_predict(output, PROMPT, **given)
    return [item async for item in items][-1]


WAYS = ["whole", "awhole", "stream", "astream"]


@pytest.mark.parametrize("first", WAYS)
async def test_what_one_way_has_stored_every_other_serves(bench: Bench, first: str) -> None:
    inner = NativeLLM(BASEL)
    llm = CachedLLM(llm=inner, cache=bench.open())
    for number, way in enumerate([first, *WAYS]):
        query = "where is Basel" if number % 2 else "is Basel where"
        assert await _predict(llm, way, query) == City(name="Basel", river="Rhine")
    assert inner.calls == 1 and inner.arguments == [{"response_format": City}]
    found = last_hit()
    assert found is not None and llm.stats().failures == {}


@pytest.mark.parametrize("way", WAYS)
async def test_llamaindexs_own_way_by_text_is_cached_too(bench: Bench, way: str) -> None:
    """It gives the template an output parser, which would be another template from then on."""
    inner = ScriptedLLM(BASEL)
    llm = CachedLLM(llm=inner, cache=bench.open())
    for query in ("where is Basel", "is Basel where", "where is Basel"):
        assert await _predict(llm, way, query) == City(name="Basel", river="Rhine")
    assert inner.calls == 1
    assert PROMPT.output_parser is None


@pytest.mark.parametrize("way", ["whole", "awhole"])
async def test_so_is_its_way_by_tools(bench: Bench, way: str) -> None:
    inner = ScriptedCallingLLM(calling("City", name="Basel", river="Rhine"))
    llm = CachedLLM(llm=inner, cache=bench.open())
    for query in ("where is Basel", "is Basel where", "where is Basel"):
        assert await _predict(llm, way, query) == City(name="Basel", river="Rhine")
    assert inner.calls == 1


def test_a_stream_fills_the_object_and_a_hit_gives_it_whole(bench: Bench) -> None:
    llm = CachedLLM(llm=NativeLLM(BASEL), cache=bench.open())
    given = {"context_str": LINES, "query_str": "where is Basel"}
    miss = list(llm.stream_structured_predict(City, PROMPT, **given))
    assert [item.model_fields_set for item in miss] == [{"name"}, {"name", "river"}]
    hit = list(llm.stream_structured_predict(City, PROMPT, **given))
    assert hit == [City(name="Basel", river="Rhine")]


def test_a_closed_stream_is_not_stored(bench: Bench) -> None:
    llm = CachedLLM(llm=NativeLLM(BASEL), cache=bench.open())
    items = llm.stream_structured_predict(City, PROMPT, context_str="", query_str="where is it")
    next(items)
    items.close()
    assert llm.stats().entries == 0


class Flexible(BaseModel):
    pass


class Odd(NativeLLM):
    """Its last object is no object of the class: as where LlamaIndex could not fill it."""

    def stream_structured_predict(
        self, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Generator[Any, None, None]:
        yield Flexible()


def test_what_never_became_an_object_of_the_class_is_not_stored(bench: Bench) -> None:
    llm = CachedLLM(llm=Odd(BASEL), cache=bench.open())
    [item] = llm.stream_structured_predict(City, PROMPT, context_str="", query_str="where is it")
    assert type(item) is Flexible
    assert llm.stats().entries == 0 and llm.stats().failures == {}


def test_each_hit_is_an_object_of_its_own(bench: Bench) -> None:
    """Trap 11."""
    llm = CachedLLM(llm=NativeLLM(BASEL), cache=bench.open())
    for _ in range(3):
        city = llm.structured_predict(City, PROMPT, context_str="", query_str="where is it")
        assert city.name == "Basel"
        city.name = "changed"


@pytest.mark.parametrize(
    "other",
    [
        {"context_str": "Basel lies elsewhere."},
        {"llm_kwargs": {"temperature": 1}},
    ],
    ids=["documents", "arguments"],
)
def test_the_same_question_elsewhere_is_a_miss(bench: Bench, other: dict[str, Any]) -> None:
    """Trap 2."""
    inner = NativeLLM(BASEL)
    llm = CachedLLM(llm=inner, cache=bench.open())
    given = {"context_str": LINES, "query_str": "where is Basel"}
    llm.structured_predict(City, PROMPT, **given)
    llm.structured_predict(City, PROMPT, **{**given, **other})
    assert inner.calls == 2


async def test_a_class_with_another_field_is_a_miss(bench: Bench) -> None:
    """Trap 7: an answer for the old fields would fail, or be wrong unseen."""

    def version(**fields: Any) -> type[BaseModel]:
        return type("City", (BaseModel,), {"__annotations__": fields, "__module__": __name__})

    inner = NativeLLM('{"name": "Basel", "people": 170000}')
    llm = CachedLLM(llm=inner, cache=bench.open())
    for output in (version(name=str), version(name=str, people=int), version(name=str)):
        assert (await _predict(llm, "whole", "where is Basel", output)).name == "Basel"
    assert inner.calls == 2


class Strict(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def is_known(cls, name: str) -> str:
        if name != KNOWN["town"]:
            raise ValueError(f"{name} is not known")
        return name


KNOWN = {"town": "Basel"}


async def test_what_its_class_no_longer_takes_is_a_miss_and_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = NativeLLM('{"name": "Basel"}', '{"name": "Bern"}')
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert (await _predict(llm, "whole", "which town", Strict)).name == "Basel"
    monkeypatch.setitem(KNOWN, "town", "Bern")
    for _ in range(2):
        assert (await _predict(llm, "whole", "which town", Strict)).name == "Bern"
    assert inner.calls == 2
    assert llm.stats().failures == {"lookup": 1}


class Aliased(BaseModel):
    name: str = Field(alias="cityName")


class Partly(BaseModel):
    name: str
    note: str = Field(default="", exclude=True)


async def test_an_object_is_stored_whole_or_not_at_all(bench: Bench) -> None:
    inner = NativeLLM('{"cityName": "Basel"}', '{"name": "Basel", "note": "old"}')
    llm = CachedLLM(llm=inner, cache=bench.open())
    for _ in range(2):
        assert (await _predict(llm, "whole", "where is it", Aliased)).name == "Basel"
    for _ in range(2):
        assert (await _predict(llm, "whole", "where is it", Partly)).note == "old"
    assert inner.calls == 3
    assert llm.stats().failures == {"update": 2}


async def test_an_error_of_the_llm_is_the_apps(bench: Bench) -> None:
    """Trap 16: what was cut short is no JSON."""
    llm = CachedLLM(llm=NativeLLM('{"name": "Bas'), cache=bench.open())
    with pytest.raises(ValueError, match="City"):
        await _predict(llm, "whole", "where is Basel")
    assert llm.stats().entries == 0 and llm.stats().failures == {}


@pytest.mark.parametrize("way", WAYS)
async def test_a_cache_that_raises_is_a_miss(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Trap 13."""
    cache = bench.open()
    llm = CachedLLM(llm=NativeLLM(BASEL), cache=cache)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no disk")

    monkeypatch.setattr(cache, "lookup", fail)
    assert (await _predict(llm, way, "where is Basel")).name == "Basel"
    assert llm.stats().failures == {"lookup": 1}


async def test_a_structured_llm_around_it_is_cached(bench: Bench) -> None:
    inner = NativeLLM(BASEL)
    structured = CachedLLM(llm=inner, cache=bench.open()).as_structured_llm(City)
    assert isinstance(structured, StructuredLLM)
    for question in ("where is Basel", "is Basel where"):
        assert structured.chat(user(question)).raw == City(name="Basel", river="Rhine")
        assert (await structured.achat(user(question))).raw.name == "Basel"
        assert list(structured.stream_chat(user(question)))[-1].raw.river == "Rhine"
    assert inner.calls == 1


def test_the_arguments_of_the_app_are_left_as_they_are(bench: Bench) -> None:
    """Integrations add to the dict that they are given."""
    told = {"temperature": 0}
    llm = CachedLLM(llm=NativeLLM(BASEL), cache=bench.open())
    prompt = ChatPromptTemplate.from_messages([("user", "where is {query}")])
    llm.structured_predict(City, prompt, llm_kwargs=told, query="Basel")
    assert told == {"temperature": 0}


def test_an_answer_of_a_chat_is_never_an_object(bench: Bench) -> None:
    inner = NativeLLM(BASEL, said("hello"))
    llm = CachedLLM(llm=inner, cache=bench.open())
    prompt = PromptTemplate("{query_str}")
    llm.structured_predict(City, prompt, query_str="where is Basel")
    assert llm.predict(prompt, query_str="where is Basel") == "hello"

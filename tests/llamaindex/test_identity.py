"""Two models never share an answer; a model shares its own with its equals."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from fakes import named
from llama_index.core.llms import (
    LLM,
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
    MockLLM,
)
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field, PrivateAttr, create_model
from semcache_core import SemcacheError

from llamaindex_semcache.model_identity import Models, describe_arguments, describe_class, redacted

SECRET = "sk-sentinel"


class Scripted(CustomLLM):
    """Says nothing of itself but what its fields are."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="warm")

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        yield CompletionResponse(text="warm")


class Named(Scripted):
    model: str = "llama3"
    temperature: float = 0.1
    max_tokens: int = 100
    additional_kwargs: dict[str, Any] = Field(default_factory=dict)
    api_base: str = "http://here"
    api_key: str | None = None
    default_headers: dict[str, str] | None = None
    timeout: float = 60.0
    max_retries: int = 3
    anything: Any = None
    calls: int = 0
    told: list[str] = Field(default_factory=list)


def same(one: LLM, two: LLM) -> bool:
    models = Models()
    return models.identify(one) == models.identify(two)


# -- what tells models apart -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"model": "qwen"},
        {"temperature": 0.2},
        {"max_tokens": 101},
        {"additional_kwargs": {"seed": 1}},
        {"api_base": "http://there"},
        {"system_prompt": "be brief"},
        {"query_wrapper_prompt": PromptTemplate("<{query_str}>")},
        {"pydantic_program_mode": "llm"},
        {"anything": ["n"]},
        {"anything": date(2025, 1, 1)},
    ],
    ids=str,
)
def test_a_field_that_matters_makes_another_model(change: dict[str, Any]) -> None:
    assert same(Named(), Named())
    assert not same(Named(), Named(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"api_key": SECRET},
        {"default_headers": {"Authorization": SECRET}},
        {"timeout": 1.0},
        {"max_retries": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_secrets_and_what_cannot_matter_do_not_count(change: dict[str, Any]) -> None:
    assert same(Named(), Named(**change))


def test_the_class_counts() -> None:
    class Other(Named):
        pass

    assert not same(Named(), Other())


def test_a_field_that_is_set_later_counts() -> None:
    models, llm = Models(), Named()
    before = models.identify(llm)
    llm.temperature = 0.7
    assert models.identify(llm) != before
    llm.temperature = 0.1
    assert models.identify(llm) == before
    llm.max_tokens = 3  # a whole number, but no counter
    assert models.identify(llm) != before


def test_counters_and_logs_of_a_model_do_not_count() -> None:
    models, llm = Models(), Named()
    before = models.identify(llm)
    llm.calls += 1
    llm.told.append("hi")
    assert models.identify(llm) == before


def test_models_are_equal_in_every_process() -> None:
    # a digest of the fields alone: two registries stand for two processes
    assert Models().identify(Named()) == Models().identify(Named())
    assert Models().identify(MockLLM(max_tokens=3)) == Models().identify(MockLLM(max_tokens=3))
    assert not same(MockLLM(max_tokens=3), MockLLM(max_tokens=4))


# -- models that hide what they are ----------------------------------------------------------------


class Hiding(Scripted):
    context_window: int = 4096
    _pipe: Any = PrivateAttr(default=None)


class Titled(Hiding):
    title: str = "llama3"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.title)


@pytest.mark.parametrize("kind", [Scripted, Hiding])
def test_a_model_that_hides_what_it_is_shares_with_itself_alone(kind: Callable[[], LLM]) -> None:
    models, one, two = Models(), kind(), kind()
    assert models.identify(one) == models.identify(one) != models.identify(two)


def test_a_model_that_is_named_in_its_metadata_is_known() -> None:
    assert same(Titled(), Titled())
    assert not same(Titled(), Titled(title="qwen"))


def test_a_hiding_models_id_is_not_taken_over_by_another() -> None:
    models = Models()
    digests = {models.identify(Hiding()) for _ in range(20)}  # each dies at once
    assert len(digests) == 20
    assert len(models._seen) <= 1


# -- models around models --------------------------------------------------------------------------


class Answer(BaseModel):
    text: str


def test_an_inner_model_and_an_output_class_count() -> None:
    def around(llm: LLM, output: type[BaseModel] = Answer) -> StructuredLLM:
        return StructuredLLM(llm=llm, output_cls=output)

    more = create_model("Answer", __module__=__name__, text=(str, ...), more=(int, 0))
    assert same(around(Named()), around(Named()))
    assert not same(around(Named()), around(Named(model="qwen")))
    assert not same(around(Named()), around(Named(), more))


# -- functions and objects in fields ---------------------------------------------------------------


def formatter(word: str) -> Callable[[str], str]:
    return lambda prompt: prompt + word


def test_a_function_is_known_by_its_code_and_what_it_took_along() -> None:
    one, two = formatter("!"), formatter("!")
    assert same(Named(completion_to_prompt=one), Named(completion_to_prompt=two))
    assert not same(Named(completion_to_prompt=one), Named(completion_to_prompt=formatter("?")))
    assert not same(Named(completion_to_prompt=one), Named())
    lambdas = [Named(anything=lambda: 1), Named(anything=lambda: 2)]
    assert not same(*lambdas)


def test_partial_functions_and_methods_are_known_by_what_they_hold() -> None:
    def partly(number: int) -> Named:
        return Named(anything=functools.partial(max, number))

    assert same(partly(1), partly(1))
    assert not same(partly(1), partly(2))
    assert same(Named(anything="x".join), Named(anything="x".join))


def test_a_models_own_method_as_its_formatter_is_no_endless_loop() -> None:
    one, two = Named(), Named()
    one.anything, two.anything = one.complete, two.complete
    assert same(one, two)
    assert not same(one, Named(anything=Named().complete, model="qwen"))


class Color(Enum):
    RED = "red"


@dataclass
class Size:
    width: int


class Opaque:
    pass


@pytest.mark.parametrize(
    "one, two",
    [
        (Size(1), Size(2)),
        (Answer(text="a"), Answer(text="b")),
        (
            PydanticOutputParser(Answer),
            PydanticOutputParser(Answer, ["title"]),
        ),
        ({"a", "b"}, {"a", "c"}),
        (b"x", b"y"),
        (Path("a"), Path("b")),
        (Color.RED, "blue"),
        (Answer, Size),
        (Opaque(), Opaque()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_any_kind_count(one: Any, two: Any) -> None:
    assert same(Named(anything=one), Named(anything=one))
    assert not same(Named(anything=one), Named(anything=two))


@pytest.mark.parametrize("unclear", [object(), iter([])], ids=["object", "iterator"])
def test_what_cannot_be_told_apart_is_not_cached(unclear: Any) -> None:
    with pytest.raises(SemcacheError, match="calls with it are not cached"):
        Models().identify(Named(anything=unclear))


def test_what_holds_itself_is_not_cached() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SemcacheError, match="holds itself"):
        Models().identify(Named(anything={"x": endless}))


# -- arguments of a call ---------------------------------------------------------------------------


def weather(place: str) -> str:
    """Tell the weather."""
    return place


def weather_at(place: str, hour: int) -> str:
    """Tell the weather."""
    return place


def tool(function: Callable[..., str] = weather, **more: Any) -> FunctionTool:
    return FunctionTool.from_defaults(function, **{"name": "weather", "description": "w"} | more)


@pytest.mark.parametrize(
    "one, two",
    [
        ({"tools": [tool()]}, {"tools": [tool(weather_at)]}),
        ({"tools": [tool()]}, {"tools": [tool(description="other")]}),
        ({"tools": [{"name": "w", "fields": [1]}]}, {"tools": [{"name": "w", "fields": [1, 2]}]}),
        (
            {"tools": [{"args": {"password": 1}}]},
            {"tools": [{"args": {"password": 2}}]},
        ),
        ({"tool_choice": "auto"}, {"tool_choice": "none"}),
        ({"response_format": Answer}, {"response_format": create_model("Answer", text=(int, 0))}),
        ({"temperature": 0.1}, {"temperature": 0.2}),
        ({"formatted": True}, {}),
    ],
    ids=named,
)
def test_arguments_that_matter_differ(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert describe_arguments(one) == describe_arguments(one) != describe_arguments(two)
    json.dumps(describe_arguments(one))


def test_a_class_is_known_by_its_fields_not_its_name_alone() -> None:
    other = create_model("Answer", __module__=__name__, text=(str, ...), sure=(bool, True))
    assert other.__qualname__ == Answer.__qualname__
    assert describe_arguments({"response_format": Answer}) != describe_arguments(
        {"response_format": other}
    )


def test_secrets_and_timeouts_are_left_out_of_arguments() -> None:
    arguments = {"extra_headers": {"x": SECRET}, "api_key": SECRET, "timeout": 3, "max_tokens": 4}
    assert describe_arguments(arguments) == {"max_tokens": 4}


@pytest.mark.parametrize(
    "value", [Opaque(), weather, Named(), iter([])], ids=lambda v: type(v).__name__
)
def test_an_argument_that_hides_its_fields_is_not_cached(value: Any) -> None:
    with pytest.raises(SemcacheError, match=f"thing holds a {type(value).__name__}") as error:
        describe_arguments({"thing": [value]})
    assert " at 0x" not in str(error.value)


def test_a_class_without_a_schema_is_not_cached() -> None:
    class Odd(BaseModel):
        model_config = {"arbitrary_types_allowed": True}
        thing: Opaque

    with pytest.raises(SemcacheError, match="Odd has no JSON schema"):
        describe_class(Odd)


# -- secrets ---------------------------------------------------------------------------------------

NAMES = ["api_key", "apikey", "aws_secret_access_key", "aws_access_key_id", "password", "token"]
NAMES += ["default_headers", "Authorization", "hf_token", "azure_ad_token", "aws_session_token"]
NAMES += ["credentials", "client_secret"]


@pytest.mark.parametrize("name", NAMES)
def test_secrets_are_redacted_at_any_depth(name: str) -> None:
    values = {name: SECRET, "llm": {name: {"x": SECRET}, "more": [{name: SECRET}]}, "model": "m"}
    assert SECRET not in json.dumps(redacted(values))
    assert redacted(values)["model"] == "m"


@pytest.mark.parametrize("name", ["max_tokens", "eos_token", "tokenizer", "author", "logit_bias"])
def test_what_decides_an_answer_is_no_secret(name: str) -> None:
    assert redacted({name: "x"}) == {name: "x"}
    assert describe_arguments({name: "x"}) == {name: "x"}

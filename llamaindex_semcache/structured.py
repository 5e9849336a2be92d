"""Structured predictions: objects of a class of the app, made by the LLM's own methods."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.prompts import BasePromptTemplate
from semcache_core import Hit, SemcacheError
from semcache_core.adapters import ModelCall

from llamaindex_semcache.calls import closed_after
from llamaindex_semcache.request import Question

PredictionCall: TypeAlias = ModelCall[Question, BaseModel, BaseModel]


@dataclass(frozen=True)
class PredictionAnswers:
    """The codec of objects of one class.

    The class itself reads them: an object that it no longer accepts is a miss, and is replaced.
    """

    output: type[BaseModel]

    def dump(self, answer: BaseModel) -> str:
        """Return JSON text; raises SemcacheError for an object that is not equal when read back."""
        text = answer.model_dump_json(by_alias=True)
        if self.load(text, None) != answer:
            raise SemcacheError(
                f"a {self.output.__name__} has more to it than its JSON, such as an excluded "
                "field: the answer is given, but not stored"
            )
        return text

    def load(self, text: str, hit: Hit | None) -> BaseModel:
        """Return a new object, without a mark: `last_hit()` and the event show the hit."""
        return self.output.model_validate_json(text)

    def is_storable(self, answer: BaseModel) -> bool:
        """Always: an answer that was cut short is not valid JSON."""
        return True

    def calls_tools(self, answer: BaseModel) -> bool:
        """Never: the tool by which some models are asked is artificial."""
        return False

    def words(self, answer: BaseModel) -> str | None:
        return answer.model_dump_json(by_alias=True)


def prediction(prompt: BasePromptTemplate, prompt_args: Mapping[str, Any]) -> PredictionCall:
    """Ask for the whole object by the LLM's own method, which renders the template itself."""

    def ask(question: Question) -> Generator[BaseModel, None, None]:
        yield question.llm.structured_predict(**_arguments(question, prompt, prompt_args))

    async def aask(question: Question) -> AsyncGenerator[BaseModel, None]:
        yield await question.llm.astructured_predict(**_arguments(question, prompt, prompt_args))

    return ModelCall(ask, aask, copy=lambda item: item, whole=_last)


def prediction_stream(prompt: BasePromptTemplate, prompt_args: Mapping[str, Any]) -> PredictionCall:
    """Ask for the object as it fills; the last item is the answer."""

    def ask(question: Question) -> Generator[BaseModel, None, None]:
        arguments = _arguments(question, prompt, prompt_args)
        yield from question.llm.stream_structured_predict(**arguments)

    async def aask(question: Question) -> AsyncGenerator[BaseModel, None]:
        arguments = _arguments(question, prompt, prompt_args)
        items = await question.llm.astream_structured_predict(**arguments)
        async with closed_after(items):
            async for item in items:
                yield item

    return ModelCall(ask, aask, copy=deepcopy, whole=_last)


def _arguments(
    question: Question, prompt: BasePromptTemplate, prompt_args: Mapping[str, Any]
) -> dict[str, Any]:
    # copies: integrations add and remove arguments, and LlamaIndex sets an output parser on the
    # template, which would be another template from then on
    return {
        "output_cls": question.output,
        "prompt": prompt.model_copy(),
        "llm_kwargs": dict(question.arguments),
        **prompt_args,
    }


def _last(question: Question, items: Sequence[BaseModel]) -> BaseModel | None:
    """Return the last item; None where it is not an object of the class."""
    assert question.output is not None
    return items[-1] if items and isinstance(items[-1], question.output) else None

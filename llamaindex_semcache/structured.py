"""Structured predictions: objects of a class of the app's own, asked for by the model's own way."""

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.prompts import BasePromptTemplate
from semcache_core import Hit, SemcacheError
from semcache_core.adapters import ModelCall

from llamaindex_semcache.calls import closed_after
from llamaindex_semcache.request import Call

PredictionKind: TypeAlias = ModelCall[Call, BaseModel, BaseModel]


@dataclass(frozen=True)
class Predictions:
    """Objects of one class as JSON and back.

    The class itself reads them: what it no longer takes is a miss, and the model's next answer
    takes its place.
    """

    output: type[BaseModel]

    def dump(self, answer: BaseModel) -> str:
        """JSON text. Raises SemcacheError for an object that would not be read back as it is, and
        pydantic's errors for what the class does not take.
        """
        text = answer.model_dump_json(by_alias=True)
        if self.load(text, None) != answer:
            raise SemcacheError(
                f"a {self.output.__name__} has more to it than its JSON, such as an excluded "
                "field: the answer is given, but not stored"
            )
        return text

    def load(self, text: str, hit: Hit | None) -> BaseModel:
        """A new object. It cannot be marked as a hit: `last_hit()` and the event tell."""
        return self.output.model_validate_json(text)

    def is_storable(self, answer: BaseModel) -> bool:
        """Whatever the class takes: an answer that was cut short is no JSON."""
        return True

    def calls_tools(self, answer: BaseModel) -> bool:
        """Never: the tool by which some models are asked is made up for it."""
        return False

    def words(self, answer: BaseModel) -> str | None:
        """Its JSON, by which two are compared."""
        return answer.model_dump_json(by_alias=True)


@dataclass(frozen=True)
class Prediction:
    """How one is asked for: by the model's own method, which may be a native mode of the provider.

    The method renders the template itself, from the arguments.
    """

    prompt: BasePromptTemplate
    prompt_args: Mapping[str, Any]

    @property
    def whole(self) -> PredictionKind:
        """For the object at once."""
        return ModelCall(self._ask, self._aask, copy=lambda given: given, whole=_last)

    @property
    def stream(self) -> PredictionKind:
        """For the object as it fills; what comes last is the answer."""
        return ModelCall(self._stream, self._astream, copy=deepcopy, whole=_last)

    def _ask(self, call: Call) -> Generator[BaseModel, None, None]:
        yield call.llm.structured_predict(**self._asked(call))

    async def _aask(self, call: Call) -> AsyncGenerator[BaseModel, None]:
        yield await call.llm.astructured_predict(**self._asked(call))

    def _stream(self, call: Call) -> Generator[BaseModel, None, None]:
        yield from call.llm.stream_structured_predict(**self._asked(call))

    async def _astream(self, call: Call) -> AsyncGenerator[BaseModel, None]:
        given = await call.llm.astream_structured_predict(**self._asked(call))
        async with closed_after(given):
            async for item in given:
                yield item

    def _asked(self, call: Call) -> dict[str, Any]:
        # copies: integrations add arguments and take some, and LlamaIndex gives the template an
        # output parser, with which it would be another template from then on
        return {
            "output_cls": call.output,
            "prompt": self.prompt.model_copy(),
            "llm_kwargs": dict(call.arguments),
            **self.prompt_args,
        }


def _last(call: Call, given: Sequence[BaseModel]) -> BaseModel | None:
    """None where it never became an object of the class."""
    assert call.output is not None
    return given[-1] if given and isinstance(given[-1], call.output) else None

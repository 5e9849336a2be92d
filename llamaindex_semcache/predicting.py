"""The part of an LLM that gives objects of the app's own classes: structured predictions."""

from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, cast

from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import Model

from llamaindex_semcache.call import Call
from llamaindex_semcache.delegating import DelegatingLLM
from llamaindex_semcache.serving import Serving
from llamaindex_semcache.structured import Prediction


class PredictingLLM(DelegatingLLM):
    """Gives stored objects, or asks the LLM in it by that one's own structured methods.

    Those may use a native mode of the provider, and render the prompt in a way of their own. So the
    whole prediction is one call, not the chat that is made of it.
    """

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of the cache, else the LLM's by its own `structured_predict`."""
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).whole
        return cast(Model, self._predictions(output_cls).answer(call, kind))

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """See `structured_predict`. The event loop is never blocked."""
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).whole
        return cast(Model, await self._predictions(output_cls).aanswer(call, kind))

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """The LLM's object as it fills; of a hit, all of it at once.

        What comes last is stored. Where the LLM stops too early, LlamaIndex closes the brackets and
        a shorter list looks whole: give classes whose streams you cache fields without defaults.
        """
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).stream
        return self._predictions(output_cls).stream(call, kind)

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """See `stream_structured_predict`."""
        call = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        kind = Prediction(prompt, prompt_args).stream
        return self._predictions(output_cls).astream(call, kind)

    def _predictions(self, output: type[BaseModel]) -> Serving[BaseModel]:
        """What answers predictions of this class."""
        raise NotImplementedError

    def _know(self, prompt: BasePromptTemplate) -> None:
        """Hears of each template before it is rendered."""

    def _prediction(
        self,
        output: type[BaseModel],
        prompt: BasePromptTemplate,
        arguments: Mapping[str, Any] | None,
        prompt_args: Mapping[str, Any],
    ) -> Call:
        self._know(prompt)
        messages = tuple(prompt.format_messages(llm=self.llm, **prompt_args))
        told = dict(arguments or {})
        return Call(self.llm, messages, arguments=told, output=output, how="structured")

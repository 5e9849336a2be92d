"""The cached calls of a chat model: how they become requests, and their answers text and back."""

from langchain_core.load import dumps
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables.config import set_config_context
from semcache_core import Explanation, Hit, Request, SemanticCache, SemcacheError, Usage
from semcache_core.adapters import CachedCalls

from langchain_semcache.asking import Question, without_run
from langchain_semcache.formats import shown
from langchain_semcache.generations import (
    calls_tools,
    dump_generations,
    is_storable,
    load_generations,
    plain_text,
)
from langchain_semcache.hits import mark
from langchain_semcache.requests import RequestReader
from langchain_semcache.usages import usage_of


class ChatAnswers:
    """A chat model's answers, for `CachedCalls`."""

    def dump(self, answer: list[ChatGeneration]) -> str:
        return dump_generations(answer)

    def load(self, text: str, hit: Hit | None) -> list[ChatGeneration]:
        generations = load_generations(text)
        mark(generations, hit)
        chat = [one for one in generations if isinstance(one, ChatGeneration)]
        if len(chat) != len(generations):
            raise ValueError("a stored response holds a text model's generation")
        return chat

    def is_storable(self, answer: list[ChatGeneration]) -> bool:
        return is_storable(answer)

    def calls_tools(self, answer: list[ChatGeneration]) -> bool:
        return calls_tools(answer)

    def words(self, answer: list[ChatGeneration]) -> str | None:
        return plain_text(answer)


def _usage(question: Question, answer: list[ChatGeneration]) -> Usage:
    return usage_of(answer)


class ChatCalls(CachedCalls[Question, list[ChatGeneration]]):
    """The calls of chat models as `reader` reads them."""

    def __init__(self, cache: SemanticCache, reader: RequestReader) -> None:
        super().__init__(cache, self.read, ChatAnswers(), without_run, _usage)
        self._reader = reader

    def read(self, question: Question) -> Request | None:
        """The request, the same as SemanticLLMCache's for the same call; None: not cached."""
        context = question.context
        if context is None:
            return self._read_here(question)
        # a copy: the same call may be read on two threads, and no context is entered twice
        return context.copy().run(self._read_here, question)

    def _read_here(self, question: Question) -> Request | None:
        model, config = question.model, question.config
        llm_string = model._get_llm_string(stop=question.stop, **shown(question.arguments))
        prompt = dumps(question.messages)
        if config is None:
            return self._reader.read(prompt, llm_string, model)
        with set_config_context(config) as context:  # for what tells the tenant
            return context.run(self._reader.read, prompt, llm_string, model)

    def explain(self, question: Question) -> Explanation:
        """Why the answer would be found, or not; raises SemcacheError where nothing is asked."""
        request = self.read(question)
        if request is None:
            raise SemcacheError(
                f"this call of a {type(question.model).__name__} is not cached: an argument or a "
                "message shows only the name of a class or the address of an object"
            )
        return self._reader.hinted(self._cache.explain(request), dumps(question.messages))

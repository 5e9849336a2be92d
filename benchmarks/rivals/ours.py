"""semcache and langchain_core's InMemoryCache as rivals of the case `field`.

python -m rivals.ours SUBJECT ARTEFACT      # settings are max_error_rate; InMemoryCache has none

Everything is imported in the methods: a cold start includes the imports.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rivals.orders import Rival, run


class Semcache(Rival):
    """SemanticCache itself, asked for questions in one scope."""

    packages = ("onnxruntime", "tokenizers", "sqlalchemy", "chromadb", "numpy")
    _cache: Any = None

    def __init__(self, artefact: Path) -> None:
        super().__init__()
        self._artefact = artefact

    def load(self) -> None:
        from semcache_core import Request, SemanticCache

        self._make, self._request = SemanticCache, Request

    def fill(self, directory: str, size: int, seed: int, answer: str) -> None:
        from harness.fill import Layout, fill, opened, stock

        path = Path(directory)
        fill(path, stock(seed, self._artefact), Layout(size, (self._scope(),)), seed)
        with opened(path, self._artefact):
            """Its index, where there is to be one, is level with the ledger now."""

    def _scope(self) -> str:
        return ""

    def open(self, directory: str, setting: float | None) -> None:
        bound = {} if setting is None else {"max_error_rate": setting}
        self._cache = self._make(path=directory, artefact=self._artefact, **bound)

    def asked(self, text: str) -> Any:
        return self._request(text)

    def get(self, asked: Any) -> str | None:
        hit = self._cache.lookup(asked)
        return None if hit is None else hit.response

    async def aget(self, asked: Any) -> str | None:
        hit = await self._cache.alookup(asked)
        return None if hit is None else hit.response

    def put(self, asked: Any, answered: Any) -> None:
        self._cache.update(asked, answered)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()


class Chat(Semcache):
    """The same through LangChain's BaseCache, with a chat prompt as its key."""

    packages = ("langchain-core",)

    def load(self) -> None:
        from langchain_semcache import SemanticLLMCache

        self._make = SemanticLLMCache

    def _scope(self) -> str:
        return chat_scope(self._artefact)

    def open(self, directory: str, setting: float | None) -> None:
        self._prompt, self._llm = chat_prompts()
        super().open(directory, setting)

    def asked(self, text: str) -> Any:
        return self._prompt(text)

    def answered(self, answer: str) -> Any:
        """Generations made anew for each entry."""
        return _generations(answer)

    def get(self, asked: Any) -> str | None:
        return _text(self._cache.lookup(asked, self._llm))

    async def aget(self, asked: Any) -> str | None:
        return _text(await self._cache.alookup(asked, self._llm))

    def put(self, asked: Any, answered: Any) -> None:
        self._cache.update(asked, self._llm, answered)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.cache.close()


class InMemory(Chat):
    """langchain_core's dictionary. Each process begins with none, so `fill` comes after `open`."""

    def load(self) -> None:
        from langchain_core.caches import InMemoryCache

        self._make = InMemoryCache

    def fill(self, directory: str, size: int, seed: int, answer: str) -> None:
        from harness.corpus import questions

        stored = questions(seed).stored
        for text in [*stored, *(f"filler {i}" for i in range(size - len(stored)))]:
            self.put(self.asked(text), self.answered(answer))

    def open(self, directory: str, setting: float | None) -> None:
        self._prompt, self._llm = chat_prompts()
        self._cache = self._make()

    def close(self) -> None:
        """Nothing is open."""


def chat_prompts() -> tuple[Callable[[str], str], str]:
    """A prompt as LangChain hands it to its cache, for a chat of one system and one user message,
    and the text that stands for the model.
    """
    from langchain_core.load import dumps
    from langchain_core.messages import HumanMessage, SystemMessage

    system = SystemMessage(
        "You help the customers of a company that makes software for small shops. "
        "Be brief and polite. Never promise a refund; point to the contact page for that. " * 4
    )
    model = {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "chat_models", "openai", "ChatOpenAI"],
        "kwargs": {"model_name": "gpt-4o-mini", "temperature": 0.0, "max_tokens": 512},
    }
    llm_string = dumps(model) + "---[('stop', None)]"
    return lambda question: dumps([system, HumanMessage(question)]), llm_string


def chat_scope(artefact: Path) -> str:
    """The scope that SemanticLLMCache gives to these prompts."""
    from semcache_core import SemanticCache

    from langchain_semcache import SemanticLLMCache

    prompt, llm_string = chat_prompts()
    with SemanticCache(path=None, artefact=artefact) as cache:
        reader = SemanticLLMCache(cache=cache)._reader
        request = reader.read(prompt("a question"), llm_string, None)
    assert request is not None
    return request.scope


def _generations(answer: str) -> list[Any]:
    from harness.fill import ANSWER
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration

    from langchain_semcache.serialization import load_generations

    if answer == ANSWER:
        return list(load_generations(answer) or ())
    return [ChatGeneration(message=AIMessage(answer, response_metadata={"finish_reason": "stop"}))]


def _text(found: Any) -> str | None:
    return None if found is None else found[0].text


SUBJECTS: dict[str, type[Semcache]] = {
    "SemanticCache": Semcache,
    "SemanticLLMCache": Chat,
    "InMemoryCache": InMemory,
}

if __name__ == "__main__":
    name, artefact = sys.argv[1:]
    run(SUBJECTS[name](Path(artefact)))

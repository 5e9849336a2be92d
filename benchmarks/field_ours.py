"""semcache and langchain_core's InMemoryCache as subjects of `field.py`.

python field_ours.py SUBJECT ARTEFACT      # settings are max_error_rate; InMemoryCache has none
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from field_orders import Subject, run

if TYPE_CHECKING:
    from filling import Stock


class Semcache:
    """SemanticCache itself, asked for questions in one scope."""

    packages = ("onnxruntime", "tokenizers", "sqlalchemy", "chromadb", "numpy")
    _cache: Any = None

    def __init__(self, artefact: Path) -> None:
        self._artefact = artefact

    def load(self) -> None:
        from semcache_core import Request, SemanticCache

        self._make, self._request = SemanticCache, Request

    def prepare(self, directory: Path) -> None:
        """Nothing: it lives in the app's process."""

    def fill(self, directory: Path, size: int, seed: int, answer: str) -> None:
        from filling import Layout, fill, opened

        things = self._stock(directory.with_name("stock.npz"), seed)
        fill(directory, things, Layout(size, (self._scope(),)), seed)
        with opened(directory, self._artefact):
            """Its index, where there is to be one, is level with the ledger now."""

    def _stock(self, kept: Path, seed: int) -> "Stock":
        """Embedded once for all sizes and subjects of a run."""
        import numpy as np
        from corpus import questions
        from filling import Stock, stock

        if not kept.exists():
            made = stock(questions(seed), self._artefact)
            np.savez(kept, stored=made.stored, centres=made.centres, fingerprint=made.fingerprint)
        with np.load(kept) as found:
            fingerprint = str(found["fingerprint"])
            return Stock(questions(seed), fingerprint, found["stored"], found["centres"])

    def _scope(self) -> str:
        return ""

    def open(self, directory: Path, setting: float | None) -> None:
        bound = {} if setting is None else {"max_error_rate": setting}
        self._cache = self._make(path=directory, artefact=self._artefact, **bound)

    def know(self, texts: list[str]) -> None:
        """Nothing: it embeds as it is asked."""

    def asked(self, text: str) -> Any:
        return self._request(text)

    def answered(self, answer: str) -> Any:
        return answer

    def get(self, asked: Any) -> str | None:
        hit = self._cache.lookup(asked)
        return None if hit is None else hit.response

    async def aget(self, asked: Any) -> str | None:
        hit = await self._cache.alookup(asked)
        return None if hit is None else hit.response

    def put(self, asked: Any, answered: Any) -> None:
        self._cache.update(asked, answered)

    def memory(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._cache.close()

    def end(self) -> None:
        if self._cache is not None:
            self._cache.close()


class Chat(Semcache):
    """The same through LangChain's BaseCache, with a chat prompt as its key."""

    packages = ("langchain-core",)

    def load(self) -> None:
        from langchain_semcache import SemanticLLMCache

        self._make = SemanticLLMCache

    def _scope(self) -> str:
        from subjects import chat_scope

        return chat_scope(self._artefact)

    def open(self, directory: Path, setting: float | None) -> None:
        from subjects import LLM_STRING, prompt

        self._prompt, self._llm = prompt, LLM_STRING
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
        self._cache.cache.close()

    def end(self) -> None:
        if self._cache is not None:
            self._cache.cache.close()


class InMemory(Chat):
    """langchain_core's dictionary. Each process begins with none, so `fill` comes after `open`."""

    def load(self) -> None:
        from langchain_core.caches import InMemoryCache

        self._make = InMemoryCache

    def fill(self, directory: Path, size: int, seed: int, answer: str) -> None:
        from corpus import questions

        stored = questions(seed).stored
        for text in [*stored, *(f"filler {i}" for i in range(size - len(stored)))]:
            self.put(self.asked(text), self.answered(answer))

    def open(self, directory: Path, setting: float | None) -> None:
        from subjects import LLM_STRING, prompt

        self._prompt, self._llm = prompt, LLM_STRING
        self._cache = self._make()

    def close(self) -> None:
        """Nothing is open."""

    def end(self) -> None:
        """Nothing is open."""


def _generations(answer: str) -> list[Any]:
    from filling import ANSWER
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
    subject: Subject = SUBJECTS[name](Path(artefact))
    run(subject)

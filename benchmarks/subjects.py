"""semcache itself, as SemanticCache and as LangChain's cache, and LangChain's own."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corpus import Matrix, Questions
from filling import ANSWER, Layout
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage, SystemMessage
from semcache_core import Embedder, Request, SemanticCache
from timing import Samples, What, timed

from langchain_semcache import SemanticLLMCache
from langchain_semcache.serialization import load_generations

LLM_STRING = (
    dumps(
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "chat_models", "openai", "ChatOpenAI"],
            "kwargs": {"model_name": "gpt-4o-mini", "temperature": 0.0, "max_tokens": 512},
        },
    )
    + "---[('stop', None)]"
)
SYSTEM = SystemMessage(
    "You help the customers of a company that makes software for small shops. "
    "Be brief and polite. Never promise a refund; point to the contact page for that. " * 4
)


def prompt(question: str) -> str:
    """What LangChain hands to its cache for a chat of one system and one user message."""
    return dumps([SYSTEM, HumanMessage(question)])


def chat_scope(artefact: Path) -> str:
    """The scope that SemanticLLMCache gives to these prompts."""
    with SemanticCache(path=None, artefact=artefact) as cache:
        reader = SemanticLLMCache(cache=cache)._reader
        request = reader.read(prompt("a question"), LLM_STRING, None)
    assert request is not None
    return request.scope


class TimedEmbedder:
    """An embedder that adds up the seconds spent in `embed`, for one thread."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self.fingerprint, self.dimension, self.reads = (
            inner.fingerprint,
            inner.dimension,
            inner.reads,
        )
        self.seconds = 0.0

    def embed(self, texts: list[str]) -> Matrix:
        started = time.perf_counter()
        rows = self._inner.embed(texts)
        self.seconds += time.perf_counter() - started
        return rows

    def split(
        self, samples: Samples, what: What, call: Callable[[Any], bool], arguments: list[Any]
    ) -> None:
        """Time each call as a whole and without `embed`, and count those that give False."""
        rest = replace(what, part="without forward pass")
        for argument in arguments:
            self.seconds = 0.0
            started = time.perf_counter()
            as_expected = call(argument)
            whole = time.perf_counter() - started
            samples.add(what, [whole])
            samples.add(rest, [whole - self.seconds])
            if not as_expected:
                samples.missed(what)


@dataclass
class Deck:
    """Hands out the questions in turn; each comes back only when all the others were asked.

    Two subjects that share a cache start at different places: a question asked shortly before
    would be embedded already.
    """

    questions: Questions
    start: int = 0

    def __post_init__(self) -> None:
        self.stored: Iterator[int] = itertools.cycle(range(len(self.questions.stored)))
        asked = self.questions.paraphrases
        self.paraphrases = itertools.cycle(asked[self.start :] + asked[: self.start])
        self.strangers = itertools.cycle(enumerate(self.questions.strangers))
        self.new = itertools.cycle(enumerate(self.questions.new))


@dataclass(frozen=True)
class Asked:
    """A request, and the stored question that it is to find."""

    request: Request
    finds: str | None = None


class Semcache:
    """One cache of one size, asked directly."""

    def __init__(
        self, cache: SemanticCache, embedder: TimedEmbedder, questions: Questions, layout: Layout
    ) -> None:
        self._cache = cache
        self._embedder = embedder
        self._questions = questions
        self._layout = layout
        self._deck = Deck(questions)

    def warm_up(self, samples: Samples) -> None:
        """The first question in each scope, whose vectors are then read from the disk."""
        scopes = self._layout.scopes
        asked = self._questions.strangers[-len(scopes) :]
        firsts = [Asked(Request(q, scope)) for q, scope in zip(asked, scopes, strict=True)]
        self._lookups(samples, "miss, first in its scope", firsts)

    def round(self, samples: Samples, n: int) -> None:
        stored, scope = self._questions.stored, self._layout.scope
        same = _take(self._deck.stored, n)
        alike = _take(self._deck.paraphrases, n)
        strange = _take(self._deck.strangers, n)
        exact = [Asked(Request(stored[i], scope(i)), stored[i]) for i in same]
        semantic = [Asked(Request(text, scope(i)), stored[i]) for i, text in alike]
        missed = [Asked(Request(text, scope(i))) for i, text in strange]
        unknown = [Asked(Request(text, "a scope without entries")) for _, text in strange]
        for operation, asked in (
            ("exact hit", exact),
            ("semantic hit", semantic),
            ("miss", missed),
            ("miss, empty scope", unknown),
        ):
            self._lookups(samples, operation, asked)

    def put_round(self, samples: Samples, n: int) -> None:
        requests = [Request(text, self._layout.scope(i)) for i, text in _take(self._deck.new, n)]

        def put(request: Request) -> bool:
            return self._cache.update(request, ANSWER) > 0

        self._embedder.split(samples, self._what("put"), put, requests)

    def _lookups(self, samples: Samples, operation: str, asked: list[Asked]) -> None:
        def lookup(asked: Asked) -> bool:
            hit = self._cache.lookup(asked.request)
            return (None if hit is None else hit.question) == asked.finds

        self._embedder.split(samples, self._what(operation), lookup, asked)

    def _what(self, operation: str) -> What:
        return What("semcache", operation, self._layout.size, len(self._layout.scopes))


class ChatSemcache:
    """The same cache through LangChain's BaseCache, with a chat prompt as its key."""

    def __init__(
        self, cache: SemanticCache, embedder: TimedEmbedder, questions: Questions, size: int
    ) -> None:
        self._cache = SemanticLLMCache(cache=cache)
        self._embedder = embedder
        self._questions = questions
        self._size = size
        self._deck = Deck(questions, len(questions.paraphrases) // 2)

    def round(self, samples: Samples, n: int) -> None:
        exact = [prompt(self._questions.stored[i]) for i in _take(self._deck.stored, n)]
        semantic = [prompt(text) for _, text in _take(self._deck.paraphrases, n)]
        for operation, prompts in (("exact hit", exact), ("semantic hit", semantic)):
            what = What("SemanticLLMCache", operation, self._size, 1)
            self._embedder.split(samples, what, self._is_hit, prompts)

    def _is_hit(self, prompt: str) -> bool:
        return self._cache.lookup(prompt, LLM_STRING) is not None


class InMemory:
    """langchain_core's InMemoryCache: a dictionary."""

    def __init__(self, questions: Questions, size: int) -> None:
        self._cache = InMemoryCache()
        self._prompts = [prompt(text) for text in questions.stored]
        self._size = size
        answer = load_generations(ANSWER)
        texts = [*self._prompts, *(f"filler {i}" for i in range(size - len(self._prompts)))]
        for text in texts:
            self._cache.update(text, LLM_STRING, answer)

    def round(self, samples: Samples, n: int) -> None:
        what = What("InMemoryCache", "exact hit", self._size, 1)
        # built anew, as every call of a model does: a text that has been hashed before is cheaper
        asked = ["".join([*text]) for text in itertools.islice(self._prompts, n)]
        samples.add(what, timed(self._lookup, asked))

    def _lookup(self, text: str) -> None:
        if self._cache.lookup(text, LLM_STRING) is None:
            raise RuntimeError("InMemoryCache was to hit")


def _take(source: Iterator[Any], n: int) -> list[Any]:
    return list(itertools.islice(source, n))

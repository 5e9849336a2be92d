"""A web service of several processes over one cache: see README.md beside this file.

Run it with `uvicorn service:app --workers 4` in this folder.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi import Request as WebRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import BaseModel, Field
from semcache_core import SemanticCache

from langchain_semcache import CachedChatModel

INSTRUCTIONS = "You are the help desk of a web shop. Answer in one sentence."


class SlowModel(BaseChatModel):
    """Stands where your model would: put ChatOpenAI(...) or what you use in its place."""

    model_name: str = "slow-1"
    delay: float = float(os.environ.get("SERVICE_MODEL_SECONDS", "0.5"))
    _numbers: Any = itertools.count(1)

    @property
    def _llm_type(self) -> str:
        return "slow"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # a model that does not say which it is has its answers in one process alone
        return {"model_name": self.model_name}

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError("this service asks asynchronously")

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        await asyncio.sleep(self.delay)
        # who answered, and which of its answers it is: shows what the cache saves
        text = f"[{os.getpid()}.{next(self._numbers)}] {messages[-1].text}: see the help pages."
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class Question(BaseModel):
    question: str = Field(min_length=1, max_length=4000)


class Answer(BaseModel):
    answer: str
    served: str
    """By the model ("miss"), with another who asked the same just then ("shared"), or from the
    cache: "exact" or "semantic"."""
    worker: int


def open_cache() -> SemanticCache:
    return SemanticCache(path=os.environ.get("SERVICE_CACHE", "~/.cache/semcache-service"))


def service(open_cache: Callable[[], SemanticCache]) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # here, not at import: what is opened before a fork belongs to the process that forks
        cache = await asyncio.to_thread(open_cache)
        async with cache:
            await cache.awarm_up()  # else the first question by meaning waits half a second
            app.state.cache = cache
            app.state.model = CachedChatModel(SlowModel(), cache=cache)
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/ask")
    async def ask(
        body: Question,
        web: WebRequest,
        # of a proxy that has checked the login: a tenant that the caller may choose protects nobody
        tenant: Annotated[str, Header(alias="X-Tenant", min_length=1)],
    ) -> Answer:
        said = await web.app.state.model.ainvoke(
            [("system", INSTRUCTIONS), ("user", body.question)],
            {"configurable": {"semcache_namespace": tenant}},
        )
        hit = said.response_metadata.get("semcache")
        return Answer(answer=said.text, served=hit["kind"] if hit else "miss", worker=os.getpid())

    @app.get("/stats")
    async def stats(web: WebRequest) -> dict[str, object]:
        """The counts of the worker that answers; entries are those of all."""
        counts = await web.app.state.cache.astats()
        return {
            "worker": os.getpid(),
            "entries": counts.entries,
            "exact": counts.exact_hits,
            "semantic": counts.semantic_hits,
            "misses": counts.misses,
            "failures": counts.failures,
            "indexed_scopes": counts.indexed_scopes,
        }

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answers as long as the worker does: without its cache the app works too, only slower."""
        return {"status": "ok"}

    return app


app = service(open_cache)

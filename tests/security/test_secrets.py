"""No credential of a model, a tool or a system prompt is ever in a file, a log or a span."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import FailingEmbedder
from langchain.agents import create_agent
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from scripted_llms import ScriptedCallingLLM, ScriptedLLM, user
from scripted_models import Chat, OllamaLike, Streaming
from semcache_core import SemanticCache

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache
from llamaindex_semcache import CachedLLM

SECRET = "SENTINEL"  # in every credential below, and in nothing that is to be stored
KEY, HEADER, PROMPT, TOOL, ENVIRONMENT = (f"sk-{SECRET}-{n}" for n in range(5))
QUESTION, SAME = "where is the office", "the office is where"


class Told:
    """What OpenTelemetry was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers, self._meters = TracerProvider(), MeterProvider([self._reader])
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracers)
        monkeypatch.setattr(metrics, "get_meter", self._meters.get_meter)

    def text(self) -> str:
        spans = [span.to_json() for span in self._spans.get_finished_spans()]
        assert spans
        return "\n".join([*spans, str(self._reader.get_metrics_data())])

    def close(self) -> None:
        self._meters.shutdown()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    for name in ("OPENAI_API_KEY", "CHAT_API_KEY", "SCRIPTED_API_KEY"):
        monkeypatch.setenv(name, ENVIRONMENT)
    told = Told(monkeypatch)
    yield told
    told.close()


def everything(directory: Path) -> bytes:
    """Every byte below a directory, names included; the log of writes is still there."""
    files = [file for file in directory.rglob("*") if file.is_file()]
    assert any(file.name.endswith("-wal") for file in files), "close nothing before"
    return b"".join(str(file).encode() + file.read_bytes() for file in files)


def check(
    cache: SemanticCache, bench: Bench, told: Told, caplog: Any, *, hits: bool = True
) -> None:
    """That answers were stored and served, and what was kept out."""
    if hits:
        cache.rebuild()  # the index too
        stats = cache.stats()
        assert stats.updates and stats.exact_hits + stats.semantic_hits
        assert b"office" in everything(bench.path)
    kept = everything(bench.path)
    export = bench.directory / "export.jsonl"
    cache.export_entries(export, all_namespaces=True, vectors=True)
    kept += export.read_bytes() + caplog.text.encode() + told.text().encode()
    for secret in (KEY, HEADER, PROMPT, TOOL, ENVIRONMENT, SECRET):
        assert secret.encode() not in kept
        assert secret.encode("utf-16-le") not in kept


def chats() -> list[Any]:
    secrets: dict[str, Any] = {
        "api_key": SecretStr(KEY),
        "default_headers": {"Authorization": f"Bearer {HEADER}"},
    }
    return [Chat(**secrets), Streaming(**secrets), OllamaLike(metadata={"key": KEY})]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("limit", [20_000, 0], ids=["scanned", "indexed"])
def test_langchain_keeps_no_secret(
    bench: Bench, told: Told, caplog: pytest.LogCaptureFixture, number: int, limit: int
) -> None:
    caplog.set_level(logging.DEBUG, logger="semcache")
    cache = bench.open(scan_limit=limit)
    model = chats()[number]
    prompt = ChatPromptTemplate([("system", f"the password is {PROMPT}"), ("human", "{question}")])
    plain = model.model_copy(update={"cache": SemanticLLMCache(cache=cache)})
    for asked in (CachedChatModel(model, cache=cache), plain):
        chain = prompt | asked.bind(extra_headers={"X-Key": HEADER}, user=KEY)
        for question in (QUESTION, QUESTION, SAME):
            chain.invoke({"question": question})
    check(cache, bench, told, caplog)


def test_an_agent_keeps_no_secret(
    bench: Bench, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    def look_up(place: str, token: str = TOOL) -> str:
        """Looks a place up."""
        return place

    caplog.set_level(logging.DEBUG, logger="semcache")
    cache = bench.open()
    agent = create_agent(
        chats()[0],
        [look_up],
        system_prompt=f"the password is {PROMPT}",
        middleware=[SemanticCacheMiddleware(cache=cache)],
    )
    for question in (QUESTION, QUESTION, SAME):
        agent.invoke({"messages": [("user", question)]})
    check(cache, bench, told, caplog)


@pytest.mark.parametrize("kind", [ScriptedLLM, ScriptedCallingLLM])
@pytest.mark.parametrize("limit", [20_000, 0], ids=["scanned", "indexed"])
def test_llamaindex_keeps_no_secret(
    bench: Bench, told: Told, caplog: pytest.LogCaptureFixture, kind: Any, limit: int
) -> None:
    caplog.set_level(logging.DEBUG, logger="semcache")
    cache = bench.open(scan_limit=limit)
    llm = CachedLLM(llm=kind(api_key=KEY), cache=cache)
    system = ChatMessage(role="system", content=f"the password is {PROMPT}")
    for question in (QUESTION, QUESTION, SAME):
        llm.chat([system, *user(question)], extra_headers={"Authorization": HEADER}, user=KEY)
        llm.complete(question, extra_headers={"Authorization": HEADER})
        if kind is ScriptedCallingLLM:
            tools = [FunctionTool.from_defaults(lambda place: TOOL, name="t", description=TOOL)]
            llm.chat_with_tools(tools, user_msg=question)
    check(cache, bench, told, caplog)


def test_a_model_or_embedder_that_fails_puts_no_secret_into_a_file_or_a_span(
    bench: Bench, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    failing = FailingEmbedder(error=ConnectionError("no route"))
    cache = bench.open(embedder=failing)
    model = chats()[0].answering(ConnectionError(f"401 for {KEY}"), "here")
    asked = CachedChatModel(model, cache=cache)
    with pytest.raises(ConnectionError):
        asked.invoke(QUESTION)
    asked.invoke(QUESTION)
    check(cache, bench, told, caplog, hits=False)

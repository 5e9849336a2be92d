"""What an app sees of the cache, through real LangChain models."""

import asyncio
import logging
import re
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fakes import FailingEmbedder, WordEmbedder
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, SecretStr
from scripted_models import Chat, OllamaLike
from semcache_core import SemanticCache, SemcacheError

import langchain_semcache.cache
import langchain_semcache.request
from langchain_semcache import SemanticLLMCache
from langchain_semcache.serialization import load_generations

OpenCache = Callable[..., SemanticLLMCache]

LONG_SYSTEM = " ".join(f"Rule {n}: always be polite and brief." for n in range(60))
RLM_RAG = (
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved "
    "context to answer the question. If you don't know the answer, just say that you don't know. "
    "Use three sentences maximum and keep the answer concise.\n"
    "Question: {question} \nContext: {context} \nAnswer:"
)
TEMPLATES = {
    "single message": "Context: {context}\n\nQuestion: {question}",
    "rlm/rag-prompt": RLM_RAG,
    "markdown": "# Documents\n{context}\n\n**Question:** {question}",
}


# -- by meaning, and only by the question ----------------------------------------------------------


def test_a_paraphrase_of_a_question_is_answered_from_the_cache(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    first = model.invoke("reset my password")
    again = model.invoke("my password reset")
    assert (again.content, model.asked) == (first.content, 1)
    assert cache.stats().semantic_hits == 1


def test_the_global_cache_serves_every_model_without_one_of_its_own(
    cache: SemanticLLMCache,
) -> None:
    set_llm_cache(cache)
    model = FakeListChatModel(responses=["one", "two"])
    assert [model.invoke("hi there").content for _ in range(2)] == ["one", "one"]
    assert model.invoke("there hi").content == "one"


def test_two_questions_under_one_long_system_prompt_miss(open_cache: OpenCache) -> None:
    embedder = WordEmbedder()
    model = Chat(cache=open_cache(embedder=embedder))
    for question in ("reset my password", "capital of France"):
        model.invoke([SystemMessage(LONG_SYSTEM), HumanMessage(question)])
    assert model.asked == 2
    assert not any("polite" in text for text in embedder.calls)


@pytest.mark.parametrize(
    "frame",
    [
        [SystemMessage("Documents: Basel is in France")],
        [SystemMessage("Documents: Basel is in Switzerland "), SystemMessage("and Europe")],
        [],
        [HumanMessage("hi"), AIMessage("hello")],
        [SystemMessage("Documents: Basel is in Switzerland", name="other")],
        [HumanMessage("Documents: Basel is in Switzerland")],
    ],
)
def test_the_same_question_in_another_frame_is_asked_again(
    cache: SemanticLLMCache, frame: list[Any]
) -> None:
    model = Chat(cache=cache)
    question = HumanMessage("where is Basel?")
    model.invoke([SystemMessage("Documents: Basel is in Switzerland"), question])
    model.invoke([*frame, question])
    assert model.asked == 2


def test_another_history_is_asked_again(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    for name in ("Ada", "Bob"):
        history = [HumanMessage(f"I am {name}"), AIMessage("hello")]
        model.invoke([*history, HumanMessage("what is my name?")])
    assert model.asked == 2


def test_a_paraphrase_after_the_same_history_is_answered_from_the_cache(
    cache: SemanticLLMCache,
) -> None:
    model = Chat(cache=cache)
    history = [SystemMessage(LONG_SYSTEM), HumanMessage("I am Ada"), AIMessage("hello")]
    model.invoke([*history, HumanMessage("what is my name?")])
    model.invoke([*history, HumanMessage("my name is what?")])
    assert model.asked == 1


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_other_documents_in_one_user_message_are_asked_again(
    cache: SemanticLLMCache, template: str
) -> None:
    model = Chat(cache=cache)
    chain = ChatPromptTemplate.from_template(template) | model
    chain.invoke({"context": "Basel is in Switzerland.\nIt is old.", "question": "where is it?"})
    chain.invoke({"context": "Basel is in France.\nIt is old.", "question": "where is it?"})
    assert model.asked == 2


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_paraphrase_over_equal_documents_in_one_user_message_hits(
    cache: SemanticLLMCache, template: str
) -> None:
    model = Chat(cache=cache)
    chain = ChatPromptTemplate.from_template(template) | model
    documents = "Basel is in Switzerland.\nIt is old."
    chain.invoke({"context": documents, "question": "where is Basel now?"})
    chain.invoke({"context": documents, "question": "now where is Basel?"})
    assert model.asked == 1


def test_documents_that_ask_questions_themselves_are_matched_exactly(
    cache: SemanticLLMCache,
) -> None:
    model = Chat(cache=cache)
    text = "Context: Question: who? Answer: Ada.\n\nQuestion: {}"
    for question in ("where is Basel now?", "now where is Basel?", "where is Basel now?"):
        model.invoke(text.format(question))
    assert model.asked == 2


def test_a_single_line_of_a_text_model_is_matched_by_meaning(cache: SemanticLLMCache) -> None:
    llm = FakeListLLM(responses=["one", "two"], cache=cache)
    assert [llm.invoke("reset my password"), llm.invoke("my password reset")] == ["one", "one"]


def test_several_lines_of_a_text_model_are_matched_exactly(cache: SemanticLLMCache) -> None:
    llm = FakeListLLM(responses=["one", "two"], cache=cache)
    assert llm.invoke("Dear Ada,\nreset my password") == "one"
    assert llm.invoke("Dear Ada,\nmy password reset") == "two"
    assert llm.invoke("Dear Ada,\nreset my password") == "one"


def test_the_same_text_of_a_text_and_a_chat_model_is_never_shared(cache: SemanticLLMCache) -> None:
    cache.update("hi", "model", [Generation(text="text")])
    assert cache.lookup(dumps([HumanMessage("hi")]), "model") is None


def test_a_stop_sequence_is_part_of_the_question(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    model.invoke("hi there")
    model.invoke("hi there", stop=["."])
    assert model.asked == 2


# -- batches and async -----------------------------------------------------------------------------


def test_a_batch_is_answered_from_the_cache(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    first = model.batch(["reset my password", "capital of France"])
    again = model.batch(["my password reset", "France capital of"])
    assert [m.content for m in again] == [m.content for m in first]
    assert model.asked == 2


async def test_async_calls_share_answers_with_sync_ones(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    model.invoke("reset my password")
    await model.ainvoke("my password reset")
    await model.abatch(["reset my password", "my password reset"])
    assert model.asked == 1


async def test_async_text_models_are_cached(cache: SemanticLLMCache) -> None:
    llm = FakeListLLM(responses=["one", "two"], cache=cache)
    assert await llm.ainvoke("reset my password") == "one"
    assert await llm.ainvoke("my password reset") == "one"


async def test_the_event_loop_does_none_of_the_work(
    open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran_on: dict[str, set[int]] = {}

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            ran_on.setdefault(name, set()).add(threading.get_ident())
            return call(*args, **kwargs)

        return noted

    work = {
        langchain_semcache.request: ["read_llm_string", "read_prompt", "digest"],
        langchain_semcache.cache: ["load_generations", "dump_generations"],
    }
    for module, names in work.items():
        for name in names:
            monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    embedder = WordEmbedder()
    monkeypatch.setattr(embedder, "embed", noting("embed", embedder.embed))
    cache = open_cache(embedder=embedder)
    monkeypatch.setattr(cache.cache, "clear", noting("clear", cache.cache.clear))
    model = OllamaLike(cache=cache)
    await model.ainvoke("reset my password")
    await model.ainvoke("my password reset")
    await cache.aclear()
    assert model.asked == 1
    called = {name for names in work.values() for name in names}
    assert ran_on.keys() == called | {"embed", "clear"}
    assert threading.get_ident() not in set.union(*ran_on.values())


def test_eight_threads_ask_at_once(cache: SemanticLLMCache) -> None:
    model = OllamaLike(cache=cache)
    questions = [f"question number {n % 4}" for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(model.invoke, questions))
    assert all(answer.content for answer in answers)
    assert cache.stats().failures == {}
    assert cache.stats().lookups == 64
    assert cache.stats().entries == 4


async def test_eight_tasks_ask_at_once(cache: SemanticLLMCache) -> None:
    model = OllamaLike(cache=cache)
    answers = await asyncio.gather(*(model.ainvoke(f"question {n % 4}") for n in range(64)))
    assert all(answer.content for answer in answers)
    assert cache.stats().failures == {}
    assert cache.stats().lookups == 64
    assert cache.stats().entries == 4


# -- what a hit looks like -------------------------------------------------------------------------


def test_a_lookup_is_a_list_or_none(cache: SemanticLLMCache) -> None:
    assert cache.lookup("hi", "model") is None
    cache.update("hi", "model", (Generation(text="hello"),))
    assert type(cache.lookup("hi", "model")) is list
    cache.update("nothing", "model", [])
    assert cache.lookup("nothing", "model") is None


def test_an_in_memory_cache_hands_out_what_a_caller_has_changed() -> None:
    """What the next tests protect from: they would mean nothing if this ceased to be so."""
    model = Chat(cache=InMemoryCache()).answering(AIMessage("original"))
    model.invoke("hi").content = "changed"
    assert model.invoke("hi").content == "changed"


def test_changing_the_first_response_leaves_the_stored_one(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(AIMessage(["original"], additional_kwargs={"a": {"b": 1}}))
    first = model.invoke("hi there")
    first.content.append("changed")
    first.additional_kwargs["a"]["b"] = 2
    hit = model.invoke("hi there")
    assert (hit.content, hit.additional_kwargs) == (["original"], {"a": {"b": 1}})


def test_changing_a_hit_leaves_the_stored_response(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(AIMessage(["original"], additional_kwargs={"a": {"b": 1}}))
    model.invoke("hi there")
    hit = model.invoke("hi there")
    hit.content.append("changed")
    hit.additional_kwargs["a"]["b"] = 2
    hit = model.invoke("hi there")
    assert (hit.content, hit.additional_kwargs) == (["original"], {"a": {"b": 1}})


# -- who shares answers ----------------------------------------------------------------------------


def test_tenants_never_share_an_answer(open_cache: OpenCache, tmp_path: Path) -> None:
    ada = Chat(cache=open_cache(path=tmp_path / "cache", namespace="ada"))
    bob = Chat(cache=open_cache(path=tmp_path / "cache", namespace="bob"))
    ada.invoke("what is my balance")
    for question in ("what is my balance", "my balance is what"):
        bob.invoke(question)
    assert bob.asked == 1


def test_tenants_over_one_open_cache_never_share_an_answer(cache: SemanticLLMCache) -> None:
    ada, bob = (
        Chat(cache=SemanticLLMCache(cache=cache.cache, namespace=name)) for name in ("ada", "bob")
    )
    ada.invoke("what is my balance")
    bob.invoke("what is my balance")
    assert (ada.asked, bob.asked) == (1, 1)


@pytest.mark.parametrize("clear", ["clear", "aclear"])
async def test_clear_forgets_its_own_namespace_only(open_cache: OpenCache, clear: str) -> None:
    shared = open_cache()
    ada = SemanticLLMCache(cache=shared.cache, namespace="ada")
    bob = SemanticLLMCache(cache=shared.cache, namespace="bob")
    for cache in (shared, ada, bob):
        cache.update("hi", "model", [Generation(text="hello")])
    if clear == "clear":
        ada.clear()
    else:
        await ada.aclear()
    assert ada.lookup("hi", "model") is None
    assert bob.lookup("hi", "model") and shared.lookup("hi", "model")


@pytest.mark.parametrize("namespace", [None, "", 5, b"ada", ["ada"]])
def test_a_namespace_of_a_wrong_type_is_an_error(
    open_cache: OpenCache, cache: SemanticLLMCache, namespace: Any
) -> None:
    with pytest.raises(SemcacheError, match="namespace"):
        open_cache(namespace=namespace)
    with pytest.raises(SemcacheError, match="namespace"):
        SemanticLLMCache(cache=cache.cache, namespace=namespace)


def test_options_beside_an_open_cache_are_refused(cache: SemanticLLMCache) -> None:
    with pytest.raises(SemcacheError, match="max_error_rate"):
        SemanticLLMCache(cache=cache.cache, max_error_rate=0.1)
    with pytest.raises(SemcacheError, match="embedder"):
        SemanticLLMCache(cache=cache.cache, embedder=WordEmbedder())


def test_answers_outlive_the_process(open_cache: OpenCache, tmp_path: Path) -> None:
    before = open_cache(path=tmp_path / "cache")
    Chat(cache=before).invoke("reset my password")
    OllamaLike(cache=before).invoke("reset my password")
    before.cache.close()
    for model in (Chat, OllamaLike):
        after = model(cache=open_cache(path=tmp_path / "cache"))
        after.invoke("my password reset")
        assert after.asked == 0


# -- errors ----------------------------------------------------------------------------------------


def break_ledger(path: Path) -> None:
    with sqlite3.connect(path / "ledger.sqlite3") as ledger:
        ledger.execute("DROP TABLE semcache_entries")


def test_a_broken_store_costs_no_call(
    open_cache: OpenCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = open_cache(path=tmp_path / "cache")
    model = Chat(cache=cache)
    break_ledger(tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "semcache"):
        answers = [model.invoke("hi there").content for _ in range(3)]
    assert answers == ["answer 1", "answer 2", "answer 3"]
    logged = [record.message.split()[1] for record in caplog.records]
    assert (logged.count("lookup"), logged.count("update")) == (1, 1)
    assert (
        cache.cache._process.counters.failures()["lookup"]
        == cache.cache._process.counters.failures()["update"]
        == 3
    )


async def test_a_broken_store_costs_no_async_call(open_cache: OpenCache, tmp_path: Path) -> None:
    cache = open_cache(path=tmp_path / "cache")
    model = Chat(cache=cache)
    break_ledger(tmp_path / "cache")
    assert [(await model.ainvoke("hi")).content for _ in range(2)] == ["answer 1", "answer 2"]
    assert (
        cache.cache._process.counters.failures()["lookup"]
        == cache.cache._process.counters.failures()["update"]
        == 2
    )


async def test_an_embedder_that_raises_costs_no_call(
    open_cache: OpenCache, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = FailingEmbedder()
    cache = open_cache(embedder=embedder)
    model = Chat(cache=cache)
    model.invoke("reset my password")
    embedder.error = RuntimeError("no memory left")
    with caplog.at_level(logging.WARNING, "semcache"):
        assert model.invoke("my password reset").content == "answer 2"
        assert (await model.ainvoke("password reset my")).content == "answer 3"
    assert cache.stats().failures == {"lookup": 2, "update": 2}
    assert len([r for r in caplog.records if "no memory left" in r.message]) == 2
    embedder.error = None
    assert model.invoke("my reset password").content == "answer 1"


def test_a_closed_cache_costs_no_call(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    model.invoke("hi there")
    cache.cache.close()
    assert model.invoke("hi there").content == "answer 2"
    cache.clear()


async def test_a_closed_cache_costs_no_async_call(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    cache.cache.close()
    assert (await model.ainvoke("hi there")).content == "answer 1"
    await cache.aclear()


def test_an_error_of_the_model_is_the_callers_and_nothing_is_stored(
    cache: SemanticLLMCache,
) -> None:
    model = Chat(cache=cache).answering(ConnectionError("down"), "up again")
    with pytest.raises(ConnectionError):
        model.invoke("hi there")
    assert model.invoke("hi there").content == "up again"
    assert cache.stats().failures == {}


def nested(depth: int) -> str:
    return (
        '{"lc": 1, "type": "constructor", "id": ["a"], "kwargs": {"a": ' * depth
        + "1"
        + "}}" * (depth)
    )


POISON = {
    "another serialisable class": dumps(ChatPromptTemplate.from_template("{a}")),
    "a list of another class": f"[{dumps(dumps(ChatPromptTemplate.from_template('{a}')))}]",
    "a message": f"[{dumps(dumps(AIMessage('hi')))}]",
    "a user's message in a generation": "["
    + dumps(dumps(ChatGeneration(message=AIMessage("hi"))).replace("AIMessage", "HumanMessage"))
    + "]",
    "a secret": '["{\\"lc\\": 1, \\"type\\": \\"secret\\", \\"id\\": [\\"HOME\\"]}"]',
    "400 deep": f"[{dumps(nested(400))}]",
    "100000 deep": "[" * 100_000,
    "garbage": "\x00\udc80 not json",
    "an empty list": "[]",
    "null": "null",
    "a number": "[1]",
    "nothing": "",
    "a plain string": '["hello"]',
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_a_poisoned_row_is_a_miss_that_is_counted(
    open_cache: OpenCache, tmp_path: Path, poison: str
) -> None:
    cache = open_cache(path=tmp_path / "cache")
    model = Chat(cache=cache)
    model.invoke("reset my password")
    with sqlite3.connect(tmp_path / "cache" / "ledger.sqlite3") as ledger:
        row = poison.encode("utf-8", "surrogatepass")
        assert ledger.execute("UPDATE semcache_entries SET response = ?", [row]).rowcount == 1
    assert model.invoke("my password reset").content == "answer 2"
    assert model.invoke("reset my password").content == "answer 3"
    assert cache.stats().failures == {"lookup": 2}
    assert model.invoke("reset my password").content == "answer 3"


def test_a_poisoned_row_constructs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    poison = f"[{dumps(dumps(ChatPromptTemplate.from_template('{a}')))}]"
    constructed = []
    monkeypatch.setattr(ChatPromptTemplate, "__init__", lambda *_, **__: constructed.append(1))
    with pytest.raises(ValueError):
        load_generations(poison)
    assert not constructed


# -- what is written -------------------------------------------------------------------------------


class TellsItsKey(OllamaLike):
    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "api_key": "SENTINEL-5"}


def test_secrets_prompts_and_documents_are_never_on_disk(
    open_cache: OpenCache, tmp_path: Path
) -> None:
    cache = open_cache(path=tmp_path / "cache", scan_limit=0)
    model = Chat(
        cache=cache,
        default_headers={"Authorization": "Bearer SENTINEL-1"},
        api_key=SecretStr("SENTINEL-2"),
    )
    tools = model.bind(tools=[{"name": "SENTINEL-3"}], extra_headers={"x": "SENTINEL-4"})
    for asks in (model, tools, TellsItsKey(cache=cache)):
        for question in ("reset my password", "my password reset"):
            asks.invoke(
                [SystemMessage("SENTINEL-6"), HumanMessage(f"SENTINEL-7\nQuestion: {question}")]
            )
    assert cache.stats().semantic_hits == 3
    cache.cache.rebuild()
    cache.cache.close()
    files = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    written = b"".join(file.read_bytes() for file in files)
    assert b"answer 1" in written and b"reset my password" in written
    assert b"SENTINEL" not in written


# -- asking why ------------------------------------------------------------------------------------


class Ans(BaseModel):
    text: str


def test_explain_says_why_without_counting(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    model.invoke("reset my password")
    prompt = dumps([HumanMessage("my password reset")])
    explained = cache.explain(prompt, model._get_llm_string())
    assert explained.hit is not None and explained.hit.kind == "semantic"
    assert cache.stats().lookups == 1


def test_explain_needs_the_model_where_its_text_says_too_little(cache: SemanticLLMCache) -> None:
    model = OllamaLike(cache=cache)
    model.invoke("reset my password")
    prompt = dumps([HumanMessage("reset my password")])
    with pytest.raises(SemcacheError, match="model="):
        cache.explain(prompt, model._get_llm_string())
    assert cache.explain(prompt, model._get_llm_string(), model=model).hit is not None


def test_explain_refuses_a_call_that_is_not_cached(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    with pytest.raises(SemcacheError, match="not cached"):
        cache.explain(dumps([HumanMessage("hi")]), model._get_llm_string(response_format=Ans))


def test_a_cache_can_be_shared_with_other_code(cache: SemanticLLMCache) -> None:
    assert isinstance(cache.cache, SemanticCache)
    assert SemanticLLMCache(cache=cache.cache).stats() == cache.stats()


def test_a_generic_fake_chat_model_is_cached(cache: SemanticLLMCache) -> None:
    model = GenericFakeChatModel(messages=iter(["one", "two"]), cache=cache)
    assert [model.invoke("hi there").content for _ in range(2)] == ["one", "one"]


def test_a_date_in_the_system_prompt_is_hinted_at_and_can_be_taken_out_of_the_comparison(
    open_cache: OpenCache,
) -> None:
    def asked(day: str) -> list[Any]:
        return [SystemMessage(f"Be brief. Today is {day}."), HumanMessage("how warm is it")]

    strict = open_cache()
    model = Chat(cache=strict)
    model.invoke(asked("2026-11-24"))
    missed = strict.explain(dumps(asked("2026-11-25")), model._get_llm_string())
    assert missed.hit is None and "2026-11-25" in str(missed)
    lenient = open_cache(normalise_system=lambda text: text.partition("Today is")[0])
    model = Chat(cache=lenient).answering("10 degrees", "12 degrees")
    answers = [model.invoke(asked(day)).text for day in ("2026-11-24", "2026-11-25")]
    assert answers == ["10 degrees", "10 degrees"]
    assert model.invoke([SystemMessage("Be polite."), HumanMessage("how warm is it")]).text != (
        "10 degrees"
    )


# -- redacted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [r"\d", r"\S+@\S+"])
def test_a_redacted_answer_is_still_served(open_cache: OpenCache, taken: str) -> None:
    cache = open_cache(redact=lambda text: re.sub(taken, '"?"\n', text))
    model = Chat(cache=cache).answering("Write to a@b.example, room 12")
    model.invoke("where is it")
    again = model.invoke("where is it")
    assert again.content == re.sub(taken, '"?"\n', "Write to a@b.example, room 12")
    assert (model.asked, cache.stats().failures) == (1, {})

"""CachedLLM: every way to ask is cached, and an error of the cache is a miss."""

import asyncio
import logging
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import FailingEmbedder, WordEmbedder
from llama_index.core import Settings
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.extractors import SummaryExtractor
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.llms.mock import MockLLM
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.schema import TextNode
from pydantic import BaseModel
from scripted_llms import (
    CHATS,
    COMPLETIONS,
    WAYS,
    ScriptedLLM,
    said,
    shown,
    text_of,
    user,
)
from semcache_core import SemcacheError

from llamaindex_semcache import CachedLLM, last_hit
from llamaindex_semcache.documents import Sources
from llamaindex_semcache.templates import Templates

PAID = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.fixture(autouse=True)
def _no_settings() -> Iterator[None]:
    yield
    Settings._llm = Settings._callback_manager = None


# -- every way to ask ------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [CHATS, COMPLETIONS], ids=["chat", "completion"])
@pytest.mark.parametrize("first", range(4))
async def test_what_one_way_has_stored_every_other_serves(
    bench: Bench, ways: dict[str, Any], first: int
) -> None:
    inner = ScriptedLLM("hello my dear friend")
    llm = CachedLLM(llm=inner, cache=bench.open())
    names = list(ways)
    items = await ways[names[first]](llm, "hi there")
    assert shown(items) == text_of(items) == "hello my dear friend"
    for number, name in enumerate(names):
        items = await ways[name](llm, "hi there" if number % 2 else "there hi")
        assert shown(items) == text_of(items) == "hello my dear friend", name
        assert items[-1].raw["semcache"]["kind"] == ("exact" if number % 2 else "semantic"), name
    assert inner.calls == 1
    assert llm.stats().failures == {}


async def test_a_chat_and_a_completion_do_not_share_their_answers(bench: Bench) -> None:
    inner = ScriptedLLM("one", "two")
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert llm.chat(user("hi")).message.content == "one"
    assert llm.complete("hi").text == "two"
    assert llm.complete("hi", formatted=True).text == "two"
    assert inner.calls == 3


def test_it_is_the_llm_of_the_settings(bench: Bench) -> None:
    inner = ScriptedLLM("Basel lies on the Rhine.")
    Settings.llm = CachedLLM(llm=inner, cache=bench.open())
    prompt = PromptTemplate("Answer in one word.\nQuestion: {question}\nAnswer: ")
    for question in ("where is Basel", "is Basel where", "where is Basel"):
        assert Settings.llm.predict(prompt, question=question) == "Basel lies on the Rhine."
    assert inner.calls == 1


def test_the_question_of_a_custom_template_is_matched_by_meaning(bench: Bench) -> None:
    """A template is known from the moment that it is rendered, whatever its words are."""
    inner = ScriptedLLM("on the Rhine")
    llm = CachedLLM(llm=inner, cache=bench.open())
    prompt = PromptTemplate("Sources:\n{context_str}\n\nNow reply to this: {query_str}\nReply: ")
    for query in ("where is Basel", "is Basel where"):
        llm.predict(prompt, query_str=query, context_str="Basel is a town.\n\nIt is old.")
    assert inner.calls == 1
    llm.predict(prompt, query_str="where is Basel", context_str="Basel is a city.")
    assert inner.calls == 2


async def test_the_question_of_a_structured_chat_template_is_too(bench: Bench) -> None:
    inner = ScriptedLLM("on the Rhine")
    llm = CachedLLM(llm=inner, cache=bench.open())
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Be brief."), ("user", "From these lines:\n{context}\nsay of {query}: yes?")]
    )
    for query in ("where is Basel", "is Basel where"):
        assert await llm.apredict(prompt, query=query, context="a\nb") == "on the Rhine"
        assert "".join(llm.stream(prompt, query=query, context="a\nb")) == "on the Rhine"
    assert inner.calls == 1


# -- what must be equal for a hit ------------------------------------------------------------------

LONG = "You are a careful assistant of a bank in Basel. " * 80


def _system(text: str, question: str) -> list[ChatMessage]:
    return [ChatMessage(role="system", content=text), *user(question)]


def test_two_questions_under_one_long_system_prompt_are_two_misses(bench: Bench) -> None:
    """Trap 1: embedded as one text they would be equal."""
    llm = CachedLLM(llm=ScriptedLLM("one", "two"), cache=bench.open())
    assert llm.chat(_system(LONG, "reset my password")).message.content == "one"
    assert llm.chat(_system(LONG, "capital of France")).message.content == "two"


@pytest.mark.parametrize(
    "other",
    [
        _system("Be rude.", "hi there"),
        [*user("bye"), ChatMessage(role="assistant", content="bye"), *user("hi there")],
        user("Context: it is late.\n\nQuestion: hi there"),
    ],
    ids=["system", "history", "documents"],
)
def test_the_same_question_elsewhere_is_a_miss(bench: Bench, other: list[ChatMessage]) -> None:
    """Trap 2."""
    llm = CachedLLM(llm=ScriptedLLM("one", "two"), cache=bench.open())
    assert llm.chat(_system("Be kind.", "hi there")).message.content == "one"
    assert llm.chat(other).message.content == "two"


@pytest.mark.parametrize(
    "other", [{"model": "scripted-2"}, {"temperature": 0.7}, {"system_prompt": "Be rude."}]
)
def test_another_model_is_a_miss(bench: Bench, other: dict[str, Any]) -> None:
    """Trap 6."""
    cache = bench.open()
    CachedLLM(llm=ScriptedLLM("one"), cache=cache).chat(user("hi there"))
    inner = ScriptedLLM("two", **other)
    assert CachedLLM(llm=inner, cache=cache).chat(user("hi there")).message.content == "two"
    same = CachedLLM(llm=ScriptedLLM("three"), cache=cache)
    assert same.chat(user("hi there")).message.content == "one"


def test_other_arguments_are_a_miss_and_reach_the_model(bench: Bench) -> None:
    inner = ScriptedLLM("one", "two")
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert llm.chat(user("hi"), stop=["."]).message.content == "one"
    assert llm.chat(user("hi"), stop=["!"]).message.content == "two"
    assert inner.arguments == [{"stop": ["."]}, {"stop": ["!"]}]


def test_tenants_never_share(bench: Bench) -> None:
    """Trap 23."""
    cache, inner = bench.open(), ScriptedLLM("one", "two")
    tenant = "a"
    llm = CachedLLM(llm=inner, cache=cache, namespace=lambda: tenant)
    assert llm.chat(user("hi there")).message.content == "one"
    tenant = "b"
    assert llm.chat(user("hi there")).message.content == "two"
    assert cache.clear("a") == 1
    assert llm.chat(user("hi there")).message.content == "two"
    assert inner.calls == 2


def test_a_copy_for_another_tenant_has_answers_of_its_own(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM("one", "two"), cache=bench.open(), namespace="a")
    llm.chat(user("hi there"))
    other = llm.model_copy(update={"namespace": "b"})
    assert other.chat(user("hi there")).message.content == "two"
    assert llm.chat(user("hi there")).message.content == "one"


def test_a_call_that_hides_its_fields_is_not_cached_but_answered(bench: Bench) -> None:
    inner = ScriptedLLM("one", "two")
    llm = CachedLLM(llm=inner, cache=bench.open())
    for answer in ("one", "two"):
        assert llm.chat(user("hi"), tracer=object()).message.content == answer
    with pytest.raises(SemcacheError, match="is not cached"):
        llm.explain(user("hi"), tracer=object())


# -- what a hit is ---------------------------------------------------------------------------------


def test_a_hit_tells_of_itself_and_costs_nothing(bench: Bench) -> None:
    """Trap 10: counts of tokens are zero, not gone."""
    kwargs = {**PAID, "thoughts": "few", "client": object()}
    usage = {"usage": {"total_tokens": 7, "details": {"cached_tokens": 1}}}
    answer = said("hello", raw={"id": 1, "usage": PAID}, additional_kwargs=kwargs)
    answer.message.additional_kwargs = usage
    llm = CachedLLM(llm=ScriptedLLM(answer), cache=bench.open())
    first = llm.chat(user("hi there"))
    assert first.raw["usage"] == PAID and last_hit() is None
    bench.clock.now += 5
    hit = llm.chat(user("there hi"))
    found = last_hit()
    assert found is not None and found.kind == "semantic" and found.age_s == 5
    assert hit.raw == {
        "semcache": {
            "kind": "semantic",
            "probability": found.probability,
            "age_s": 5,
            "entry_id": found.entry_id,
        }
    }
    assert hit.additional_kwargs == {**dict.fromkeys(PAID, 0), "thoughts": "few"}
    assert hit.message.additional_kwargs == {
        "usage": {"total_tokens": 0, "details": {"cached_tokens": 0}}
    }
    llm.complete("something else")
    assert last_hit() is None


def test_what_an_app_does_to_an_answer_changes_no_other(bench: Bench) -> None:
    """Trap 11: of the first answer, and of a hit."""
    answer = said("hello", additional_kwargs={"notes": ["a"]})
    llm = CachedLLM(llm=ScriptedLLM(answer), cache=bench.open())
    for _ in range(3):
        given = llm.chat(user("hi there"))
        assert given.message.content == "hello"
        assert given.additional_kwargs == {"notes": ["a"]}
        given.message.content = "changed"
        given.additional_kwargs["notes"].append("b")


async def test_identical_calls_at_the_same_time_are_one_call_of_the_llm(bench: Bench) -> None:
    """Trap 18."""
    gate = asyncio.Event()
    inner = ScriptedLLM("hello", gate=gate)
    llm = CachedLLM(llm=inner, cache=bench.open())
    asked = [asyncio.create_task(llm.achat(user("hi there"))) for _ in range(8)]
    while not inner.calls:
        await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*asked)
    assert inner.calls == 1
    assert {answer.message.content for answer in answers} == {"hello"}
    assert len({id(answer.message) for answer in answers}) == 8


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", ["lookup", "update"])
async def test_a_cache_that_raises_is_a_miss(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, way: str, broken: str
) -> None:
    """Trap 13."""
    cache, inner = bench.open(), ScriptedLLM("hello my friend")
    llm = CachedLLM(llm=inner, cache=cache)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no disk")

    monkeypatch.setattr(cache, broken, fail)
    assert shown(await WAYS[way](llm, "hi there")) == "hello my friend"
    assert inner.calls == 1
    assert llm.stats().failures == {broken: 1}


def test_so_is_one_whose_embedder_raises(bench: Bench) -> None:
    embedder = FailingEmbedder(error=RuntimeError("no model"))
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open(embedder=embedder))
    assert llm.chat(user("hi there")).message.content == "hello"
    assert llm.stats().failures == {"update": 1}


def test_a_template_that_cannot_be_known_is_rendered_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())

    def fail(*args: Any) -> None:
        raise RuntimeError("odd template")

    monkeypatch.setattr(Templates, "know", fail)
    assert llm.predict(PromptTemplate("say {word}"), word="hello") == "hello"
    assert llm.stats().failures == {"lookup": 1}


@pytest.mark.parametrize("way", WAYS)
async def test_an_error_of_the_llm_is_the_apps_and_is_not_stored(bench: Bench, way: str) -> None:
    llm = CachedLLM(llm=ScriptedLLM(error=ConnectionError("busy")), cache=bench.open())
    with pytest.raises(ConnectionError, match="busy"):
        await WAYS[way](llm, "hi there")
    assert llm.stats().entries == 0
    assert llm.stats().failures == {}


def test_a_damaged_row_is_a_miss_and_is_replaced(bench: Bench) -> None:
    """Trap 12."""
    cache, inner = bench.open(), ScriptedLLM("one", "two")
    llm = CachedLLM(llm=inner, cache=cache)
    llm.chat(user("hi there"))
    request = llm._responders().reader.read(llm._chat(user("hi there"), {}))
    assert request is not None
    for row in ("garbage", "[]", "[" * 400, '{"message": {"role": "assistant", "blocks": [7]}}'):
        cache.update(request, row)
        assert llm.chat(user("hi there")).message.content == "two"
        assert llm.chat(user("hi there")).raw["semcache"]["kind"] == "exact"
    assert inner.calls == 5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "answer",
    [
        said("half an ans", raw={"choices": [{"finish_reason": "length"}]}),
        said("I cannot", raw={"choices": [{"message": {"refusal": "I cannot"}}]}),
        said("  "),
        said("a guess", raw={"semcache": {"kind": "semantic"}}),
    ],
    ids=["length", "refusal", "empty", "guess"],
)
async def test_what_must_not_be_repeated_is_not_stored(bench: Bench, way: str, answer: Any) -> None:
    """Trap 16."""
    inner = ScriptedLLM(answer)
    llm = CachedLLM(llm=inner, cache=bench.open())
    for _ in range(2):
        assert shown(await WAYS[way](llm, "hi there")) == answer.message.content
    assert inner.calls == 2
    assert llm.stats().entries == 0


# -- callbacks -------------------------------------------------------------------------------------


def _counter() -> TokenCountingHandler:
    return TokenCountingHandler(tokenizer=str.split)


@pytest.mark.parametrize("way", WAYS)
async def test_tokens_are_counted_once_on_a_miss_and_not_on_a_hit(bench: Bench, way: str) -> None:
    """Trap 21. Of the LLM's own callback manager."""
    counter = _counter()
    inner = ScriptedLLM("hello", callback_manager=CallbackManager([counter]))
    llm = CachedLLM(llm=inner, cache=bench.open())
    await WAYS[way](llm, "hi there")
    assert len(counter.llm_token_counts) == 1
    await WAYS[way](llm, "hi there")
    await WAYS[way](llm, "there hi")
    assert len(counter.llm_token_counts) == 1


def test_a_callback_manager_that_is_set_later_reaches_the_llm(bench: Bench) -> None:
    """Trap 21."""
    counter, inner = _counter(), ScriptedLLM("hello")
    Settings.llm = CachedLLM(llm=inner, cache=bench.open())
    Settings.callback_manager = CallbackManager([counter])
    Settings.llm.predict(PromptTemplate("say {word}"), word="hello")
    assert inner.callback_manager is Settings.callback_manager
    assert len(counter.llm_token_counts) == 1


def test_an_audit_asks_behind_the_back_of_the_app(bench: Bench) -> None:
    counter = _counter()
    inner = ScriptedLLM("hello", "hello", callback_manager=CallbackManager([counter]))
    llm = CachedLLM(llm=inner, cache=bench.open(audit_rate=1))
    llm.chat(user("hi there"))
    assert llm.chat(user("there hi")).raw["semcache"]["kind"] == "semantic"
    for thread in threading.enumerate():
        if thread.name.startswith("semcache audit"):
            thread.join()
    assert inner.calls == 2 and len(counter.llm_token_counts) == 1
    assert llm.stats().measured.n == 1 and llm.stats().failures == {}


# -- prompts ---------------------------------------------------------------------------------------


def test_the_llms_system_prompt_is_said_once(bench: Bench) -> None:
    inner = ScriptedLLM("hello", system_prompt="Be kind.")
    llm = CachedLLM(llm=inner, cache=bench.open())
    assert llm.predict(PromptTemplate("say {word}"), word="hello") == "hello"
    assert [message.content for message in inner.asked[0]] == ["Be kind.", "say hello"]


def test_a_completion_model_renders_as_it_would_alone(bench: Bench) -> None:
    template = PromptTemplate("<s>{query_str}</s>")
    alone = ScriptedLLM(
        is_chat_model=False,
        system_prompt="Be kind.",
        completion_to_prompt=lambda prompt: f"[INST]{prompt}[/INST]",
        query_wrapper_prompt=template,
    )
    alone.predict(PromptTemplate("say {word}"), word="hello")
    inner = ScriptedLLM(
        is_chat_model=False,
        system_prompt="Be kind.",
        completion_to_prompt=lambda prompt: f"[INST]{prompt}[/INST]",
        query_wrapper_prompt=template,
    )
    CachedLLM(llm=inner, cache=bench.open()).predict(PromptTemplate("say {word}"), word="hello")
    assert inner.asked == alone.asked


class _City(BaseModel):
    name: str


def test_the_output_parser_is_applied_once(bench: Bench) -> None:
    parser = PydanticOutputParser(output_cls=_City)
    inner = ScriptedLLM('{"name": "Basel"}', output_parser=parser)
    llm = CachedLLM(llm=inner, cache=bench.open())
    for _ in range(2):
        assert llm.predict(PromptTemplate("name a city")) == str(_City(name="Basel"))
    assert str(inner.asked[0][-1].content).count("Here's a JSON schema") == 1
    assert inner.calls == 1


# -- what it is to others --------------------------------------------------------------------------


def test_to_dict_tells_llms_apart_and_no_secret(bench: Bench) -> None:
    """Trap 22: it is what an ingestion pipeline hashes."""
    cache = bench.open()
    one, other = (CachedLLM(llm=ScriptedLLM(model=name), cache=cache) for name in ("a", "b"))
    assert "SENTINEL" not in str(one.to_dict()) and "sk-" not in one.to_json()
    hashes = [get_transformation_hash([], SummaryExtractor(llm=llm)) for llm in (one, other, one)]
    assert hashes[0] != hashes[1] and hashes[0] == hashes[2]
    one.chat(user("hi"))
    assert get_transformation_hash([], SummaryExtractor(llm=one)) == hashes[0]


def test_no_secret_is_on_disk(bench: Bench) -> None:
    """Trap 14."""
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())
    llm.chat(user("hi"), extra_headers={"Authorization": "Bearer SENTINEL"})
    assert llm.stats().entries == 1
    llm.semantic_cache.close()
    files = [file for file in bench.path.rglob("*") if file.is_file()]
    assert files and not any(b"SENTINEL" in file.read_bytes() for file in files)


def _made(bench: Bench, inner: ScriptedLLM, **options: Any) -> CachedLLM:
    llm = CachedLLM(
        llm=inner, path=bench.path, embedder=WordEmbedder(), artefact=bench.artefact, **options
    )
    bench.opened.append(llm.semantic_cache)
    return llm


def test_pickled_it_opens_its_path_anew(bench: Bench) -> None:
    llm = _made(bench, ScriptedLLM("hello"), namespace="a", context="text", pace=0.0)
    llm.chat(user("hi there"))
    copied = pickle.loads(pickle.dumps(llm))
    bench.opened.append(copied.semantic_cache)
    assert isinstance(copied, CachedLLM) and copied.semantic_cache is not llm.semantic_cache
    assert (copied.namespace, copied.context, copied.pace) == ("a", "text", 0.0)
    assert copied.chat(user("there hi")).raw["semcache"]["kind"] == "semantic"


def test_what_cannot_be_pickled_arrives_as_the_llm_alone(bench: Bench, warnings_of: Any) -> None:
    """Never as a cache that has forgotten whose answers it may give."""
    llm = _made(bench, ScriptedLLM(), namespace=lambda: "a")
    copied = pickle.loads(pickle.dumps(llm))
    assert type(copied) is ScriptedLLM
    assert warnings_of("arrives as its LLM alone")


def test_where_its_path_does_not_open_it_arrives_as_the_llm_alone(
    bench: Bench, warnings_of: Any
) -> None:
    """An error in a worker that unpickles it would let LlamaIndex wait without end."""
    pickled = pickle.dumps(_made(bench, ScriptedLLM()))
    bench.opened.pop().close()
    shutil.rmtree(bench.path)
    bench.path.write_text("no directory")
    assert type(pickle.loads(pickled)) is ScriptedLLM
    assert warnings_of("does not open")


def test_one_before_a_given_cache_can_be_pickled_too(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM(), cache=bench.open())
    assert text_of([pickle.loads(pickle.dumps(llm)).chat(user("hi"))]) == "an answer"


def test_the_workers_of_a_pipeline_use_the_same_cache(bench: Bench) -> None:
    llm = _made(bench, ScriptedLLM())
    nodes = [TextNode(text=f"town number {number}") for number in range(2)]
    pipeline = IngestionPipeline(
        transformations=[SummaryExtractor(llm=llm, summaries=["self"])], disable_cache=True
    )
    done = pipeline.run(nodes=nodes, num_workers=2)
    assert [node.metadata["section_summary"] for node in done] == ["an answer"] * 2
    assert llm.stats().entries == 2


def test_a_copy_stands_before_the_same_cache(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())
    llm.chat(user("hi there"))
    for copied in (deepcopy(llm), llm.model_copy()):
        assert copied.chat(user("hi there")).raw["semcache"]["kind"] == "exact"
        assert copied.sources is llm.sources
    assert deepcopy(llm).llm is not llm.llm


def test_explain_and_stats_tell_of_calls(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())
    assert llm.explain(user("hi there")).hit is None
    llm.chat(user("hi there"), stop=["."])
    llm.complete("hi there")
    assert llm.explain(user("there hi"), stop=["."]).hit is not None
    assert llm.explain(user("there hi")).hit is None
    assert llm.explain("there hi").hit is not None
    assert llm.explain("there hi", formatted=True).hit is None
    assert (llm.stats().misses, llm.stats().updates) == (2, 2)


def test_the_hint_of_a_dated_system_prompt_reaches_explain(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())
    explained = llm.explain(_system("Today is 2026-03-01.", "hi there"))
    assert explained.hint is not None and "2026-03-01" in explained.hint


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"llm": "gpt-4o"}, "got a str"),
        ({"pace": -1}, "got -1"),
        ({"namespace": ""}, "namespace"),
        ({"namespace": None}, "leave it out"),
        ({"writer": 7}, "writer"),
        ({"split": "question"}, "got 'question'"),
        ({"normalise_system": "date"}, "got 'date'"),
        ({"uncached_tools": "clock"}, "got 'clock'"),
        ({"context": "documents"}, "got 'documents'"),
        ({"max_error_rate": 2}, "max_error_rate"),
        ({"cache": "redis"}, "got 'redis'"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_told_of_at_once(
    tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    given = {"llm": ScriptedLLM(), "path": None, **wrong}
    if "cache" in wrong:
        del given["path"]
    with pytest.raises(SemcacheError, match=told):
        CachedLLM(**given)


def test_it_is_wrapped_once(bench: Bench) -> None:
    llm = CachedLLM(llm=ScriptedLLM(), cache=bench.open())
    with pytest.raises(SemcacheError, match="wrap it once"):
        CachedLLM(llm=llm, cache=bench.open())


def test_it_has_sources_of_its_own(bench: Bench) -> None:
    one, other = (CachedLLM(llm=ScriptedLLM(), cache=bench.open()) for _ in range(2))
    assert isinstance(one.sources, Sources) and one.sources is not other.sources


async def test_llamaindexs_own_mock_is_cached(bench: Bench) -> None:
    llm = CachedLLM(llm=MockLLM(max_tokens=3), cache=bench.open())
    for _ in range(2):
        assert llm.predict(PromptTemplate("say {word}"), word="a") == "text text text"
    assert llm.stats().exact_hits == 1


def test_nothing_is_logged_of_a_hit(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="semcache")
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())
    for text in ("hi there", "there hi", "hi there"):
        llm.chat(user(text))
    assert not caplog.records


def test_for_what_is_no_llm_no_cache_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMCACHE_PATH", str(tmp_path / "cache"))
    with pytest.raises(SemcacheError, match="must be the LlamaIndex LLM to be asked"):
        CachedLLM(llm="gpt")  # type: ignore[arg-type]
    assert not (tmp_path / "cache").exists()


# -- redacted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [r"\d", r"\S+@\S+"])
def test_a_redacted_answer_is_still_served(bench: Bench, taken: str) -> None:
    inner = ScriptedLLM("Write to a@b.example, room 12")
    cache = bench.open(redact=lambda text: re.sub(taken, '"?"\n', text))
    llm = CachedLLM(llm=inner, cache=cache)
    llm.chat(user("where is it"))
    again = llm.chat(user("where is it"))
    assert again.message.content == re.sub(taken, '"?"\n', "Write to a@b.example, room 12")
    assert (inner.calls, llm.stats().failures) == (1, {})

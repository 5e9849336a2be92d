"""What an app is told when a call of LangChain was not answered by the cache."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompt_values import StringPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from scripted_models import Chat, OllamaLike, Streaming
from semcache_core import Explanation, SemcacheError

from langchain_semcache import CachedChatModel, SemanticLLMCache, last_hit, last_lookup
from langchain_semcache.request import CONFIG_KEY, MODE_KEY

ASK = "hi there"
ORDER = "order of the documents"
DOCUMENTS = "Context: Basel is a city. Bern is a city.\n\nQuestion: "


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return "warm"


Explain = Callable[..., Explanation]


@pytest.fixture(params=["hook", "wrapper"])
def explain(request: pytest.FixtureRequest, cache: SemanticLLMCache) -> Explain:
    """`explain(asked, model, **arguments)` of both ways to put a cache before a chat model."""

    def by_wrapper(asked: Any, model: Any, **arguments: Any) -> Explanation:
        return CachedChatModel(model, cache=cache.cache).explain(asked, **arguments)

    return cache.explain if request.param == "hook" else by_wrapper


# -- which part of the scope differs ---------------------------------------------------------------


def conversation(system: str = "be brief", earlier: str = "hello", question: str = ASK) -> Any:
    return [SystemMessage(system), HumanMessage(earlier), AIMessage("yes?"), HumanMessage(question)]


@pytest.mark.parametrize("kind", [Chat, OllamaLike])
@pytest.mark.parametrize(
    ("asked", "arguments", "differs"),
    [
        (conversation(system="be polite"), {}, {"system prompt"}),
        (conversation(earlier="good morning"), {}, {"history"}),
        (conversation(), {"stop": ["."]}, {"stop"}),
        (conversation(), {"tools": [{"name": "weather"}], "seed": 7}, {"tools", "seed"}),
        (conversation(system="x", earlier="y"), {}, {"system prompt", "history"}),
    ],
)
def test_the_parts_of_a_call_that_differ_are_named(
    cache: SemanticLLMCache,
    explain: Explain,
    kind: type[Any],
    asked: Any,
    arguments: dict[str, Any],
    differs: set[str],
) -> None:
    model = kind(cache=cache)
    model.invoke(conversation())
    for question in (ASK, "there hi"):
        asked = [*asked[:-1], HumanMessage(question)]
        explained = explain(asked, model, **arguments)
        assert explained.hit is None
        assert explained.elsewhere is not None and set(explained.elsewhere.differs) == differs


@pytest.mark.parametrize(
    ("kind", "change", "differs"),
    [
        (Chat, {"temperature": 1.0}, ("temperature",)),
        (Chat, {"model_name": "gpt-2"}, ("model",)),
        (Chat, {"default_headers": {"x": "SENTINEL"}}, ("default_headers",)),
        (OllamaLike, {"temperature": 1.0}, ("temperature",)),
        (OllamaLike, {"model": "llama4"}, ("model",)),
    ],
)
def test_another_model_or_parameter_is_named(
    cache: SemanticLLMCache, explain: Explain, kind: Any, change: Any, differs: tuple[str, ...]
) -> None:
    kind(cache=cache).invoke(ASK)
    explained = explain("there hi", kind(cache=cache, **change))
    assert explained.elsewhere is not None and explained.elsewhere.differs == differs
    assert "SENTINEL" not in str(explained)


@pytest.mark.parametrize(
    ("documents", "differs"),
    [
        (DOCUMENTS, None),
        (DOCUMENTS.replace("Basel is a city. Bern is a city.", "Bern is a city."), "documents"),
        (
            DOCUMENTS.replace(
                "Basel is a city. Bern is a city.", "Bern is a city. Basel is a city."
            ),
            "order of the documents",
        ),
    ],
)
def test_other_documents_are_told_from_another_order_of_the_same(
    cache: SemanticLLMCache, explain: Explain, documents: str, differs: str | None
) -> None:
    model = Chat(cache=cache)
    model.invoke(DOCUMENTS + ASK)
    explained = explain(documents + "there hi", model)
    if differs is None:
        assert explained.hit is not None
    else:
        assert explained.elsewhere is not None and explained.elsewhere.differs == (differs,)


def test_another_image_is_named(cache: SemanticLLMCache, explain: Explain) -> None:
    def asked(url: str) -> Any:
        image = {"type": "image_url", "image_url": {"url": url}}
        return [HumanMessage([image, {"type": "text", "text": ASK}])]

    model = Chat(cache=cache)
    model.invoke(asked("http://a/1.png"))
    explained = explain(asked("http://a/2.png"), model)
    assert explained.elsewhere is not None and explained.elsewhere.differs == ("attachments",)


def test_another_tenant_s_answers_are_never_named(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    model.invoke(ASK, {"configurable": {CONFIG_KEY: "ada"}})
    explained = cache.explain(ASK, model, config={"configurable": {CONFIG_KEY: "bob"}})
    assert explained.elsewhere is None and "'bob'" in explained.reason


def test_the_hint_at_a_date_is_not_given_where_the_system_prompt_is_the_same(
    cache: SemanticLLMCache, explain: Explain
) -> None:
    asked = conversation(system="Today is 2026-11-25.")
    Chat(cache=cache).invoke(asked)
    assert explain(asked, Chat(cache=cache, temperature=1.0)).hint == ""
    later = conversation(system="Today is 2026-11-26.")
    assert "2026-11-26" in explain(later, Chat(cache=cache)).hint


# -- why it is matched exactly only ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("Basel is a city.\nIs it?", "several lines"),
        ("Context: Basel is a city.", "brings facts"),
        (
            [HumanMessage([{"type": "image_url", "image_url": {"url": "http://a/1.png"}}])],
            "has no text",
        ),
        (
            [
                HumanMessage(ASK),
                AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": "1"}]),
                ToolMessage("warm", tool_call_id="1"),
            ],
            "the result of a tool",
        ),
    ],
)
def test_a_call_that_is_only_matched_exactly_says_why(
    cache: SemanticLLMCache, explain: Explain, asked: Any, words: str
) -> None:
    model = Chat(cache=cache)
    explained = explain(asked, model)
    assert explained.code == "exact_only" and words in explained.reason
    model.invoke(asked)
    found = last_lookup()
    assert found is not None and found.code == "exact_only" and words in found.reason


def test_an_answer_that_calls_tools_is_said_to_be_served_exactly_only(
    cache: SemanticLLMCache,
) -> None:
    call = AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": "1"}])
    bound = Chat(cache=cache).answering(call).bind_tools([weather])
    bound.invoke(ASK)
    assert cache.explain("there hi", bound).code == "only_exact_entries"


# -- explain sees what the cache sees --------------------------------------------------------------


FORMS: list[Any] = [
    ASK,
    [HumanMessage(ASK)],
    [("system", "be brief"), ("user", ASK)],
    [{"role": "user", "content": ASK}],
    StringPromptValue(text=ASK),
    ChatPromptTemplate([("user", "{text}")]).invoke({"text": ASK}),
]


@pytest.mark.parametrize("asked", FORMS)
@pytest.mark.parametrize("kind", [Chat, OllamaLike, FakeListLLM])
def test_a_call_in_any_form_is_explained_as_the_cache_sees_it(
    cache: SemanticLLMCache, kind: Any, asked: Any
) -> None:
    options = {"responses": ["hello"]} if kind is FakeListLLM else {}
    model = kind(cache=cache, **options)
    model.invoke(asked)
    assert cache.explain(asked, model).code == "exact"
    assert cache.explain(asked, model=model).code == "exact"
    assert cache.explain(asked, model, stop=["."]).code != "exact"
    assert cache.stats().lookups == 1


@pytest.mark.parametrize("kind", [Chat, OllamaLike, FakeListLLM])
def test_the_arguments_of_a_call_are_part_of_it(cache: SemanticLLMCache, kind: Any) -> None:
    options = {"responses": ["hello"]} if kind is FakeListLLM else {}
    model = kind(cache=cache, **options)
    bound = model.bind(temperature=1.5, stop=["."])
    bound.invoke(ASK)
    assert cache.explain(ASK, bound).code == "exact"
    assert cache.explain(ASK, model, stop=["."], temperature=1.5).code == "exact"
    explained = cache.explain(ASK, model, stop=["."], temperature=0.5)
    assert explained.elsewhere is not None and explained.elsewhere.differs == ("temperature",)


def test_bound_tools_are_part_of_the_call(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache)
    bound = model.bind_tools([weather])
    bound.with_config({"configurable": {CONFIG_KEY: "ada"}}).invoke(ASK)
    assert cache.explain(ASK, bound, config={"configurable": {CONFIG_KEY: "ada"}}).code == "exact"
    assert (
        cache.explain(ASK, bound.with_config({"configurable": {CONFIG_KEY: "ada"}})).code == "exact"
    )
    assert cache.explain(ASK, bound).hit is None


@pytest.mark.parametrize("wrong", [None, 7, ChatPromptTemplate([("user", "x")]) | Chat()])
def test_what_is_no_model_is_refused(cache: SemanticLLMCache, wrong: Any) -> None:
    with pytest.raises(SemcacheError, match="chat or text model"):
        cache.explain(ASK, wrong)


# -- the last lookup -------------------------------------------------------------------------------


@pytest.fixture(params=["hook", "wrapper"])
def model(request: pytest.FixtureRequest, cache: SemanticLLMCache) -> Any:
    wrapped = request.param == "wrapper"
    inner = Streaming(cache=None if wrapped else cache, disable_streaming=True)
    return CachedChatModel(inner, cache=cache.cache) if wrapped else inner


def code() -> str | None:
    found = last_lookup()
    return None if found is None else found.code


def test_the_last_lookup_is_of_the_last_call(model: Any) -> None:
    for asked, expected in (
        (ASK, "empty_scope"),
        (ASK, "exact"),
        ("there hi", "semantic"),
        ("another question", "below_threshold"),
        ([HumanMessage("one\ntwo")], "exact_only"),
    ):
        model.invoke(asked)
        found = last_lookup()
        assert found is not None and found.code == expected and found.hit is last_hit()


def test_a_call_past_the_cache_or_one_it_cannot_read_says_so(model: Any) -> None:
    model.invoke(ASK)
    for mode in ("refresh", "bypass"):
        model.invoke(ASK, {"configurable": {MODE_KEY: mode}})
        assert code() == mode
    model.invoke(ASK, thing=object())
    assert code() == "not_cached"


def test_a_cache_that_fails_says_so(model: Any, cache: SemanticLLMCache) -> None:
    model.invoke(ASK)
    cache.cache.close()
    model.invoke(ASK)
    assert code() == "failed"


def test_an_answer_that_cannot_be_read_is_a_failure(open_cache: Any, tmp_path: Path) -> None:
    cache = open_cache(path=tmp_path / "cache")
    for model in (Chat(cache=cache), CachedChatModel(Chat(), cache=cache.cache)):
        model.invoke(ASK)
        with closing(sqlite3.connect(tmp_path / "cache" / "ledger.sqlite3")) as connection:
            connection.execute("UPDATE semcache_entries SET response = x'7b'")
            connection.commit()
        model.invoke(ASK)
        assert code() == "failed" and last_hit() is None


def test_a_model_that_fails_leaves_the_reason_of_the_miss(cache: SemanticLLMCache) -> None:
    inner = Streaming().answering("hello", ConnectionError(), ConnectionError())
    ours = CachedChatModel(inner, cache=cache.cache)
    ours.invoke(ASK)
    for way in (ours.invoke, lambda text: list(ours.stream(text))):
        with pytest.raises(ConnectionError):
            way("another question")
        assert code() == "below_threshold"


async def test_an_async_stream_that_fails_leaves_the_reason_of_the_miss(
    cache: SemanticLLMCache,
) -> None:
    ours = CachedChatModel(Streaming().answering("hello", ConnectionError()), cache=cache.cache)
    await ours.ainvoke(ASK)
    with pytest.raises(ConnectionError):
        async for _ in ours.astream("another question"):
            pass
    assert code() == "below_threshold"


async def test_the_last_lookup_after_async_calls(cache: SemanticLLMCache) -> None:
    ours = CachedChatModel(Streaming(), cache=cache.cache)
    for expected in ("empty_scope", "exact"):
        await ours.ainvoke(ASK)
        assert code() == expected
    for asked, expected in (("there hi", "semantic"), ("another question", "below_threshold")):
        async for _ in ours.astream(asked):
            pass
        assert code() == expected

    async def ask(text: str) -> str | None:
        await ours.ainvoke(text)
        return code()

    assert await asyncio.gather(ask(ASK), ask("a third")) == ["exact", "below_threshold"]
    assert code() is None  # the last of two tasks is not known


def test_the_last_lookup_after_a_chain_is_never_an_older_one(model: Any) -> None:
    for _ in range(2):
        model.invoke(ASK)
    chain = ChatPromptTemplate([("user", "{text}")]) | model
    chain.invoke({"text": "another question"})
    assert code() == "below_threshold"

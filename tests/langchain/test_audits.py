"""A hit that is audited: served at once, while the model is asked behind the user's back."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from asking import WAYS, astreamed, from_events, from_v3
from background import Held, afinish, auditing, finish, judged
from fakes import WordEmbedder, calibrated
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from scripted_models import Chat, Streaming
from semcache_core import SemanticCache
from semcache_core.pipeline.single_flight import SharedCall
from thermometer import Thermometer, calling

from langchain_semcache import CachedChatModel, SemanticCacheMiddleware, SemanticLLMCache, last_hit

ASK, PARAPHRASE = "how warm is it", "is it how warm"
pytestmark = pytest.mark.filterwarnings("ignore:The method .* is in beta")

Opened = Callable[..., SemanticCache]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """A cache in memory that matches word sets by meaning, and audits every such hit."""
    caches = []
    artefact = calibrated(tmp_path / "artefact")

    def opened(**options: Any) -> SemanticCache:
        told: dict[str, Any] = {"path": None, "artefact": artefact, "audit_rate": 1.0}
        caches.append(SemanticCache(embedder=WordEmbedder(), **(told | options)))
        return caches[-1]

    yield opened
    for cache in caches:
        cache.close()


@pytest.fixture
def cache(opened: Opened) -> SemanticCache:  # type: ignore[override]
    return opened()


# -- CachedChatModel -------------------------------------------------------------------------------


AWAYS: dict[str, Callable[..., Any]] = {
    "ainvoke": lambda model, asked: model.ainvoke(asked),
    "abatch": lambda model, asked: model.abatch([asked]),
    "astream": astreamed,
    "astream_events": from_events,
    "astream_events v3": from_v3,
}
SYNC = [way for way in WAYS if way not in AWAYS]


def text_of(answer: Any) -> str:
    [message] = answer if isinstance(answer, list) else [answer]
    return str(message.text)


def said(way: str, text: str, gate: Callable[[], Any]) -> Any:
    """What the model answers when it is asked this way, past the gate."""
    if "stream" in way:
        return [gate, *text.replace(" ", " |").split("|")]
    return lambda: gate() or text


@pytest.mark.parametrize(("text", "wrong"), [("quite warm", 0), ("cold today", 1)])
@pytest.mark.parametrize("way", SYNC)
def test_the_user_gets_the_hit_at_once_and_the_model_is_asked_behind_his_back(
    cache: SemanticCache, way: str, text: str, wrong: int
) -> None:
    held = Held()
    model = Streaming().answering("quite warm", said(way, text, held))
    ours = CachedChatModel(model, cache=cache)
    ours.invoke(ASK)
    answer = WAYS[way](ours, PARAPHRASE)
    assert answer.text == "quite warm"
    assert answer.response_metadata["semcache"]["kind"] == "semantic"
    assert held.begun.acquire(timeout=30)
    assert judged(cache) == (0, 0)
    held.go.set()
    finish()
    assert judged(cache) == (1, wrong)
    assert model.asked == 2 and model.open_streams == 0
    stats = cache.stats()
    assert (stats.entries, stats.updates, stats.withheld, stats.failures) == (1, 1, 0, {})


@pytest.mark.parametrize(("text", "wrong"), [("quite warm", 0), ("cold today", 1)])
@pytest.mark.parametrize("way", AWAYS)
async def test_async_the_user_gets_the_hit_at_once_and_the_model_is_asked_behind_his_back(
    cache: SemanticCache, way: str, text: str, wrong: int
) -> None:
    go = asyncio.Event()

    async def gate() -> str:
        await go.wait()
        return text

    slow: Any = [gate, *text.replace(" ", " |").split("|")] if "stream" in way else gate
    model = Streaming().answering("quite warm", slow)
    ours = CachedChatModel(model, cache=cache)
    await ours.ainvoke(ASK)
    if way == "astream_events v3":  # it waits for all tasks: LangChain's own are among them
        go.set()
    assert text_of(await AWAYS[way](ours, PARAPHRASE)) == "quite warm"
    go.set()
    await afinish()
    assert judged(cache) == (1, wrong)
    assert model.asked == 2 and model.open_streams == 0
    assert (cache.stats().entries, cache.stats().failures) == (1, {})


def test_nothing_is_asked_for_exact_repeats_nor_without_a_rate(opened: Opened) -> None:
    for rate, questions in ((1.0, [ASK, ASK]), (0.0, [ASK, PARAPHRASE])):
        model = Streaming()
        ours = CachedChatModel(model, cache=opened(audit_rate=rate))
        for question in questions:
            ours.invoke(question)
        assert auditing() == [] and model.asked == 1
        assert (hit := last_hit()) is not None and not hit.audited


def test_an_entry_that_was_wrong_does_not_answer_that_question_again(cache: SemanticCache) -> None:
    model = Streaming().answering("quite warm", "cold today", "cold today")
    ours = CachedChatModel(model, cache=cache)
    ours.invoke(ASK)
    assert ours.invoke(PARAPHRASE).text == "quite warm"
    finish()
    assert ours.invoke(PARAPHRASE).text == "cold today"
    assert last_hit() is None


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_an_error_of_the_model_behind_his_back_is_counted_and_harms_nobody(
    cache: SemanticCache, way: str
) -> None:
    model = Streaming().answering("quite warm", ConnectionError("down"))
    ours = CachedChatModel(model, cache=cache)
    ours.invoke(ASK)
    assert WAYS[way](ours, PARAPHRASE).text == "quite warm"
    finish()
    assert cache.stats().failures == {"audit": 1}
    assert judged(cache) == (0, 0)


IMAGE = {"type": "image", "url": "https://a.example/b.png"}
NO_WORDS = pytest.mark.parametrize(
    "fresh",
    [
        AIMessage("cold", response_metadata={"finish_reason": "length"}),
        calling(),
        AIMessage([IMAGE]),
    ],
    ids=["cut short", "call of a tool", "image"],
)


@NO_WORDS
def test_an_answer_that_is_not_whole_or_not_words_judges_nothing(
    cache: SemanticCache, fresh: AIMessage
) -> None:
    model = Streaming().answering("quite warm", fresh)
    ours = CachedChatModel(model, cache=cache)
    ours.invoke(ASK)
    ours.invoke(PARAPHRASE)
    finish()
    assert model.asked == 2
    assert judged(cache) == (0, 0) and cache.stats().failures == {}


@NO_WORDS
async def test_in_an_agent_too_such_an_answer_judges_nothing(
    cache: SemanticCache, ask: "Ask", fresh: AIMessage
) -> None:
    model = Chat().answering("quite warm", fresh)
    tools = [Thermometer().tool()]
    agent = create_agent(model, tools, middleware=[SemanticCacheMiddleware(cache=cache)])
    await ask(agent, ASK)
    await ask(agent, PARAPHRASE)
    finish()
    await afinish()
    assert model.asked == 2
    assert judged(cache) == (0, 0) and cache.stats().failures == {}


def in_a_cached_model(model: Chat, cache: SemanticCache) -> Callable[[str], Any]:
    return CachedChatModel(model, cache=cache).invoke


def with_langchains_cache(model: Chat, cache: SemanticCache) -> Callable[[str], Any]:
    return model.model_copy(update={"cache": SemanticLLMCache(cache=cache)}).invoke


def in_an_agent(model: Chat, cache: SemanticCache) -> Callable[[str], Any]:
    agent = create_agent(model, [], middleware=[SemanticCacheMiddleware(cache=cache)])
    return lambda text: agent.invoke({"messages": [("user", text)]})


def test_answers_are_compared_by_their_words_and_nothing_else(opened: Opened) -> None:
    compared: list[tuple[str, str]] = []

    def same(one: str, other: str) -> bool:
        compared.append((one, other))
        return True

    told = {"id": "chatcmpl-7", "token_usage": {"total_tokens": 7}}
    fresh = AIMessage("very warm", id="run-2", response_metadata=told)
    for where in (in_a_cached_model, with_langchains_cache, in_an_agent):
        cache = opened(same_answer=same)
        ask = where(Streaming().answering("quite warm", fresh), cache)
        ask(ASK)
        ask(PARAPHRASE)
        finish()
        assert compared.pop() == ("quite warm", "very warm")
        assert judged(cache) == (1, 0)


def test_all_who_ask_at_once_are_one_audit(
    cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Streaming().answering("quite warm", "quite warm")
    ours = CachedChatModel(model, cache=cache)
    ours.invoke(ASK)
    lookup, wait = cache.lookup, SharedCall.wait
    entered, waiting = threading.Event(), threading.Semaphore(0)

    def slow(*args: Any, **told: Any) -> Any:
        entered.set()
        assert waiting.acquire(timeout=30) and waiting.acquire(timeout=30)
        return lookup(*args, **told)

    def counted(flight: Any) -> None:
        waiting.release()
        wait(flight)

    cache.lookup = slow  # type: ignore[method-assign]
    monkeypatch.setattr(SharedCall, "wait", counted)
    with ThreadPoolExecutor(3) as threads:
        leader = threads.submit(ours.invoke, PARAPHRASE)
        assert entered.wait(30)
        others = [threads.submit(ours.invoke, PARAPHRASE) for _ in range(2)]
        assert {f.result(30).text for f in (leader, *others)} == {"quite warm"}
    finish()
    assert model.asked == 2 and judged(cache) == (1, 0)


def test_a_stream_is_audited_by_a_stream(cache: SemanticCache) -> None:
    """Some arguments, such as OpenAI's `stream_usage`, are for streams only."""

    class StreamsOnly(Streaming):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise NotImplementedError

    model = StreamsOnly().answering("quite warm", "quite warm")
    ours = CachedChatModel(model, cache=cache)
    for question in (ASK, PARAPHRASE):
        assert "".join(chunk.text for chunk in ours.stream(question)) == "quite warm"
    finish()
    assert judged(cache) == (1, 0) and cache.stats().failures == {}


async def test_async_the_event_loop_waits_for_no_comparison(
    cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    audited = SemanticCache.audited

    def noticed(*args: Any) -> None:
        threads.append(threading.current_thread())
        audited(*args)

    monkeypatch.setattr(SemanticCache, "audited", noticed)
    ours = CachedChatModel(Streaming().answering("quite warm", "quite warm"), cache=cache)
    agent = create_agent(Chat(), [], middleware=[SemanticCacheMiddleware(cache=cache)])
    for question in (ASK, PARAPHRASE):
        await ours.ainvoke(question)
        await agent.ainvoke({"messages": [("user", question)]})
    await afinish()
    assert len(threads) == 2 and threading.main_thread() not in threads


# -- no cache, and nobody of the app's run ---------------------------------------------------------


class Unasked(InMemoryCache):
    def lookup(self, *args: Any) -> Any:
        raise AssertionError("it was asked")


@pytest.mark.parametrize("own", [None, Unasked()], ids=["LangChain's global one", "the model's"])
def test_no_other_cache_answers_an_audit(opened: Opened, cache: SemanticCache, own: Any) -> None:
    set_llm_cache(Unasked())
    model = Chat(cache=own).answering("quite warm", "cold today", "cold today")
    inside = opened(audit_rate=0.0)
    ours = CachedChatModel(CachedChatModel(model, cache=inside), cache=cache)
    agent_cache = opened()
    middleware = SemanticCacheMiddleware(cache=agent_cache)
    agent = create_agent(CachedChatModel(model, cache=inside), [], middleware=[middleware])
    for question in (ASK, PARAPHRASE):
        assert ours.invoke(question).text == "quite warm"
        finish()
        messages = agent.invoke({"messages": [("user", question)]})["messages"]
        assert messages[-1].text == "quite warm"
        finish()
    assert judged(cache) == judged(agent_cache) == (1, 1)
    assert model.asked == 3
    assert inside.stats().entries == 1


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.models: list[Any] = []
        self.tokens: list[str] = []

    def on_chat_model_start(self, *args: Any, **_: Any) -> None:
        self.models.append(args)

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)


class Through(Streaming):
    """Asks another model, as a router does, and tells its own run of a token."""

    other: Any = None

    def _generate(self, *args: Any, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if run_manager is not None:
            run_manager.on_llm_new_token("mine")
        self.other.invoke("which one?")
        return super()._generate(*args, **kwargs)

    def _stream(self, *args: Any, run_manager: Any = None, **kwargs: Any) -> Any:
        if run_manager is not None:
            run_manager.on_llm_new_token("mine")
        self.other.invoke("which one?")
        yield from super()._stream(*args, **kwargs)


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_no_callback_hears_of_an_audit(cache: SemanticCache, way: str) -> None:
    heard, own = Heard(), Heard()
    model = Through(other=Streaming(), callbacks=[own]).answering("quite warm", "cold today")
    ours = CachedChatModel(model, cache=cache)
    chain = RunnableLambda(lambda asked: WAYS[way](ours, asked).text)
    before = []
    for question in (ASK, PARAPHRASE):
        assert chain.invoke(question, {"callbacks": [heard]}) == "quite warm"
        finish()
        before.append((len(heard.models), len(own.models), heard.tokens.count("mine")))
    asked, again = before
    # the hit is a run of its own; the model behind it, and the one that it asks, are not
    assert again == (asked[0] + 1, asked[1] + 1, asked[2])
    assert model.other.asked == 2 and judged(cache) == (1, 1)


async def test_async_no_callback_hears_of_an_audit(cache: SemanticCache) -> None:
    class Routed(Streaming):
        other: Any = None

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            await self.other.ainvoke("which one?")
            return await super()._agenerate(*args, **kwargs)

    heard = Heard()
    model = Routed(other=Streaming()).answering("quite warm", "cold today")
    ours = CachedChatModel(model, cache=cache)

    async def ask(asked: str) -> str:
        return str((await ours.ainvoke(asked)).text)

    counts = []
    for question in (ASK, PARAPHRASE):
        await RunnableLambda(ask).ainvoke(question, {"callbacks": [heard]})
        await afinish()
        counts.append(len(heard.models))
    assert counts == [2, 3] and model.other.asked == 2
    assert judged(cache) == (1, 1)


USER: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_nothing_of_the_apps_context_is_in_an_audit(cache: SemanticCache, way: str) -> None:
    seen: list[str] = []

    def answer() -> str:
        seen.append(USER.get())
        return "quite warm"

    ours = CachedChatModel(Streaming().answering(answer, answer), cache=cache)
    USER.set("ada")
    for question in (ASK, PARAPHRASE):
        if way == "invoke":
            ours.invoke(question)
        else:
            await ours.ainvoke(question)
        finish()
        await afinish()
    assert seen == ["ada", "nobody"]


# -- agents ----------------------------------------------------------------------------------------


Ask = Callable[[Any, str], Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    async def ask(agent: Any, question: str, config: Any = None) -> Any:
        given = {"messages": [("user", question)]}
        if request.param == "async":
            return (await agent.ainvoke(given, config))["messages"][-1]
        return agent.invoke(given, config)["messages"][-1]

    return ask


@pytest.mark.parametrize(("text", "wrong"), [("quite warm", 0), ("cold today", 1)])
async def test_an_agents_hit_is_served_at_once_and_audited_once(
    cache: SemanticCache, ask: Ask, text: str, wrong: int
) -> None:
    held = Held()
    model = Chat().answering("quite warm", lambda: held() or text)
    middleware = SemanticCacheMiddleware(cache=cache)
    agent = create_agent(model, [Thermometer().tool()], middleware=[middleware])
    await ask(agent, ASK)
    answer = await ask(agent, PARAPHRASE)
    assert answer.text == "quite warm"
    assert answer.response_metadata["semcache"]["kind"] == "semantic"
    assert judged(cache) == (0, 0)
    held.go.set()
    finish()
    await afinish()
    assert judged(cache) == (1, wrong)
    assert model.asked == 2
    assert (cache.stats().entries, cache.stats().failures) == (1, {})


async def test_an_agent_is_not_harmed_by_an_audit_that_fails(
    cache: SemanticCache, ask: Ask
) -> None:
    model = Chat().answering("quite warm", ConnectionError("down"))
    agent = create_agent(model, [], middleware=[SemanticCacheMiddleware(cache=cache)])
    await ask(agent, ASK)
    assert (await ask(agent, PARAPHRASE)).text == "quite warm"
    finish()
    await afinish()
    assert cache.stats().failures == {"audit": 1}


async def test_an_agents_callbacks_and_streams_show_nothing_of_an_audit(
    cache: SemanticCache, ask: Ask
) -> None:
    heard, own = Heard(), Heard()
    model = Streaming(callbacks=[own]).answering("quite warm", "cold today")
    agent = create_agent(model, [], middleware=[SemanticCacheMiddleware(cache=cache)])
    for question in (ASK, PARAPHRASE):
        await ask(agent, question, {"callbacks": [heard]})  # type: ignore[call-arg]
        finish()
        await afinish()
    assert model.asked == 2 and judged(cache) == (1, 1)
    assert len(heard.models) == len(own.models) == 1


def test_a_stream_of_an_agent_shows_no_token_of_an_audit(cache: SemanticCache) -> None:
    model = Streaming().answering("quite warm", "cold today")
    agent = create_agent(model, [], middleware=[SemanticCacheMiddleware(cache=cache)])
    shown = []
    for question in (ASK, PARAPHRASE):
        given: Any = {"messages": [("user", question)]}
        for message, _ in agent.stream(given, stream_mode="messages"):
            shown.append(message.text)
            finish()
    assert "cold" not in "".join(shown) and "".join(shown).count("quite warm") == 2
    assert judged(cache) == (1, 1)


async def test_an_answer_that_a_provider_ran_an_uncached_tool_for_judges_nothing(
    cache: SemanticCache, ask: Ask
) -> None:
    blocks = [{"type": "web_search_call", "id": "ws_1"}, {"type": "text", "text": "cold"}]
    model = Chat().answering("quite warm", AIMessage(blocks))
    middleware = SemanticCacheMiddleware(cache=cache, uncached_tools=("web_search",))
    agent = create_agent(model, [], middleware=[middleware])
    await ask(agent, ASK)
    await ask(agent, PARAPHRASE)
    finish()
    await afinish()
    assert model.asked == 2 and judged(cache) == (0, 0)


# -- what is withheld stays withheld ---------------------------------------------------------------


def test_langchains_cache_withholds_an_audited_hit_and_the_models_answer_judges_it(
    cache: SemanticCache,
) -> None:
    usage: Any = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    fresh = AIMessage("quite warm", id="run-2", usage_metadata=usage)
    model = Chat(cache=SemanticLLMCache(cache=cache)).answering("quite warm", fresh, "cold today")
    for question in (ASK, PARAPHRASE, "warm is it how"):
        model.invoke(question)
        assert last_hit() is None
    assert model.asked == 3 and auditing() == []
    assert judged(cache) == (2, 1)
    assert cache.stats().withheld == 2


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_in_shadow_mode_a_chat_model_is_asked_as_usual(opened: Opened, way: str) -> None:
    cache = opened(shadow=True)
    model = Streaming().answering("quite warm", "quite warm", "cold today")
    ours = CachedChatModel(model, cache=cache)
    questions = (ASK, PARAPHRASE, "warm is it how")
    texts = [WAYS[way](ours, question).text for question in questions]
    assert texts == ["quite warm", "quite warm", "cold today"]
    assert auditing() == [] and model.asked == 3
    assert judged(cache) == (2, 1)


def test_in_shadow_mode_langchains_cache_serves_nothing_by_meaning(opened: Opened) -> None:
    cache = opened(shadow=True)
    model = Chat(cache=SemanticLLMCache(cache=cache)).answering("quite warm", "cold today")
    assert [model.invoke(q).text for q in (ASK, PARAPHRASE)] == ["quite warm", "cold today"]
    assert judged(cache) == (1, 1)


async def test_in_shadow_mode_an_agent_is_served_nothing_by_meaning(
    opened: Opened, ask: Ask
) -> None:
    cache = opened(shadow=True)
    model = Chat().answering("quite warm", "cold today")
    agent = create_agent(model, [], middleware=[SemanticCacheMiddleware(cache=cache)])
    texts = [(await ask(agent, question)).text for question in (ASK, PARAPHRASE)]
    assert texts == ["quite warm", "cold today"]
    assert auditing() == [] and judged(cache) == (1, 1)


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_in_shadow_mode_all_who_ask_at_once_get_the_models_answer(
    opened: Opened, way: str
) -> None:
    """One lookup is withheld for all of them: a second one would serve what was withheld."""
    cache = opened(shadow=True)
    model = Streaming().answering("quite warm", "cold today")
    ours = CachedChatModel(model, cache=cache)
    await ours.ainvoke(ASK)
    answers = await asyncio.gather(*(AWAYS[way](ours, PARAPHRASE) for _ in range(3)))
    assert [answer.text for answer in answers] == ["cold today"] * 3
    assert model.asked == 2 and judged(cache) == (1, 1)


def test_chunks_and_whole_answers_are_judged_alike(cache: SemanticCache) -> None:
    fresh = ChatGenerationChunk(message=AIMessageChunk("quite warm", id="run-7"))
    ours = CachedChatModel(Streaming().answering("quite warm", [fresh]), cache=cache)
    ours.invoke(ASK)
    assert "".join(chunk.text for chunk in ours.stream(PARAPHRASE)) == "quite warm"
    finish()
    assert judged(cache) == (1, 0)

"""CachedChatModel: every way to ask is cached, and an error of the cache is a miss."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asking import WAYS, astreamed, every_way, streamed
from fakes import FailingEmbedder
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel
from scripted_models import Chat, Streaming
from semcache_core import SemanticCache, SemcacheError
from semcache_core.adapters import pieces

from langchain_semcache import CachedChatModel, SemanticLLMCache
from langchain_semcache.request import CONFIG_KEY

OpenCache = Callable[..., SemanticLLMCache]
ZERO = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
PAID = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
pytestmark = pytest.mark.filterwarnings("ignore:The method .* is in beta")


def cached(model: BaseChatModel, cache: SemanticLLMCache, **options: Any) -> CachedChatModel:
    return CachedChatModel(model, cache=cache.cache, **options)


# -- every way to ask ------------------------------------------------------------------------------


@every_way
def test_what_one_way_has_stored_every_other_serves(cache: SemanticLLMCache, way: str) -> None:
    model = Streaming().answering("hello my friend")
    asked = cached(model, cache)
    assert WAYS[way](asked, "hi there").text == "hello my friend"
    for number, other in enumerate(WAYS):
        answer = WAYS[other](asked, "hi there" if number % 2 else "there hi")
        assert answer.text == "hello my friend", other
        assert answer.usage_metadata == ZERO, other
        kind = "exact" if number % 2 else "semantic"
        assert answer.response_metadata["semcache"]["kind"] == kind, other
    assert model.asked == 1
    assert cache.stats().failures == {}


class Silent(Streaming):
    """Tells LangChain's cache nothing of its name."""

    model: str = "llama3"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return False


@pytest.mark.parametrize("kind", [Chat, Streaming, Silent])
def test_it_shares_its_answers_with_the_cache_that_langchain_asks(
    cache: SemanticLLMCache, kind: type[Any]
) -> None:
    """The same call is the same request, whether CachedChatModel or LangChain asks."""
    for first, second in ((True, False), (False, True)):
        question = f"what is {first}"
        model = kind(cache=cache).answering("5")
        ways = {True: cached(model, cache), False: model}
        tools = [{"type": "function", "function": {"name": "a", "parameters": {}}}]
        ways = {is_ours: way.bind(stop=["."], tools=tools) for is_ours, way in ways.items()}
        assert ways[first].invoke(question).text == "5"
        assert ways[second].invoke(question).text == "5"
        assert model.asked == 1


def test_both_ways_give_the_same_message(cache: SemanticLLMCache) -> None:
    generation = ChatGeneration(
        message=AIMessage("hello", response_metadata={"a": 1}, usage_metadata=PAID),
        generation_info={"finish_reason": "stop"},
    )
    result = ChatResult(generations=[generation], llm_output={"model_name": "gpt-1"})
    model = Streaming(cache=cache).answering(result)
    ours = cached(model, cache)
    first = ours.invoke("hi there")
    assert first.usage_metadata == PAID
    told = {"a": 1, "finish_reason": "stop", "model_name": "gpt-1"}
    assert first.response_metadata == told
    for hit in (model.invoke("hi there"), ours.invoke("hi there"), streamed(ours, "hi there")):
        assert hit.content == first.content
        del hit.response_metadata["semcache"]
        assert hit.response_metadata == told


def test_another_model_system_prompt_or_argument_is_asked_again(cache: SemanticLLMCache) -> None:
    model = Streaming()
    ours, warm = cached(model, cache), cached(Streaming(temperature=1.0), cache)
    for way in (ours, ours.bind(stop=["."]), ours.bind(temperature=0.5), warm):
        for messages in ("hi there", [("system", "be brief"), ("user", "hi there")]):
            assert streamed(way, messages).text == way.invoke(messages).text
    assert model.asked == 6
    assert cache.stats().exact_hits == 8


def test_several_prompts_at_once_are_each_served(cache: SemanticLLMCache) -> None:
    model = Chat().answering("5", "7")
    ours = cached(model, cache)
    asked = [[HumanMessage(f"what is {name}")] for name in ("five", "seven", "five")]
    for result in (ours.generate(asked), asyncio.run(ours.agenerate(asked))):
        assert [generations[0].text for generations in result.generations] == ["5", "7", "5"]
    assert model.asked == 2


def test_several_answers_to_one_prompt_are_served(cache: SemanticLLMCache) -> None:
    both = [ChatGeneration(message=AIMessage(text)) for text in ("a", "b")]
    model = Chat().answering(ChatResult(generations=both))
    ours = cached(model, cache)
    for _ in range(2):
        [generations] = ours.generate([[HumanMessage("hi there")]]).generations
        assert [generation.text for generation in generations] == ["a", "b"]
    assert model.asked == 1


# -- streams ---------------------------------------------------------------------------------------


def test_chunks_pass_unchanged_and_none_is_waited_for(cache: SemanticLLMCache) -> None:
    reached: list[str] = []
    parts = ["It ", lambda: reached.append("second"), AIMessageChunk("is", id="own"), " warm"]
    model = Streaming().answering(parts)
    stream = cached(model, cache).stream("how warm is it")
    assert next(stream).content == "It "
    assert reached == []
    assert [(chunk.content, chunk.id == "own") for chunk in stream] == [
        ("is", True),
        (" warm", False),
        ("", False),  # LangChain's own, at the end of every stream
    ]


async def test_async_chunks_pass_unchanged_and_none_is_waited_for(cache: SemanticLLMCache) -> None:
    reached: list[str] = []
    parts = ["It ", lambda: reached.append("second"), AIMessageChunk("is", id="own")]
    stream = cached(Streaming().answering(parts), cache).astream("how warm is it")
    assert (await anext(stream)).content == "It "
    assert reached == []
    chunk = await anext(stream)
    assert (chunk.content, chunk.id) == ("is", "own")


def test_a_hit_is_replayed_in_pieces(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("It is warm in Basel")
    ours = cached(model, cache)
    ours.invoke("how warm is it")
    chunks = list(ours.stream("how warm is it"))
    assert [chunk.content for chunk in chunks] == [*pieces("It is warm in Basel"), ""]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_that_is_closed_early_is_not_stored(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("It is warm", "It is cold")
    ours = cached(model, cache)
    stream = ours.stream("how warm is it")
    next(stream)
    stream.close()
    assert model.open_streams == 0
    assert cache.stats().entries == 0
    assert ours.invoke("how warm is it").text == "It is cold"


async def test_async_a_stream_that_is_closed_early_is_not_stored(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("It is warm", "It is cold")
    ours = cached(model, cache)
    stream = ours.astream("how warm is it")
    await anext(stream)
    await stream.aclose()
    for _ in range(20):  # LangChain leaves it to the loop to close what it has read from
        await asyncio.sleep(0)
    assert model.open_streams == 0
    assert cache.stats().entries == 0
    assert (await ours.ainvoke("how warm is it")).text == "It is cold"


async def test_async_a_stream_is_closed_at_once(cache: SemanticLLMCache) -> None:
    """Not when the event loop comes to it: a connection may hang on it."""
    model = Streaming()
    for bound in ({}, {"of": object()}):  # cached, and not
        stream = cached(model, cache)._astream([HumanMessage("how warm is it")], **bound)
        await anext(stream)
        assert model.open_streams == 1
        await stream.aclose()
        assert model.open_streams == 0


@every_way
def test_an_error_of_the_model_passes_and_is_not_stored(cache: SemanticLLMCache, way: str) -> None:
    error = ConnectionError("no network")
    streams = "stream" in way
    model = Streaming().answering(["It is", error] if streams else error, "warm")
    ours = cached(model, cache)
    with pytest.raises(ConnectionError) as raised:
        WAYS[way](ours, "how warm is it")
    assert raised.value is error
    assert cache.stats().entries == 0
    assert WAYS[way](ours, "how warm is it").text == "warm"
    assert cache.stats().failures == {}


@every_way
def test_an_answer_that_was_cut_short_is_not_stored(cache: SemanticLLMCache, way: str) -> None:
    cut: Any = AIMessage("It is", response_metadata={"finish_reason": "length"})
    if "stream" in way:
        cut = ["It ", AIMessageChunk("is", response_metadata={"finish_reason": "length"})]
    ours = cached(Streaming().answering(cut, "warm"), cache)
    assert [WAYS[way](ours, "how warm is it").text for _ in range(2)] == ["It is", "warm"]


def test_a_stream_of_nothing_is_an_error_as_without_a_cache(cache: SemanticLLMCache) -> None:
    for model in (Streaming(), cached(Streaming().answering([]), cache)):
        if isinstance(model, Streaming):
            model.answering([])
        with pytest.raises(ValueError, match="No generation chunks"):
            list(model.stream("hi there"))


@every_way
def test_what_an_app_does_to_its_answer_changes_no_other(cache: SemanticLLMCache, way: str) -> None:
    blocks: Any = [{"type": "text", "text": "hello", "index": 0}]
    answer = [AIMessageChunk(blocks)] if "stream" in way else AIMessage(blocks)
    ours = cached(Streaming().answering(answer), cache)
    for _ in range(3):
        message = WAYS[way](ours, "hi there")
        assert message.content[0]["text"] == "hello"
        message.content[0]["text"] = "changed"
        message.response_metadata["semcache"] = "changed"


def test_a_reader_that_changes_chunks_does_not_change_what_is_stored(
    cache: SemanticLLMCache,
) -> None:
    parts = [AIMessageChunk([{"type": "text", "text": text, "index": 0}]) for text in ("a", "b")]
    ours = cached(Streaming().answering(parts), cache)
    for chunk in ours.stream("hi there"):
        if chunk.content:
            chunk.content[0]["text"] = "changed"
    assert ours.invoke("hi there").text == "ab"


def test_the_pace_is_kept_between_the_chunks_of_a_replay(
    cache: SemanticLLMCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("langchain_semcache.chat_model.time.sleep", pauses.append)
    monkeypatch.setattr("langchain_semcache.chat_model.asyncio.sleep", sleep)
    ours = cached(Streaming().answering("one two"), cache, pace=0.5)
    streamed(ours, "hi there")
    assert pauses == []
    streamed(ours, "hi there")
    assert pauses == [0.5, 0.5]
    asyncio.run(astreamed(ours, "hi there"))
    assert [pause for pause in pauses if pause] == [0.5] * 4
    ours.pace = None
    pauses.clear()
    streamed(ours, "hi there")
    assert pauses == []
    asyncio.run(astreamed(ours, "hi there"))
    assert pauses == [0] * 3  # before the call, and between the chunks


# -- tool calls and structured output --------------------------------------------------------------


@tool
def weather(place: str) -> str:
    """The weather in a place."""
    return "10 C"


CALL = {"name": "weather", "args": {"place": "Basel"}, "id": "call_1", "type": "tool_call"}


class Peculiar(Streaming):
    """Has a tool format of its own."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(functions=[tool.name for tool in tools], **kwargs)


def test_tools_are_bound_in_the_models_own_format_and_count(cache: SemanticLLMCache) -> None:
    model = Peculiar().answering("with", "without")
    ours = cached(model, cache)
    bound = ours.bind_tools([weather], tool_choice="auto")
    assert bound.kwargs == {"functions": ["weather"], "tool_choice": "auto"}
    assert ours.bind_tools([weather]).kwargs == {"functions": ["weather"]}
    assert [bound.invoke("hi there").text, streamed(bound, "hi there").text] == ["with"] * 2
    assert ours.invoke("hi there").text == "without"
    assert model.asked == 2


@every_way
def test_a_tool_call_is_served_to_the_same_question_only_with_a_new_id(
    cache: SemanticLLMCache, way: str
) -> None:
    model = Streaming().answering(AIMessage("", tool_calls=[CALL]), "other")
    bound = cached(model, cache).bind_tools([weather])
    bound.invoke("how warm is it")
    hits = [WAYS[way](bound, "how warm is it") for _ in range(2)]
    for hit in hits:
        assert [(call["name"], call["args"]) for call in hit.tool_calls] == [
            ("weather", {"place": "Basel"})
        ]
    assert len({hit.tool_calls[0]["id"] for hit in hits} | {"call_1"}) == 3
    assert model.asked == 1
    assert WAYS[way](bound, "is it how warm").text == "other"


class Copying(Streaming):
    """Binds tools to a copy of itself."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.model_copy(update={"temperature": 0.5}).bind(tools=["a"], **kwargs)


def test_a_copy_of_the_model_that_tools_are_bound_to_is_cached_as_what_it_is(
    cache: SemanticLLMCache,
) -> None:
    model = Copying()
    bound = cached(model, cache).bind_tools([weather])
    assert bound.bound.temperature == 0.5
    assert [bound.invoke("hi there").text for _ in range(2)] == ["answer 1"] * 2
    assert cached(model, cache).bind(tools=["a"]).invoke("hi there").text == "answer 2"


class Answer(BaseModel):
    """An answer."""

    text: str


def narrow() -> type[BaseModel]:
    class Answer(BaseModel):
        """An answer."""

        text: str

    return Answer


def wide() -> type[BaseModel]:
    class Answer(BaseModel):
        """An answer."""

        text: str
        sure: bool = True

    return Answer


class OpenAILike(Streaming):
    """Passes the class itself along, as ChatOpenAI does, and parses by it."""

    def with_structured_output(self, schema: Any = None, **kwargs: Any) -> Any:
        def parse(message: AIMessage) -> Any:
            return schema(**dict(message.additional_kwargs["parsed"]))

        told = {"ls_structured_output_format": {"kwargs": kwargs, "schema": schema}}
        return self.bind(response_format=schema, **told) | RunnableLambda(parse)


def test_a_class_as_response_format_counts_with_its_fields(cache: SemanticLLMCache) -> None:
    answers = [
        AIMessage('{"text": "", "more": ""}', additional_kwargs={"parsed": Answer(text=text)})
        for text in "ab"
    ]
    model = OpenAILike().answering(*answers)
    ours = cached(model, cache)

    def ask(schema: type[BaseModel]) -> Any:
        return ours.with_structured_output(schema).invoke("hi there")

    assert [ask(Answer).text, ask(Answer).text, ask(narrow()).text] == ["a", "a", "a"]
    assert model.asked == 1
    assert ask(wide()).text == "b"
    assert model.asked == 2
    assert cache.stats().failures == {}


def test_a_streamed_structured_answer_is_served(cache: SemanticLLMCache) -> None:
    last = AIMessageChunk("", additional_kwargs={"parsed": Answer(text="a")})
    model = OpenAILike().answering(['{"text": "a"}', last])
    ours = cached(model, cache)
    whole = streamed(ours.bind(response_format=Answer), "hi there")
    assert whole.additional_kwargs["parsed"] == Answer(text="a")
    assert ours.with_structured_output(narrow()).invoke("hi there").text == "a"
    assert model.asked == 1


def test_function_calling_and_include_raw_are_served(cache: SemanticLLMCache) -> None:
    call = {"name": "Answer", "args": {"text": "a"}, "id": "call_1", "type": "tool_call"}
    model = Streaming().answering(AIMessage("", tool_calls=[call]))
    asked = cached(model, cache).with_structured_output(Answer, include_raw=True)
    for _ in range(2):
        assert asked.invoke("hi there")["parsed"] == Answer(text="a")
    assert model.asked == 1


# -- in chains -------------------------------------------------------------------------------------


def test_it_works_in_chains(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("hello my friend")
    prompt = ChatPromptTemplate([("system", "be brief"), ("user", "{text}")])
    chain = prompt | cached(model, cache) | StrOutputParser()
    assert chain.invoke({"text": "hi there"}) == "hello my friend"
    assert list(chain.stream({"text": "hi there"}))[:2] == ["hello", " my"]
    assert model.asked == 1


def test_fallbacks_retries_and_bindings_are_cached(cache: SemanticLLMCache) -> None:
    failing = Streaming(model_name="failing").answering(*[ConnectionError()] * 9)
    model = Streaming().answering(ConnectionError(), "hello")
    first, second = cached(failing, cache), cached(model, cache)
    retried = second.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    chain = first.with_fallbacks([retried]).with_config(tags=["a"])
    assert [chain.invoke("hi there").text for _ in range(2)] == ["hello"] * 2
    assert model.asked == 2
    bound = first.with_fallbacks([second]).bind_tools([weather])
    assert [bound.invoke("hi there").text for _ in range(2)] == ["answer 3"] * 2
    assert model.asked == 3


def test_its_fields_can_be_made_configurable(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("5", "7")
    ours = cached(model, cache, namespace="ada").configurable_fields(
        namespace=ConfigurableField(id="tenant")
    )
    for tenant, answer in (("ada", "5"), ("bob", "7"), ("ada", "5"), ("bob", "7")):
        assert ours.invoke("hi there", {"configurable": {"tenant": tenant}}).text == answer


def test_a_thread_that_asks_twice_keeps_both_answers(cache: SemanticLLMCache) -> None:
    model = Streaming().answering("hello", "hello again")
    agent = create_agent(cached(model, cache), [], checkpointer=InMemorySaver())
    for thread in ("one", "two"):
        config: Any = {"configurable": {"thread_id": thread}}
        for _ in range(2):
            [*_] = agent.stream({"messages": [("user", "hi")]}, config, stream_mode="messages")
        messages = agent.get_state(config).values["messages"]
        assert [m.text for m in messages] == ["hi", "hello", "hi", "hello again"]
    assert model.asked == 2


# -- what can be told, and cannot ------------------------------------------------------------------


def test_for_what_is_no_chat_model_no_cache_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMCACHE_PATH", str(tmp_path / "cache"))
    with pytest.raises(SemcacheError, match="must be a LangChain chat model"):
        CachedChatModel(Streaming().bind(stop=["."]))  # type: ignore[arg-type]
    assert not (tmp_path / "cache").exists()


def test_a_wrong_argument_is_an_error_that_says_what_to_do(cache: SemanticLLMCache) -> None:
    model = Streaming()
    for wrong, said in (
        (lambda: CachedChatModel(model.bind(stop=["."])), "wrap the model itself"),
        (lambda: CachedChatModel(model, cache=cache), "pass its .cache"),
        (lambda: CachedChatModel(model, cache=False), "got False"),
        (lambda: CachedChatModel(model, cache=cache.cache, path=None), "path"),
        (lambda: CachedChatModel(model, path=None, temprature=1), "temprature is not a setting"),
        (lambda: cached(model, cache, namespace=None), "namespace"),
        (lambda: cached(model, cache, namespace=7), "namespace"),
        (lambda: cached(model, cache, pace=-1), "pace"),
        (lambda: cached(model, cache, pace=float("nan")), "pace"),
        (lambda: cached(model, cache, pace=float("inf")), "pace"),
        (lambda: cached(model, cache, pace="fast"), "pace"),
    ):
        with pytest.raises(SemcacheError, match=said):
            wrong()


def test_it_opens_a_cache_of_its_own_from_the_options(open_cache: OpenCache) -> None:
    artefact = open_cache().cache.settings.artefact
    embedder = FailingEmbedder()
    ours = CachedChatModel(
        Streaming(), path=None, artefact=artefact, embedder=embedder, ttl=7, namespace="ada"
    )
    assert isinstance(ours.semantic_cache, SemanticCache)
    assert ours.semantic_cache.settings.ttl == 7
    ours.invoke("hi there")
    assert ours.invoke("there hi").text == "answer 1"
    assert ours.stats().semantic_hits == 1
    assert embedder.calls
    ours.semantic_cache.close()


def test_a_splitter_and_a_normaliser_are_used(cache: SemanticLLMCache) -> None:
    ours = cached(Streaming(), cache, split=lambda text: None, normalise_system=lambda text: "")
    assert ours.invoke("hi there").text != ours.invoke("there hi").text
    texts = [
        ours.invoke([("system", system), ("user", "hi there")]).text
        for system in ("Monday", "Tuesday")
    ]
    assert texts[0] == texts[1]


def test_it_explains_itself(cache: SemanticLLMCache) -> None:
    ours = cached(Streaming(), cache)
    config: Any = {"configurable": {CONFIG_KEY: "ada"}}
    bound = ours.bind_tools([weather])
    bound.invoke("hi there", config)
    assert ours.explain("there hi", config, **bound.kwargs).hit is not None
    assert ours.explain("there hi", **bound.kwargs).hit is None
    assert ours.explain("there hi", config).hit is None
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    heard = [HumanMessage([sound, {"type": "text", "text": "what is it"}])]
    ours.invoke(heard)
    assert ours.explain(heard).hit is not None
    dated = ours.explain([("system", "It is 2026-11-25."), ("user", "hi")])
    assert "2026-11-25" in dated.hint
    with pytest.raises(SemcacheError, match="not cached"):
        ours.explain("hi there", of=object())


# -- when the cache fails --------------------------------------------------------------------------


@every_way
def test_a_cache_that_fails_is_a_miss(open_cache: OpenCache, way: str) -> None:
    embedder = FailingEmbedder()
    cache = open_cache(embedder=embedder)
    ours = cached(Streaming(), cache)
    ours.invoke("one")  # an empty scope would not be searched
    embedder.error = RuntimeError("no embedder")
    assert [WAYS[way](ours, "hi there").text for _ in range(2)] == ["answer 2", "answer 3"]
    assert cache.stats().failures == {"lookup": 2, "update": 2}


@every_way
def test_a_closed_cache_is_a_miss(open_cache: OpenCache, way: str) -> None:
    cache = open_cache()
    cache.cache.close()
    ours = cached(Streaming(), cache)
    assert [WAYS[way](ours, "hi there").text for _ in range(2)] == ["answer 1", "answer 2"]


@every_way
def test_a_row_that_cannot_be_read_is_a_miss(cache: SemanticLLMCache, way: str) -> None:
    model = Streaming(cache=cache).answering("one", "two")
    ours = cached(model, cache)
    ours.invoke("hi there")
    request = ours._parts()[0].read_question(
        ours._question([HumanMessage("hi there")], None, {}, None)
    )
    assert request is not None
    of_a_text_model = json.dumps([dumps(Generation(text="one"))])
    for poison in ("[]", "garbage", '["{}"]', '["' + "[" * 400 + '"]', of_a_text_model):
        cache.cache.update(request, poison)
        model.answering("two")
        assert WAYS[way](ours, "hi there").text == "two"
        assert WAYS[way](ours, "hi there").text == "two"
    assert model.asked == 6


def test_a_chunk_that_cannot_be_copied_passes_and_nothing_is_stored(
    cache: SemanticLLMCache,
) -> None:
    parts = ["a", AIMessageChunk("b", additional_kwargs={"of": iter(())}), "c"]
    parts[1].additional_kwargs["lock"] = __import__("threading").Lock()
    ours = cached(Streaming().answering(parts), cache)
    assert "".join(chunk.content for chunk in ours.stream("hi there")) == "abc"
    assert cache.stats().entries == 0
    assert cache.stats().failures == {"update": 1}


def test_an_argument_that_cannot_be_told_apart_is_not_cached(cache: SemanticLLMCache) -> None:
    class Opaque:
        pass

    ours = cached(Streaming(), cache)
    for argument in (Opaque, Opaque()):
        bound = ours.bind(of=argument)
        assert bound.invoke("hi there").text != streamed(bound, "hi there").text
    assert cache.stats().entries == 0


def test_no_argument_or_system_prompt_is_on_disk(open_cache: OpenCache, tmp_path: Any) -> None:
    cache = open_cache(path=tmp_path / "cache")
    model = Streaming(default_headers={"Authorization": "sentinel-1"}, api_key="sentinel-2")
    bound = cached(model, cache).bind(extra_headers={"a": "sentinel-3"})
    messages = [("system", "sentinel-4"), ("user", "hi there")]
    assert streamed(bound, messages).text == bound.invoke(messages).text
    cache.cache.close()
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            assert b"sentinel" not in file.read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_wait_for_its_parents_stream(open_cache: OpenCache) -> None:
    cache = open_cache()
    ours = cached(Streaming().answering("It is warm", "child"), cache)
    stream = ours.stream("how warm is it")
    next(stream)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if ours.invoke("how warm is it").text == "child" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "".join(chunk.content for chunk in stream) == "is warm"

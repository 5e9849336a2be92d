"""A cached model is known, traced and counted as the model in it."""

from typing import Any

import pytest
from asking import WAYS, every_way
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.tools import tool
from langchain_core.tracers._streaming import _V2StreamingCallbackHandler
from pydantic import BaseModel
from scripted_models import Chat, OllamaLike, Scripted, Streaming

from langchain_semcache import CachedChatModel, SemanticLLMCache

PAID = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
pytestmark = pytest.mark.filterwarnings("ignore:The method .* is in beta")


def cached(model: BaseChatModel, cache: SemanticLLMCache, **options: Any) -> CachedChatModel:
    return CachedChatModel(model, cache=cache.cache, **options)


# -- the model's own nature ------------------------------------------------------------------------


class Answer(BaseModel):
    text: str


@tool
def weather(place: str) -> str:
    """The weather in a place."""
    return "10 C"


class Counting(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.seen.append(("start", (serialized, kwargs["invocation_params"], kwargs["metadata"])))

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.seen.append(("token", token))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.seen.append(("end", response))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", error))


@every_way
def test_a_call_is_one_run_of_the_model(cache: SemanticLLMCache, way: str) -> None:
    handlers = Counting(), Counting(), Counting()
    runs: list[Any] = []
    inner = Streaming(callbacks=[handlers[0]])
    for model in (inner, cached(Streaming(callbacks=[handlers[1]]), cache)):
        WAYS[way](model, "hi there", config={"callbacks": [handlers[2]]}, stop=["."])
    for handler in handlers[:2]:
        (one, started), (two, _) = [seen for seen in handler.seen if seen[0] != "token"]
        assert (one, two) == ("start", "end")
        runs.append(started)
    assert [name for name, _ in handlers[2].seen if name != "token"] == ["start", "end"] * 2
    assert runs[0] == runs[1]  # traced as the model itself is
    assert not any("semcache" in key for key in runs[1][1])


@every_way
def test_tokens_are_counted_once_on_a_miss_and_not_on_a_hit(
    cache: SemanticLLMCache, way: str
) -> None:
    told = {"usage_metadata": PAID, "response_metadata": {"model_name": "gpt-1"}}
    answer: Any = AIMessage("hello", **told)
    if "stream" in way:
        answer = [AIMessageChunk("hello", **told)]
    ours = cached(Streaming().answering(answer), cache)
    for total in (7, 0):
        counter = UsageMetadataCallbackHandler()
        WAYS[way](ours, "hi there", config={"callbacks": [counter]})
        assert counter.usage_metadata["gpt-1"]["total_tokens"] == total


def test_handlers_tags_and_metadata_of_both_are_used(cache: SemanticLLMCache) -> None:
    one, two = Counting(), Counting()
    model = Streaming(callbacks=[one], tags=["a", "b"], metadata={"a": 1, "b": 1}, verbose=True)
    ours = cached(model, cache, callbacks=[one, two], tags=["b", "c"], metadata={"b": 2})
    ours.invoke("hi there")
    assert len(one.seen) == len(two.seen) == 2
    assert ours.tags == ["a", "b", "c"] and ours.verbose
    assert (ours.metadata["a"], ours.metadata["b"]) == (1, 2)
    assert (model.tags, model.metadata["b"], model.callbacks) == (["a", "b"], 1, [one])


def test_no_other_cache_is_asked(cache: SemanticLLMCache) -> None:
    """It would answer behind our back, and what it has may be stale."""
    own, shared = InMemoryCache(), InMemoryCache()
    model = Streaming(cache=own)
    model.invoke("hi there")
    set_llm_cache(shared)
    ours = cached(model, cache)
    assert [ours.invoke("hi there").text for _ in range(2)] == ["answer 2"] * 2
    assert len(own._cache) == 1 and not shared._cache


class CountingLimiter(BaseRateLimiter):
    def __init__(self) -> None:
        self.passed = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.passed += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.passed += 100
        return True


def test_the_models_rate_limit_is_for_misses(cache: SemanticLLMCache) -> None:
    limiter = CountingLimiter()
    ours = cached(Streaming(rate_limiter=limiter), cache)
    for number, way in enumerate(("invoke", "stream", "ainvoke", "astream")):
        for _ in range(3):
            WAYS[way](ours, f"question {number}")
    assert limiter.passed == 202


def test_it_is_known_as_the_model(cache: SemanticLLMCache) -> None:
    model = Chat(api_key="sentinel", profile={"max_input_tokens": 7}, temperature=0.5)
    ours = cached(model, cache)
    assert isinstance(ours, BaseChatModel)
    assert (ours._llm_type, ours._identifying_params) == ("scripted", model._identifying_params)
    assert ours.profile == {"max_input_tokens": 7}
    assert dumpd(ours) == dumpd(model) and "sentinel" not in str(dumpd(ours))
    assert ours.lc_secrets == model.lc_secrets
    assert (ours.model_name, ours.temperature) == ("gpt-1", 0.5)
    assert ours._get_ls_params(stop=["."]) == model._get_ls_params(stop=["."])
    assert not hasattr(ours, "no_such_name") and not hasattr(ours, "_asked")


class Telling(Streaming):
    """Says of itself what LangChain would not have guessed, and hears of its run."""

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"known_by": self.model_name}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        return {"model_kwargs": {"a": 1}}

    def _get_ls_params_with_defaults(self, stop: Any = None, **kwargs: Any) -> Any:
        return {"ls_provider": "telling", "ls_stop": stop, **kwargs}

    def _combine_llm_outputs(self, llm_outputs: Any, /) -> dict[str, Any]:
        return {"prompts": len(llm_outputs)}

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        run_manager.on_llm_new_token("hello")
        return super()._generate(messages, stop, run_manager, **kwargs)


class Deaf(Scripted):
    """Takes no run."""

    def _generate(self, messages: Any, stop: Any = None, **kwargs: Any) -> ChatResult:
        assert not kwargs
        return super()._generate(messages, stop)


def test_what_the_model_tells_and_hears_in_its_own_way(cache: SemanticLLMCache) -> None:
    model = Telling()
    ours = cached(model, cache)
    assert ours._identifying_params == {"known_by": "gpt-1"}
    assert ours.lc_attributes == {"model_kwargs": {"a": 1}}
    assert ours._get_ls_params_with_defaults(stop=["."], a=1) == {
        "ls_provider": "telling",
        "ls_stop": ["."],
        "a": 1,
    }
    assert ours._get_llm_string(stop=["."], a=1) == model._get_llm_string(stop=["."], a=1)
    handler = Counting()
    asked = [[HumanMessage(text)] for text in ("one", "two")]
    assert ours.generate(asked, callbacks=[handler]).llm_output == {"prompts": 2}
    assert [name for name, _ in handler.seen].count("token") == 2
    assert cached(Deaf(), cache).invoke("hi there").text == "answer 1"


class Native(Chat):
    """Makes LangChain's newer events itself, and has no `_stream`."""

    def _stream_chat_model_events(self, messages: Any, **kwargs: Any) -> Any:
        raise AssertionError("not asked for")


class Reading(_V2StreamingCallbackHandler, BaseCallbackHandler):
    def __init__(self) -> None:
        self.read: list[Any] = []

    def on_stream_event(self, event: Any, **kwargs: Any) -> None:
        self.read.append(event)


def test_newer_events_are_sent_where_the_model_streams(cache: SemanticLLMCache) -> None:
    """As LangGraph reads them; on a hit too."""
    off = cached(Streaming(model_name="off"), cache, disable_streaming=True)
    for model, sent in (
        (cached(Streaming(), cache), True),
        (cached(Native(), cache), False),
        (cached(Chat(model_name="other"), cache), False),
        (off, False),
    ):
        for _ in range(2):
            handler = Reading()
            assert model.invoke("hi there", {"callbacks": [handler]}).text.startswith("answer")
            assert bool(handler.read) == sent


class OwnTokens(Chat):
    def get_token_ids(self, text: str) -> list[int]:
        return [1, 2]

    def get_num_tokens(self, text: str) -> int:
        return 3

    def get_num_tokens_from_messages(self, messages: Any, tools: Any = None) -> int:
        return 4


def test_tokens_are_counted_as_the_model_counts_them(cache: SemanticLLMCache) -> None:
    ours = cached(OwnTokens(), cache)
    assert ours.get_token_ids("a") == [1, 2]
    assert ours.get_num_tokens("a") == 3
    assert ours.get_num_tokens_from_messages([HumanMessage("a")]) == 4
    told = cached(OwnTokens(), cache, custom_get_token_ids=lambda text: [1] * 5)
    assert told.get_token_ids("a") == [1] * 5
    assert told.get_num_tokens("a") == told.get_num_tokens_from_messages([HumanMessage("a")]) == 5


@pytest.mark.parametrize("model", [OllamaLike(), Scripted(), Chat(model_name="")])
def test_its_name_is_a_text_whatever_the_model_calls_it(
    cache: SemanticLLMCache, model: Any
) -> None:
    """create_agent takes `model_name`, and else `model`, for a text."""
    ours = cached(model.answering("{}"), cache)
    assert ours.model_name == getattr(model, "model", "scripted")
    agent = create_agent(ours, [], response_format=Answer)
    assert agent is not None
    call = {"name": "Answer", "args": {"text": "a"}, "id": "call_1", "type": "tool_call"}
    model.answering(AIMessage("", tool_calls=[call]))
    result = agent.invoke({"messages": [("user", "hi there")]})
    assert result["structured_response"] == Answer(text="a")


@every_way
def test_a_model_that_does_not_stream_is_not_made_to(cache: SemanticLLMCache, way: str) -> None:
    model: Any = Chat().answering("hello my friend")
    ours = cached(model, cache)
    if "events" in way:
        return  # there are none of its stream, and v3 is an error
    for _ in range(2):
        assert WAYS[way](ours, "hi there").text == "hello my friend"
    assert len(list(ours.stream("hi there"))) == 1
    assert model.asked == 1


@pytest.mark.parametrize("inner", [True, False])
def test_streaming_can_be_disabled(cache: SemanticLLMCache, inner: bool) -> None:
    model = Streaming(disable_streaming=inner).answering("hello my friend")
    ours = cached(model, cache, disable_streaming=not inner)
    for _ in range(2):
        assert [chunk.content for chunk in ours.stream("hi there")] == ["hello my friend"]
    some = cached(Streaming(), cache, disable_streaming="tool_calling")
    assert len(list(some.stream("one"))) > 1
    assert len(list(some.bind_tools([weather]).stream("two"))) == 1


def test_a_model_that_always_streams_still_does(cache: SemanticLLMCache) -> None:
    class Always(Streaming):
        streaming: bool = False

    ours = cached(Always(streaming=True).answering(["by ", "stream"]), cache)
    assert [ours.invoke("hi there").text for _ in range(2)] == ["by stream"] * 2


def test_output_version_is_the_models(cache: SemanticLLMCache) -> None:
    model = Streaming(output_version="v1", cache=cache)
    ours = cached(model, cache)
    for way in ("invoke", "stream"):
        for _ in range(2):
            message = WAYS[way](ours, f"{way} hi there")
            assert [block["type"] for block in message.content] == ["text"], way
        plain = model.invoke(f"{way} hi there")
        assert plain.content == [{"type": "text", "text": message.text}]
    assert model.asked == 2

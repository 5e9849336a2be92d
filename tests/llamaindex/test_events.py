"""The event of a hit, and what handlers hear besides."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMCompletionEndEvent
from pydantic import PrivateAttr
from scripted_llms import WAYS, ScriptedLLM
from semcache_core import Hit

from llamaindex_semcache import CachedLLM, SemcacheHitEvent, last_hit
from llamaindex_semcache.events import announce, marked

HIT = Hit("the answer", "semantic", 0.97, 0.99, "the question", 7, 5.0)


class Heard(BaseEventHandler):
    _events: list[Any] = PrivateAttr(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        self._events.append(event)

    def of(self, *kinds: type[Any]) -> list[Any]:
        return [event for event in self._events if isinstance(event, kinds)]


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, root = Heard(), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


def test_an_event_tells_of_a_hit_but_of_no_words(heard: Heard) -> None:
    announce(HIT)
    [event] = heard.of(SemcacheHitEvent)
    assert (event.kind, event.probability, event.age_s, event.entry_id) == ("semantic", 0.97, 5, 7)
    assert event.class_name() == event.model_dump()["class_name"] == "SemcacheHitEvent"
    assert "answer" not in str(event.model_dump()) and "question" not in str(event.model_dump())


def test_so_does_what_a_response_is_marked_with() -> None:
    assert marked(HIT)["semcache"] == {
        "kind": "semantic",
        "probability": 0.97,
        "age_s": 5.0,
        "entry_id": 7,
    }
    assert marked(None)["semcache"]["kind"] == "shared"  # type: ignore[index]


@pytest.mark.parametrize("way", WAYS)
async def test_a_hit_is_one_event_and_none_of_the_llms(
    bench: Bench, heard: Heard, way: str
) -> None:
    """Trap 21: events too are counted as calls of the model."""
    llm = CachedLLM(llm=ScriptedLLM("hello my friend"), cache=bench.open())
    await WAYS[way](llm, "hi there")
    assert len(heard.of(LLMChatEndEvent, LLMCompletionEndEvent)) == 1
    assert heard.of(SemcacheHitEvent) == []
    await WAYS[way](llm, "there hi")
    assert len(heard.of(LLMChatEndEvent, LLMCompletionEndEvent)) == 1
    [event] = heard.of(SemcacheHitEvent)
    found = last_hit()
    assert found is not None and event.entry_id == found.entry_id
    assert event.span_id is None or "CachedLLM" in event.span_id


def test_an_event_that_fails_is_no_failure_of_the_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(hit: Hit) -> None:
        raise RuntimeError("no handler")

    monkeypatch.setattr("llamaindex_semcache.serving.announce", fail)
    llm = CachedLLM(llm=ScriptedLLM("hello"), cache=bench.open())
    assert [llm.complete("hi there").text for _ in range(2)] == ["hello", "hello"]
    assert llm.stats().failures == {"announce": 1}

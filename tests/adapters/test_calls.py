"""Calls that the cache answers, with a framework made up for it: its answers are a few words."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeAlias

import pytest
from background import afinish, finish, judged
from semcache_core import Hit, Request, Saved, SemanticCache, Usage
from semcache_core.adapters import CachedCalls, ModelCall, PendingCall
from semcache_core.pipeline.single_flight import AsyncSharedCall

ASK, PARAPHRASE = "how warm is it", "is it how warm"


class Model:
    """Says what its script says, then "answer 2" ...; remembers who heard of each call."""

    def __init__(self, *script: Any) -> None:
        self.script, self.open = iter(script), 0
        self.heard: list[str | None] = []
        self.said: list[Any] = []

    def says(self, question: "Question") -> Generator[list[str], None, None]:
        self.heard.append(question.run)
        said = next(self.script, f"answer {len(self.heard)}")
        self.open += 1
        try:
            for word in said.split() if isinstance(said, str) else said:
                if isinstance(word, BaseException):
                    raise word
                yield [word]
        finally:
            self.open -= 1


@dataclass(frozen=True)
class Question:
    text: str
    model: Model
    run: str | None = "the app"


@dataclass
class Said:
    text: str
    whence: str = "the model"


@dataclass
class Told:
    """Answers with a number of their own; anything in `broken` raises."""

    broken: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=count)

    def dump(self, answer: Said) -> str:
        self._check("dump")
        return json.dumps([answer.text, next(self.numbers)])

    def load(self, text: str, hit: Hit | None) -> Said:
        self._check("load")
        return Said(json.loads(text)[0], "another" if hit is None else hit.kind)

    def is_storable(self, answer: Said) -> bool:
        self._check("is_storable")
        return not answer.text.endswith("...")

    def calls_tools(self, answer: Said) -> bool:
        return answer.text.startswith("call")

    def words(self, answer: Said) -> str | None:
        return None if answer.text.startswith("picture") else answer.text

    def copy(self, item: list[str]) -> list[str]:
        self._check("copy")
        return list(item)

    def _check(self, what: str) -> None:
        if what in self.broken:
            raise ValueError(f"{what} is broken")


Calls: TypeAlias = CachedCalls[Question, Said]
Words: TypeAlias = ModelCall[Question, list[str], Said]
Way: TypeAlias = Callable[
    [Calls, Question, Words], Awaitable[tuple[str, PendingCall[Question, Said]]]
]


def said_by(question: Question) -> Generator[list[str], None, None]:
    said = question.model.says(question)
    question.model.said.append(said)  # so that nothing but its close ends it
    return said


def asaid_by(question: Question) -> AsyncGenerator[list[str], None]:
    async def items() -> AsyncGenerator[list[str], None]:
        with closing(said_by(question)) as said:
            for item in said:
                yield item

    said = items()
    question.model.said.append(said)
    return said


def whole(question: Question, items: Sequence[list[str]]) -> Said | None:
    return Said(" ".join(word for item in items for word in item)) if items else None


def read(question: Question) -> Request | None:
    if question.text == "unreadable":
        raise ValueError("the question is broken")
    return None if question.text == "never cached" else Request(question.text, scope="s")


async def by_items(
    calls: Calls, question: Question, kind: Words
) -> tuple[str, PendingCall[Question, Said]]:
    asked = calls.ask(question)
    items = list(calls.items(asked, kind))
    finish()
    return " ".join(word for item in items for word in item), asked


async def by_aitems(
    calls: Calls, question: Question, kind: Words
) -> tuple[str, PendingCall[Question, Said]]:
    asked = await calls.aask(question)
    items = [item async for item in calls.aitems(asked, kind)]
    await afinish()
    return " ".join(word for item in items for word in item), asked


every_way = pytest.mark.parametrize("way", [by_items, by_aitems])


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def kind(told: Told) -> Words:
    return ModelCall(said_by, asaid_by, told.copy, whole)


@pytest.fixture
def cache(bench: Any) -> SemanticCache:
    return bench.open(path=None)


def unobserved(question: Question) -> Question:
    return replace(question, run=None)


@pytest.fixture
def calls(cache: SemanticCache, told: Told) -> Calls:
    return CachedCalls(cache, read, told, unobserved)


# -- looked up, asked, stored ----------------------------------------------------------------------


@every_way
async def test_the_model_answers_once_and_then_the_cache(
    calls: Calls, kind: Words, way: Way
) -> None:
    model = Model("quite warm")
    given, asked = await way(calls, Question(ASK, model), kind)
    assert (given, asked.answer, asked.hit) == ("quite warm", None, None)
    for text, expected in ((ASK, "exact"), (PARAPHRASE, "semantic")):
        given, asked = await way(calls, Question(text, model), kind)
        assert given == "" and asked.answer == Said("quite warm", expected)
        assert asked.hit is not None and asked.hit.kind == expected
    assert model.heard == ["the app"]


@every_way
async def test_each_hit_is_an_object_of_its_own(calls: Calls, kind: Words, way: Way) -> None:
    question = Question(ASK, Model("warm"))
    answers = [(await way(calls, question, kind))[1].answer for _ in range(3)]
    assert answers[1] == answers[2] and answers[1] is not answers[2]


@every_way
async def test_what_is_not_cached_is_always_asked(
    calls: Calls, cache: SemanticCache, kind: Words, way: Way
) -> None:
    question = Question("never cached", Model())
    given = [(await way(calls, question, kind))[0] for _ in range(2)]
    assert given == ["answer 1", "answer 2"]
    assert cache.stats().failures == {} and cache.stats().entries == 0


@every_way
async def test_items_are_stored_as_they_were_when_they_came(
    calls: Calls, kind: Words, way: Way
) -> None:
    question = Question(ASK, Model("quite warm"))
    asked = calls.ask(question)
    for item in calls.items(asked, kind):
        item.append("changed")
    _, asked = await way(calls, question, kind)
    assert asked.answer == Said("quite warm", "exact")


@every_way
@pytest.mark.parametrize("said", ["quite...", ""], ids=["not storable", "no answer"])
async def test_what_must_not_be_repeated_is_not_stored(
    calls: Calls, cache: SemanticCache, kind: Words, way: Way, said: str
) -> None:
    question = Question(ASK, Model(said, "warm"))
    assert [(await way(calls, question, kind))[0] for _ in range(2)] == [said, "warm"]
    assert cache.stats().failures == {}


@every_way
async def test_an_answer_that_calls_tools_is_for_the_very_same_question(
    calls: Calls, kind: Words, way: Way
) -> None:
    model = Model("call the thermometer", "warm")
    await way(calls, Question(ASK, model), kind)
    given, _ = await way(calls, Question(PARAPHRASE, model), kind)
    _, asked = await way(calls, Question(ASK, model), kind)
    assert (given, asked.answer) == ("warm", Said("call the thermometer", "exact"))


# -- errors ----------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    ("broken", "failures"),
    [
        ("dump", {"update": 2}),
        ("is_storable", {"update": 2}),
        ("copy", {"update": 2}),  # not for each item
        ("load", {"lookup": 1}),
    ],
)
async def test_an_answer_that_cannot_be_kept_or_read_is_asked_for_again(
    calls: Calls,
    cache: SemanticCache,
    told: Told,
    kind: Words,
    way: Way,
    broken: str,
    failures: Any,
) -> None:
    told.broken = {broken}
    question = Question(ASK, Model())
    given = [(await way(calls, question, kind))[0] for _ in range(2)]
    assert given == ["answer 1", "answer 2"]
    assert cache.stats().failures == failures


@every_way
async def test_a_question_that_cannot_be_read_is_asked(
    calls: Calls, cache: SemanticCache, kind: Words, way: Way
) -> None:
    given, asked = await way(calls, Question("unreadable", Model()), kind)
    assert (given, asked.request) == ("answer 1", None)
    assert cache.stats().failures == {"lookup": 1}


@every_way
async def test_a_cache_that_fails_harms_nobody(
    calls: Calls, cache: SemanticCache, kind: Words, way: Way
) -> None:
    cache.close()
    given, asked = await way(calls, Question(ASK, Model("warm")), kind)
    assert (given, asked.answer) == ("warm", None)


@every_way
async def test_an_error_of_the_model_passes_as_itself_and_nothing_is_stored(
    calls: Calls, cache: SemanticCache, kind: Words, way: Way
) -> None:
    error = ConnectionError("down")
    question = Question(ASK, Model(["quite", error], "warm"))
    with pytest.raises(ConnectionError) as raised:
        await way(calls, question, kind)
    assert raised.value is error
    assert (await way(calls, question, kind))[0] == "warm"
    assert cache.stats().failures == {}


# -- streams, and many at once ---------------------------------------------------------------------


def test_a_stream_that_is_closed_early_is_closed_and_not_stored(calls: Calls, kind: Words) -> None:
    model = Model("quite warm", "cold")
    stream = calls.items(calls.ask(Question(ASK, model)), kind)
    next(stream)
    assert model.open == 1
    stream.close()  # type: ignore[attr-defined]
    assert model.open == 0
    assert list(calls.items(calls.ask(Question(ASK, model)), kind)) == [["cold"]]


async def test_async_a_stream_that_is_closed_early_is_closed_and_not_stored(
    calls: Calls, kind: Words
) -> None:
    model = Model("quite warm", "cold")
    stream = calls.aitems(await calls.aask(Question(ASK, model)), kind)
    await anext(stream)
    await stream.aclose()
    assert model.open == 0
    again = calls.aitems(await calls.aask(Question(ASK, model)), kind)
    assert [item async for item in again] == [["cold"]]


def test_who_asks_while_a_stream_is_read_gets_its_answer(calls: Calls, kind: Words) -> None:
    model = Model("quite warm")
    stream = calls.items(calls.ask(Question(ASK, model)), kind)
    first = next(stream)
    asked = calls.ask(Question(ASK, model))
    assert list(calls.items(asked, kind)) == []
    assert (asked.answer, asked.hit) == (Said("quite warm", "another"), None)
    assert [first, *stream] == [["quite"], ["warm"]]
    assert len(model.heard) == 1


def test_what_was_not_written_down_is_asked_for_by_each(
    calls: Calls, told: Told, kind: Words
) -> None:
    told.broken = {"dump"}
    model = Model("quite warm", "cold")
    stream = calls.items(calls.ask(Question(ASK, model)), kind)
    next(stream)
    assert list(calls.items(calls.ask(Question(ASK, model)), kind)) == [["cold"]]
    assert list(stream) == [["warm"]]


async def test_async_all_who_ask_at_once_are_one_call(
    calls: Calls, kind: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, model, wait = asyncio.Event(), Model("quite warm"), AsyncSharedCall.wait
    waiting: list[Any] = []

    async def counted(flight: AsyncSharedCall[Any]) -> bool:
        waiting.append(flight)
        if len(waiting) == 7:
            go.set()
        return await wait(flight)

    async def slowly(question: Question) -> AsyncGenerator[list[str], None]:
        await go.wait()
        async for item in asaid_by(question):
            yield item

    async def ask() -> tuple[str, PendingCall[Question, Said]]:
        question = Question(ASK, model)
        return await by_aitems(calls, question, replace(kind, aask=slowly))

    monkeypatch.setattr(AsyncSharedCall, "wait", counted)
    answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert [given for given, _ in answers].count("quite warm") == 1
    shared = [asked.answer for given, asked in answers if not given]
    assert shared == [Said("quite warm", "another")] * 7 and len(set(map(id, shared))) == 7
    assert len(model.heard) == 1


async def test_async_who_asks_during_a_lookup_gets_the_same_hit(
    calls: Calls, cache: SemanticCache, kind: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question(ASK, Model("warm"))
    await by_aitems(calls, question, kind)
    go, lookup, wait = threading.Event(), cache.lookup, AsyncSharedCall.wait

    def slow(request: Request, *, audits: bool = False) -> Hit | None:
        assert go.wait(30)
        return lookup(request, audits=audits)

    async def noticed(flight: AsyncSharedCall[Any]) -> bool:
        go.set()
        return await wait(flight)

    monkeypatch.setattr(cache, "lookup", slow)
    monkeypatch.setattr(AsyncSharedCall, "wait", noticed)
    (_, one), (_, other) = await asyncio.gather(*(by_aitems(calls, question, kind) for _ in "ab"))
    assert one.hit is other.hit is not None
    assert one.answer == other.answer == Said("warm", "exact") and one.answer is not other.answer
    assert cache.stats().exact_hits == 1


def test_who_may_not_share_an_answer_asks_for_himself() -> None:
    request = Request("hi", scope="s", namespace="ada", writer="a")
    others = [
        replace(request, question="ho"),
        replace(request, scope="t"),
        replace(request, namespace="bob"),
        replace(request, writer="b"),
    ]
    keys = {PendingCall(None, one).key for one in (request, *others)}
    assert len(keys) == 5
    assert PendingCall(None, replace(request)).key == PendingCall(None, request).key


# -- audits ----------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    ("said", "judgement"),
    [("quite warm", (1, 0)), ("cold", (1, 1)), ("cold...", (0, 0)), ("picture", (0, 0))],
)
async def test_an_audited_hit_is_served_and_judged_by_what_the_model_says_unobserved(
    bench: Any, told: Told, kind: Words, way: Way, said: str, judgement: tuple[int, int]
) -> None:
    cache = bench.open(path=None, audit_rate=1.0)
    calls: Calls = CachedCalls(cache, read, told, unobserved)
    model = Model("quite warm", said)
    await way(calls, Question(ASK, model), kind)
    given, asked = await way(calls, Question(PARAPHRASE, model), kind)
    assert (given, asked.answer) == ("", Said("quite warm", "semantic"))
    assert model.heard == ["the app", None]
    assert judged(cache) == judgement
    assert cache.stats().entries == 1 and cache.stats().failures == {}


@every_way
async def test_an_audit_that_fails_is_counted_and_harms_nobody(
    bench: Any, told: Told, kind: Words, way: Way
) -> None:
    cache = bench.open(path=None, audit_rate=1.0)
    calls: Calls = CachedCalls(cache, read, told, unobserved)
    model = Model("quite warm", [ConnectionError("down")])
    await way(calls, Question(ASK, model), kind)
    _, asked = await way(calls, Question(PARAPHRASE, model), kind)
    assert asked.answer == Said("quite warm", "semantic")
    assert cache.stats().failures == {"audit": 1} and judged(cache) == (0, 0)


# -- what an answer took ---------------------------------------------------------------------------


class Hours:
    """A clock that goes on by an hour while the model makes an item, and a minute while the app
    reads one.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def says(self, question: Question) -> Generator[list[str], None, None]:
        for item in said_by(question):
            self.now += 3600
            yield item
            self.now += 60


@every_way
async def test_it_is_stored_with_the_time_the_model_took_and_not_its_reader(
    cache: SemanticCache, told: Told, way: Way
) -> None:
    clock = Hours()

    async def asays(question: Question) -> AsyncGenerator[list[str], None]:
        for item in clock.says(question):
            yield item

    class Minutes(Told):
        """A reader: what is done between two items is done by who reads them."""

        def copy(self, item: list[str]) -> list[str]:
            clock.now += 60 * 60 * 24
            return list(item)

    kind: Words = ModelCall(clock.says, asays, Minutes().copy, whole)
    calls = CachedCalls(
        cache, read, told, unobserved, lambda question, answer: Usage("m", 5, 6), clock
    )
    for _ in range(2):
        await way(calls, Question(ASK, Model("quite warm")), kind)
    assert cache.stats().saved == Saved(5, 6, None, 2 * 3600 + 2 * 60)


@every_way
async def test_an_answer_whose_usage_cannot_be_read_is_stored_all_the_same(
    cache: SemanticCache, told: Told, kind: Words, way: Way
) -> None:
    def broken(question: Question, answer: Said) -> Usage:
        raise ValueError("usage is broken")

    calls = CachedCalls(cache, read, told, unobserved, broken)
    model = Model("quite warm")
    for _ in range(2):
        await way(calls, Question(ASK, model), kind)
    assert len(model.heard) == 1
    assert cache.stats().failures == {"usage": 1}

"""SemanticCache: what a lookup finds, what is remembered, and what is said about it."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import semcache_core.pipeline.process as process_module
from conftest import Bench
from fakes import Async, FailingEmbedder, ManualClock, Sync, WordEmbedder
from semcache_core import Hit, Request, SemanticCache, SemcacheError
from semcache_core.storage.entries import Entries
from semcache_core.storage.lookups import Lookups
from semcache_core.testing import engine_of, run_background_round

Q, PARAPHRASE = "how to reset my password", "my password how to reset"


SPELLED = str.maketrans("0123456789.", "zabcdefghix")
DIALLED = {letter: digit for digit, letter in SPELLED.items()}


def at(cosine: str) -> Request:
    """A question for `Dial`, in letters: with other numbers or file names none would match."""
    return Request(cosine.translate(SPELLED))


class Dial(WordEmbedder):
    """The question `at(x)` gets a vector of cosine x with that of `at("1")`."""

    def embed_one(self, text: str) -> np.ndarray:
        vector = np.zeros(self.dimension, np.float32)
        vector[0] = float("1" if text == "probe" else text.translate(DIALLED))
        vector[1] = np.sqrt(1 - vector[0] ** 2)
        return vector


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture
def cache(bench: Bench, embedder: WordEmbedder) -> SemanticCache:
    return bench.open(embedder=embedder)


class TestLookup:
    def test_the_same_question_is_found_without_embedding_it(
        self, bench: Bench, embedder: WordEmbedder
    ) -> None:
        bench.open().update(Request(Q), "answer")
        cache = bench.open(embedder=embedder)
        hit = cache.lookup(Request(Q))
        assert hit == Hit("answer", "exact", 1.0, 1.0, Q, 1, 0.0)
        assert embedder.calls == []

    def test_the_same_question_in_other_words_is_found(self, cache: SemanticCache) -> None:
        entry_id = cache.update(Request(Q), "answer")
        hit = cache.lookup(Request(PARAPHRASE))
        assert hit is not None
        assert (hit.kind, hit.response, hit.question) == ("semantic", "answer", Q)
        assert hit.entry_id == entry_id
        assert hit.similarity == pytest.approx(1, abs=1e-5)
        assert hit.probability == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-4)

    def test_another_question_is_not(self, cache: SemanticCache) -> None:
        cache.update(Request(Q), "answer")
        assert cache.lookup(Request("where is the nearest cash machine")) is None

    @pytest.mark.parametrize(
        ("bound", "cosine", "hits"),
        [
            (0.02, "0.901", True),
            (0.02, "0.899", False),
            (0.1, "0.801", True),
            (0.1, "0.799", False),
        ],
    )
    def test_the_bound_decides_how_near_is_near_enough(
        self, bound: float, cosine: str, hits: bool, bench: Bench
    ) -> None:
        cache = bench.open(embedder=Dial(), max_error_rate=bound)
        cache.update(at("1"), "answer")
        assert (cache.lookup(at(cosine)) is not None) == hits
        assert cache.explain(at(cosine)).candidates[0].similarity == pytest.approx(
            float(cosine), abs=1e-5
        )

    def test_the_nearest_of_several_is_served(self, bench: Bench) -> None:
        cache = bench.open(embedder=Dial())
        for cosine in ("0.90", "0.97", "0.93"):
            cache.update(at(cosine), cosine)
        hit = cache.lookup(at("0.96"))
        assert hit is not None and hit.response == "0.97"

    def test_the_age_is_told(self, cache: SemanticCache, bench: Bench) -> None:
        cache.update(Request(Q), "answer")
        bench.clock.now += 90
        assert [cache.lookup(Request(q)).age_s for q in (Q, PARAPHRASE)] == [90, 90]  # type: ignore[union-attr]
        bench.clock.now -= 1000
        assert cache.lookup(Request(Q)).age_s == 0  # type: ignore[union-attr]

    @pytest.mark.parametrize("stored", [{"scope": "a"}, {"namespace": "a"}, {"scope": "ab"}])
    @pytest.mark.parametrize("asked", [{}, {"scope": "b"}, {"namespace": "b"}])
    def test_another_scope_or_namespace_is_never_served(
        self, stored: Any, asked: Any, cache: SemanticCache
    ) -> None:
        cache.update(Request(Q, **stored), "answer")
        cache.update(Request("something else", **asked), "other")
        assert cache.lookup(Request(Q, **asked)) is None
        assert cache.lookup(Request(PARAPHRASE, **asked)) is None
        assert cache.lookup(Request(PARAPHRASE, **stored)) is not None

    def test_the_caches_own_namespace_is_that_of_requests_without_one(self, bench: Bench) -> None:
        one, other = bench.open(namespace="one"), bench.open(namespace="other")
        one.update(Request(Q), "answer")
        assert other.lookup(Request(Q)) is None
        assert other.lookup(Request(PARAPHRASE)) is None
        assert other.lookup(Request(PARAPHRASE, namespace="one")) is not None

    @pytest.mark.parametrize("how", ["never stored", "expired", "cleared", "exact only"])
    def test_where_nothing_lives_nothing_is_embedded(
        self, how: str, cache: SemanticCache, bench: Bench, embedder: WordEmbedder
    ) -> None:
        cache.update(Request("elsewhere", "other scope"), "a")
        cache.update(Request("elsewhere", namespace="other"), "a")
        if how == "exact only":
            cache.update(Request(Q, exact_only=True), "a")
        elif how != "never stored":
            cache.update(Request(Q), "a", ttl=10)
        if how == "expired":
            bench.clock.now += 10
        if how == "cleared":
            cache.clear()
        embedder.calls.clear()
        assert cache.lookup(Request(PARAPHRASE)) is None
        assert embedder.calls == []
        code = "only_exact_entries" if how == "exact only" else "empty_scope"
        assert cache.explain(Request(PARAPHRASE)).code == code

    @pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u2003"])
    def test_a_blank_question_is_never_matched_by_meaning(
        self, blank: str, cache: SemanticCache, embedder: WordEmbedder
    ) -> None:
        cache.update(Request(blank), "answer to nothing")
        cache.update(Request("word"), "a")
        assert cache.lookup(Request(blank)).kind == "exact"  # type: ignore[union-attr]
        assert cache.lookup(Request(f"{blank} ")) is None
        assert embedder.calls == ["word"]

    def test_a_question_beyond_what_the_model_reads_is_matched_exactly_alone(
        self, cache: SemanticCache, embedder: WordEmbedder
    ) -> None:
        long = " ".join(f"w{i}" for i in range(41))
        cache.update(Request(long), "answer")
        cache.update(Request("word"), "a")
        hit = cache.lookup(Request(long))
        assert hit is not None and hit.kind == "exact"
        assert cache.lookup(Request(long.removeprefix("w0 "))) is None
        assert cache.lookup(Request("w1 w0" + long.removeprefix("w0 w1"))) is None
        assert long not in embedder.calls
        assert "longer than" in cache.explain(Request(f"{long} x")).reason

    def test_an_exact_only_request_is_neither_served_by_meaning_nor_serves_by_meaning(
        self, cache: SemanticCache, embedder: WordEmbedder
    ) -> None:
        cache.update(Request(Q, exact_only=True), "exact")
        assert cache.lookup(Request(PARAPHRASE)) is None
        assert cache.lookup(Request(Q)).kind == "exact"  # type: ignore[union-attr]
        cache.update(Request("one two three"), "a")
        embedder.calls.clear()
        assert cache.lookup(Request("three two one", exact_only=True)) is None
        assert embedder.calls == []

    @pytest.mark.parametrize(
        "text",
        ["\ud800", "a\x00b", "\udfff \ud800", "x" * 100_000, "wörd " * 20_000, "\u200b", "😀"],
        ids=ascii,
    )
    def test_any_text_is_stored_and_found_exactly(self, text: str, bench: Bench) -> None:
        request = Request(text, scope=text, namespace=text, tags=(text,))
        bench.open().update(request, text)
        cache = bench.open()
        hit = cache.lookup(request)
        assert hit is not None
        assert (hit.kind, hit.response, hit.question) == ("exact", text, text)
        assert cache.lookup(Request(f"{text}!", text, text)) is None or len(text) < 10
        assert cache.invalidate(tags=[text], namespace=text) == 1

    def test_a_stored_entry_that_goes_while_it_is_looked_up_is_not_served(
        self, cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.update(Request(Q), "answer")
        original = Lookups.get

        def get(self: Lookups, *args: Any) -> Any:
            cache.clear()
            return original(self, *args)

        monkeypatch.setattr(Lookups, "get", get)
        assert cache.lookup(Request(PARAPHRASE)) is None

    def test_an_entry_that_is_replaced_while_it_is_looked_up_is_still_found(
        self, cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.update(Request(Q), "old")
        original = Lookups.get
        replace = [True]

        def get(self: Lookups, *args: Any) -> Any:
            if replace and replace.pop():
                cache.update(Request(Q), "new")
            return original(self, *args)

        monkeypatch.setattr(Lookups, "get", get)
        hit = cache.lookup(Request(PARAPHRASE))
        assert hit is not None and hit.response == "new"


class TestUpdate:
    def test_an_answer_to_the_same_request_replaces_the_older_one(
        self, cache: SemanticCache
    ) -> None:
        first = cache.update(Request(Q), "old")
        second = cache.update(Request(Q), "new")
        assert second > first
        for question in (Q, PARAPHRASE):
            hit = cache.lookup(Request(question))
            assert hit is not None and (hit.response, hit.entry_id) == ("new", second)
        assert cache.stats().entries == 1

    def test_is_seen_by_another_cache_on_the_path_at_once_and_after_reopening(
        self, bench: Bench
    ) -> None:
        one, other = bench.open(), bench.open()
        assert other.lookup(Request(PARAPHRASE)) is None
        one.update(Request(Q), "answer")
        assert other.lookup(Request(Q)) is not None
        assert other.lookup(Request(PARAPHRASE)) is not None
        one.update(Request(Q), "newer")
        assert other.lookup(Request(PARAPHRASE)).response == "newer"  # type: ignore[union-attr]
        one.close()
        other.close()
        assert bench.open().lookup(Request(PARAPHRASE)).response == "newer"  # type: ignore[union-attr]

    @pytest.mark.parametrize("response", [None, 5, b"x", ["a"]])
    def test_a_response_of_a_wrong_type_is_refused_with_its_value(
        self, response: Any, cache: SemanticCache
    ) -> None:
        with pytest.raises(SemcacheError) as raised:
            cache.update(Request(Q), response)
        assert repr(response) in str(raised.value)
        assert cache.stats().entries == 0

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), "soon"])
    def test_an_unusable_ttl_is_refused_with_its_value(
        self, ttl: Any, cache: SemanticCache
    ) -> None:
        with pytest.raises(SemcacheError) as raised:
            cache.update(Request(Q), "a", ttl=ttl)
        assert repr(ttl) in str(raised.value)
        assert cache.stats().entries == 0

    @pytest.mark.parametrize("tags", ["bare", (1,), 5])
    def test_unusable_tags_are_refused(self, tags: Any, cache: SemanticCache) -> None:
        with pytest.raises(SemcacheError):
            cache.update(Request(Q), "a", tags=tags)
        assert cache.stats().entries == 0

    @pytest.mark.parametrize("request_", [7, None, {"question": Q}])
    @pytest.mark.parametrize("method", ["lookup", "explain", "update"])
    def test_what_is_no_request_is_refused_with_its_value(
        self, method: str, request_: Any, cache: SemanticCache
    ) -> None:
        arguments = ("a",) if method == "update" else ()
        with pytest.raises(SemcacheError) as raised:
            getattr(cache, method)(request_, *arguments)
        assert repr(request_) in str(raised.value)

    @pytest.mark.parametrize(
        "bad", [{"nan": True}, {"error": OSError("no route")}, {"error": ValueError("bad")}]
    )
    def test_an_embedder_that_fails_is_a_semcache_error_and_nothing_is_stored(
        self, bad: Any, bench: Bench
    ) -> None:
        bench.open().update(Request("one two three"), "a")
        cache = bench.open(embedder=FailingEmbedder(**bad))
        for call in (
            lambda: cache.update(Request(Q), "answer"),
            lambda: cache.lookup(Request(Q)),
            lambda: cache.explain(Request(Q)),
        ):
            with pytest.raises(SemcacheError, match=r"nan|no route|bad"):
                call()
        assert cache.stats().entries == 1

    @pytest.mark.parametrize(
        ("rows", "named"),
        [
            (lambda n: np.zeros((n, 64)), "0.0"),
            (lambda n: np.ones((n, 63)), "63"),
            (lambda n: np.ones((n + 1, 64)), r"\[2, 64\]"),
            (lambda n: np.ones(64), r"\[64\]"),
            (lambda n: [["x"] * 64] * n, "x"),
            (lambda n: None, "None|shape"),
        ],
    )
    def test_bad_vectors_are_refused_by_what_was_wrong_and_nothing_is_stored(
        self, rows: Callable[[int], Any], named: str, bench: Bench
    ) -> None:
        class Bad(WordEmbedder):
            def embed(self, texts: list[str]) -> Any:
                return rows(len(texts))

        cache = bench.open(embedder=Bad())
        with pytest.raises(SemcacheError, match=named):
            cache.update(Request(Q), "answer")
        assert cache.stats().entries == 0


class TestExpiry:
    def test_an_entry_lives_as_long_as_it_was_given(self, bench: Bench) -> None:
        cache = bench.open(ttl=100)
        cache.update(Request(Q), "short", ttl=10)
        cache.update(Request("something else"), "long")
        for moved, short, long in ((9.9, True, True), (0.1, False, True), (90, False, False)):
            bench.clock.now += moved
            assert (cache.lookup(Request(Q)) is not None) == short
            assert (cache.lookup(Request(PARAPHRASE)) is not None) == short
            assert (cache.lookup(Request("else something")) is not None) == long
            assert cache.stats().entries == short + long

    def test_a_new_answer_lives_anew(self, bench: Bench) -> None:
        cache = bench.open(ttl=10)
        cache.update(Request(Q), "old")
        bench.clock.now += 20
        cache.update(Request(Q), "new")
        bench.clock.now += 9
        assert cache.lookup(Request(PARAPHRASE)).response == "new"  # type: ignore[union-attr]

    def test_without_a_ttl_it_lives_for_ever(self, cache: SemanticCache, bench: Bench) -> None:
        cache.update(Request(Q), "a")
        bench.clock.now += 1e9
        assert cache.lookup(Request(Q)) is not None

    def test_an_expired_nearest_does_not_hide_a_live_one(self, bench: Bench) -> None:
        cache = bench.open(embedder=Dial())
        cache.update(at("1"), "gone", ttl=1)
        cache.update(at("0.99"), "here")
        bench.clock.now += 1
        assert cache.lookup(at("1")).response == "here"  # type: ignore[union-attr]


@pytest.mark.usefixtures("still")
class TestEviction:
    def test_the_least_recently_used_goes_and_a_hit_is_a_use(self, bench: Bench) -> None:
        cache = bench.open(max_entries=3)
        for name in ("a1 a2 a3", "b1 b2 b3", "c1 c2 c3"):
            bench.clock.now += 1
            cache.update(Request(name), name)
        bench.clock.now += 1
        cache.lookup(Request("a1 a2 a3"))
        bench.clock.now += 1
        cache.lookup(Request("b3 b2 b1"))
        bench.clock.now += 1
        cache.update(Request("d1 d2 d3"), "d")
        bench.clock.now += 1
        cache.update(Request("e1 e2 e3"), "e")
        found = [n for n in "abcde" if cache.lookup(Request(f"{n}1 {n}2 {n}3", exact_only=True))]
        assert found == ["b", "d", "e"]

    def test_the_limit_is_of_all_namespaces_together(self, bench: Bench) -> None:
        cache = bench.open(max_entries=2)
        for n in range(5):
            bench.clock.now += 1
            cache.update(Request(Q, namespace=f"n{n}"), "a")
        assert cache.stats().entries == 2
        assert cache.lookup(Request(Q, namespace="n4")) is not None

    def test_replacing_evicts_nothing(self, bench: Bench) -> None:
        cache = bench.open(max_entries=2)
        cache.update(Request("a"), "1")
        for n in range(5):
            cache.update(Request("b"), str(n))
        assert cache.lookup(Request("a")) is not None


class TestForgetting:
    @pytest.fixture
    def filled(self, cache: SemanticCache, bench: Bench) -> SemanticCache:
        cache.update(Request("a", tags=("red",)), "1", tags=("old",))
        cache.update(Request("a", namespace="other", tags=("red",)), "2")
        bench.clock.now += 100
        cache.update(Request("b", tags=("blue", "red")), "3")
        return cache

    def left(self, cache: SemanticCache) -> str:
        keys = (("a", None), ("a", "other"), ("b", None))
        found = [cache.lookup(Request(q, namespace=n, exact_only=True)) for q, n in keys]
        return "".join(hit.response for hit in found if hit is not None)

    def test_clear_forgets_its_own_namespace(self, filled: SemanticCache) -> None:
        assert filled.clear() == 2
        assert self.left(filled) == "2"

    def test_clear_forgets_a_namespace_given(self, filled: SemanticCache) -> None:
        assert filled.clear("other") == 1
        assert self.left(filled) == "13"

    def test_clear_forgets_all_when_asked(self, filled: SemanticCache) -> None:
        assert filled.clear(all_namespaces=True) == 3
        assert self.left(filled) == ""

    @pytest.mark.parametrize("namespace", ["", 5, False])
    def test_a_namespace_of_a_wrong_type_forgets_nothing(
        self, namespace: Any, filled: SemanticCache
    ) -> None:
        with pytest.raises(SemcacheError):
            filled.clear(namespace)
        with pytest.raises(SemcacheError):
            filled.invalidate(tags=["red"], namespace=namespace)
        assert self.left(filled) == "123"

    @pytest.mark.parametrize(
        ("conditions", "left"),
        [
            ({"tags": ["red"]}, "2"),
            ({"tags": ("old",)}, "23"),
            ({"tags": ["blue", "old"]}, "2"),
            ({"tags": ["red"], "namespace": "other"}, "13"),
            ({"tags": ["green"]}, "123"),
            ({"tags": []}, "123"),
            ({"older_than": 50}, "23"),
            ({"older_than": 100}, "123"),
            ({"older_than": 50, "tags": ["blue"]}, "123"),
            ({"older_than": 50, "tags": ["red"], "namespace": "other"}, "13"),
        ],
    )
    def test_invalidate_forgets_what_meets_all_conditions(
        self, conditions: Any, left: str, filled: SemanticCache
    ) -> None:
        assert filled.invalidate(**conditions) == 3 - len(left)
        assert self.left(filled) == left
        assert (filled.lookup(Request("b b")) is not None) == ("3" in left)

    @pytest.mark.parametrize(
        "conditions", [{}, {"namespace": "other"}, {"tags": "red"}, {"older_than": "1h"}]
    )
    def test_invalidate_without_a_usable_condition_forgets_nothing(
        self, conditions: Any, filled: SemanticCache
    ) -> None:
        with pytest.raises(SemcacheError):
            filled.invalidate(**conditions)
        assert self.left(filled) == "123"


class TestTelling:
    def test_explain_says_why_for_every_way_a_lookup_ends(self, bench: Bench) -> None:
        cache = bench.open(embedder=(embedder := WordEmbedder()))
        cache.update(Request("one two three"), "a")
        cache.update(Request("gone", "expiring"), "a", ttl=10)
        for request, reason, kind in (
            (Request("one two three"), "the question is the same", "exact"),
            (Request("three two one"), "near enough", "semantic"),
            (Request("no such thing"), "not near enough", None),
            (Request("x", exact_only=True), "exact match only", None),
            (Request(" "), "empty question", None),
            (Request("x", "nowhere"), "nothing is stored", None),
            (Request("w " * 50), "longer than", None),
        ):
            explanation = cache.explain(request)
            assert reason in explanation.reason
            assert (explanation.hit.kind if explanation.hit else None) == kind
            assert explanation.hit == cache.lookup(request)
            assert reason in str(explanation)
        assert (cache.explain(Request("a")).threshold, embedder.dimension) == (
            pytest.approx(1 / (1 + np.exp(-2))),
            64,
        )

    def test_explain_says_when_all_has_expired_since(
        self, cache: SemanticCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.update(Request(Q), "a")
        monkeypatch.setattr(engine_of(cache).retriever, "nearest", lambda *_: [])
        assert "has expired" in cache.explain(Request(PARAPHRASE)).reason

    def test_explain_counts_nothing_and_changes_nothing(self, cache: SemanticCache) -> None:
        cache.update(Request(Q), "a")
        before = cache.stats()
        for question in (Q, PARAPHRASE, "else"):
            cache.explain(Request(question))
        run_background_round(cache)
        assert cache.stats() == before
        assert cache.sizes()["hits_ever"] == 0

    def test_explain_shows_the_nearest_with_their_probability(self, bench: Bench) -> None:
        cache = bench.open(embedder=Dial())
        for cosine in ("0.5", "0.9", "0.7"):
            cache.update(at(cosine), "a")
        candidates = cache.explain(at("1")).candidates
        assert [c.entry.question.translate(DIALLED) for c in candidates] == ["0.9", "0.7", "0.5"]
        assert candidates[0].probability > candidates[1].probability > candidates[2].probability

    def test_stats_count_what_happened(self, cache: SemanticCache) -> None:
        cache.update(Request(Q), "a")
        cache.update(Request(Q, namespace="other"), "a")
        for question in (Q, PARAPHRASE, PARAPHRASE, "else"):
            cache.lookup(Request(question))
        stats = cache.stats()
        assert (stats.exact_hits, stats.semantic_hits, stats.misses) == (1, 2, 1)
        assert (stats.entries, stats.updates, stats.lookups) == (2, 2, 4)
        assert stats.hit_rate == 0.75
        assert (stats.failures, stats.indexed_scopes, stats.max_error_rate) == ({}, 0, 0.02)
        assert cache.sizes()["namespaces"] == 2
        assert cache.sizes()["bytes"] > 0

    def test_no_text_of_a_user_is_in_a_file_name(self, bench: Bench) -> None:
        cache = bench.open(scan_limit=0)
        cache.update(Request("secretquestion", "secretscope", "secrettenant"), "secretanswer")
        engine_of(cache).retriever.count_requested.set()
        run_background_round(cache)
        assert cache.stats().indexed_scopes == 1
        assert not [f for f in bench.path.rglob("*") if "secret" in str(f.relative_to(bench.path))]


USES: list[Callable[[SemanticCache], Any]] = [
    lambda c: c.lookup(Request(Q)),
    lambda c: c.update(Request(Q), "a"),
    lambda c: c.explain(Request(Q)),
    lambda c: c.clear(),
    lambda c: c.invalidate(tags=["a"]),
    lambda c: c.rebuild(),
    lambda c: c.stats(),
    lambda c: c.sizes(),
    lambda c: c.alookup(Request(Q)),
    lambda c: c.aupdate(Request(Q), "a"),
    lambda c: c.aexplain(Request(Q)),
    lambda c: c.aclear(),
    lambda c: c.ainvalidate(tags=["a"]),
    lambda c: c.arebuild(),
    lambda c: c.astats(),
]


class TestClosing:
    @pytest.mark.parametrize("use", USES)
    async def test_use_after_close_is_a_semcache_error(
        self, use: Callable[[SemanticCache], Any], cache: SemanticCache
    ) -> None:
        cache.close()
        with pytest.raises(SemcacheError, match="closed"):
            found = use(cache)
            if inspect.isawaitable(found):
                await found

    async def test_closing_twice_does_nothing(self, cache: SemanticCache) -> None:
        cache.close()
        cache.close()
        await cache.aclose()

    async def test_a_closed_cache_still_lets_the_app_compute(self, cache: SemanticCache) -> None:
        async def compute() -> str:
            return "computed"

        cache.close()
        assert cache.get_or_create(Request(Q), lambda: "computed") == "computed"
        assert await cache.aget_or_create(Request(Q), compute) == "computed"

    async def test_a_with_block_closes(self, bench: Bench) -> None:
        with bench.open() as one:
            one.update(Request(Q), "a")
        async with bench.open() as other:
            assert await other.alookup(Request(Q)) is not None
        for cache in (one, other):
            with pytest.raises(SemcacheError, match="closed"):
                cache.stats()


class TestFiles:
    def test_closing_leaves_no_file_open_and_no_log(self, cache: SemanticCache) -> None:
        cache.update(Request(Q), "a")
        cache.lookup(Request(PARAPHRASE))
        file = engine_of(cache).ledger.file
        assert file is not None
        cache.close()
        assert [f.name for f in file.parent.iterdir()] == ["ledger.sqlite3"]
        held = [Path(f"/proc/self/fd/{n}") for n in __import__("os").listdir("/proc/self/fd")]
        assert not [f for f in held if f.exists() and f.resolve() == file]

    def test_memory_is_private_to_each_cache(self, bench: Bench) -> None:
        one, other = bench.open(path=None), bench.open(path=None)
        one.update(Request(Q), "a")
        assert one.lookup(Request(PARAPHRASE)) is not None
        assert other.lookup(Request(Q)) is None
        assert not bench.path.exists()


class TestGetOrCreate:
    def test_computes_once_and_then_remembers(self, cache: SemanticCache) -> None:
        computed: list[int] = []

        def compute() -> str:
            computed.append(1)
            return "answer"

        for question in (Q, Q, PARAPHRASE):
            assert cache.get_or_create(Request(question), compute) == "answer"
        assert len(computed) == 1

    def test_threads_that_ask_the_same_at_once_compute_once(self, cache: SemanticCache) -> None:
        barrier, calls = threading.Barrier(20), []

        def compute() -> str:
            calls.append(1)
            return "answer"

        def ask(_: int) -> str:
            barrier.wait(30)
            return cache.get_or_create(Request(Q), compute)

        with ThreadPoolExecutor(20) as threads:
            assert list(threads.map(ask, range(20))) == ["answer"] * 20
        assert len(calls) == 1

    async def test_tasks_that_ask_the_same_at_once_compute_once(self, cache: SemanticCache) -> None:
        calls: list[int] = []

        async def compute() -> str:
            calls.append(1)
            await asyncio.sleep(0)
            return "answer"

        found = await asyncio.gather(
            *(cache.aget_or_create(Request(Q), compute) for _ in range(20))
        )
        assert found == ["answer"] * 20
        assert len(calls) == 1

    async def test_an_error_reaches_the_caller_as_itself_and_is_not_remembered(
        self, cache: SemanticCache
    ) -> None:
        error = KeyError("mine")

        def fail() -> str:
            raise error

        async def afail() -> str:
            raise error

        with pytest.raises(KeyError) as raised:
            cache.get_or_create(Request(Q), fail)
        assert raised.value is error
        with pytest.raises(KeyError) as raised:
            await cache.aget_or_create(Request(Q), afail)
        assert raised.value is error
        assert cache.stats().entries == 0
        assert cache.stats().failures == {}
        assert cache.get_or_create(Request(Q), lambda: "answer") == "answer"

    async def test_a_cancelled_task_harms_no_other(self, cache: SemanticCache) -> None:
        entered, release = asyncio.Event(), asyncio.Event()

        async def compute() -> str:
            entered.set()
            await release.wait()
            return "answer"

        tasks = [asyncio.create_task(cache.aget_or_create(Request(Q), compute)) for _ in range(3)]
        await entered.wait()
        tasks[0].cancel()
        release.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == ["answer", "answer"]
        assert cache.lookup(Request(Q)) is not None

    # each of the six looks up by meaning; its leader looks once more, but only for the very same
    @pytest.mark.parametrize(("broken", "failed"), [("embedder", 6), ("ledger", 12)])
    async def test_the_caches_own_errors_are_counted_and_logged_once_and_the_app_goes_on(
        self,
        broken: str,
        failed: int,
        bench: Bench,
        monkeypatch: pytest.MonkeyPatch,
        warnings_of: Any,
    ) -> None:
        bench.open().update(Request("one two three"), "a")
        cache = bench.open(embedder=FailingEmbedder(error=OSError("it is down")))
        if broken == "ledger":
            monkeypatch.setattr(
                Lookups, "find", lambda *_: (_ for _ in ()).throw(OSError("it is down"))
            )
            monkeypatch.setattr(
                Entries, "insert", lambda *_: (_ for _ in ()).throw(OSError("it is down"))
            )

        async def compute() -> str:
            return "computed"

        for _ in range(3):
            assert cache.get_or_create(Request(Q), lambda: "computed") == "computed"
            assert await cache.aget_or_create(Request(Q), compute) == "computed"
        monkeypatch.undo()
        assert cache.stats().failures == {"lookup": failed, "update": 6}
        logged = warnings_of("the app goes on without it")
        assert len(logged) == 2
        assert all("it is down" in text for text in logged)

    async def test_an_answer_that_cannot_be_stored_is_still_the_answer(
        self, cache: SemanticCache
    ) -> None:
        assert cache.get_or_create(Request(Q), lambda: 5) == 5  # type: ignore[arg-type,return-value,comparison-overlap]
        assert cache.stats().failures == {"update": 1}


@pytest.mark.parametrize("form", [Sync, Async])
async def test_both_forms_do_the_same(form: type[Sync], bench: Bench) -> None:
    call = form(bench.open())
    log: list[Any] = []
    log.append(await call("update", Request(Q), "1", ttl=50, tags=["t"], cost=0.5))
    log.append(await call("lookup", Request(Q)))
    log.append(await call("lookup", Request(PARAPHRASE)))
    log.append(await call("lookup", Request("else")))
    log.append(str(await call("explain", Request(PARAPHRASE))))
    log.append(await call.get_or_create(Request(PARAPHRASE), "computed"))
    log.append(await call.get_or_create(Request("brand new"), "computed"))
    log.append(await call("update", Request(Q, namespace="n", tags=("t",)), "2"))
    log.append(await call("invalidate", tags=["t"]))
    log.append(await call("invalidate", namespace="n", older_than=10))
    log.append(await call("clear"))
    log.append(await call("clear", all_namespaces=True))
    log.append(await call("rebuild"))
    log.append(await call("stats"))
    await call("close")
    semantic = Hit("1", "semantic", log[2].probability, log[2].similarity, Q, 1, 0.0)
    assert log[:4] == [1, Hit("1", "exact", 1.0, 1.0, Q, 1, 0.0), semantic, None]
    assert "near enough" in log[4]
    assert log[5:13] == ["1", "computed", 3, 1, 0, 1, 1, 0]
    assert (log[13].exact_hits, log[13].semantic_hits, log[13].misses) == (1, 2, 2)


def test_every_public_method_has_an_async_twin_with_the_same_parameters() -> None:
    names = ("lookup", "update", "audited", "feedback", "explain", "clear", "invalidate")
    for name in (*names, "warm_up", "rebuild", "stats", "close"):
        twin = getattr(SemanticCache, f"a{name}")
        assert inspect.iscoroutinefunction(twin)
        ours = inspect.signature(getattr(SemanticCache, name)).parameters
        assert inspect.signature(twin).parameters == ours


async def test_async_calls_leave_the_event_loops_thread(bench: Bench) -> None:
    class Noting(WordEmbedder):
        threads: list[threading.Thread]

        def embed(self, texts: list[str]) -> np.ndarray:
            self.threads.append(threading.current_thread())
            return super().embed(texts)

    class Clock(ManualClock):
        def __call__(self) -> float:
            clocked.append(threading.current_thread())
            return self.now

    clocked: list[threading.Thread] = []
    embedder = Noting()
    embedder.threads = []
    cache = bench.open(embedder=embedder, clock=Clock())

    async def compute() -> str:
        return "a"

    clocked.clear()
    await cache.aupdate(Request(Q), "a")
    await cache.alookup(Request(PARAPHRASE))
    await cache.aget_or_create(Request("else"), compute)
    await cache.aexplain(Request("other"))
    assert len(embedder.threads) == 4
    assert threading.current_thread() not in {*embedder.threads, *clocked}


async def test_a_forked_worker_opens_its_cache_off_the_event_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_by: list[threading.Thread] = []
    original = process_module.open_engine

    def noted(*arguments: Any) -> Any:
        opened_by.append(threading.current_thread())
        return original(*arguments)

    async def compute() -> str:
        return "a"

    monkeypatch.setattr(process_module, "open_engine", noted)
    for call in (
        lambda cache: cache.alookup(Request(Q)),
        lambda cache: cache.aget_or_create(Request(Q), compute),
        lambda cache: cache.astats(),
        lambda cache: cache.awarm_up(),
    ):
        cache = bench.open()
        cache.close()
        cache._process._closed = False
        cache._process.forget()
        opened_by.clear()
        await call(cache)
        assert len(opened_by) == 1
        assert threading.current_thread() not in opened_by


async def test_a_warm_cache_has_its_model_open_before_the_first_question(bench: Bench) -> None:
    embedder = WordEmbedder()
    await bench.open(embedder=embedder).awarm_up()
    assert len(embedder.calls) == 1
    assert bench.open().stats().misses == 0


async def test_a_server_starts_also_where_its_cache_cannot_be_warmed_up(bench: Bench) -> None:
    embedder = FailingEmbedder(error=OSError("the network is down"))
    cache = bench.open(embedder=embedder)
    cache.warm_up()
    await cache.awarm_up()
    assert cache.stats().failures == {"warm_up": 2}
    embedder.error = None
    cache.update(Request(Q), "a")
    assert cache.lookup(Request(PARAPHRASE)) is not None
    cache.close()
    await cache.awarm_up()


@pytest.mark.usefixtures("still")
def test_warming_up_waits_for_the_index_but_not_for_ever(bench: Bench) -> None:
    cache = bench.open()
    settled = engine_of(cache).retriever.index_checked
    cache.warm_up(index_seconds=0.0)
    assert not settled.is_set()
    opening = threading.Timer(0.05, settled.set)
    opening.start()
    cache.warm_up()
    assert settled.is_set()
    opening.join()


def test_a_cache_that_serves_only_exactly_has_nothing_to_warm_up(bench: Bench) -> None:
    embedder = WordEmbedder()
    bench.open(embedder=embedder, artefact=None).warm_up()
    assert embedder.calls == []


async def test_async_calls_carry_the_callers_context(cache: SemanticCache) -> None:
    import contextvars

    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("acme")
    assert await cache.in_thread(tenant.get) == "acme"


def test_the_question_is_embedded_once_for_a_miss_and_its_update(
    cache: SemanticCache, embedder: WordEmbedder
) -> None:
    cache.update(Request("something"), "a")
    embedder.calls.clear()
    cache.lookup(Request(Q))
    cache.update(Request(Q), "a")
    assert embedder.calls == [Q]


def test_two_caches_that_open_a_new_path_at_once_share_it(bench: Bench) -> None:
    barrier = threading.Barrier(8)

    def open_and_store(n: int) -> SemanticCache:
        barrier.wait(30)
        cache = bench.open()
        cache.update(Request(f"question{n} from{n} me{n}"), str(n))
        return cache

    with ThreadPoolExecutor(8) as threads:
        caches = list(threads.map(open_and_store, range(8)))
    for cache in caches:
        assert all(cache.lookup(Request(f"me{n} question{n} from{n}")) for n in range(8))


def test_threads_on_one_cache_lose_nothing(cache: SemanticCache) -> None:
    def work(n: int) -> None:
        for i in range(20):
            cache.update(Request(f"t{n} i{i} n{n}i{i}"), f"{n} {i}")
            hit = cache.lookup(Request(f"n{n}i{i} t{n} i{i}"))
            assert hit is not None and hit.response == f"{n} {i}"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert cache.stats().entries == 160

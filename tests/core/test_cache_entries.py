"""What a scope holds, forgetting one entry, and forgetting by tag over all tenants."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Bench
from fakes import Async, Sync, WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Entry, Request, SemanticCache, SemcacheError

Q, PARAPHRASE = "how to reset my password", "my password how to reset"


@pytest.fixture
def cache(bench: Bench) -> SemanticCache:
    return bench.open()


def responses(found: list[Entry]) -> list[str]:
    return [entry.response for entry in found]


class TestEntries:
    def test_are_those_of_one_scope_and_namespace_oldest_first(self, cache: SemanticCache) -> None:
        cache.update(Request("b", "s"), "1")
        cache.update(Request("a", "s"), "2")
        cache.update(Request("a", "other"), "3")
        cache.update(Request("a"), "4")
        cache.update(Request("a", "s", namespace="acme"), "5")
        assert responses(cache.entries("s")) == ["1", "2"]
        assert responses(cache.entries()) == ["4"]
        assert responses(cache.entries("s", "acme")) == ["5"]
        assert cache.entries("s", "globex") == []

    def test_tell_question_response_and_times(self, cache: SemanticCache, bench: Bench) -> None:
        entry_id = cache.update(Request("a \ud800?", "s"), "1 \x00", ttl=50)
        now = bench.clock.now
        assert cache.entries("s") == [Entry(entry_id or 0, "a \ud800?", "1 \x00", now, now + 50)]

    def test_an_expired_entry_is_not_among_them(self, cache: SemanticCache, bench: Bench) -> None:
        cache.update(Request("a", "s"), "1", ttl=50)
        bench.clock.now += 50
        assert cache.entries("s") == []

    def test_listing_is_no_use_and_counts_nothing(self, cache: SemanticCache) -> None:
        cache.update(Request(Q, "s"), "1")
        cache.entries("s")
        stats = cache.stats()
        assert (stats.exact_hits, stats.misses) == (0, 0)

    @pytest.mark.parametrize("wrong", [("s", ""), ("s", 5), (None, None)])
    def test_a_scope_or_namespace_of_a_wrong_type_is_refused(
        self, wrong: Any, cache: SemanticCache
    ) -> None:
        with pytest.raises(SemcacheError, match="must be"):
            cache.entries(*wrong)


class TestForget:
    def test_forgets_exactly_the_entry_of_this_request(self, cache: SemanticCache) -> None:
        kept = [Request("b", "s"), Request("a", "other"), Request("a", "s", namespace="acme")]
        for request in (Request("a", "s"), *kept):
            cache.update(request, "x")
        assert cache.forget(Request("a", "s"))
        assert cache.lookup(Request("a", "s")) is None
        assert all(cache.lookup(request) is not None for request in kept)

    def test_says_when_there_was_none(self, cache: SemanticCache) -> None:
        cache.update(Request("a"), "1")
        assert not cache.forget(Request("b"))
        assert cache.forget(Request("a"))
        assert not cache.forget(Request("a"))

    def test_never_forgets_by_meaning(self, cache: SemanticCache) -> None:
        cache.update(Request(Q), "1")
        assert not cache.forget(Request(PARAPHRASE))
        assert cache.lookup(Request(PARAPHRASE)) is not None

    def test_what_is_forgotten_is_no_longer_found_by_meaning(self, cache: SemanticCache) -> None:
        cache.update(Request(Q), "1")
        assert cache.forget(Request(Q, exact_only=True))
        assert cache.lookup(Request(PARAPHRASE)) is None

    def test_an_expired_entry_was_gone_already(self, cache: SemanticCache, bench: Bench) -> None:
        cache.update(Request("a"), "1", ttl=50)
        bench.clock.now += 50
        assert not cache.forget(Request("a"))

    def test_embeds_nothing(self, bench: Bench) -> None:
        embedder = WordEmbedder()
        cache = bench.open(embedder=embedder)
        cache.forget(Request(Q))
        assert embedder.calls == []

    def test_what_is_no_request_is_refused(self, cache: SemanticCache) -> None:
        with pytest.raises(SemcacheError, match="expected a Request or a text, got 7"):
            cache.forget(7)  # type: ignore[arg-type]


class TestInvalidateOverAllNamespaces:
    def test_forgets_the_tagged_of_every_tenant(self, cache: SemanticCache) -> None:
        for namespace in (None, "acme", "globex"):
            cache.update(Request("a", namespace=namespace, tags=("t",)), "1")
            cache.update(Request("b", namespace=namespace), "2")
        assert cache.invalidate(tags=["t"], all_namespaces=True) == 3
        for namespace in (None, "acme", "globex"):
            assert responses(cache.entries(namespace=namespace)) == ["2"]

    def test_still_wants_a_condition(self, cache: SemanticCache) -> None:
        cache.update(Request("a"), "1")
        with pytest.raises(SemcacheError, match="use clear"):
            cache.invalidate(all_namespaces=True)
        assert cache.entries()

    def test_takes_more_tags_than_a_statement_has_parameters(self, cache: SemanticCache) -> None:
        tags = [f"t{n}" for n in range(40_000)]
        cache.update(Request("a", tags=(tags[0], tags[-1])), "1")
        cache.update(Request("b", tags=(tags[20_000],)), "2")
        cache.update(Request("c", tags=("else",)), "3")
        assert cache.invalidate(tags=tags) == 2
        assert responses(cache.entries()) == ["3"]


OPERATIONS = st.tuples(
    st.sampled_from(["update", "forget"]), st.integers(0, 3), st.sampled_from(["", "s"])
)


@given(st.lists(OPERATIONS, max_size=20))
def test_entries_are_what_was_stored_and_not_forgotten_since(operations: list[Any]) -> None:
    with SemanticCache(path=None, embedder=WordEmbedder()) as cache:
        model: dict[tuple[str, str], str] = {}
        for n, (operation, question, scope) in enumerate(operations):
            key, request = (scope, str(question)), Request(str(question), scope)
            if operation == "update":
                cache.update(request, str(n))
                model.pop(key, None)  # a new answer is the youngest
                model[key] = str(n)
            else:
                assert cache.forget(request) == (model.pop(key, None) is not None)
        for scope in ("", "s"):
            held = [response for (of, _), response in model.items() if of == scope]
            assert responses(cache.entries(scope)) == held


@pytest.mark.parametrize("form", [Sync, Async])
async def test_both_forms_do_the_same(form: type[Sync], bench: Bench) -> None:
    call = form(bench.open())
    for namespace in ("n", "m"):
        await call("update", Request("a", "s", namespace=namespace, tags=("t",)), "1")
    assert responses(await call("entries", "s", namespace="n")) == ["1"]
    assert await call("forget", Request("a", "s", namespace="n"))
    assert not await call("forget", Request("a", "s", namespace="n"))
    assert await call("invalidate", tags=["t"], all_namespaces=True) == 1


@pytest.mark.parametrize("name", ["entries", "forget", "invalidate"])
def test_the_async_twin_has_the_same_parameters(name: str) -> None:
    twin = getattr(SemanticCache, f"a{name}")
    assert inspect.iscoroutinefunction(twin)
    ours = inspect.signature(getattr(SemanticCache, name))
    assert inspect.signature(twin).parameters == ours.parameters


USES: list[Callable[[SemanticCache], Any]] = [
    lambda c: c.entries(),
    lambda c: c.forget(Request("a")),
    lambda c: c.aentries(),
    lambda c: c.aforget(Request("a")),
]


@pytest.mark.parametrize("use", USES)
async def test_use_after_close_is_a_semcache_error(
    use: Callable[[SemanticCache], Any], cache: SemanticCache
) -> None:
    cache.close()
    with pytest.raises(SemcacheError, match="closed"):
        found = use(cache)
        if inspect.isawaitable(found):
            await found

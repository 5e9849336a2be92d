"""SemcacheKVStore: all that LlamaIndex asks of a key-value store, by equal keys, failing open."""

import asyncio
import pickle
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import ManualClock, WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.bridge.pydantic import Field
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.storage.kvstore.types import BaseKVStore
from semcache_core import Request, SemanticCache, SemcacheError

from llamaindex_semcache.kvstore import SemcacheKVStore

VALUE: dict[str, Any] = {"text": "a ü \u2028 \x00", "n": [1, 2.5, None, True], "in": {"deep": []}}


class KVStoreContract:
    """What every BaseKVStore does: inherit, and give an empty one as the fixture `kv`."""

    def test_is_a_kvstore(self, kv: BaseKVStore) -> None:
        assert isinstance(kv, BaseKVStore)
        assert kv  # an embedding model does not ask one that is false

    def test_gives_what_was_put(self, kv: BaseKVStore) -> None:
        kv.put("key", VALUE)
        assert kv.get("key") == VALUE
        assert kv.get("other") is None

    def test_a_new_value_replaces_the_older_one(self, kv: BaseKVStore) -> None:
        kv.put("key", {"a": 1})
        kv.put("key", {"b": 2})
        assert kv.get("key") == {"b": 2}
        assert kv.get_all() == {"key": {"b": 2}}

    def test_any_text_is_a_key_and_an_empty_dict_a_value(self, kv: BaseKVStore) -> None:
        for key in ("", " ", "\ud800", "a\x00b", "x" * 100_000):
            kv.put(key, {})
            assert kv.get(key) == {}

    def test_collections_are_apart(self, kv: BaseKVStore) -> None:
        kv.put("key", {"of": "default"})
        kv.put("key", {"of": "one"}, collection="one")
        assert kv.get("key") == kv.get("key", collection="data") == {"of": "default"}
        assert kv.get("key", collection="one") == {"of": "one"}
        assert kv.get("key", collection="non-existent") is None
        assert kv.delete("key", collection="one")
        assert kv.get_all(collection="one") == {}
        assert kv.get_all() == {"key": {"of": "default"}}

    def test_delete_says_whether_there_was_one(self, kv: BaseKVStore) -> None:
        kv.put("key", VALUE)
        assert kv.delete("key")
        assert kv.get("key") is None
        assert not kv.delete("key")

    def test_put_all_and_get_all(self, kv: BaseKVStore) -> None:
        kv.put_all([("a", {"n": 1}), ("b", {"n": 2}), ("a", {"n": 3})], collection="c")
        assert kv.get_all(collection="c") == {"a": {"n": 3}, "b": {"n": 2}}
        assert kv.get_all() == {}

    def test_what_is_got_is_the_callers_own(self, kv: BaseKVStore) -> None:
        value = {"a": 1}
        kv.put("key", value)
        value["a"] = 2
        got = kv.get("key")
        assert got == {"a": 1}
        got["a"] = 3
        assert kv.get("key") == {"a": 1}

    def test_takes_its_arguments_by_name_too(self, kv: BaseKVStore) -> None:
        kv.put(key="key", val={"a": 1}, collection="c")
        assert kv.get(key="key", collection="c") == {"a": 1}
        assert kv.delete(key="key", collection="c")

    async def test_the_async_forms_do_the_same(self, kv: BaseKVStore) -> None:
        await kv.aput("a", {"n": 1})
        await kv.aput("a", {"n": 2}, collection="c")
        await kv.aput_all([("b", {"n": 3})], collection="c")
        assert (await kv.aget("a"), await kv.aget("b")) == ({"n": 1}, None)
        assert await kv.aget("a", collection="c") == {"n": 2}
        assert await kv.aget_all(collection="c") == {"a": {"n": 2}, "b": {"n": 3}}
        assert await kv.adelete("a")
        assert not await kv.adelete("a")
        assert await kv.aget_all() == {}


class TestSimpleKVStore(KVStoreContract):
    """LlamaIndex's own: the contract asks nothing that it does not do."""

    @pytest.fixture
    def kv(self) -> BaseKVStore:
        return SimpleKVStore()


class TestOnACacheOfItsOwn(KVStoreContract):
    @pytest.fixture
    def kv(self, tmp_path: Path) -> BaseKVStore:
        return SemcacheKVStore(path=tmp_path / "kv")


class TestInMemory(KVStoreContract):
    @pytest.fixture
    def kv(self) -> BaseKVStore:
        return SemcacheKVStore(path=None)


class TestOnTheCacheOfTheAnswers(KVStoreContract):
    @pytest.fixture
    def kv(self, bench: Bench) -> BaseKVStore:
        cache = bench.open()
        for scope in ("", "data", "one", "c"):
            cache.update(Request("key", scope), '{"an": "answer"}')
        return SemcacheKVStore(cache=cache)


@pytest.fixture
def cache(bench: Bench) -> SemanticCache:
    return bench.open()


@pytest.fixture
def kv(cache: SemanticCache) -> SemcacheKVStore:
    return SemcacheKVStore(cache=cache)


Q, PARAPHRASE = "how to reset my password", "my password how to reset"


class TestExactness:
    @pytest.mark.parametrize("near", [PARAPHRASE, Q.title(), f"{Q} ", f"{Q}?", Q.upper()])
    def test_a_near_key_gives_nothing(self, near: str, kv: SemcacheKVStore) -> None:
        kv.put(Q, VALUE)
        assert kv.get(near) is None
        assert not kv.delete(near)

    def test_nothing_is_ever_embedded(self, bench: Bench) -> None:
        embedder = WordEmbedder()
        kv = SemcacheKVStore(cache=bench.open(embedder=embedder))
        kv.put(Q, VALUE)
        kv.get(PARAPHRASE)
        kv.get_all()
        kv.delete(Q)
        assert embedder.calls == []

    def test_keys_and_answers_never_meet(self, kv: SemcacheKVStore, cache: SemanticCache) -> None:
        kv.put(Q, VALUE, collection="c")
        for scope in ("", "c", "data"):
            assert cache.lookup(Request(Q, scope)) is None
            assert cache.lookup(Request(PARAPHRASE, scope)) is None
            cache.update(Request("asked", scope), "an answer")
        assert kv.get("asked", collection="c") is kv.get("asked") is None
        assert kv.get_all(collection="c") == {Q: VALUE}

    def test_tenants_are_apart(self, cache: SemanticCache) -> None:
        present = "acme"
        acme = SemcacheKVStore(cache=cache, namespace=lambda: present)
        globex = SemcacheKVStore(cache=cache, namespace="globex")
        acme.put("key", {"of": "acme"})
        assert globex.get("key") is None
        assert globex.get_all() == {}
        assert not globex.delete("key")
        present = "globex"
        assert acme.get("key") is None
        assert cache.clear("acme") == 1

    @pytest.mark.parametrize("namespace", [None, "", 5])
    def test_a_namespace_of_a_wrong_type_is_refused(self, namespace: Any) -> None:
        with pytest.raises(SemcacheError, match="namespace"):
            SemcacheKVStore(path=None, namespace=namespace)


OPERATIONS = st.tuples(
    st.sampled_from(["put", "put bad", "delete"]),
    st.sampled_from(["a", "a ", "A"]),
    st.sampled_from(["data", "c"]),
)


@given(st.lists(OPERATIONS, max_size=20))
def test_it_is_a_dictionary_for_each_collection(operations: list[Any]) -> None:
    kv = SemcacheKVStore(path=None)
    model: dict[str, dict[str, dict[str, Any]]] = {"data": {}, "c": {}}
    for n, (operation, key, collection) in enumerate(operations):
        if operation == "put":
            kv.put(key, {"n": n}, collection)
            model[collection][key] = {"n": n}
        elif operation == "put bad":
            kv.put(key, {"n": object()}, collection)
            model[collection].pop(key, None)
        else:
            assert kv.delete(key, collection) == (model[collection].pop(key, None) is not None)
        assert kv.get(key, collection) == model[collection].get(key)
    assert {collection: kv.get_all(collection) for collection in model} == model
    kv.cache.close()


class TestForgetting:
    def test_a_value_lives_as_long_as_the_cache_says(self, bench: Bench) -> None:
        kv = SemcacheKVStore(cache=bench.open(ttl=50))
        kv.put("key", VALUE)
        bench.clock.now += 50
        assert kv.get("key") is None
        assert kv.get_all() == {}
        assert not kv.delete("key")

    def test_the_least_recently_used_is_evicted(self, bench: Bench) -> None:
        kv = SemcacheKVStore(cache=bench.open(max_entries=2))
        for key in ("a", "b", "c"):
            bench.clock.now += 1
            kv.put(key, VALUE)
        assert set(kv.get_all()) == {"b", "c"}

    def test_options_are_those_of_a_cache(self) -> None:
        kv = SemcacheKVStore(path=None, ttl=5, max_entries=7)
        assert (kv.cache.settings.ttl, kv.cache.settings.max_entries) == (5, 7)
        with pytest.raises(SemcacheError, match="ttl"):
            SemcacheKVStore(path=None, ttl=-1)
        with pytest.raises(SemcacheError, match="together with path"):
            SemcacheKVStore(cache=kv.cache, path=None)


@pytest.fixture
def everything() -> list[Callable[[SemcacheKVStore], Any]]:
    return [
        lambda kv: kv.get("key"),
        lambda kv: kv.put("key", VALUE),
        lambda kv: kv.delete("key") or None,
        lambda kv: kv.get_all() or None,
    ]


class TestFailingOpen:
    def test_a_cache_that_fails_is_empty_and_counts(
        self, kv: SemcacheKVStore, everything: Any, warnings_of: Any
    ) -> None:
        kv.put("key", VALUE)
        kv.cache.close()
        assert [use(kv) for use in (*everything, everything[0])] == [None] * 5
        failures = kv.cache._process.counters.failures()
        assert failures["get"] == 2
        assert {"put", "delete", "get_all"} <= set(failures)
        assert len(warnings_of("get failed")) == 1

    @pytest.mark.parametrize(
        "value", [{"a": object()}, {"a": {1, 2}}, {("a", 1): 2}, ["a"], None, "text"]
    )
    def test_a_value_that_is_no_json_is_not_kept_nor_is_the_older_one(
        self, value: Any, kv: SemcacheKVStore, warnings_of: Any
    ) -> None:
        kv.put("key", VALUE)
        kv.put("key", value)
        assert kv.get("key") is None
        assert kv.cache.stats().failures == {"put": 1}
        assert len(warnings_of("put failed")) == 1

    def test_a_value_that_contains_itself_is_not_kept(self, kv: SemcacheKVStore) -> None:
        value: dict[str, Any] = {}
        value["self"] = value
        deep: dict[str, Any] = {}
        for _ in range(100_000):
            deep = {"in": deep}
        kv.put_all([("a", value), ("b", deep), ("c", VALUE)])
        assert kv.get_all() == {"c": VALUE}

    def test_a_key_that_is_no_text_is_no_key(self, kv: SemcacheKVStore) -> None:
        kv.put(5, VALUE)  # type: ignore[arg-type]
        assert kv.get(5) is None  # type: ignore[arg-type]
        assert kv.cache.stats().failures == {"put": 1, "get": 1}

    @pytest.mark.parametrize(
        "damage",
        ["''", "'{}'", "'garbage'", "substr(response, 1, 80)", "replace(response, '2', '3')"],
    )
    def test_a_damaged_row_is_a_miss_and_hides_no_other(
        self, damage: str, kv: SemcacheKVStore, bench: Bench
    ) -> None:
        kv.put_all([("good", VALUE), ("bad", {"n": [2] * 50}), ("later", VALUE)])
        with sqlite3.connect(bench.path / "ledger.sqlite3") as connection:
            connection.execute(
                f"UPDATE semcache_entries SET response = CAST({damage} AS BLOB) "
                "WHERE question = CAST('bad' AS BLOB)"
            )
        assert kv.get("bad") is None
        assert kv.get_all() == {"good": VALUE, "later": VALUE}
        assert kv.cache.stats().failures == {"get": 1, "get_all": 1}
        kv.put("bad", {"n": 1})
        assert kv.get("bad") == {"n": 1}

    def test_a_value_that_was_redacted_is_not_what_was_put(self, bench: Bench) -> None:
        kv = SemcacheKVStore(cache=bench.open(redact=lambda text: text.replace("Ada", "<NAME>")))
        kv.put_all([("a", {"by": "Ada"}), ("b", {"by": "Bob"}), ("Ada", {"by": "Bob"})])
        assert [kv.get(key) for key in ("a", "b", "Ada")] == [None, {"by": "Bob"}, None]

    def test_what_may_not_be_stored_replaces_the_older_value_all_the_same(
        self, bench: Bench
    ) -> None:
        kv = SemcacheKVStore(cache=bench.open(admit=lambda request, text: "secret" not in text))
        kv.put("key", {"a": "public"})
        kv.put("key", {"a": "secret"})
        assert kv.get("key") is None


class TestCopies:
    def test_a_copy_works_on_the_same_path(self, tmp_path: Path) -> None:
        kv = SemcacheKVStore(path=tmp_path / "kv", namespace="n")
        kv.put("key", VALUE)
        copy = pickle.loads(pickle.dumps(kv))
        assert copy.get("key") == VALUE
        copy.put("key", {"from": "the copy"})
        assert kv.get("key") == {"from": "the copy"}
        assert SemcacheKVStore(path=tmp_path / "kv").get("key") is None

    def test_a_copy_keeps_options_from_the_environment_and_the_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SEMCACHE_TTL", "77")
        monkeypatch.chdir(tmp_path)
        kv = SemcacheKVStore(path="kv")
        kv.put("key", VALUE)
        pickled = pickle.dumps(kv)
        monkeypatch.delenv("SEMCACHE_TTL")
        monkeypatch.chdir("/")
        copy = pickle.loads(pickled)
        assert copy.get("key") == VALUE
        assert copy.cache.settings.ttl == 77

    def test_a_copy_of_one_in_memory_is_another_one(self) -> None:
        kv = SemcacheKVStore(path=None)
        kv.put("key", VALUE)
        copy = pickle.loads(pickle.dumps(kv))
        assert copy.get("key") is None
        copy.put("key", {})
        assert kv.get("key") == VALUE

    def test_a_copy_is_opened_at_its_first_use_and_fails_open(
        self, tmp_path: Path, everything: Any, warnings_of: Any
    ) -> None:
        kv = SemcacheKVStore(path=tmp_path / "kv")
        pickled = pickle.dumps(kv)
        kv.cache.close()
        (tmp_path / "kv").rename(tmp_path / "away")
        (tmp_path / "kv").write_text("in the way")
        copy = pickle.loads(pickled)
        assert warnings_of("copied") == []
        assert [use(copy) for use in everything] == [None] * 4
        assert len(warnings_of("copied store cannot be opened")) == 1

    def test_one_with_a_given_cache_says_why_it_cannot_be_copied(self, kv: SemcacheKVStore) -> None:
        with pytest.raises(SemcacheError, match=r"write SemcacheKVStore\(path=...\)"):
            pickle.dumps(kv)


class TestAsync:
    async def test_leaves_the_event_loops_thread(self, bench: Bench) -> None:
        class Clock(ManualClock):
            def __call__(self) -> float:
                threads.add(threading.current_thread())
                return self.now

        threads: set[threading.Thread] = set()
        kv = SemcacheKVStore(cache=bench.open(clock=Clock()))
        threads.clear()
        await kv.aput("key", VALUE)
        await kv.aput_all([("other", VALUE)])
        await kv.aget("key")
        await kv.aget_all()
        await kv.adelete("key")
        assert threads
        assert threading.current_thread() not in threads

    async def test_many_at_once_lose_nothing(self, kv: SemcacheKVStore) -> None:
        await asyncio.gather(*(kv.aput(f"k{n}", {"n": n}) for n in range(50)))
        assert await kv.aget_all() == {f"k{n}": {"n": n} for n in range(50)}


class Embedding(MockEmbedding):
    """Counts what it is asked."""

    asked: list[str] = Field(default_factory=list)
    value: float = 0.1 + 0.2

    def _get_vector(self) -> list[float]:
        return [self.value] * self.embed_dim

    def _get_text_embedding(self, text: str) -> list[float]:
        self.asked.append(text)
        return self._get_vector()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class TestEmbeddings:
    async def test_each_text_is_embedded_once(self, kv: SemcacheKVStore) -> None:
        model = Embedding(embed_dim=2, embeddings_cache=kv)
        first = model.get_text_embedding("a")  # the store is still empty, and used all the same
        assert model.get_text_embedding("a") == await model.aget_text_embedding("a") == first
        assert model.get_text_embedding_batch(["a", "b", "A"]) == [first] * 3
        assert await model.aget_query_embedding("b") == first
        assert model.asked == ["a", "b", "A"]

    def test_models_in_namespaces_of_their_own_never_share(self, cache: SemanticCache) -> None:
        stores = [SemcacheKVStore(cache=cache, namespace=name) for name in ("small", "large")]
        small = Embedding(embed_dim=2, embeddings_cache=stores[0])
        large = Embedding(embed_dim=2, embeddings_cache=stores[1], value=0.7)
        assert small.get_text_embedding("a") != large.get_text_embedding("a")

    def test_the_store_is_no_part_of_what_a_transformation_is(self, tmp_path: Path) -> None:
        stores = [SemcacheKVStore(path=tmp_path / name) for name in ("one", "two")]
        models = [MockEmbedding(embed_dim=2, embeddings_cache=store) for store in stores]
        assert len({get_transformation_hash([], model) for model in models}) == 1

    def test_a_pickled_model_takes_its_store_along(self, tmp_path: Path) -> None:
        model = MockEmbedding(embed_dim=2, embeddings_cache=SemcacheKVStore(path=tmp_path))
        vector = model.get_text_embedding("a")
        copy = pickle.loads(pickle.dumps(model))
        assert list(copy.embeddings_cache.get("a", collection="embeddings").values()) == [vector]

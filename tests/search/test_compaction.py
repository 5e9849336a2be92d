"""Collections full of dead entries are made anew, while every answer is found."""

import sqlite3
from pathlib import Path
from typing import Any

import chromadb
import pytest
from conftest import Bench
from fakes import WordEmbedder
from large_scopes import ask, assert_finds, fill, settle
from semcache_core import Request, SemanticCache
from semcache_core.search import compaction
from semcache_core.search.chroma import ChromaIndex
from semcache_core.search.embedded import remove_unreferenced
from semcache_core.testing import engine_of
from semcache_core.types import Generation

pytestmark = pytest.mark.usefixtures("still")
LIMIT, MODEL = 20, WordEmbedder.fingerprint
LIVE, EVER = 105, 315  # a hundred are worth a write


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MIN_DEAD", 150)
    monkeypatch.setattr(compaction, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(compaction, "RETIRE_SECONDS", 0.0)


def worn_cache(bench: Bench, **options: Any) -> SemanticCache:
    """The last LIVE entries, or one more, as they are evicted two at a time; EVER in all."""
    cache = bench.open(scan_limit=LIMIT, max_entries=LIVE + 1, **options)
    for start in range(0, EVER, LIVE):
        fill(cache, start, start + LIVE)
        if start < EVER - LIVE:
            settle(cache, 1)
    return cache


def worn_cache_copied_slowly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> SemanticCache:
    """Its copy begins at the next round, and takes many."""
    monkeypatch.setattr(compaction, "MIN_DEAD", 10**6)
    cache = worn_cache(bench)
    settle(cache)
    monkeypatch.setattr(compaction, "MIN_DEAD", 150)
    monkeypatch.setattr(compaction, "MAX_BATCH", 20)
    monkeypatch.setattr(compaction, "BATCHES_A_ROUND", 1)
    return cache


def live(cache: SemanticCache) -> Generation:
    (one,) = engine_of(cache).ledger.index_state(MODEL).all().values()
    return one


def _index(cache: SemanticCache) -> Any:
    return engine_of(cache).retriever.index


def segment_directories(bench: Bench) -> list[Path]:
    return [p for p in (bench.path / "chroma").iterdir() if p.is_dir()]


def test_a_collection_of_dead_entries_is_made_anew_and_leaves_no_file(bench: Bench) -> None:
    cache = worn_cache(bench)
    settle(cache)
    assert_finds(cache, EVER - LIVE, EVER)
    assert live(cache).number > 0
    assert live(cache).added <= 2 * LIVE
    index: Any = engine_of(cache).retriever.index
    assert len(index._client.list_collections()) == 1
    assert len(segment_directories(bench)) == 1


def test_few_dead_entries_are_left_where_they_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MIN_DEAD", 1000)
    cache = worn_cache(bench)
    settle(cache)
    assert (live(cache).number, live(cache).added) == (0, EVER)


def test_lookups_and_updates_in_the_middle_of_a_copy_miss_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = worn_cache_copied_slowly(bench, monkeypatch)
    stored = EVER
    while live(cache).number == 0:
        assert_finds(cache, stored - LIVE, stored, step=4)
        fill(cache, stored, stored + 5)
        stored += 5
        settle(cache, 1)
        assert stored < EVER + LIVE, "the copy never ends"
    assert_finds(cache, stored - LIVE, stored)
    settle(cache)
    assert_finds(cache, stored - LIVE, stored)


def test_what_a_crash_in_the_middle_of_a_copy_leaves_is_dropped_on_opening(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = worn_cache_copied_slowly(bench, monkeypatch)
    settle(cache, 1)
    assert len(segment_directories(bench)) == 2
    cache.close()
    again = bench.open(scan_limit=LIMIT, max_entries=LIVE + 1)
    monkeypatch.setattr(compaction, "MIN_DEAD", 10**6)
    settle(again)
    assert_finds(again, EVER - LIVE, EVER)
    assert len(segment_directories(bench)) == 1
    assert live(again).number == 0


def test_a_scope_that_was_cleared_gives_its_disk_back(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache, 0, 200)
    settle(cache)
    cache.clear()
    settle(cache)
    assert segment_directories(bench) == []
    fill(cache, 200, 300)
    settle(cache)
    assert_finds(cache, 200, 300)
    assert cache.stats().indexed_scopes == 1


def test_rebuild_makes_a_new_generation_while_the_old_one_serves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache, 0, 120)
    settle(cache)
    scanned: list[bytes] = []
    retrieval: Any = engine_of(cache).retriever
    monkeypatch.setattr(retrieval, "_scan_all", lambda p, *_: scanned.append(p) or [])
    add = ChromaIndex.add

    def add_and_look(self: ChromaIndex, *arguments: Any, **options: Any) -> None:
        add(self, *arguments, **options)
        assert_finds(cache, 0, 5)

    monkeypatch.setattr(ChromaIndex, "add", add_and_look)
    cache.rebuild()
    assert live(cache).number == 1
    assert_finds(cache, 0, 120)
    assert scanned == []
    cache.close()
    assert len(segment_directories(bench)) == 1


class TestBeside:
    """A second process on the path, which asks the one that owns the embedded index."""

    @pytest.fixture
    def owner(self, bench: Bench) -> SemanticCache:
        cache = bench.open(scan_limit=LIMIT)
        fill(cache, 0, 120)
        for i in range(120, 150):
            cache.update(Request(ask(i)), f"answer {i}", tags=["last"])
        settle(cache)
        return cache

    @pytest.fixture
    def beside(self, owner: SemanticCache, bench: Bench, scans: list[bytes]) -> SemanticCache:
        cache = bench.open(scan_limit=LIMIT)
        settle(cache, 1)
        scans.clear()
        return cache

    def test_it_is_answered_from_the_new_collection(
        self, owner: SemanticCache, beside: SemanticCache, scans: list[bytes]
    ) -> None:
        owner.rebuild()
        settle(owner, 2)  # and the old one is gone
        assert live(owner).number == 1
        assert_finds(beside, 0, 150)
        assert scans == []

    def test_it_scans_where_the_new_collection_ends_before_the_old_one_until_it_is_told(
        self, owner: SemanticCache, beside: SemanticCache, scans: list[bytes]
    ) -> None:
        before = live(owner).through
        owner.invalidate(["last"])
        owner.rebuild()
        assert live(owner).through < before
        fill(beside, 150, 160)
        assert_finds(beside, 0, 120)
        assert_finds(beside, 150, 160)
        assert scans != []
        settle(beside, 1)
        scans.clear()
        assert_finds(beside, 0, 120)
        assert_finds(beside, 150, 160)
        assert scans == []

    def test_what_is_too_large_to_scan_is_a_miss_until_it_is_told(
        self, owner: SemanticCache, beside: SemanticCache, warnings_of: Any
    ) -> None:
        retrieval: Any = engine_of(beside).retriever
        retrieval._scan.max_bytes = 0
        assert_finds(beside, 0, 120)
        owner.invalidate(["last"])
        owner.rebuild()
        assert beside.lookup(Request("gamma5 alpha5 beta5")) is None
        assert beside.lookup(Request(ask(5))) is not None  # by its exact key
        assert len(warnings_of("too large to scan")) == 1
        settle(beside, 1)
        assert_finds(beside, 0, 120)


class TestOnAServer:
    @pytest.fixture
    def client(self, chroma_server: int) -> Any:
        return chromadb.HttpClient("127.0.0.1", chroma_server)

    def test_another_process_goes_over_to_the_new_generation_and_misses_nothing(
        self, client: Any, bench: Bench, warnings_of: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "MIN_DEAD", 10**6)
        one = worn_cache(bench, chroma_client=client)
        settle(one)
        two = bench.open(scan_limit=LIMIT, max_entries=LIVE, chroma_client=client)
        settle(two, 1)
        assert two.stats().indexed_scopes == 1
        monkeypatch.setattr(compaction, "MIN_DEAD", 150)
        settle(one)
        assert live(one).number == 1  # and the old one is gone
        assert_finds(two, EVER - LIVE, EVER)
        settle(two, 1)
        assert two.stats().indexed_scopes == 1
        assert_finds(two, EVER - LIVE, EVER)
        assert_finds(one, EVER - LIVE, EVER)
        assert warnings_of("failed") == warnings_of("lost") == []

    def test_only_one_process_copies_at_a_time(
        self, client: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "MIN_DEAD", 10**6)
        one = worn_cache(bench, chroma_client=client)
        settle(one)
        two = bench.open(scan_limit=LIMIT, max_entries=LIVE, chroma_client=client)
        settle(two, 1)
        monkeypatch.setattr(compaction, "MIN_DEAD", 150)
        monkeypatch.setattr(compaction, "MAX_BATCH", 20)
        monkeypatch.setattr(compaction, "BATCHES_A_ROUND", 1)
        settle(one, 1)
        settle(two, 1)
        assert engine_of(one).background._index_sync._compaction._copy is not None
        assert engine_of(two).background._index_sync._compaction._copy is None
        one.close()  # in the middle: another takes the copy over, from the beginning
        settle(two, 12)
        assert live(two).number == 1
        assert_finds(two, EVER - LIVE, EVER)

    def test_processes_with_a_server_each_do_not_fill_theirs_in_turns_for_ever(
        self, client: Any, own_client: Any, bench: Bench, warnings_of: Any
    ) -> None:
        shared = bench.open(scan_limit=LIMIT, chroma_client=client)
        alone = bench.open(scan_limit=LIMIT, chroma_client=own_client)
        fill(shared, 0, 120)
        for _ in range(5):
            settle(shared, 1)
            settle(alone, 1)
        assert live(shared).number <= 2  # each once
        assert len(warnings_of("give all processes the same Chroma server")) >= 1
        for cache in (shared, alone):
            assert_finds(cache, 0, 120)


def test_new_vectors_under_old_ids_begin_a_new_generation(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache, 0, 120)
    settle(cache)
    ledger = engine_of(cache).ledger
    vector = WordEmbedder().embed(["quite other"])[0]
    ledger.entries.replace_vectors([(7, MODEL, vector)])
    assert live(cache) == Generation(1)
    retrieval = engine_of(cache).retriever
    retrieval.forget_vectors()
    settle(cache)
    ((partition, _),) = retrieval.indexed.items()
    assert retrieval.nearest(partition, vector, 0.0)[0].entry.id == 7


def test_only_directories_that_chroma_does_not_name_are_removed(tmp_path: Path) -> None:
    named, left = ("0" * 8 + f"-0000-0000-0000-{n:012x}" for n in (1, 2))
    for name in (named, left, "mine"):
        (tmp_path / name).mkdir()
    assert remove_unreferenced(tmp_path) == 0  # without a database nothing is known
    with sqlite3.connect(tmp_path / "chroma.sqlite3") as connection:
        connection.execute("CREATE TABLE segments (id TEXT)")
        connection.execute("INSERT INTO segments VALUES (?)", (named,))
    connection.close()
    assert remove_unreferenced(tmp_path) == 1
    assert {p.name for p in tmp_path.iterdir()} == {named, "mine", "chroma.sqlite3"}

"""The index in the life of a cache: filled, broken, lost, shared, rebuilt. Answers never suffer."""

import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chromadb
import pytest
from conftest import Bench
from fakes import WordEmbedder
from large_scopes import ask, fill, other_words, settle
from semcache_core import Request, SemanticCache, SemcacheError
from semcache_core.errors import IndexUnavailableError
from semcache_core.search.chroma import ChromaIndex
from semcache_core.search.sync import WORTH_WRITING
from semcache_core.testing import engine_of, run_background_round

pytestmark = pytest.mark.usefixtures("still")

LIMIT = 20


def assert_finds_all(cache: SemanticCache, start: int = 0, stop: int = 120) -> None:
    for i in range(start, stop):
        hit = cache.lookup(Request(other_words(i)))
        assert hit is not None and hit.kind == "semantic", i
        assert hit.response == f"answer {i}"


@pytest.mark.slow
def test_no_scope_crowds_out_another(bench: Bench, scans: list[bytes]) -> None:
    cache = bench.open(scan_limit=LIMIT)
    scopes = [f"scope {n}" for n in range(50)]
    for scope in scopes:
        fill(cache, stop=100, scope=scope)
    settle(cache)
    assert cache.stats().indexed_scopes == 50
    scans.clear()
    for n, scope in enumerate(scopes):
        for i in (n, 99 - n, 50):
            hit = cache.lookup(Request(other_words(i), scope))
            assert hit is not None and hit.response == f"answer {scope}{i}"
    assert scans == []
    assert cache.lookup(Request(other_words(0), "a scope of its own")) is None


def test_a_small_scope_is_never_indexed(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache, stop=LIMIT)
    settle(cache)
    assert_finds_all(cache, stop=LIMIT)
    assert cache.stats().indexed_scopes == 0
    assert not (bench.path / "chroma").exists()


def test_rows_are_found_before_and_after_they_are_indexed(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    fill(cache, 120, 120 + WORTH_WRITING - 1)
    assert_finds_all(cache, 100, 120 + WORTH_WRITING - 1)
    settle(cache)
    partition = next(iter(engine_of(cache).retriever.indexed))
    index = engine_of(cache).retriever.index
    assert index is not None and index.count(partition) == 120  # too few to be worth a write
    fill(cache, 120 + WORTH_WRITING - 1, 120 + WORTH_WRITING)
    settle(cache)
    assert index.count(partition) == 120 + WORTH_WRITING
    assert_finds_all(cache, 100, 120 + WORTH_WRITING)


def test_more_than_one_batch_is_indexed_in_one_round(bench: Bench, scans: list[bytes]) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache, stop=650)
    settle(cache)
    scans.clear()
    assert_finds_all(cache, 0, 650)
    assert scans == []


@pytest.mark.parametrize("how", ["cleared", "expired", "replaced", "evicted"])
def test_the_index_full_of_dead_entries_still_finds_the_live_one(how: str, bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT, max_entries=300)
    near = "one two three four five six seven eight nine ten"
    for i in range(150):
        cache.update(Request(f"{near} x{i}"), "dead", ttl=10)
    cache.update(Request(f"ten {near.removesuffix(' ten')}"), "live")
    settle(cache)
    assert cache.stats().indexed_scopes == 1
    if how == "cleared":
        cache.invalidate(older_than=-1)
        cache.update(Request(f"ten {near.removesuffix(' ten')}"), "live")
    elif how == "expired":
        bench.clock.now += 10
    elif how == "replaced":
        for i in range(150):
            cache.update(Request(f"{near} x{i}", exact_only=True), "replaced")
    else:
        bench.clock.now += 2
        cache.lookup(Request(f"ten {near.removesuffix(' ten')}"))
        bench.clock.now -= 1  # so that it goes last, after the dead and some of those that come
        for i in range(310):
            cache.update(Request(f"far{i} away{i} from{i}"), "far")
    hit = cache.lookup(Request(near))
    assert hit is not None and hit.response == ("live")
    settle(cache)
    again = cache.lookup(Request(near))
    assert again is not None and again.response == "live"


def test_deleted_entries_are_taken_out_of_the_index(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    partition = next(iter(engine_of(cache).retriever.indexed))
    index = engine_of(cache).retriever.index
    assert index is not None and index.count(partition) == 120
    cache.clear()
    settle(cache)
    assert index.count(partition) == 0
    assert cache.lookup(Request(other_words(1))) is None


def test_a_wrong_answer_of_the_index_is_no_wrong_answer_of_the_cache(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    fill(cache, scope="other")
    settle(cache)
    index: Any = engine_of(cache).retriever.index
    # ids that never were, ids of another scope, and a similarity of 1 for all of them
    monkeypatch.setattr(index, "nearest", lambda *_: [(i, 1.0) for i in range(1, 400)])
    assert cache.lookup(Request("nothing like it")) is None
    assert_finds_all(cache)


def test_the_index_is_used_again_after_a_restart(bench: Bench, scans: list[bytes]) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    cache.close()
    again = bench.open(scan_limit=LIMIT)
    run_background_round(again)
    scans.clear()
    assert_finds_all(again)
    assert scans == []


def _delete(directory: Path) -> None:
    shutil.rmtree(directory)


def _delete_sqlite(directory: Path) -> None:
    (directory / "chroma.sqlite3").unlink()


def _garbage(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\xa5garbage" * (1 + file.stat().st_size // 8))


def _truncate(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _empty(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def _a_file_instead(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("no directory")


DAMAGES = [_delete, _delete_sqlite, _garbage, _truncate, _empty, _a_file_instead]


@pytest.mark.parametrize(
    ("damage", "unclean"), [*((d, False) for d in DAMAGES), (_truncate, True), (_garbage, True)]
)
def test_an_index_damaged_before_the_start_loses_no_answer(
    damage: Callable[[Path], None], unclean: bool, bench: Bench, scans: list[bytes]
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    cache.close()
    damage(bench.path / "chroma")
    if unclean:
        (bench.path / "index.open").touch()
    again = bench.open(scan_limit=LIMIT)
    assert_finds_all(again, 0, 5)
    run_background_round(again)
    assert_finds_all(again)
    settle(again)
    assert again.stats().indexed_scopes == 1
    scans.clear()
    assert_finds_all(again)
    assert scans == []


@pytest.mark.parametrize("damage", [_delete, _garbage, _truncate])
def test_an_index_damaged_while_open_loses_no_answer(
    damage: Callable[[Path], None], bench: Bench, scans: list[bytes]
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    damage(bench.path / "chroma")
    assert_finds_all(cache)
    fill(cache, 120, 300)
    settle(cache)
    assert_finds_all(cache, stop=300)
    cache.rebuild()
    scans.clear()
    assert_finds_all(cache, stop=300)
    assert scans == []
    cache.close()
    again = bench.open(scan_limit=LIMIT)
    settle(again)
    assert_finds_all(again, stop=300)


def test_an_index_that_fails_in_a_query_is_rebuilt(
    bench: Bench, scans: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    index: Any = engine_of(cache).retriever.index
    with monkeypatch.context() as patched:
        patched.setattr(index, "_collection", lambda partition: 1 / 0)
        assert_finds_all(cache)
    settle(cache)
    assert engine_of(cache).retriever.index not in (None, index)
    scans.clear()
    assert_finds_all(cache)
    assert scans == []


def test_a_collection_of_our_name_with_another_distance_is_replaced(
    bench: Bench, scans: list[bytes]
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    cache.close()
    client = chromadb.PersistentClient(
        path=str((bench.path / "chroma").resolve()),
        settings=chromadb.config.Settings(anonymized_telemetry=False),
    )
    (collection,) = client.list_collections()
    client.delete_collection(collection.name)
    client.create_collection(collection.name, embedding_function=None)
    client.close()
    again = bench.open(scan_limit=LIMIT)
    settle(again)
    scans.clear()
    assert_finds_all(again)
    assert scans == []


def test_a_directory_that_cannot_be_set_aside_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, warnings_of: Any
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    (bench.path / "chroma").write_text("no directory")

    def refuse(*_: Any) -> None:
        raise PermissionError("not yours")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        engine_of(cache).retriever.count_requested.set()
        run_background_round(cache)
        assert_finds_all(cache)
    assert warnings_of("not yours")
    settle(cache)
    assert cache.stats().indexed_scopes == 1
    assert_finds_all(cache)


def test_an_index_that_stays_broken_is_logged_once_and_anew_when_it_breaks_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, warnings_of: Any, own_client: Any
) -> None:
    def down(*_: Any) -> None:
        raise IndexUnavailableError("server down")

    cache = bench.open(scan_limit=LIMIT, chroma_client=own_client)
    fill(cache)
    for broken in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr(ChromaIndex, "add", down)
            patched.setattr(ChromaIndex, "count", down)
            settle(cache)  # three tries
        settle(cache)
        assert cache.stats().indexed_scopes == 1
        assert len(warnings_of("server down")) == broken
        fill(cache, 120 * broken, 120 * broken + 120)


def test_rebuild_makes_the_index_anew_and_counts_what_it_embedded(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    embedder: Any = engine_of(cache).embedder.model
    embedder.calls.clear()
    assert cache.rebuild() == 0
    assert embedder.calls == []
    assert cache.stats().indexed_scopes == 1
    assert_finds_all(cache)


class OtherModel(WordEmbedder):
    fingerprint = "0" * 64

    def embed(self, texts: list[str]) -> Any:
        return super().embed(texts)[:, ::-1]


def _artefact_of(bench: Bench, fingerprint: str) -> Path:
    from fakes import calibrated

    return calibrated(bench.directory / fingerprint[:4], fingerprint=fingerprint)


@pytest.mark.parametrize("limit", [LIMIT, 1000])
def test_rebuild_gives_every_entry_a_vector_of_the_present_model(limit: int, bench: Bench) -> None:
    cache = bench.open(scan_limit=limit)
    fill(cache)
    cache.update(Request("exact one", exact_only=True), "a")
    settle(cache)
    cache.close()
    changed = bench.open(
        scan_limit=limit, embedder=OtherModel(), artefact=_artefact_of(bench, "0" * 64)
    )
    assert changed.lookup(Request(other_words(3))) is None
    assert changed.lookup(Request(ask(3))) is not None
    fill(changed, 120, 121)
    assert changed.lookup(Request(other_words(120))) is not None
    assert changed.rebuild() == 120
    assert_finds_all(changed, stop=121)
    assert changed.rebuild() == 0


def test_a_second_cache_on_the_path_asks_the_owner_and_says_so_once(
    bench: Bench, warnings_of: Any, scans: list[bytes]
) -> None:
    owner = bench.open(scan_limit=LIMIT)
    fill(owner)
    settle(owner)
    second = bench.open(scan_limit=LIMIT)
    settle(second)
    scans.clear()
    assert_finds_all(second)
    assert not scans
    fill(second, 120, 150)
    settle(second)
    assert_finds_all(second, stop=150)
    assert_finds_all(owner, stop=150)
    assert second.stats().indexed_scopes == 1
    assert len(warnings_of("owns the vector index")) == 1
    with pytest.raises(SemcacheError, match="another process owns"):
        second.rebuild()


def test_when_the_owner_closes_another_takes_over(bench: Bench, scans: list[bytes]) -> None:
    owner, second = bench.open(scan_limit=LIMIT), bench.open(scan_limit=LIMIT)
    fill(owner)
    settle(owner)
    settle(second)
    owner.close()
    settle(second)
    assert second.stats().indexed_scopes == 1
    scans.clear()
    assert_finds_all(second)
    assert scans == []


def test_a_cache_in_memory_has_an_index_too(bench: Bench, scans: list[bytes]) -> None:
    one = bench.open(path=None, scan_limit=LIMIT)
    two = bench.open(path=None, scan_limit=LIMIT)
    fill(one)
    fill(two, 0, 60)
    settle(one)
    settle(two)
    two.close()
    scans.clear()
    assert_finds_all(one)
    assert scans == []
    one.rebuild()
    assert_finds_all(one)


def test_scan_limit_zero_indexes_everything(bench: Bench) -> None:
    cache = bench.open(scan_limit=0)
    fill(cache, stop=1)
    settle(cache)
    assert cache.stats().indexed_scopes == 1
    assert_finds_all(cache, stop=1)


def test_a_scope_that_was_cleared_no_longer_counts_as_indexed(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    engine_of(cache).retriever.count_requested.set()
    engine_of(cache).background._index_sync._large = (
        engine_of(cache).ledger.index_state(WordEmbedder.fingerprint).large_partitions(LIMIT)
    )
    cache.clear()
    engine_of(cache).retriever.count_requested.clear()
    engine_of(cache).background._index_sync._last_count = 10**6
    run_background_round(cache)
    assert cache.stats().indexed_scopes == 0


class TestOnAServer:
    @pytest.fixture
    def client(self, chroma_server: int) -> Any:
        return chromadb.HttpClient("127.0.0.1", chroma_server)

    def test_two_ledgers_never_see_each_others_vectors(self, client: Any, bench: Bench) -> None:
        one = bench.open(path=bench.directory / "1", scan_limit=LIMIT, chroma_client=client)
        two = bench.open(path=bench.directory / "2", scan_limit=LIMIT, chroma_client=client)
        fill(one)
        for i in range(120):
            two.update(Request(f"quite other{i} words{i}"), "other")
        settle(one)
        settle(two)
        assert (one.stats().indexed_scopes, two.stats().indexed_scopes) == (1, 1)
        assert_finds_all(one)
        assert two.lookup(Request(other_words(1))) is None
        two.rebuild()
        assert_finds_all(one)

    def test_two_caches_on_one_ledger_share_the_index(
        self, client: Any, bench: Bench, scans: list[bytes]
    ) -> None:
        one, two = (bench.open(scan_limit=LIMIT, chroma_client=client) for _ in range(2))
        fill(one, 0, 60)
        fill(two, 60, 120)
        settle(one)
        settle(two)
        assert (one.stats().indexed_scopes, two.stats().indexed_scopes) == (1, 1)
        scans.clear()
        assert_finds_all(one)
        assert_finds_all(two)
        assert scans == []
        one.rebuild()
        assert_finds_all(two)
        settle(two)
        scans.clear()
        assert_finds_all(one)
        assert_finds_all(two)
        assert scans == []

    def test_the_users_client_stays_open(self, client: Any, bench: Bench) -> None:
        cache = bench.open(scan_limit=LIMIT, chroma_client=client)
        fill(cache)
        settle(cache)
        cache.close()
        assert client.heartbeat()
        again = bench.open(scan_limit=LIMIT, chroma_client=client)
        settle(again)
        assert_finds_all(again)

    def test_a_collection_with_another_distance_is_replaced_by_rebuild(
        self, client: Any, bench: Bench, scans: list[bytes]
    ) -> None:
        cache = bench.open(scan_limit=LIMIT, chroma_client=client)
        fill(cache)
        settle(cache)
        index: Any = engine_of(cache).retriever.index
        (name,) = (c.name for c in client.list_collections() if c.name.startswith(index._prefix))
        client.delete_collection(name)
        client.create_collection(name, embedding_function=None)
        assert_finds_all(cache)
        settle(cache)
        assert_finds_all(cache)
        cache.rebuild()
        scans.clear()
        assert_finds_all(cache)
        assert scans == []

    def test_a_server_that_is_down_costs_no_answer(
        self, client: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = bench.open(scan_limit=LIMIT, chroma_client=client)
        fill(cache)
        settle(cache)
        index: Any = engine_of(cache).retriever.index

        def down(*_: Any, **__: Any) -> Any:
            raise ConnectionError("server down")

        with monkeypatch.context() as patched:
            for collection in index._collections.values():
                patched.setattr(type(collection), "query", down)
                patched.setattr(type(collection), "count", down)
                patched.setattr(type(collection), "upsert", down)
            assert_finds_all(cache)
            fill(cache, 120, 130)
            settle(cache)
            assert_finds_all(cache, stop=130)
        settle(cache)
        assert cache.stats().indexed_scopes == 1
        assert_finds_all(cache, stop=130)


def test_lookups_during_a_rebuild_miss_nothing(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT, path=None)
    fill(cache)
    settle(cache)
    failures: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            failures.extend(
                i for i in range(0, 120, 17) if cache.lookup(Request(other_words(i))) is None
            )

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        cache.rebuild()
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_ledger_alone_is_enough(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    cache.close()
    for name in ("chroma", "index.lock", "index.open"):
        target = bench.path / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    with sqlite3.connect(bench.path / "ledger.sqlite3") as connection:
        assert connection.execute("SELECT count(*) FROM semcache_indexed").fetchone() == (1,)
    connection.close()
    again = bench.open(scan_limit=LIMIT)
    settle(again)
    assert_finds_all(again)

"""Caches of several hosts: one PostgreSQL ledger, one Chroma server, nothing else between them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chromadb
import pytest
from fakes import WordEmbedder
from large_scopes import ask, fill, other_words, settle
from semcache_core import Request, SemanticCache
from semcache_core.errors import IndexUnavailableError
from semcache_core.request import key_of
from semcache_core.search import compaction
from semcache_core.search.chroma import ChromaIndex
from semcache_core.search.compaction import Lease
from semcache_core.storage.lookups import Lookups
from semcache_core.testing import engine_of
from semcache_core.types import Generation

pytestmark = pytest.mark.usefixtures("still")

TESTS = str(Path(__file__).parents[1])
LIMIT = 20
FINGERPRINT = WordEmbedder.fingerprint


def assert_finds_all(cache: SemanticCache, start: int = 0, stop: int = 120) -> None:
    """But for one in a hundred, which an approximate index may overlook: these vectors are nearly
    orthogonal, the hardest there are for it. What it overlooks it holds all the same.
    """
    hits = {i: cache.lookup(Request(other_words(i))) for i in range(start, stop)}
    overlooked = [i for i, hit in hits.items() if hit is None]
    assert len(overlooked) <= (stop - start) // 100, overlooked
    for i in overlooked:
        exact = cache.lookup(Request(ask(i)))
        assert exact is not None and holds(cache, exact.entry_id), i
    for i, hit in hits.items():
        assert hit is None or hit.response == f"answer {i}", i


def holds(cache: SemanticCache, entry_id: int) -> bool:
    index = engine_of(cache).background._index_sync._index
    assert index is not None
    partition = key_of(Request(""), "default").partition
    collection = index._collection(partition, engine_of(cache).retriever.indexed[partition])
    return collection.get(ids=[str(entry_id)])["ids"] == [str(entry_id)]


@pytest.fixture
def connect(chroma_server: int) -> Any:
    """Another client of the one Chroma server, as another host has."""
    return lambda: chromadb.HttpClient("127.0.0.1", chroma_server)


def positions(cache: SemanticCache) -> dict[bytes, Generation]:
    """Of what is in an index."""
    known = engine_of(cache).ledger.index_state(FINGERPRINT).all()
    return {partition: one for partition, one in known.items() if one.through}


def test_two_hosts_see_each_others_updates_and_share_the_index(
    hosts: Any, connect: Any, scans: list[bytes]
) -> None:
    one, two = (hosts.open(scan_limit=LIMIT, chroma_client=connect()) for _ in range(2))
    fill(one, 0, 60)
    assert_finds_all(two, 0, 60)
    fill(two, 60, 120)
    assert_finds_all(one)
    settle(one)
    settle(two)
    scans.clear()
    for cache in (one, two):
        assert cache.stats().indexed_scopes == 1
        assert_finds_all(cache)
    assert scans == []
    one.update(Request(ask(5)), "another")
    hit = two.lookup(Request(other_words(5)))
    assert hit is not None and hit.response == "another"
    assert two.clear() == 120
    assert one.lookup(Request(ask(5))) is None
    assert one.lookup(Request(other_words(5))) is None


OTHER_HOST = f"""
import sys
sys.path.insert(0, {TESTS!r})
from pathlib import Path
import chromadb
from fakes import ManualClock, WordEmbedder
from semcache_core import Request, SemanticCache
url, artefact, port = sys.argv[1:]
client = chromadb.HttpClient("127.0.0.1", int(port))
cache = SemanticCache(path=None, ledger_url=url, artefact=Path(artefact), embedder=WordEmbedder(),
                      scan_limit={LIMIT}, chroma_client=client, clock=ManualClock())
for line in sys.stdin:
    i = int(line)
    hit = cache.lookup(Request(f"gamma{{i}} alpha{{i}} beta{{i}}"))
    n = i + 1000
    cache.update(Request(f"alpha{{n}} beta{{n}} gamma{{n}}"), f"answer {{n}}")
    print(hit and hit.response, flush=True)
cache.close()
"""


def test_a_process_elsewhere_that_indexes_at_the_same_time_loses_nothing(
    hosts: Any, connect: Any, chroma_server: int
) -> None:
    cache = hosts.open(scan_limit=LIMIT, chroma_client=connect())
    command = [sys.executable, "-c", OTHER_HOST, hosts.url, str(hosts.artefact), str(chroma_server)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None and other.stdout is not None
    for i in range(250):
        fill(cache, i, i + 1)
        other.stdin.write(f"{i}\n")
        other.stdin.flush()
        assert other.stdout.readline() == f"answer {i}\n"
        if i % 10 == 0:
            settle(cache)
            assert_finds_all(cache, max(0, i - 3), i)
    other.stdin.close()
    assert other.wait(60) == 0
    settle(cache)
    for start in (0, 1000):
        assert_finds_all(cache, start, start + 250)
    (position,) = positions(cache).values()
    partition = key_of(Request(""), cache.settings.namespace).partition
    index = engine_of(cache).retriever.index
    held = (
        engine_of(cache).ledger.index_state(FINGERPRINT).count_vectors(partition, position.through)
    )
    assert index is not None and index.count(partition, position) >= held > 100


class Interrupted:
    """`add` that lets something happen after it has written, before the ledger is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Any) -> None:
        original = ChromaIndex.add

        def add(index: ChromaIndex, *arguments: Any) -> None:
            original(index, *arguments)
            monkeypatch.setattr(ChromaIndex, "add", original)
            then()

        monkeypatch.setattr(ChromaIndex, "add", add)


def test_what_went_into_an_index_thrown_away_meanwhile_is_not_named_as_indexed(
    hosts: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, scans: list[bytes]
) -> None:
    one, two = (hosts.open(scan_limit=LIMIT, chroma_client=connect()) for _ in range(2))
    fill(one)
    settle(one)
    fill(one, 120, 240)

    def rebuild_elsewhere() -> None:
        # as far as the index had been: the position in the ledger reads as if nothing had happened
        with monkeypatch.context() as short:
            short.setattr(
                engine_of(two).ledger.lookups, "vectors_after", lambda *a, f=two: _first_120(f, *a)
            )
            two.rebuild()
            settle(two)

    Interrupted(monkeypatch, rebuild_elsewhere)
    engine_of(one).background.round()
    (position,) = positions(two).values()
    assert position.through == 120
    for cache in (one, two):
        settle(cache)
        assert_finds_all(cache, 0, 240)


def _first_120(cache: SemanticCache, *arguments: Any) -> Any:
    ids, vectors = Lookups.vectors_after(engine_of(cache).ledger.lookups, *arguments)
    return ids[ids <= 120], vectors[ids <= 120]


def test_two_that_follow_at_once_never_set_the_index_back(
    hosts: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (hosts.open(scan_limit=LIMIT, chroma_client=connect()) for _ in range(2))
    fill(one, 0, 110)

    def more_elsewhere() -> None:
        fill(two, 110, 340)
        settle(two)

    Interrupted(monkeypatch, more_elsewhere)
    settle(one)
    (position,) = positions(one).values()
    assert position.through >= 300
    for cache in (one, two):
        assert_finds_all(cache, 0, 340)


def test_an_index_of_one_process_alone_is_not_taken_for_that_of_another(
    hosts: Any, connect: Any, own_client: Any
) -> None:
    shared = hosts.open(scan_limit=LIMIT, chroma_client=connect())
    fill(shared, 0, 120)
    settle(shared)
    alone = hosts.open(scan_limit=LIMIT, chroma_client=own_client)
    fill(alone, 120, 240)
    settle(alone)
    assert alone.stats().indexed_scopes == 1
    settle(shared)
    for cache in (alone, shared):
        assert_finds_all(cache, 0, 240)
    late = hosts.open(scan_limit=LIMIT, chroma_client=connect())
    settle(late)
    assert_finds_all(late, 0, 240)


def test_without_a_chroma_client_all_is_scanned_and_nothing_is_said_to_be_indexed(
    hosts: Any, warnings_of: Any
) -> None:
    cache = hosts.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    assert_finds_all(cache)
    assert positions(cache) == {}
    assert cache.stats().indexed_scopes == 0
    assert len(warnings_of("many hosts may share this ledger")) == 1
    assert cache.rebuild() == 0
    assert_finds_all(cache)


def test_a_rebuild_without_a_client_makes_those_with_one_index_anew(
    hosts: Any, connect: Any, scans: list[bytes]
) -> None:
    with_index, without = hosts.open(scan_limit=LIMIT, chroma_client=connect()), hosts.open()
    fill(with_index)
    settle(with_index)
    without.rebuild()
    assert positions(without) == {}
    settle(with_index)
    assert len(positions(with_index)) == 1
    scans.clear()
    assert_finds_all(with_index)
    assert scans == []


def test_a_collection_made_anew_under_its_name_is_not_taken_for_the_old_one(
    hosts: Any, connect: Any
) -> None:
    cache = hosts.open(scan_limit=LIMIT, chroma_client=connect())
    fill(cache)
    settle(cache)
    index: Any = engine_of(cache).retriever.index
    ((partition, live),) = positions(cache).items()
    client = connect()
    (name,) = (c.name for c in client.list_collections() if c.name.startswith(index._prefix))
    client.delete_collection(name)
    with pytest.raises(IndexUnavailableError):  # its id is gone, whatever its name leads to
        index.nearest(partition, WordEmbedder().embed_one("q"), 1, live)
    late = hosts.open(scan_limit=LIMIT, chroma_client=connect())
    for one in (late, cache):
        settle(one)
        assert_finds_all(one)
    assert late.stats().indexed_scopes == 1


def worn_pair(hosts: Any, connect: Any, monkeypatch: pytest.MonkeyPatch) -> list[SemanticCache]:
    """Two hosts on a collection with 120 live entries, 360 ever, due to be made anew."""
    for name, value in (("LOOK_SECONDS", 0.0), ("RETIRE_SECONDS", 0.0), ("MIN_DEAD", 10**6)):
        monkeypatch.setattr(compaction, name, value)
    monkeypatch.setattr(compaction, "MAX_BATCH", 20)
    monkeypatch.setattr(compaction, "BATCHES_A_ROUND", 1)
    options = {"scan_limit": LIMIT, "max_entries": 120}
    pair = [hosts.open(chroma_client=connect(), **options) for _ in range(2)]
    for start in (0, 120, 240):
        fill(pair[0], start, start + 120)
        settle(pair[0])
    settle(pair[1])
    assert [cache.stats().indexed_scopes for cache in pair] == [1, 1]
    monkeypatch.setattr(compaction, "MIN_DEAD", 100)
    return pair


def collections(cache: SemanticCache, client: Any) -> list[str]:
    index: Any = engine_of(cache).background._index_sync._index
    return [c.name for c in client.list_collections() if c.name.startswith(index._prefix)]


@pytest.mark.parametrize("leased", [True, False], ids=["in turns", "both at once"])
def test_two_hosts_that_make_a_shared_collection_anew_lose_nothing_and_leave_one(
    leased: bool, hosts: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease keeps them apart, unless one was stopped for so long that its lease expired."""
    pair = worn_pair(hosts, connect, monkeypatch)
    with monkeypatch.context() as apart, ThreadPoolExecutor(2) as threads:
        if not leased:
            apart.setattr(Lease, "acquire", lambda self: True)
        done = [threads.submit(_rounds, cache) for cache in pair]
        for stored in range(360, 390):
            fill(pair[stored % 2], stored, stored + 1)
            assert_finds_all(pair[(stored + 1) % 2], stored - 5, stored + 1)
        for one in done:
            one.result()
    for _ in range(8):  # one more is made where the two of them only got in each other's way
        for cache in pair:
            settle(cache)
    for cache in pair:
        assert_finds_all(cache, 270, 390)
        assert cache.stats().indexed_scopes == 1
    (live,) = positions(pair[0]).values()
    assert live.number == 1 or (live.number > 1 and not leased)
    assert live.added < 2 * 120 + 100
    assert len(collections(pair[0], connect())) == 1
    assert not any(
        engine_of(cache).background._index_sync._compaction._lease._value() for cache in pair
    )


def _rounds(cache: SemanticCache) -> None:
    for _ in range(25):
        engine_of(cache).background.round()


def test_a_host_that_dies_while_it_makes_a_collection_anew_is_followed_by_another(
    hosts: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, other = worn_pair(hosts, connect, monkeypatch)
    engine_of(gone).background.round()
    assert len(collections(gone, connect())) == 2
    settle(other)
    assert [live.number for live in positions(other).values()] == [0]
    monkeypatch.setattr(
        compaction, "LEASE_SECONDS", 0.0
    )  # by now it has shown no sign of life for so long
    for _ in range(4):
        settle(other)
    assert [live.number for live in positions(other).values()] == [1]
    assert len(collections(other, connect())) == 1
    assert_finds_all(other, 240, 360)


def test_the_levels_of_a_shared_ledger_name_it_without_its_password(hosts: Any) -> None:
    cache = hosts.open(ledger_url=hosts.url.replace("semcache@", "semcache:s3cret@"))
    cache.update(Request("q"), "a")
    levels = cache._process.levels()
    assert levels is not None and levels.entries == 1 and levels.disk > 0
    assert levels.ledger.startswith("postgresql://") and levels.ledger.endswith("/postgres")
    for shown in (repr(cache.settings), str(cache.settings), repr(cache.stats()), repr(levels)):
        assert "s3cret" not in shown

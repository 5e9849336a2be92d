"""The index hurt in every way we know of: no answer is lost, and no error reaches the app."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chromadb
import pytest
from conftest import Bench, _wait_for
from large_scopes import ask, assert_finds, fill, other_words, settle
from semcache_core import Request, SemanticCache
from semcache_core.search import chroma
from semcache_core.search.chroma import CallLimits, ChromaIndex
from semcache_core.search.retriever import MOST_CANDIDATES
from semcache_core.search.sync import IndexSync
from semcache_core.testing import engine_of

pytestmark = pytest.mark.usefixtures("still")
LIMIT, ENTRIES = 20, 120


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of patience, not two and thirty: the order of things is the same."""
    monkeypatch.setattr(chroma, "READ_SECONDS", 0.5)
    monkeypatch.setattr(chroma, "WRITE_SECONDS", 0.5)


# -- the directory -------------------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [False, True])
def test_a_directory_deleted_or_replaced_while_open_is_noticed_and_made_anew(
    replaced: bool, bench: Bench
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    chroma = bench.path / "chroma"
    chroma.rename(bench.path / "moved")
    if replaced:
        chroma.write_text("a file in its place")
        assert_finds(cache)
    settle(cache)
    assert_finds(cache)
    assert (chroma / "chroma.sqlite3").exists()
    assert cache.stats().indexed_scopes == 1
    cache.close()
    again = bench.open(scan_limit=LIMIT)
    settle(again, 1)
    assert again.stats().indexed_scopes == 1
    assert_finds(again)


LOCKS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file locked")
def test_a_database_locked_by_another_program_stops_no_thread_and_costs_no_answer(
    bench: Bench, warnings_of: Any
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    database = bench.path / "chroma" / "chroma.sqlite3"
    other = subprocess.Popen(
        [sys.executable, "-c", LOCKS, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    fill(cache, ENTRIES, 2 * ENTRIES)
    settle(cache, 1)  # a write of Chroma's would stop every thread
    assert_finds(cache, stop=2 * ENTRIES)
    settle(cache, 1)
    assert warnings_of("locked")
    other.communicate("")
    _until_indexed(cache)
    assert_finds(cache, stop=2 * ENTRIES)
    assert warnings_of("rebuilt from the ledger") == []  # it was never broken


def _until_indexed(cache: SemanticCache) -> None:
    for _ in range(100):
        settle(cache, 1)
        if engine_of(cache).retriever.index is not None and cache.stats().indexed_scopes:
            return
        threading.Event().wait(0.1)
    raise AssertionError("the index did not come back")


# -- a server ------------------------------------------------------------------------------------


class Server:
    """A `chroma run` that can be stopped, frozen and started again, on one port and path."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._directory = directory
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--host", "127.0.0.1"]
        command += ["--path", str(self._directory), "--port", str(self.port)]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        _wait_for(self.port, self.process)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    server.stop()


def test_a_server_killed_and_started_again_under_load_costs_no_answer(
    server: Server, bench: Bench
) -> None:
    client = chromadb.HttpClient("127.0.0.1", server.port)
    cache = bench.open(scan_limit=LIMIT, chroma_client=client)
    fill(cache)
    settle(cache)
    failures: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                assert_finds(cache, step=17)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    server.stop()
    fill(cache, ENTRIES, 2 * ENTRIES)
    settle(cache)
    server.start()
    _until_indexed(cache)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    settle(cache)
    (live,) = engine_of(cache).retriever.indexed.values()
    assert live.through == 2 * ENTRIES  # it has caught up by itself
    assert_finds(cache, stop=2 * ENTRIES)


@pytest.mark.usefixtures("hasty")
def test_a_server_that_hangs_is_waited_for_once_and_used_again_when_it_answers(
    server: Server, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = chromadb.HttpClient("127.0.0.1", server.port)
    cache = bench.open(scan_limit=LIMIT, chroma_client=client)
    fill(cache)
    settle(cache)
    asked: list[int] = []
    run = chroma.Deadline.run
    monkeypatch.setattr(
        chroma.Deadline, "run", lambda self, call: asked.append(1) or run(self, call)
    )
    server.process.send_signal(signal.SIGSTOP)
    assert_finds(cache)
    assert len(asked) == 1  # the first lookup found it out, the others scanned
    fill(cache, ENTRIES, 2 * ENTRIES)
    settle(cache, 2)
    assert_finds(cache, stop=2 * ENTRIES)
    server.process.send_signal(signal.SIGCONT)
    _until_indexed(cache)
    assert_finds(cache, stop=2 * ENTRIES)


@pytest.mark.usefixtures("hasty")
def test_a_server_that_hangs_holds_up_neither_close_nor_the_end_of_the_process(
    server: Server, bench: Bench
) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import chromadb
from fakes import WordEmbedder
from semcache_core import Request, SemanticCache
client = chromadb.HttpClient("127.0.0.1", {server.port})
cache = SemanticCache(
    path={str(bench.path)!r}, artefact={str(bench.artefact)!r}, embedder=WordEmbedder(),
    scan_limit=20, chroma_client=client,
)
for i in range(120):
    cache.update(Request(f"alpha{{i}} beta{{i}} gamma{{i}}"), "a")
cache.rebuild()
assert cache.stats().indexed_scopes == 1
print("indexed", flush=True)
sys.stdin.readline()
assert cache.lookup(Request("gamma5 alpha5 beta5")) is not None
cache.close()
print("closed", flush=True)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "indexed\n"
        server.process.send_signal(signal.SIGSTOP)
        said, _ = child.communicate("go\n", timeout=60)
        assert (said, child.returncode) == ("closed\n", 0)
    finally:
        child.kill()
        server.process.send_signal(signal.SIGCONT)


class _Nonsense(threading.Thread):
    """Answers every connection with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(daemon=True)
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(self._answer)


def _http(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        _http("500 Internal Server Error", b'{"error":"InternalError","message":"no"}'),
        _http("429 Too Many Requests", b"slow down"),
        _http("200 OK", b"not json"),
        _http("200 OK", b'{"ids": 5}'),
        _http("200 OK", b"null"),
        b"",
    ],
)
def test_a_server_that_answers_nonsense_costs_no_answer(
    answer: bytes, server: Server, bench: Bench
) -> None:
    client: Any = chromadb.HttpClient("127.0.0.1", server.port)
    cache = bench.open(scan_limit=LIMIT, chroma_client=client)
    fill(cache)
    settle(cache)
    right = client._server._api_url
    client._server._api_url = f"http://127.0.0.1:{_Nonsense(answer).port}/api/v2"
    assert_finds(cache, step=10)
    fill(cache, ENTRIES, ENTRIES + 100)
    settle(cache, 2)
    assert_finds(cache, stop=ENTRIES + 100, step=10)
    client._server._api_url = right
    _until_indexed(cache)
    assert_finds(cache, stop=ENTRIES + 100, step=5)


# -- Chroma Cloud's quotas -----------------------------------------------------------------------


class _Limited:
    """A collection that refuses what Chroma Cloud does."""

    def __init__(self, collection: Any, client: "LimitingClient") -> None:
        self._collection, self._client = collection, client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def upsert(self, ids: list[str], embeddings: Any) -> None:
        self._check(ids)
        with self._client.counted("writes"):
            self._collection.upsert(ids=ids, embeddings=embeddings)

    def delete(self, ids: list[str]) -> None:
        self._check(ids)
        with self._client.counted("writes"):
            self._collection.delete(ids=ids)

    def query(self, n_results: int, **options: Any) -> Any:
        if n_results > 300:
            self._client.refused.append(f"{n_results} results")
            raise ValueError("quota")
        with self._client.counted("reads"):
            return self._collection.query(n_results=n_results, **options)

    def _check(self, ids: list[str]) -> None:
        if len(ids) > 300 or any(len(one.encode()) > 128 for one in ids):
            self._client.refused.append(f"{len(ids)} records")
            raise ValueError("quota")


class LimitingClient:
    def __init__(self) -> None:
        self._client = chroma.local_client()
        self._lock = threading.Lock()
        self._now = {"reads": 0, "writes": 0}
        self.most = dict(self._now)
        self.refused: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_or_create_collection(self, *args: Any, **options: Any) -> _Limited:
        return _Limited(self._client.get_or_create_collection(*args, **options), self)

    def get_collection(self, *args: Any, **options: Any) -> _Limited:
        return _Limited(self._client.get_collection(*args, **options), self)

    def counted(self, kind: str) -> "_Counted":
        return _Counted(self, kind)


class _Counted:
    def __init__(self, client: LimitingClient, kind: str) -> None:
        self._client, self._kind = client, kind

    def __enter__(self) -> None:
        client, kind = self._client, self._kind
        with client._lock:
            client._now[kind] += 1
            client.most[kind] = max(client.most[kind], client._now[kind])
            if client._now[kind] > 10:
                client.refused.append(kind)
        threading.Event().wait(0.001)  # on its way

    def __exit__(self, *_: object) -> None:
        with self._client._lock:
            self._client._now[self._kind] -= 1


def test_many_threads_keep_within_the_quotas_of_chroma_cloud(bench: Bench) -> None:
    """Chroma's graph may lose an entry that is written while others query the collection: chromadb
    alone lost one of 120 in 7 of 40 collections with five readers, and in none of 40 without. So
    two entries may be overlooked here; each is still found by its exact question.
    """
    client: Any = LimitingClient()
    cache = bench.open(scan_limit=LIMIT, chroma_client=client)
    for i in range(700):
        cache.update(Request(f"{ask(i)} and more"), "dead", ttl=5)
    settle(cache)
    bench.clock.now += 10
    fill(cache)

    def look(start: int) -> dict[int, str | None]:
        hits = {i: cache.lookup(Request(other_words(i))) for i in range(start, ENTRIES, 12)}
        return {i: None if hit is None else hit.response for i, hit in hits.items()}

    with ThreadPoolExecutor(24) as threads:
        looking = [threads.submit(look, n) for n in range(24)]
        settle(cache)
        found = [item for looked in looking for item in looked.result().items()]
    overlooked = {i for i, response in found if response is None}
    assert len(found) == 2 * ENTRIES - 12 and len(overlooked) <= 2
    assert {(i, r) for i, r in found if r is not None} <= {(i, f"answer {i}") for i in range(120)}
    assert all(cache.lookup(Request(ask(i))) is not None for i in overlooked)
    assert client.refused == []
    assert MOST_CANDIDATES <= 300  # that many are asked for where the nearest are all dead
    assert 1 < client.most["reads"] <= CallLimits().reads._at_once <= 5
    assert cache.stats().indexed_scopes == 1


def test_a_write_that_takes_long_leaves_the_embedded_index_to_lookups(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, scans: list[bytes], warnings_of: Any
) -> None:
    monkeypatch.setattr(chroma, "WRITE_SECONDS", 0.1)  # as for a server, which may hang
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    begun, goes_on, upsert = threading.Event(), threading.Event(), ChromaIndex._upsert

    def upsert_slowly(*arguments: Any) -> None:
        begun.set()
        assert goes_on.wait(60)
        upsert(*arguments)

    monkeypatch.setattr(ChromaIndex, "_upsert", upsert_slowly)
    fill(cache, ENTRIES, 2 * ENTRIES)
    writing = threading.Thread(target=settle, args=(cache, 1))
    writing.start()
    assert begun.wait(60)
    writing.join(0.5)
    scans.clear()
    assert_finds(cache, stop=2 * ENTRIES, step=20)
    goes_on.set()
    writing.join()
    assert_finds(cache, stop=2 * ENTRIES, step=20)
    assert (scans, warnings_of("does not answer")) == ([], [])


def test_a_lookup_that_waits_in_vain_leaves_the_embedded_index_to_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, scans: list[bytes]
) -> None:
    monkeypatch.setattr(chroma, "READ_SECONDS", 0.2)
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    goes_on, find = threading.Event(), ChromaIndex._collection

    def find_slowly(*arguments: Any, **named: Any) -> Any:
        assert goes_on.wait(60)
        return find(*arguments, **named)

    scans.clear()
    monkeypatch.setattr(ChromaIndex, "_collection", find_slowly)
    assert_finds(cache, stop=1)
    assert len(scans) == 1
    goes_on.set()
    assert_finds(cache, step=20)
    assert len(scans) == 1


def test_an_index_that_is_busy_is_not_taken_for_broken(bench: Bench) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    indexer: IndexSync = engine_of(cache).background._index_sync
    reads, never = indexer._calls.reads, threading.Event()
    reads.seconds = 0.01
    reads._begun = {n: float("inf") for n in range(1000, 1000 + reads._at_once)}
    assert_finds(cache, step=20)
    never.set()
    assert engine_of(cache).retriever.index is not None

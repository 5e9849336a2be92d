"""Chroma as the index: embedded, in memory and on a server, and its home directory."""

import logging
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromadb
import pytest
from chromadb.config import Settings
from contracts import OTHER, PARTITION, VectorIndexContract, unit
from semcache_core import SemcacheError
from semcache_core.errors import CollectionGoneError, IndexBusyError
from semcache_core.search.chroma import ChromaIndex, local_client
from semcache_core.search.embedded import EmbeddedIndex, _can_be_opened
from semcache_core.types import Generation

FINGERPRINT = "f" * 64
ANONYMOUS = Settings(anonymized_telemetry=False)


def _ledger_id() -> int:
    return uuid.uuid4().int >> 65


class TestEmbedded(VectorIndexContract):
    @pytest.fixture
    def index(self, tmp_path: Path) -> Iterator[ChromaIndex]:
        client = chromadb.PersistentClient(path=str(tmp_path / "chroma"), settings=ANONYMOUS)
        index = ChromaIndex(client, _ledger_id(), FINGERPRINT)
        yield index
        index.close()

    def test_holds_what_it_held_when_opened_again(self, tmp_path: Path) -> None:
        for expected in (0, 1):
            client = chromadb.PersistentClient(path=str(tmp_path / "kept"), settings=ANONYMOUS)
            index = ChromaIndex(client, 5, FINGERPRINT)
            assert index.count(PARTITION) == expected
            index.add(PARTITION, [1], unit(0))
            index.close()


class TestInMemory(VectorIndexContract):
    @pytest.fixture
    def index(self) -> Iterator[ChromaIndex]:
        index = ChromaIndex(local_client(), _ledger_id(), FINGERPRINT)
        yield index
        index.close()

    def test_closing_one_leaves_another_open(self) -> None:
        one, other = (ChromaIndex(local_client(), _ledger_id(), FINGERPRINT) for _ in range(2))
        other.add(PARTITION, [1], unit(0))
        one.close()
        assert other.count(PARTITION) == 1
        other.close()


class TestServer(VectorIndexContract):
    @pytest.fixture
    def index(self, chroma_server: int) -> ChromaIndex:
        client = chromadb.HttpClient("127.0.0.1", chroma_server, settings=ANONYMOUS)
        return ChromaIndex(client, _ledger_id(), FINGERPRINT)


def test_two_ledgers_on_one_client_never_see_each_others_vectors(own_client: Any) -> None:
    one, other = (ChromaIndex(own_client, ledger_id, FINGERPRINT) for ledger_id in (1, 2))
    one.add(PARTITION, [1], unit(0))
    with pytest.raises(CollectionGoneError):
        other.nearest(PARTITION, unit(0)[0], 8)
    other.sweep(dict, others=True)
    assert one.count(PARTITION) == 1


def test_two_models_on_one_client_never_see_each_others_vectors(own_client: Any) -> None:
    one, other = (ChromaIndex(own_client, 3, fingerprint) for fingerprint in ("a" * 64, "b" * 64))
    one.add(PARTITION, [1], unit(0))
    with pytest.raises(CollectionGoneError):
        other.nearest(PARTITION, unit(0)[0], 8)


def test_names_hold_for_the_largest_ledger_id(own_client: Any) -> None:
    index = ChromaIndex(own_client, 2**63 - 1, FINGERPRINT)
    index.add(PARTITION, [1], unit(0))
    assert index.count(PARTITION) == 1


def test_a_collection_of_our_name_with_another_distance_is_refused_with_the_fix(
    own_client: Any,
) -> None:
    index = ChromaIndex(own_client, 4, FINGERPRINT)
    own_client.create_collection(index._name(PARTITION, 0), embedding_function=None)
    with pytest.raises(SemcacheError, match="'l2', not cosine; delete it"):
        index.nearest(PARTITION, unit(0)[0], 1)
    index.drop(PARTITION)
    index.add(PARTITION, [1], unit(0))
    assert index.nearest(PARTITION, unit(0)[0], 1) == [(1, pytest.approx(1, abs=1e-5))]


def test_a_sweep_leaves_collections_of_others_alone(own_client: Any) -> None:
    own_client.get_or_create_collection("mine-alone", embedding_function=None)
    index = ChromaIndex(own_client, 6, FINGERPRINT)
    index.add(PARTITION, [1], unit(0))
    assert index.sweep(dict, others=True) == 1
    assert index.count(PARTITION) == 0
    assert "mine-alone" in {c.name for c in own_client.list_collections()}


def test_a_collection_that_was_made_anew_is_not_taken_for_the_old_one(own_client: Any) -> None:
    index, elsewhere = (ChromaIndex(own_client, 7, FINGERPRINT) for _ in range(2))
    live = Generation(3, 1, 1, index.identity(PARTITION, 3))
    index.add(PARTITION, [1], unit(0), live)
    elsewhere.drop(PARTITION, 3)
    anew = Generation(3, 1, 1, elsewhere.identity(PARTITION, 3))
    elsewhere.add(PARTITION, [2], unit(0), anew)
    late = ChromaIndex(own_client, 7, FINGERPRINT)
    for one in (index, late):
        for _ in range(2):  # also once it knows that it is gone
            with pytest.raises(CollectionGoneError):
                one.nearest(PARTITION, unit(0)[0], 8, live)
            with pytest.raises(CollectionGoneError):
                one.add(PARTITION, [5], unit(0), live)
            assert one.count(PARTITION, live) == 0
        assert [i for i, _ in one.nearest(PARTITION, unit(0)[0], 8, anew)] == [2]


def test_a_sweep_drops_other_generations_and_only_of_what_is_known(own_client: Any) -> None:
    index = ChromaIndex(own_client, 8, FINGERPRINT)
    for partition, number in ((PARTITION, 0), (PARTITION, 1), (OTHER, 4)):
        index.add(partition, [1], unit(0), Generation(number))
    assert index.sweep(lambda: {PARTITION: Generation(1)}, others=False) == 1
    counts = [
        index.count(p, Generation(n)) for p, n in ((PARTITION, 0), (PARTITION, 1), (OTHER, 4))
    ]
    assert counts == [0, 1, 1]
    assert index.sweep(lambda: {PARTITION: Generation(1)}, others=True) == 1


def test_every_failure_of_chroma_is_a_semcache_error() -> None:
    class Down:
        def __getattr__(self, name: str) -> Any:
            raise ConnectionError("server down")

    index = ChromaIndex(Down(), 1, FINGERPRINT)  # type: ignore[arg-type]
    for call in (
        lambda: index.add(PARTITION, [1], unit(0)),
        lambda: index.nearest(PARTITION, unit(0)[0], 1),
        lambda: index.remove(PARTITION, [1]),
        lambda: index.drop(PARTITION),
        lambda: index.sweep(dict, others=True),
        lambda: index.identity(PARTITION),
        lambda: index.count(PARTITION),
    ):
        with pytest.raises(SemcacheError, match="server down"):
            call()


class TestHome:
    def test_has_one_owner_however_the_path_is_written(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "a")
        first = EmbeddedIndex(tmp_path / "a")
        assert first.acquire()
        for path in (tmp_path / "a", tmp_path / "link", tmp_path / "a" / ".." / "a"):
            assert not EmbeddedIndex(path).acquire()
        first.release(clean=True)
        second = EmbeddedIndex(tmp_path / "link")
        assert second.acquire()
        second.release(clean=True)

    def test_a_lock_that_cannot_be_made_is_a_semcache_error(self, tmp_path: Path) -> None:
        (tmp_path / "index.lock").mkdir()
        with pytest.raises(SemcacheError, match="lock"):
            EmbeddedIndex(tmp_path).acquire()

    def test_leaves_a_marker_only_while_open(self, tmp_path: Path) -> None:
        home = EmbeddedIndex(tmp_path)
        home.acquire()
        client = home.open()
        assert (tmp_path / "index.open").exists()
        client.close()
        home.release(clean=True)
        assert not (tmp_path / "index.open").exists()

    def test_an_unclean_stop_keeps_the_marker(self, tmp_path: Path) -> None:
        home = EmbeddedIndex(tmp_path)
        home.acquire()
        home.open().close()
        home.release(clean=False)
        assert (tmp_path / "index.open").exists()

    def test_after_an_unclean_stop_a_broken_index_is_set_aside(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        (tmp_path / "chroma").mkdir()
        (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"garbage" * 1000)
        (tmp_path / "index.open").touch()
        home = EmbeddedIndex(tmp_path)
        home.acquire()
        client = home.open()
        assert client.list_collections() == []
        kept = tmp_path / "chroma.broken" / "chroma.sqlite3"
        assert kept.read_bytes() == b"garbage" * 1000
        assert "chroma.broken" in caplog.text
        client.close()
        home.release(clean=True)

    def test_after_an_unclean_stop_a_whole_index_is_kept(self, tmp_path: Path) -> None:
        home = EmbeddedIndex(tmp_path)
        home.acquire()
        index = ChromaIndex(home.open(), 1, FINGERPRINT)
        index.add(PARTITION, [1], unit(0))
        index.close()
        home.release(clean=False)
        home.acquire()
        index = ChromaIndex(home.open(), 1, FINGERPRINT)
        assert index.count(PARTITION) == 1
        assert not (tmp_path / "chroma.broken").exists()
        index.close()
        home.release(clean=True)

    @pytest.mark.parametrize("before", ["file", "directory", "nothing"])
    def test_setting_aside_replaces_what_was_set_aside_before(
        self, before: str, tmp_path: Path
    ) -> None:
        if before == "file":
            (tmp_path / "chroma.broken").write_text("old")
        elif before == "directory":
            (tmp_path / "chroma.broken").mkdir()
            (tmp_path / "chroma.broken" / "old").touch()
        (tmp_path / "chroma").mkdir()
        (tmp_path / "chroma" / "new").touch()
        EmbeddedIndex(tmp_path).set_aside()
        assert [f.name for f in (tmp_path / "chroma.broken").iterdir()] == ["new"]
        assert not (tmp_path / "chroma").exists()

    def test_setting_aside_nothing_does_nothing(self, tmp_path: Path) -> None:
        EmbeddedIndex(tmp_path).set_aside()
        assert list(tmp_path.iterdir()) == []


def test_the_probe_says_whether_another_process_can_open_the_index(tmp_path: Path) -> None:
    assert _can_be_opened(tmp_path / "nothing")
    (tmp_path / "chroma").mkdir()
    (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"garbage" * 1000)
    assert not _can_be_opened(tmp_path / "chroma")


@pytest.mark.parametrize("code", [-signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL])
def test_a_probe_that_another_stopped_says_nothing_about_the_index(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chroma").mkdir()
    stopped = subprocess.CompletedProcess([], code)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **named: stopped)
    with pytest.raises(IndexBusyError, match="stopped by signal"):
        _can_be_opened(tmp_path / "chroma")


def test_a_probe_that_cannot_be_started_says_nothing_about_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    (tmp_path / "chroma").mkdir()
    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(IndexBusyError, match="cannot be checked"):
        _can_be_opened(tmp_path / "chroma")

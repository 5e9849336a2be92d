"""The owner of an index answers other processes, which do not wait for one that hangs."""

import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoResult
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import OTHER, PARTITION, unit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semcache_core.errors import CollectionGoneError, IndexUnavailableError
from semcache_core.search import remote as remote_module
from semcache_core.search.remote import MOST_NEIGHBOURS, IndexServer, RemoteIndex, name_of
from semcache_core.types import Generation, Vector

NAME = name_of(1, "f" * 64)
NINE = Generation(through=9)


class Owner:
    """Holds two vectors of one partition, through id 9."""

    def __init__(self) -> None:
        self.through = {PARTITION: 9}
        self.asked: list[tuple[bytes, int, Vector, int]] = []

    def nearest(
        self, partition: bytes, through: int, vector: Vector, k: int
    ) -> list[tuple[int, float]]:
        self.asked.append((partition, through, vector, k))
        if self.through.get(partition, 0) < max(1, through):
            raise IndexUnavailableError("not here")
        return [(9, 0.5), (1 << 40, -0.25)][:k]

    def held(self) -> dict[bytes, int]:
        return self.through


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def address(tmp_path: Path) -> Path:
    return tmp_path / "index.address"


@pytest.fixture
def server(owner: Owner, address: Path) -> Iterator[IndexServer]:
    server = IndexServer(address, NAME, owner.nearest, owner.held)
    yield server
    server.close()


def remote_at(address: Path, name: bytes = NAME) -> RemoteIndex:
    remote = RemoteIndex.at(address, name)
    assert remote is not None
    return remote


@pytest.fixture
def remote(server: IndexServer, address: Path) -> Iterator[RemoteIndex]:
    remote = remote_at(address)
    remote.held()
    yield remote
    remote.close()


def test_the_owner_is_asked_with_the_same_vector_and_its_answer_comes_back(
    remote: RemoteIndex, owner: Owner
) -> None:
    vector = unit(0.3)[0]
    assert remote.nearest(PARTITION, vector, 16, NINE) == [(9, 0.5), (1 << 40, -0.25)]
    assert remote.nearest(PARTITION, vector, 1, NINE) == [(9, 0.5)]
    partition, through, asked, k = owner.asked[0]
    assert (partition, through, k) == (PARTITION, 9, 16)
    assert np.array_equal(asked, vector)


def test_says_what_it_holds(remote: RemoteIndex, owner: Owner) -> None:
    owner.through = {PARTITION: 9, OTHER: 1 << 40}
    assert remote.held() == owner.through
    owner.through = {}
    assert remote.held() == {}


def test_what_the_owner_does_not_hold_any_more_is_unavailable(
    remote: RemoteIndex, owner: Owner
) -> None:
    owner.through = {PARTITION: 8}
    with pytest.raises(CollectionGoneError, match="does not hold"):
        remote.nearest(PARTITION, unit(0.0)[0], 16, NINE)
    owner.through = {PARTITION: 10}
    assert remote.nearest(PARTITION, unit(0.0)[0], 16, NINE)


def test_the_index_of_another_ledger_or_model_gives_nothing(
    server: IndexServer, address: Path
) -> None:
    assert len({NAME, name_of(2, "f" * 64), name_of(1, "e" * 64)}) == 3
    stranger = remote_at(address, name_of(2, "f" * 64))
    for ask in (stranger.held, lambda: stranger.nearest(PARTITION, unit(0.0)[0], 16)):
        with pytest.raises(IndexUnavailableError, match="does not answer"):
            ask()


def test_there_is_no_index_without_an_address(address: Path) -> None:
    assert RemoteIndex.at(address, NAME) is None
    address.write_bytes(b"\xff\xfe")
    assert RemoteIndex.at(address, NAME) is None


def test_an_owner_that_closes_is_unavailable_and_leaves_nothing(
    owner: Owner, address: Path
) -> None:
    server = IndexServer(address, NAME, owner.nearest, owner.held)
    where = Path(address.read_text())
    remote = remote_at(address)
    remote.held()
    server.close()
    assert not address.exists() and not where.parent.exists()
    remote.close()  # a new connection is not accepted
    with pytest.raises(IndexUnavailableError, match="does not answer"):
        remote.held()


def test_an_owner_that_closes_finishes_the_answer_in_progress_and_begins_no_other(
    owner: Owner, address: Path
) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def nearest(*arguments: Any) -> Any:
        looking.set()
        assert go_on.wait(10)
        return owner.nearest(*arguments)

    server, remote = IndexServer(address, NAME, nearest, owner.held), remote_at(address)
    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(remote.nearest, PARTITION, unit(0.0)[0], 16, NINE)
        assert looking.wait(10)
        closed = threads.submit(server.close)
        with pytest.raises(NoResult):
            closed.result(0.2)
        go_on.set()
        assert asked.result(10) == owner.nearest(PARTITION, 9, unit(0.0)[0], 16)
        closed.result(10)
    looking.clear()
    with pytest.raises(IndexUnavailableError):
        remote.nearest(PARTITION, unit(0.0)[0], 16, NINE)
    assert not looking.is_set()


def test_only_this_user_can_ask(server: IndexServer, address: Path) -> None:
    assert stat.S_IMODE(address.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(address.read_text()).parent.stat().st_mode) == 0o700


def test_an_owner_that_hangs_is_given_up(
    address: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "TIMEOUT_SECONDS", 0.05)
    where = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        try:
            silent.bind(str(where))
        except OSError:
            pytest.skip("the directory's name is too long for a socket")
        silent.listen()
        address.write_text(str(where))
        with pytest.raises(IndexUnavailableError, match="does not answer"):
            remote_at(address).held()


def test_a_forked_child_does_not_keep_the_socket_of_its_parent(owner: Owner, address: Path) -> None:
    server = IndexServer(address, NAME, owner.nearest, owner.held)
    same_socket = Path(address.read_text()).with_name("other name")
    os.link(address.read_text(), same_socket)
    started, start = os.pipe()
    end, ended = os.pipe()
    child = os.fork()
    if not child:
        os.close(ended)
        os.write(start, b"1")
        os.read(end, 1)
        os._exit(0)
    os.read(started, 1)
    assert remote_at(address).held() == owner.through  # the parent's own is still open
    server._closed.set()
    remote_module._connect(str(same_socket)).close()
    server._listener.close()
    address.write_text(str(same_socket))
    with pytest.raises(IndexUnavailableError, match="ConnectionRefused"):
        remote_at(address).held()
    os.close(ended)
    os.waitpid(child, 0)
    server.close()


def never(*_: object) -> list[tuple[int, float]]:
    raise AssertionError("it was asked")


@pytest.fixture
def unasked(address: Path) -> Iterator[IndexServer]:
    server = IndexServer(address, NAME, never, dict)
    yield server
    server.close()


@given(junk=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_that_are_no_question_get_no_answer(unasked: IndexServer, junk: bytes) -> None:
    assert unasked._answer_to(junk) == b""


@pytest.mark.parametrize(("k", "size"), [(MOST_NEIGHBOURS + 1, 8), (1, 7)])
def test_a_question_out_of_bounds_gets_no_answer(unasked: IndexServer, k: int, size: int) -> None:
    question = remote_module._QUESTION.pack(NAME, PARTITION, 0, k) + bytes(size)
    assert unasked._answer_to(question) == b""


def test_a_connection_with_anything_else_than_questions_is_closed(
    unasked: IndexServer, address: Path
) -> None:
    question = remote_module._QUESTION.pack(NAME, PARTITION, 0, 1)
    too_large = question + bytes(remote_module.MOST_BYTES + 4)
    for junk in (b"\0\0\0\1?", b"\xff" * 12, b"\xff\xff\xff\xf0" + question, b"?" * 100_000):
        closes(address, junk)
    closes(address, struct.pack("!i", len(too_large)) + too_large)
    remote = remote_at(address)
    assert remote.held() == {}
    remote.close()


def closes(address: Path, junk: bytes) -> None:
    """Send `junk`, and read the end of the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
        plain.settimeout(10)
        plain.connect(address.read_text())
        with suppress(ConnectionError):
            plain.sendall(junk)
            assert plain.recv(1) == b""


@pytest.mark.parametrize(
    "answer", [b"", b"\0\0\0\2\1?", b"\xff" * 12, b"\x7f\xff\xff\xff", b"\0\0\0\x0a\1"]
)
def test_an_owner_that_answers_with_anything_else_is_unavailable(
    answer: bytes, address: Path
) -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as owner:
        owner.bind(f"{short}/s")
        owner.listen()
        address.write_text(f"{short}/s")

        def serve() -> None:
            connection, _ = owner.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(IndexUnavailableError, match="does not answer"):
            remote_at(address).nearest(PARTITION, unit(0.0)[0], 16)
        thread.join()

"""The owner of an index answers others over a socket, and nobody waits for one that cannot."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from contracts import OTHER, PARTITION, unit
from hypothesis import given
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


def test_what_is_held_is_told(remote: RemoteIndex, owner: Owner) -> None:
    owner.through = {PARTITION: 9, OTHER: 1 << 40}
    assert remote.held() == owner.through
    owner.through = {}
    assert remote.held() == {}


def test_what_the_owner_does_not_hold_any_more_is_unavailable(
    remote: RemoteIndex, owner: Owner
) -> None:
    owner.through = {PARTITION: 8}
    with pytest.raises(CollectionGoneError, match="has not got it"):
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


def test_nobody_who_offers_an_index_is_none(address: Path) -> None:
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
    remote.close()  # its open connection is still answered, a new one is not
    with pytest.raises(IndexUnavailableError, match="does not answer"):
        remote.held()


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
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.write(tell, str(server._server.socket.fileno()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(told, 10) == b"-1"
    assert remote_at(address).held() == owner.through  # the parent's own is open still
    server.close()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_question_get_no_answer(junk: bytes) -> None:
    def never(*_: object) -> list[tuple[int, float]]:
        raise AssertionError("it was asked")

    assert _answered(junk, never) is None


def test_a_question_too_large_gets_no_answer() -> None:
    def never(*_: object) -> list[tuple[int, float]]:
        raise AssertionError("it was asked")

    for k, size in ((MOST_NEIGHBOURS + 1, 8), (1, remote_module.MOST_BYTES + 4), (1, 7)):
        head = remote_module._QUESTION.pack(NAME, PARTITION, 0, k, size)
        assert _answered(head + bytes(size), never) is None


def _answered(sent: bytes, nearest: Callable[..., list[tuple[int, float]]]) -> bytes | None:
    from io import BytesIO

    return remote_module._answered(BytesIO(sent), NAME, nearest, dict)

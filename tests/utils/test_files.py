"""Files that are written whole or not at all."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from semcache_core._utils.files import write_whole
from semcache_core.errors import ArtefactError, SemcacheError


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_the_pieces_are_written_in_order_into_directories_that_are_made(tmp_path: Path) -> None:
    file = tmp_path / "new" / "newer" / "file"
    write_whole(file, [b"one\n", b"", b"two\x00"])
    assert file.read_bytes() == b"one\ntwo\x00"
    assert list(file.parent.iterdir()) == [file]


def test_an_older_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    seen: list[str] = []

    def pieces() -> Iterator[bytes]:
        yield b"new" * 100_000
        seen.append(file.read_text())

    write_whole(str(file), pieces())
    assert seen == ["old"]
    assert file.read_bytes() == b"new" * 100_000


@pytest.mark.usefixtures("no_umask")
def test_a_private_file_is_nobody_elses_from_the_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(0o644)
    modes: list[int] = []

    def pieces() -> Iterator[bytes]:
        modes.extend(mode(one) for one in tmp_path.glob("*.unfinished"))
        yield b"secret"

    write_whole(file, pieces(), private=True)
    assert modes == [0o600]
    assert mode(file) == 0o600


@pytest.mark.usefixtures("no_umask")
def test_another_file_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", [b""])
    assert mode(tmp_path / "file") == 0o666


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", [b"x"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyError("a bug")])
def test_a_failure_leaves_what_was_there_and_nothing_else(
    failure: Exception, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise failure

    with pytest.raises((SemcacheError, KeyError)) as raised:
        write_whole(file, pieces())
    assert isinstance(raised.value, KeyError) or "No space left" in str(raised.value)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_error_names_the_file_and_is_of_the_kind_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(ArtefactError, match=r"file cannot be written: .*as it was"):
        write_whole(tmp_path / "file", [b"x"], ArtefactError)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]

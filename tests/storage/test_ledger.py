"""The ledger: what is written is found, and only what is live."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from hypothesis import given
from hypothesis import strategies as st
from ledger_contract import FINGERPRINT, PARTITION, LedgerContract, new
from semcache_core import Request, SemcacheError
from semcache_core.storage.ledger import FILE_NAME, Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    ledger = Ledger.open(tmp_path / "ledger", None)
    yield ledger
    ledger.close()


class TestLedgerInAFile(LedgerContract):
    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Callable[[], Ledger]:
        return lambda: Ledger.open(tmp_path / "ledger", None)


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)


@given(ANY_TEXT, ANY_TEXT)
def test_any_question_and_any_answer_are_found_as_they_were(question: str, response: str) -> None:
    ledger = _memory()
    entry = new(question, response=response)
    entry_id = ledger.entries.insert(entry)
    found = ledger.lookups.find(entry.exact, 100)
    assert found is not None
    assert (found.id, found.question, found.response) == (entry_id, question, response)


_shared: list[Ledger] = []


def _memory() -> Ledger:
    """One memory ledger for all examples of a property; they use different keys or replace."""
    if not _shared:
        _shared.append(Ledger.open(None, None))
    return _shared[0]


def test_the_directory_and_the_files_are_private(bench: Bench) -> None:
    before = os.umask(0)
    try:
        cache = bench.open(path=bench.directory / "a" / "cache")
        cache.update(Request("q"), "a")
        directory = bench.directory / "a" / "cache"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in directory.glob("ledger*")}
        assert modes == {f"{FILE_NAME}{end}": 0o600 for end in ("", "-wal", "-shm")}
    finally:
        os.umask(before)


def test_the_mode_of_a_directory_that_was_there_is_left_alone(bench: Bench) -> None:
    bench.path.mkdir(mode=0o750)
    mode = bench.path.stat().st_mode
    bench.open()
    assert bench.path.stat().st_mode == mode


def test_a_file_where_the_directory_should_be_is_refused_by_name(bench: Bench) -> None:
    (bench.directory / "file").write_text("x")
    for path in (bench.directory / "file", bench.directory / "file" / "below"):
        with pytest.raises(SemcacheError, match=r"file.*path=None"):
            bench.open(path=path)
    assert (bench.directory / "file").read_text() == "x"


def test_a_directory_where_the_file_should_be_is_refused_by_name(bench: Bench) -> None:
    (bench.path / FILE_NAME).mkdir(parents=True)
    with pytest.raises(SemcacheError, match=FILE_NAME):
        bench.open()


@pytest.mark.parametrize("name", ["a b", "100%25", "who?mode=ro", "a#b", "ü", "file:x", "a'b;--"])
def test_any_directory_name_will_do(name: str, bench: Bench) -> None:
    for _ in range(2):
        cache = bench.open(path=bench.directory / name)
        cache.update(Request(name), "a")
        cache.close()
    assert (bench.directory / name / FILE_NAME).stat().st_size > 0
    assert bench.open(path=bench.directory / name).lookup(Request(name)) is not None


def test_a_ledger_url_is_used_in_place_of_the_path(bench: Bench) -> None:
    file = bench.directory / "elsewhere" / "x.sqlite3"
    cache = bench.open(ledger_url=f"sqlite:///{file}")
    cache.update(Request("q"), "a")
    assert file.exists() and not bench.path.exists()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_ledger_url_of_a_memory_database_is_one_database_for_all_threads(
    url: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.directory)
    cache = bench.open(ledger_url=url)
    cache.update(Request("q"), "a")
    barrier = threading.Barrier(4)

    def look(_: int) -> bool:
        barrier.wait(30)
        return cache.lookup(Request("q")) is not None

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(look, range(4)))
    assert not (bench.directory / ":memory:").exists()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("not a url", "not a url"),
        ("sqlite//me:secret@host/db", r"ledger_url \*\*\*@'host/db' is not an SQLAlchemy URL"),
        ("mysql://me:secret@host/db", r"begins with mysql://, which is not supported"),
        ("postgresql+asyncpg://me:secret@host/db", r"asyncpg://, which is not supported"),
    ],
)
def test_a_ledger_url_that_cannot_be_used_is_refused_without_its_password(
    url: str, named: str, bench: Bench
) -> None:
    with pytest.raises(SemcacheError, match=named) as raised:
        bench.open(ledger_url=url)
    assert "secret" not in str(raised.value)


def test_a_locked_ledger_is_a_semcache_error_that_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semcache_core.storage.database.BUSY_SECONDS", 0.05)
    cache, blocker = bench.open(), bench.open()
    with (
        blocker._use().ledger.write(),
        pytest.raises(SemcacheError, match="another process held it"),
    ):
        cache.update(Request("q"), "a")
    cache.update(Request("q"), "a")


def test_a_read_that_the_driver_refuses_is_a_semcache_error(ledger: Ledger) -> None:
    with ledger.write() as connection:
        connection.exec_driver_sql("DROP TABLE semcache_entries")
    for read in (
        lambda: ledger.lookups.find(b"", 0.0),
        lambda: ledger.lookups.live([1], PARTITION, FINGERPRINT, 0.0),
        lambda: ledger.lookups.has_vectors(PARTITION, FINGERPRINT, 0.0),
    ):
        with pytest.raises(SemcacheError, match="no such table"):
            read()


CLOSES = """
import sys
from pathlib import Path
from semcache_core.storage.ledger import Ledger
Ledger.open(Path(sys.argv[1]), None).close()
"""


def test_a_second_cache_on_the_path_does_not_take_the_firsts_locks_away(bench: Bench) -> None:
    # closing any descriptor of the file would, and the other process then deletes the log in use
    cache = bench.open()
    cache.update(Request("before"), "a")
    bench.open().close()
    subprocess.run([sys.executable, "-c", CLOSES, str(bench.path)], check=True)
    cache.update(Request("after"), "a")
    check = "import sys; sys.exit(len(list(__import__('sqlite3').connect(sys.argv[1]).execute("
    check += "'SELECT id FROM semcache_entries'))))"
    seen = subprocess.run([sys.executable, "-c", check, str(bench.path / FILE_NAME)], check=False)
    assert seen.returncode == 2


# -- the connections of a lookup -----------------------------------------------------------------


def test_queries_one_after_the_other_share_a_connection_and_those_at_once_do_not(
    ledger: Ledger,
) -> None:
    with ledger._database._readers.one() as first, ledger._database._readers.one() as other:
        assert other is not first
    with ledger._database._readers.one() as again:
        assert again in (first, other)


def test_a_connection_that_failed_is_closed_and_the_next_query_gets_another(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.OperationalError), ledger._database._readers.one() as failed:
        failed.execute("SELECT nothing")
    assert is_closed(failed)
    assert ledger.lookups.find(b"no such key", 0.0) is None


def test_what_is_read_while_the_ledger_closes_is_closed_when_it_ends(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, None)
    with ledger._database._readers.one() as idle:
        pass
    with ledger._database._readers.one() as used:
        assert used is idle
        ledger.close()
        assert used.execute("SELECT 1").fetchall() == [(1,)]
    assert is_closed(used)
    # the last connection to close takes SQLite's side files along
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_no_connection_is_left_open_by_a_ledger_that_closes(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, None)
    with ledger._database._readers.one() as one, ledger._database._readers.one() as other:
        pass
    ledger.close()
    assert is_closed(one) and is_closed(other)


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False

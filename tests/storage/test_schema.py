"""Versions of the ledger, and files that are not one."""

import shutil
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import Bench
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request, SemcacheError
from semcache_core.storage.ledger import FILE_NAME, Ledger
from semcache_core.storage.schema import (
    MIGRATIONS,
    SCHEMA_VERSION,
    AnyText,
    create_or_migrate,
    is_current,
)


def _bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}


def test_a_newer_ledger_is_refused_with_both_versions_and_left_as_it_is(bench: Bench) -> None:
    cache = bench.open()
    cache.update(Request("q"), "a")
    cache.close()
    with sqlite3.connect(bench.path / FILE_NAME) as connection:
        connection.execute("UPDATE semcache_meta SET value = 41 WHERE name = 'schema_version'")
    connection.close()
    before = _bytes_of(bench.path)
    with pytest.raises(SemcacheError, match=r"version 41.*up to 6;"):
        bench.open()
    assert _bytes_of(bench.path) == before


def _engine(directory: Path) -> sa.Engine:
    return sa.create_engine(f"sqlite:///{directory}/x.sqlite3")


@pytest.mark.parametrize("version", [0, 1, 4])
def test_a_ledger_from_before_the_first_release_is_refused_and_left_as_it_is(
    version: int, bench: Bench
) -> None:
    cache = bench.open()
    cache.update(Request("q"), "a")
    cache.close()
    with sqlite3.connect(bench.path / FILE_NAME) as connection:
        where = "WHERE name = 'schema_version'"
        connection.execute(f"UPDATE semcache_meta SET value = {version} {where}")
    connection.close()
    before = _bytes_of(bench.path)
    with pytest.raises(SemcacheError, match=rf"version {version}.*from 5 on; export the entries"):
        bench.open()
    assert _bytes_of(bench.path) == before


def test_a_migration_runs_once(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    ran: list[int] = []
    steps = (*MIGRATIONS, lambda connection: ran.append(1))
    with engine.begin() as connection:
        create_or_migrate(connection)
    for _ in range(2):
        with engine.begin() as connection:
            create_or_migrate(connection, migrations=steps)
    assert ran == [1]
    with engine.begin() as connection, pytest.raises(SemcacheError, match=r"version 7.*up to 6"):
        create_or_migrate(connection)


def test_an_existing_ledger_runs_the_migrations_it_lacks_in_order(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    ran: list[int] = []
    steps = [*MIGRATIONS, *(lambda _, n=n: ran.append(n) for n in range(3))]
    with engine.begin() as connection:
        create_or_migrate(connection, migrations=steps[:-2])
        create_or_migrate(connection, migrations=steps)
    assert ran == [1, 2]


def test_a_new_ledger_is_created_at_the_newest_version_without_a_migration(tmp_path: Path) -> None:
    engine = _engine(tmp_path)
    steps = (*MIGRATIONS, lambda _: 1 / 0)
    for _ in range(2):
        with engine.begin() as connection:
            create_or_migrate(connection, migrations=steps)
    with engine.begin() as connection:
        assert connection.execute(SCHEMA_VERSION).scalar() == 7


def test_a_migration_that_fails_leaves_the_ledger_at_its_version(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open()
    cache.update(Request("q"), "a")
    cache.close()

    def step(connection: sa.Connection) -> None:
        connection.execute(sa.text("DELETE FROM semcache_entries"))
        connection.execute(sa.text("SELECT * FROM no_such_table"))

    with monkeypatch.context() as patched:
        patched.setattr(create_or_migrate, "__defaults__", ((*MIGRATIONS, step),))
        patched.setattr(is_current, "__defaults__", ((*MIGRATIONS, step),))
        with pytest.raises(SemcacheError, match="no_such_table"):
            bench.open()
    hit = bench.open().lookup(Request("q"))
    assert hit is not None and hit.response == "a"


def test_many_threads_that_create_one_ledger_at_once_share_it(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def opened_in(name: str) -> int:
        barrier.wait(30)
        ledger = Ledger.open(tmp_path / name, None)
        ledger.close()
        return ledger.id

    with ThreadPoolExecutor(8) as threads:
        for attempt in range(20):  # SQLite's switch to WAL failed in one of a hundred
            assert len(set(threads.map(opened_in, [f"ledger {attempt}"] * 8))) == 1


def _ledger_with_rows(bench: Bench) -> Path:
    cache = bench.open()
    for i in range(50):
        cache.update(Request(f"q{i}"), "a" * 500)
    cache.close()
    return bench.path / FILE_NAME


def _garbage(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"not a database" * 1000)


def _short_garbage(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x")


def _broken_header(file: Path) -> None:
    file.write_bytes(b"\0" * 100 + file.read_bytes()[100:])


def _broken_schema(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:100] + b"\xff" * 3996 + data[4096:])


def _other_program(file: Path) -> None:
    file.unlink(missing_ok=True)
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE moz_places (id INTEGER)")
    connection.close()


@pytest.mark.parametrize(
    "damage", [_garbage, _short_garbage, _broken_header, _broken_schema, _other_program]
)
def test_a_file_that_is_no_ledger_is_refused_by_name_and_left_as_it_is(
    damage: object, bench: Bench
) -> None:
    file = _ledger_with_rows(bench)
    assert callable(damage)
    damage(file)
    before = _bytes_of(bench.path)
    with pytest.raises(SemcacheError) as raised:
        bench.open()
    assert str(file) in str(raised.value)
    assert "path" in str(raised.value) or "move" in str(raised.value)
    assert _bytes_of(bench.path) == before


def test_another_programs_database_is_said_to_be_one(bench: Bench) -> None:
    bench.path.mkdir()
    _other_program(bench.path / FILE_NAME)
    with pytest.raises(SemcacheError, match=r"another program.*moz_places.*another path"):
        bench.open()


def test_a_torn_page_is_a_semcache_error_and_no_wrong_answer(bench: Bench) -> None:
    file = _ledger_with_rows(bench)
    data = file.read_bytes()
    file.write_bytes(data[:8192] + b"\xa5" * (len(data) - 8192))
    try:
        cache = bench.open()
        for i in range(50):
            hit = cache.lookup(Request(f"q{i}"))
            assert hit is None or hit.response == "a" * 500
    except SemcacheError as error:
        assert str(file) in str(error)


def test_an_empty_file_is_a_new_ledger(bench: Bench) -> None:
    bench.path.mkdir()
    (bench.path / FILE_NAME).touch()
    cache = bench.open()
    cache.update(Request("q"), "a")
    assert cache.lookup(Request("q")) is not None


def test_a_copy_of_a_live_ledger_made_by_sqlite_opens(bench: Bench, tmp_path: Path) -> None:
    cache = bench.open()
    cache.update(Request("q"), "a")
    (tmp_path / "copy").mkdir()
    source = sqlite3.connect(bench.path / FILE_NAME)
    source.execute("VACUUM INTO ?", (str(tmp_path / "copy" / FILE_NAME),))
    source.close()
    assert bench.open(path=tmp_path / "copy").lookup(Request("q")) is not None


def test_every_ledger_has_an_id_of_its_own_that_stays(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "a", "b"):
        ledger = Ledger.open(tmp_path / name, None)
        ids.append(ledger.id)
        ledger.close()
    assert ids[0] == ids[1] != ids[2]
    shutil.copytree(tmp_path / "a", tmp_path / "c")


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_survives_its_column(text: str) -> None:
    column = AnyText()
    stored = column.process_bind_param(text, None)
    assert column.process_result_value(stored, None) == text


def test_no_text_stays_none() -> None:
    assert AnyText().process_bind_param(None, None) is None
    assert AnyText().process_result_value(None, None) is None

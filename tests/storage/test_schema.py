"""Versions of the ledger, and files that are not one."""

import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import Bench
from fakes import WORDS, WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request, SemcacheError
from semcache_core.request import key_of
from semcache_core.storage.eviction import size_of
from semcache_core.storage.ledger import FILE_NAME, Ledger
from semcache_core.storage.schema import MIGRATIONS, AnyText, is_current, migrate


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
    with pytest.raises(SemcacheError, match=r"version 41.*up to 5;"):
        bench.open()
    assert _bytes_of(bench.path) == before


def test_a_migration_runs_once(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.sqlite3")
    ran: list[int] = []
    steps = (*MIGRATIONS, lambda connection: ran.append(1))
    with engine.begin() as connection:
        migrate(connection)
    for _ in range(2):
        with engine.begin() as connection:
            migrate(connection, migrations=steps)
    assert ran == [1]
    with engine.begin() as connection, pytest.raises(SemcacheError, match=r"version 6.*up to 5"):
        migrate(connection)


def test_a_new_ledger_runs_every_migration_in_order(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.sqlite3")
    ran: list[int] = []
    steps = (*MIGRATIONS, lambda _: ran.append(1), lambda _: ran.append(2))
    with engine.begin() as connection:
        migrate(connection, migrations=steps)
    assert ran == [1, 2]


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
        patched.setattr(migrate, "__defaults__", ((*MIGRATIONS, step),))
        patched.setattr(is_current, "__defaults__", ((*MIGRATIONS, step),))
        with pytest.raises(SemcacheError, match="no_such_table"):
            bench.open()
    hit = bench.open().lookup(Request("q"))
    assert hit is not None and hit.response == "a"


VERSION_1 = """
CREATE TABLE semcache_meta (
    name VARCHAR NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE semcache_entries (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    exact BLOB NOT NULL,
    partition BLOB NOT NULL,
    namespace BLOB NOT NULL,
    scope BLOB NOT NULL,
    exact_only BOOLEAN NOT NULL,
    created FLOAT NOT NULL,
    expires FLOAT,
    used FLOAT NOT NULL,
    hits INTEGER NOT NULL,
    cost FLOAT,
    question BLOB NOT NULL,
    response BLOB NOT NULL,
    UNIQUE (exact)
);
CREATE INDEX ix_semcache_entries_namespace ON semcache_entries (namespace);
CREATE INDEX ix_semcache_entries_used ON semcache_entries (used);
CREATE INDEX ix_semcache_entries_expires ON semcache_entries (expires);
CREATE TABLE semcache_vectors (
    entry_id INTEGER NOT NULL,
    partition BLOB NOT NULL,
    fingerprint VARCHAR NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (entry_id)
);
CREATE INDEX semcache_vectors_partition ON semcache_vectors (partition, fingerprint, entry_id);
CREATE TABLE semcache_tags (
    entry_id INTEGER NOT NULL,
    tag BLOB NOT NULL,
    PRIMARY KEY (entry_id, tag)
);
CREATE INDEX ix_semcache_tags_tag ON semcache_tags (tag);
CREATE TABLE semcache_indexed (
    partition BLOB NOT NULL,
    fingerprint VARCHAR NOT NULL,
    through INTEGER NOT NULL,
    PRIMARY KEY (partition, fingerprint)
);
CREATE TABLE semcache_removed (
    entry_id INTEGER NOT NULL,
    partition BLOB NOT NULL,
    PRIMARY KEY (entry_id)
);
INSERT INTO semcache_meta VALUES ('ledger_id', 4711), ('schema_version', 1);
"""


ADDED = {
    2: """
ALTER TABLE semcache_entries ADD COLUMN answer INTEGER;
ALTER TABLE semcache_entries ADD COLUMN answer_digest BLOB;
ALTER TABLE semcache_entries ADD COLUMN answer_text BLOB;
ALTER TABLE semcache_entries ADD COLUMN doubt FLOAT DEFAULT 0 NOT NULL;
ALTER TABLE semcache_entries ADD COLUMN writer BLOB;
ALTER TABLE semcache_entries ADD COLUMN exact_only_since FLOAT;
CREATE INDEX ix_semcache_entries_answer ON semcache_entries (answer);
CREATE TABLE semcache_served (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    entry_id INTEGER NOT NULL,
    asked BLOB NOT NULL,
    asked_key BLOB NOT NULL,
    similarity FLOAT NOT NULL,
    probability FLOAT NOT NULL,
    at FLOAT NOT NULL
);
CREATE INDEX ix_semcache_served_entry_id ON semcache_served (entry_id);
CREATE INDEX ix_semcache_served_asked_key ON semcache_served (asked_key);
CREATE TABLE semcache_judged (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    namespace BLOB NOT NULL,
    entry_id INTEGER NOT NULL,
    asked BLOB NOT NULL,
    stored BLOB NOT NULL,
    similarity FLOAT NOT NULL,
    probability FLOAT NOT NULL,
    correct BOOLEAN NOT NULL,
    source VARCHAR NOT NULL,
    at FLOAT NOT NULL
);
CREATE INDEX ix_semcache_judged_namespace ON semcache_judged (namespace);
CREATE INDEX ix_semcache_judged_entry_id ON semcache_judged (entry_id);
CREATE INDEX ix_semcache_judged_at ON semcache_judged (at);
CREATE TABLE semcache_quarantined (
    asked_key BLOB NOT NULL,
    entry_id INTEGER NOT NULL,
    PRIMARY KEY (asked_key, entry_id)
);
CREATE INDEX ix_semcache_quarantined_entry_id ON semcache_quarantined (entry_id);
""",
    3: """
ALTER TABLE semcache_entries ADD COLUMN tokens_in BIGINT;
ALTER TABLE semcache_entries ADD COLUMN tokens_out BIGINT;
ALTER TABLE semcache_entries ADD COLUMN seconds FLOAT;
""",
    4: """
ALTER TABLE semcache_indexed ADD COLUMN collection VARCHAR DEFAULT '' NOT NULL;
""",
}
"""What later versions added, as each of them left it."""


def _ledger_of_version_1(directory: Path, *questions: str) -> Path:
    """As version 1 wrote it, with an answer to each question; no later code has a hand in it."""
    directory.mkdir()
    file = directory / FILE_NAME
    with sqlite3.connect(file) as connection:
        connection.executescript(VERSION_1)
        for number, question in enumerate(questions, start=7):
            key, vector = key_of(Request(question), "default"), WordEmbedder()._one(question)
            connection.execute(
                "INSERT INTO semcache_entries VALUES (?, ?, ?, ?, ?, 0, 1, NULL, 2, 3, .5, ?, ?)",
                (number, key.exact, key.partition, b"default", b"", question.encode(), b"a"),
            )
            connection.execute(
                "INSERT INTO semcache_vectors VALUES (?, ?, ?, ?)",
                (number, key.partition, WordEmbedder.fingerprint, vector.tobytes()),
            )
            connection.execute("INSERT INTO semcache_tags VALUES (?, ?)", (number, b"old"))
    connection.close()
    return file


def _ledger_of_version(version: int, directory: Path) -> Path:
    file = _ledger_of_version_1(directory)
    with sqlite3.connect(file) as connection:
        for later in range(2, version + 1):
            connection.executescript(ADDED[later])
        connection.execute(f"UPDATE semcache_meta SET value = {version} WHERE value = 1")
    connection.close()
    return file


def _schema_of(file: Path) -> dict[str, object]:
    """Every table with its columns and constraints, and every index, by its name."""
    found = sa.inspect(sa.create_engine(f"sqlite:///{file}"))
    schema: dict[str, object] = {}
    for table in found.get_table_names():
        columns = found.get_columns(table)
        schema[table] = {column["name"]: repr(column) for column in columns}
        schema[f"{table} in order"] = [column["name"] for column in columns]
        schema[f"{table} key"] = found.get_pk_constraint(table)["constrained_columns"]
        schema[f"{table} unique"] = [
            one["column_names"] for one in found.get_unique_constraints(table)
        ]
        for index in found.get_indexes(table):
            schema[str(index["name"])] = (table, index["column_names"], index["unique"])
    return schema


def test_there_is_a_ledger_of_every_older_version_to_try() -> None:
    assert [1, *ADDED] == list(range(1, len(MIGRATIONS)))


@pytest.mark.parametrize("version", [1, *ADDED])
def test_a_ledger_of_an_older_version_gets_the_schema_of_a_new_one(
    version: int, tmp_path: Path
) -> None:
    old = _ledger_of_version(version, tmp_path / "old")
    assert "semcache_entries_priority" not in _schema_of(old)
    for name in ("old", "new"):
        Ledger.open(tmp_path / name, None).close()
    assert _schema_of(old) == _schema_of(tmp_path / "new" / FILE_NAME)


def _size(question: str) -> int:
    """As storing it with the answer "a" and the tag "old" in the default namespace would count."""
    return size_of((question, "a", "old", "default"), vector_bytes=4 * WORDS)


def test_a_ledger_of_version_1_opens_and_keeps_everything(bench: Bench) -> None:
    file = _ledger_of_version_1(bench.path, "how to reset it", "where is my card")
    for _ in range(2):  # migrated, and opened again
        cache = bench.open()
        exact, by_meaning = (
            cache.lookup(Request(q)) for q in ("how to reset it", "card is my where")
        )
        assert exact is not None and (exact.entry_id, exact.kind) == (7, "exact")
        assert by_meaning is not None and (by_meaning.entry_id, by_meaning.kind) == (8, "semantic")
        cache.close()
    with sqlite3.connect(file) as connection:
        entry = connection.execute("SELECT * FROM semcache_entries WHERE id = 7").fetchone()
        meta = dict(connection.execute("SELECT * FROM semcache_meta"))
        (space,) = connection.execute("SELECT * FROM semcache_space")
    connection.close()
    assert entry[10:19] == (0.5, b"how to reset it", b"a", None, None, None, 0.0, None, None)
    assert entry[19:22] == (None, None, None)  # what it took to make is not known
    assert entry[22:] == (_size("how to reset it"), 0.0, 0.0)
    assert space == (1, 2, _size("how to reset it") + _size("where is my card"), 0.0, "lru")
    assert meta == {"ledger_id": 4711, "schema_version": 5}
    cache = bench.open()
    assert cache.update(Request("new"), "a") == 9
    assert cache.invalidate(["old"]) == 2


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

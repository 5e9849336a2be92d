"""The ledger: what is written is found, and only what is live."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Bench
from fakes import WORDS, WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request, SemcacheError
from semcache_core.generations import Generation, Generations
from semcache_core.ledger import FILE_NAME, Ledger, NewEntry
from semcache_core.request import key_of
from semcache_core.schema import entries, judged, quarantined, served

FINGERPRINT = WordEmbedder.fingerprint
PARTITION = key_of(Request("", ""), "default").partition


@pytest.fixture
def ledger(tmp_path: Path) -> Any:
    ledger = Ledger.open(tmp_path / "ledger", None)
    yield ledger
    ledger.close()


def new(question: str, **changes: Any) -> NewEntry:
    key = key_of(Request(question, changes.get("scope", "")), changes.get("namespace", "default"))
    vector = np.ones(WORDS, np.float32) / np.sqrt(WORDS)
    fields: dict[str, Any] = {
        "exact": key.exact,
        "partition": key.partition,
        "namespace": "default",
        "scope": "",
        "exact_only": False,
        "question": question,
        "response": f"answer to {question}",
        "created": 100.0,
        "expires": None,
        "cost": None,
        "tags": (),
        "fingerprint": FINGERPRINT,
        "vector": vector.astype(np.float32),
    }
    return NewEntry(**{**fields, **changes})


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)


@given(ANY_TEXT, ANY_TEXT)
def test_any_question_and_any_answer_are_found_as_they_were(question: str, response: str) -> None:
    ledger = _memory()
    entry = new(question, response=response)
    entry_id = ledger.insert(entry)
    found = ledger.find(entry.exact, 100)
    assert found is not None
    assert (found.id, found.question, found.response) == (entry_id, question, response)


_shared: list[Ledger] = []


def _memory() -> Ledger:
    """One memory ledger for all examples of a property; they use different keys or replace."""
    if not _shared:
        _shared.append(Ledger.open(None, None))
    return _shared[0]


def test_ids_only_grow_also_over_deletions_and_restarts(tmp_path: Path) -> None:
    ids = []
    for _ in range(3):
        ledger = Ledger.open(tmp_path, None)
        ids += [ledger.insert(new("same")), ledger.insert(new("other"))]
        ledger.clear()
        ledger.close()
    assert ids == sorted(set(ids))


def test_a_replaced_entry_leaves_no_vector_and_no_tag(ledger: Ledger) -> None:
    first = ledger.insert(new("q", tags=("old",)))
    second = ledger.insert(new("q", response="new", tags=("new",)))
    assert second > first
    assert ledger.vectors_after(PARTITION, FINGERPRINT, 0)[0].tolist() == [second]
    assert ledger.invalidate(["old"], None, None) == 0
    assert ledger.invalidate(["new"], None, None) == 1


def test_expiry_is_a_matter_of_the_time_given(ledger: Ledger) -> None:
    entry = new("q", expires=200.0)
    entry_id = ledger.insert(entry)
    for now, lives in ((199.9, True), (200.0, False), (500.0, False)):
        assert (ledger.find(entry.exact, now) is not None) == lives
        assert (ledger.get(entry_id, PARTITION, now) is not None) == lives
        assert bool(ledger.live([entry_id], PARTITION, FINGERPRINT, now)) == lives
        assert ledger.has_vectors(PARTITION, FINGERPRINT, now) == lives
        assert ledger.count(now=now) == int(lives)
    assert ledger.delete_expired(199.9) == 0
    assert ledger.delete_expired(200.0) == 1
    assert ledger.count() == 0


def test_live_takes_a_thousand_ids_and_more(ledger: Ledger) -> None:
    ids = [ledger.insert(new(f"q{i}")) for i in range(1100)]
    found = ledger.live([*ids, 10**9], PARTITION, FINGERPRINT, 100)
    assert sorted(stored.id for stored in found) == ids


def test_live_gives_nothing_of_another_partition_or_model(ledger: Ledger) -> None:
    mine, other = ledger.insert(new("q")), ledger.insert(new("q", scope="other"))
    strange = ledger.insert(new("p", fingerprint="f" * 64))
    found = ledger.live([mine, other, strange], PARTITION, FINGERPRINT, 100)
    assert [stored.id for stored in found] == [mine]


def test_live_tells_what_a_lookup_weighs(ledger: Ledger) -> None:
    first = ledger.insert(new("q"))
    second = ledger.insert(new("p", writer="app \ud800", answer=first, answer_digest=b"d" * 32))
    with ledger.write() as connection:
        connection.execute(sa.update(entries).where(entries.c.id == second).values(doubt=0.5))
    ledger.serve_only_exactly(second, 100.0)
    one, other = sorted(
        ledger.live([first, second], PARTITION, FINGERPRINT, 100), key=lambda stored: stored.id
    )
    assert (one.question, one.answer, one.answer_digest, one.doubt) == ("q", first, None, 0.0)
    assert (one.exact_only, one.writer) == (False, None)
    assert (other.answer, other.answer_digest, other.doubt) == (first, b"d" * 32, 0.5)
    assert (other.exact_only, other.writer) == (True, "app \ud800")
    assert np.allclose(other.vector, np.ones(WORDS) / np.sqrt(WORDS))


def test_only_the_entry_named_is_from_now_on_served_exactly(ledger: Ledger) -> None:
    hub, other = ledger.insert(new("q")), ledger.insert(new("p"))
    ledger.serve_only_exactly(hub, 100.0)
    found = ledger.live([hub, other], PARTITION, FINGERPRINT, 100)
    assert {stored.id: stored.exact_only for stored in found} == {hub: True, other: False}
    assert ledger.find(new("q").exact, 100) is not None


def test_the_text_of_an_answer_is_the_response_unless_it_is_kept_apart(ledger: Ledger) -> None:
    plain = ledger.insert(new("q", response="Yes."))
    wrapped = ledger.insert(new("p", response='{"text": "Yes."}', answer_text="Yes."))
    assert [ledger.answer_text(entry_id) for entry_id in (plain, wrapped, 10**9)] == [
        "Yes.",
        "Yes.",
        None,
    ]


def test_writers_of_an_answer_are_counted_once_each_and_in_their_partition(
    ledger: Ledger,
) -> None:
    first = ledger.insert(new("q0", writer="a"))
    for question, writer in (("q1", "b"), ("q2", "b"), ("q3", None)):
        ledger.insert(new(question, writer=writer, answer=first))
    elsewhere = ledger.insert(new("q0", scope="other", writer="c", answer=first))
    alone = ledger.insert(new("q4", writer="a"))
    nobodys = ledger.insert(new("q5"))
    assert ledger.writers([first, alone, nobodys, elsewhere], PARTITION) == {
        first: 2,
        alone: 1,
        nobodys: 0,
    }


def test_get_gives_nothing_of_another_partition(ledger: Ledger) -> None:
    other = ledger.insert(new("q", scope="other"))
    assert ledger.get(other, PARTITION, 100) is None


def test_vectors_come_in_order_after_an_id_up_to_a_limit(ledger: Ledger) -> None:
    ids = [ledger.insert(new(f"q{i}")) for i in range(5)]
    found, matrix = ledger.vectors_after(PARTITION, FINGERPRINT, ids[0], 3)
    assert found.tolist() == ids[1:4]
    assert matrix.shape == (3, WORDS)
    assert ledger.vectors_after(PARTITION, FINGERPRINT, ids[-1])[0].tolist() == []


def test_the_least_recently_used_are_evicted_first(ledger: Ledger) -> None:
    ids = [ledger.insert(new(f"q{i}", created=100.0 + i)) for i in range(4)]
    ledger.touch({ids[0]: (1, 200.0)})
    fifth = ledger.insert(new("q4", created=105.0), max_entries=3)
    live = [i for i in (*ids, fifth) if ledger.get(i, PARTITION, 300)]
    assert live == [ids[0], ids[3], fifth]


def test_the_entry_just_stored_is_not_evicted_when_the_clock_was_set_back(ledger: Ledger) -> None:
    for i in range(3):
        ledger.insert(new(f"q{i}", created=1000.0), max_entries=3)
    entry_id = ledger.insert(new("late", created=1.0), max_entries=3)
    assert ledger.get(entry_id, PARTITION, 1.0) is not None
    assert ledger.count() == 3


def test_a_touch_counts_hits_and_never_sets_the_last_use_back(ledger: Ledger) -> None:
    ids = [ledger.insert(new(f"q{i}", created=100.0)) for i in range(2)]
    ledger.touch({ids[0]: (2, 300.0)})
    ledger.touch({ids[0]: (3, 50.0), 10**9: (1, 1.0)})
    ledger.touch({ids[1]: (1, 200.0)})
    ledger.touch({})
    assert ledger.hits_ever() == 6
    ledger.insert(new("q2", created=400.0), max_entries=2)
    assert ledger.get(ids[0], PARTITION, 0) is not None


def test_conditions_of_invalidate_must_all_hold(ledger: Ledger) -> None:
    def fill() -> None:
        ledger.clear()
        ledger.insert(new("a", tags=("x", "y"), created=100.0))
        ledger.insert(new("b", tags=("y",), created=200.0))
        ledger.insert(new("c", namespace="other", tags=("x",), created=100.0))

    for conditions, gone in (
        ((["x"], None, None), 2),
        ((["x", "y"], None, None), 3),
        ((["x"], "default", None), 1),
        ((None, "default", None), 2),
        ((None, None, 150.0), 2),
        ((["y"], "default", 150.0), 1),
        (([], None, None), 0),
        ((["z"], None, None), 0),
    ):
        fill()
        assert ledger.invalidate(*conditions) == gone
        assert ledger.count() == 3 - gone


def test_deleting_notes_only_what_the_index_holds(ledger: Ledger) -> None:
    ids = [ledger.insert(new(f"q{i}")) for i in range(4)]
    Generations(ledger, FINGERPRINT).advance(PARTITION, Generation(), Generation(0, ids[1], 2))
    ledger.clear()
    assert ledger.take_removed() == {PARTITION: ids[:2]}
    assert ledger.take_removed() == {}


def test_a_new_vector_replaces_that_of_another_model(ledger: Ledger) -> None:
    old = ledger.insert(new("q", fingerprint="f" * 64))
    bare = ledger.insert(new("p", vector=None))
    ledger.insert(new("o", vector=None, exact_only=True))
    assert ledger.unembedded(FINGERPRINT, 0, 10) == [(old, "q"), (bare, "p")]
    assert ledger.unembedded(FINGERPRINT, old, 10) == [(bare, "p")]
    vector = np.eye(WORDS, dtype=np.float32)[0]
    ledger.replace_vectors([(old, FINGERPRINT, vector), (10**9, FINGERPRINT, vector)])
    assert ledger.vectors_after(PARTITION, FINGERPRINT, 0)[0].tolist() == [old]
    assert ledger.vectors_after(PARTITION, "f" * 64, 0)[0].tolist() == []


def test_an_entry_keeps_who_wrote_it_and_whose_answer_it_has(ledger: Ledger) -> None:
    first = ledger.insert(new("q"))
    second = ledger.insert(new("p", writer="app \ud800", answer=first))
    columns = (entries.c.id, entries.c.writer, entries.c.answer, entries.c.doubt)
    rows = ledger.read(sa.select(*columns, entries.c.exact_only_since), {})
    assert [tuple(row) for row in rows] == [
        (first, None, None, 0.0, None),
        (second, "app \ud800", first, 0.0, None),
    ]


def _serve_and_judge(ledger: Ledger, entry_id: int, namespace: str = "default") -> None:
    row = {"entry_id": entry_id, "asked": "p", "similarity": 0.9, "probability": 0.9, "at": 1.0}
    verdict = {"namespace": namespace, "stored": "q", "correct": False, "source": "audit"}
    with ledger.write() as connection:
        connection.execute(sa.insert(served), {**row, "asked_key": b"k"})
        connection.execute(sa.insert(quarantined), {"asked_key": b"k", "entry_id": entry_id})
        connection.execute(sa.insert(judged), {**row, **verdict})


def _known_of(ledger: Ledger) -> list[list[int]]:
    """Entry ids in the log, in the quarantine and among what was judged."""
    tables = (served, quarantined, judged)
    return [
        sorted(row[0] for row in ledger.read(sa.select(table.c.entry_id), {})) for table in tables
    ]


@pytest.mark.parametrize(
    "delete",
    [
        lambda ledger: ledger.delete_expired(150.0),
        lambda ledger: ledger.invalidate(["gone"], None, None),
        lambda ledger: ledger.insert(new("gone", response="new")),
        lambda ledger: ledger.insert(new("another", created=300.0), max_entries=2),
    ],
    ids=["expired", "invalidated", "replaced", "evicted"],
)
def test_the_log_and_the_quarantine_of_an_entry_go_with_it_and_its_judgements_stay(
    delete: Any, ledger: Ledger
) -> None:
    gone = ledger.insert(new("gone", tags=("gone",), expires=150.0))
    stays = ledger.insert(new("stays", created=200.0))
    for entry_id in (gone, stays):
        _serve_and_judge(ledger, entry_id)
    delete(ledger)
    assert _known_of(ledger) == [[stays], [stays], [gone, stays]]


def test_what_was_judged_of_a_namespace_is_cleared_with_it(ledger: Ledger) -> None:
    mine, other = ledger.insert(new("q")), ledger.insert(new("q", namespace="other"))
    _serve_and_judge(ledger, mine)
    _serve_and_judge(ledger, other, "other")
    assert ledger.clear("other") == 1
    assert _known_of(ledger) == [[mine], [mine], [mine]]
    assert ledger.clear() == 1
    assert _known_of(ledger) == [[], [], []]


def test_threads_write_and_read_without_losing_anything(ledger: Ledger) -> None:
    def work(thread: int) -> None:
        for i in range(25):
            entry = new(f"{thread}-{i}")
            entry_id = ledger.insert(entry)
            found = ledger.find(entry.exact, 100)
            assert found is not None and found.id == entry_id
            assert entry_id in ledger.vectors_after(PARTITION, FINGERPRINT, entry_id - 1)[0]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert ledger.count() == 200


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
        ("postgresql://me:secret@host/db", r"postgresql://me:\*\*\*@host/db is not SQLite"),
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
    monkeypatch.setattr("semcache_core.ledger.BUSY_SECONDS", 0.05)
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
        lambda: ledger.find(b"", 0.0),
        lambda: ledger.live([1], PARTITION, FINGERPRINT, 0.0),
        lambda: ledger.has_vectors(PARTITION, FINGERPRINT, 0.0),
    ):
        with pytest.raises(SemcacheError, match="no such table"):
            read()


def test_an_error_inside_a_write_leaves_nothing_of_it(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.write() as connection:
        connection.exec_driver_sql("DELETE FROM semcache_meta")
        raise ZeroDivisionError
    assert ledger.read("SELECT 1", {}) if False else ledger.insert(new("q"))
    with ledger.write() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM semcache_meta").scalar_one() == 2


CLOSES = """
import sys
from pathlib import Path
from semcache_core.ledger import Ledger
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
    with ledger._readers.one() as first, ledger._readers.one() as other:
        assert other is not first
    with ledger._readers.one() as again:
        assert again in (first, other)


def test_a_connection_that_failed_is_closed_and_the_next_query_gets_another(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.OperationalError), ledger._readers.one() as failed:
        failed.execute("SELECT nothing")
    assert is_closed(failed)
    assert ledger.find(b"no such key", 0.0) is None


def test_what_is_read_while_the_ledger_closes_is_closed_when_it_ends(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, None)
    with ledger._readers.one() as idle:
        pass
    with ledger._readers.one() as used:
        assert used is idle
        ledger.close()
        assert used.execute("SELECT 1").fetchall() == [(1,)]
    assert is_closed(used)
    # the last connection to close takes SQLite's side files along
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_no_connection_is_left_open_by_a_ledger_that_closes(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, None)
    with ledger._readers.one() as one, ledger._readers.one() as other:
        pass
    ledger.close()
    assert is_closed(one) and is_closed(other)


def is_closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False

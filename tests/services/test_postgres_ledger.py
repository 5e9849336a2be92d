"""The ledger on a real PostgreSQL server."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from lease_contract import LeaseContract
from ledger_contract import FINGERPRINT, PARTITION, LedgerContract, new
from postgres_server import PostgresServer
from running_totals import RunningTotals, check_totals
from scripts_run import run_script
from semcache_core import Request, SemcacheError
from semcache_core.pipeline.background import PolicyChange
from semcache_core.quality.verdicts import ServedHit, Verdict, VerdictLog
from semcache_core.storage import postgres as pg
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.eviction import Limits
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import FIRST_VERSION, MIGRATIONS, meta, quarantined
from semcache_core.transfer.entries import Listing
from services_hosts import wait_until

NEWEST = FIRST_VERSION + len(MIGRATIONS)
TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger.open(None, url)
    yield ledger
    ledger.close()


@pytest.fixture
def reopen(url: str) -> Iterator[Callable[[], Ledger]]:
    opened: list[Ledger] = []

    def reopen() -> Ledger:
        opened.append(Ledger.open(None, url))
        return opened[-1]

    yield reopen
    for one in opened:
        one.close()


class TestLedgerOnPostgres(LedgerContract):
    pass


def test_the_totals_are_those_of_a_recount_whatever_is_done(postgres: PostgresServer) -> None:
    class OnPostgres(RunningTotals):
        def open(self) -> Ledger:
            if not hasattr(self, "url"):
                self.url = postgres.url(postgres.new_schema())
            return Ledger.open(None, self.url)

    check_totals(OnPostgres, examples=12)


def test_a_ledger_is_ranked_by_a_policy_new_to_it(ledger: Ledger) -> None:
    ids = [ledger.entries.insert(new(f"q{i}", tags=("t",))) for i in range(3)]
    before = ledger.space()
    PolicyChange(ledger, "lfu")
    assert ledger.space() == replace(before, ranked_by="lfu")
    ledger.entries.insert(new("q3"), Limits(3, policy="lfu"))
    assert ledger.lookups.get(ids[0], PARTITION, 100) is None


class TestClaimInPostgres(LeaseContract):
    pass


def test_a_writer_draws_no_id_before_the_one_in_front_of_it_can_be_seen(
    ledger: Ledger, reopen: Callable[[], Ledger]
) -> None:
    other, stored = reopen(), threading.Event()
    seen: list[int] = []

    def second() -> None:
        seen.append(other.entries.insert(new("second")))
        stored.set()

    thread = threading.Thread(target=second)
    with ledger.write() as connection:
        first = connection.execute(sa.text("SELECT nextval('semcache_entries_id_seq')")).scalar()
        thread.start()
        waiting = sa.text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        )
        wait_until(lambda: ledger.read(waiting, {})[0][0] == 1)
        # whoever reads now and remembers what it saw as "everything up to here" misses nothing
        assert other.lookups.vectors_after(PARTITION, FINGERPRINT, 0)[0].tolist() == []
        assert not stored.is_set()
    thread.join(30)
    assert first is not None and seen[0] > first


def test_readers_that_remember_where_they_were_meet_all_that_many_writers_store(
    reopen: Callable[[], Ledger],
) -> None:
    writers, reader = [reopen() for _ in range(4)], reopen()
    done = threading.Event()
    met: list[int] = []

    def write(n: int) -> list[int]:
        return [writers[n].entries.insert(new(f"{n} {i}")) for i in range(40)]

    def read() -> None:
        ended = False
        while not ended:
            ended = done.is_set()
            met.extend(
                reader.lookups.vectors_after(PARTITION, FINGERPRINT, met[-1] if met else 0)[
                    0
                ].tolist()
            )

    stored: list[list[int]] = [[] for _ in writers]

    def fill(n: int) -> None:
        stored[n] = write(n)

    reading = threading.Thread(target=read)
    threads = [threading.Thread(target=fill, args=(n,)) for n in range(4)]
    for thread in (reading, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reading.join()
    assert met == sorted(entry_id for ids in stored for entry_id in ids)
    assert len(met) == 160


def test_an_id_that_was_rolled_back_is_not_used_again(ledger: Ledger) -> None:
    first = ledger.entries.insert(new("q"))
    with pytest.raises(ZeroDivisionError), ledger.write() as connection:
        connection.execute(sa.text("SELECT nextval('semcache_entries_id_seq')"))
        raise ZeroDivisionError
    assert ledger.entries.insert(new("p")) == first + 2


def test_records_are_kept_as_in_a_file(ledger: Ledger) -> None:
    records, entry_id = VerdictLog(ledger), ledger.entries.insert(new("q", cost=0.5, tokens_in=3))
    for i in range(60):
        records.served(ServedHit(entry_id, f"asked {i}", b"k" * 32, 0.9, 0.75, float(i)))
    records.flush()
    assert [hit.at for hit in records.served_of(entry_id)] == [float(i) for i in range(10, 60)]
    assert records.claimed_error() == pytest.approx(0.25)
    wrong = Verdict("default", entry_id, "p", "q", 0.9, 0.9, False, "audit", 1.0)
    for _ in range(2):
        records.judge(wrong, b"k" * 32)
    assert records.judged() == [wrong, wrong]
    assert len(ledger.read(sa.select(quarantined), {})) == 1
    (live,) = ledger.lookups.live([entry_id], PARTITION, FINGERPRINT, 1.0, b"k" * 32)
    assert live.doubt > 0 and live.known_wrong
    assert ledger.entries.touch({entry_id: (2, 5.0)}).cost == 1.0
    saved = ledger.saved()
    assert (saved.tokens_in, saved.tokens_out, saved.cost) == (6, None, 1.0)


def test_entries_are_listed_as_in_a_file(ledger: Ledger) -> None:
    first = ledger.entries.insert(new("q", tags=("a,b", "ü"), answer_digest=b"d" * 32))
    second = ledger.entries.insert(new("p", answer=first))
    with ledger.write() as connection:
        connection.execute(sa.insert(quarantined), {"asked_key": b"\x00,", "entry_id": first})
    one, other = Listing(ledger).oldest_first(100.0)
    assert (one.id, one.tags, one.wrong_for) == (first, ("a,b", "ü"), (b"\x00,",))
    assert (other.id, other.tags, other.same_as) == (second, (), (new("q").exact, b"d" * 32))
    assert [e.id for e in Listing(ledger).newest_first(100.0)] == [second, first]
    (model,) = Listing(ledger).models()
    assert (model.vectors, model.dimension) == (2, 64)


# -- opening -------------------------------------------------------------------------------------


def test_a_newer_ledger_is_refused_and_left_as_it_is(
    ledger: Ledger, reopen: Callable[[], Ledger]
) -> None:
    with ledger.write() as connection:
        newer = sa.update(meta).where(meta.c.name == "schema_version").values(value=41)
        connection.execute(newer)
    with pytest.raises(SemcacheError, match=rf"version 41.*up to {NEWEST};"):
        reopen()
    assert ledger.read(sa.select(meta.c.value).order_by(meta.c.value), {})[0][0] == 41


OPENS = """
import sys
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
sys.stdin.readline()
ledger = Ledger.open(None, sys.argv[1])
print(ledger.id)
ledger.close()
"""


def test_a_ledger_from_before_the_first_release_is_refused_and_left_as_it_is(
    ledger: Ledger, reopen: Callable[[], Ledger]
) -> None:
    with ledger.write() as connection:
        older = sa.update(meta).where(meta.c.name == "schema_version").values(value=4)
        connection.execute(older)
    with pytest.raises(SemcacheError, match=r"version 4.*export the entries"):
        reopen()
    assert ledger.read(sa.select(meta.c.value).order_by(meta.c.value), {})[0][0] == 4


def test_a_ledger_of_the_first_release_is_migrated_and_keeps_its_entries(
    ledger: Ledger, reopen: Callable[[], Ledger]
) -> None:
    ledger.entries.insert(new("q"))
    with ledger.write() as connection:
        connection.execute(sa.text("ALTER TABLE semcache_entries DROP COLUMN parts"))
        first = sa.update(meta).where(meta.c.name == "schema_version").values(value=FIRST_VERSION)
        connection.execute(first)
    migrated = reopen()
    migrated.entries.insert(new("q2", parts='{"model": "a1b2"}'))
    newer, older = migrated.lookups.recent("default", "", 10, 100)
    assert (newer.question, newer.parts) == ("q2", {"model": "a1b2"})
    assert (older.question, older.parts) == ("q", None)


def test_processes_that_open_a_new_ledger_at_once_share_it(url: str) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ended = [child.communicate("go\n", timeout=120) for child in children]
    assert [errors for _, errors in ended if errors] == []
    assert len({out for out, _ in ended}) == 1


def test_a_role_that_may_not_create_tables_is_told_so(postgres: PostgresServer) -> None:
    schema = postgres.new_schema()
    postgres.run(f"CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA {schema} TO guest")
    try:
        with pytest.raises(SemcacheError, match=r"permission denied.*let this role create tables"):
            Ledger.open(None, postgres.url(schema).replace("semcache@", "guest@"))
    finally:
        postgres.run("DROP OWNED BY guest; DROP ROLE guest")


@pytest.mark.parametrize(
    "where",
    [
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/db",
        "postgresql://me@127.0.0.1:1/db?password=s3cret",
    ],
)
def test_a_password_is_never_shown(where: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        SemcacheError, match=r"127.0.0.1:1/db failed.*see that the server is up"
    ) as r:
        Ledger.open(None, where)
    shown = [str(r.value), repr(r.value), repr(r.value.__cause__), caplog.text]
    assert not any("s3cret" in text for text in shown)


def test_without_the_driver_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['psycopg'] = None\n"
    code += "from semcache_core.storage.ledger import Ledger\n"
    code += "try: Ledger.open(None, 'postgresql://x/y')\nexcept Exception as e: print(repr(e))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LedgerError" in done.stdout and "pip install 'semcache-core[postgres]'" in done.stdout


# -- when the server is away ---------------------------------------------------------------------


def uses(ledger: Ledger, entry: NewEntry) -> Iterator[Callable[[], object]]:
    """Ways to use a ledger, each given when all of them have worked."""
    for use in (
        lambda: ledger.lookups.find(entry.exact, 100),
        lambda: ledger.count(),
        lambda: ledger.entries.insert(entry),
    ):
        ledger.entries.insert(entry)
        assert ledger.lookups.find(entry.exact, 100) is not None
        assert ledger.count() == 1
        yield use


def test_a_restarted_server_is_met_again_without_an_error(
    postgres: PostgresServer, ledger: Ledger
) -> None:
    entry = new("q")
    for use in uses(ledger, entry):
        postgres.stop()
        with pytest.raises(SemcacheError, match="see that the server is up"):
            ledger.lookups.find(entry.exact, 100)
        postgres.start()
        assert use()
    assert ledger.lookups.find(entry.exact, 100) is not None


def test_connections_that_the_server_ended_are_replaced_and_nobody_notices(
    postgres: PostgresServer, ledger: Ledger
) -> None:
    entry = new("q")
    for use in uses(ledger, entry):
        postgres.stop("immediate")
        postgres.start()
        assert use()


def test_a_server_that_hangs_is_given_up(
    postgres: PostgresServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg, "SILENT_SECONDS", 0.3)
    ledger._database._arguments["connect_timeout"] = 2  # type: ignore[attr-defined]
    entry = new("q")
    ledger.entries.insert(entry)
    assert ledger.lookups.find(entry.exact, 100) is not None
    postgres.pause(True)
    try:
        for use in (
            lambda: ledger.lookups.find(entry.exact, 100),
            lambda: ledger.entries.insert(entry),
        ):
            with pytest.raises(SemcacheError, match=r"no answer within 0\.3 s"):
                use()
        with pytest.raises(SemcacheError, match="timeout expired"):
            ledger.lookups.find(entry.exact, 100)
        with pytest.raises(SemcacheError, match="is asked again 10 s later"):
            ledger.lookups.find(entry.exact, 100)
    finally:
        postgres.pause(False)
    ledger._database._spared_until = 0.0  # type: ignore[attr-defined]
    assert ledger.lookups.find(entry.exact, 100) is not None
    assert ledger.entries.insert(entry)


def test_a_writer_that_waits_too_long_says_for_whom(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pg._OPTIONS, "lock_timeout", "50ms")
    waiting = Ledger.open(None, url)
    with ledger.write(), pytest.raises(SemcacheError, match=r"lock timeout; other writers held it"):
        waiting.entries.insert(new("q"))
    assert waiting.entries.insert(new("q"))
    waiting.close()


def test_a_writer_that_was_stopped_in_the_middle_does_not_keep_the_others_waiting(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pg._OPTIONS, "idle_in_transaction_session_timeout", "100ms")
    stopped = Ledger.open(None, url)
    with pytest.raises(SemcacheError), stopped.write() as connection:
        connection.execute(sa.text("DELETE FROM semcache_meta"))
        assert ledger.entries.insert(new("q"))  # after the server has ended that one
        connection.execute(sa.text("SELECT 1"))
    assert len(ledger.read(sa.select(meta), {})) == 2
    assert stopped.entries.insert(new("p"))
    stopped.close()


def test_more_threads_than_connections_read_at_once(ledger: Ledger) -> None:
    entry = new("q")
    ledger.entries.insert(entry)
    failed: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(20):
                assert ledger.lookups.find(entry.exact, 100) is not None
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(4 * pg.READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(ledger._database._readers._free) <= pg.READERS  # type: ignore[attr-defined]


# -- processes -----------------------------------------------------------------------------------

WRITES = f"""
import os, sys
sys.path.insert(0, {TESTS!r})
from ledger_contract import new
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
ledger = Ledger.open(None, sys.argv[1])
for i in range(10**6):
    ledger.entries.insert(new(f"{{sys.argv[2]}} {{i}}", tags=("t",)))
    os.write(1, f"{{i}}\\n".encode())
"""


def test_killed_writers_lose_nothing_that_was_stored_and_block_nobody(
    url: str, ledger: Ledger
) -> None:
    stored = {}
    for name in "abc":
        child = subprocess.Popen(
            [sys.executable, "-c", WRITES, url, name], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(15):
            line = child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        rest = child.communicate()[0].split()
        stored[name] = int(rest[-1] if rest else line)
        ledger.entries.insert(new(f"after {name}"))
    for name, last in stored.items():
        for i in range(last + 1):
            assert ledger.lookups.find(new(f"{name} {i}").exact, 100) is not None
    # an entry whose process died before it could say so is there whole, or not at all
    count = ledger.count()
    assert len(ledger.lookups.vectors_after(PARTITION, FINGERPRINT, 0)[0]) == count
    assert ledger.entries.invalidate(["t"], None, None) == count - 3


@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_a_forked_child_uses_connections_of_its_own_and_closes_none_of_its_parents(
    leave: str, hosts: Any
) -> None:
    script = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
sys.path.insert(0, {TESTS!r})
from pathlib import Path
from fakes import WordEmbedder
from semcache_core import Request, SemanticCache
cache = SemanticCache(path=None, ledger_url=sys.argv[1], embedder=WordEmbedder(),
                      artefact=Path(sys.argv[2]))
cache.update(Request("parent"), "a")
import threading
stop, failed = threading.Event(), []
def sockets():
    # the one that listed them is gone by now
    links = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
    return [fd for fd in links if os.path.islink(fd) and "socket:" in os.readlink(fd)]
def use():
    while not stop.is_set():
        try:
            assert cache.lookup(Request("parent")) is not None
            cache.update(Request("busy"), "a")
        except BaseException as error:
            failed.append(error)
            raise
threads = [threading.Thread(target=use) for _ in range(2)]
for thread in threads:
    thread.start()
for n in range(5):
    if (pid := os.fork()) == 0:
        assert sockets() == []
        assert cache.lookup(Request("parent")) is not None
        cache.update(Request(f"child {{n}}"), "a")
        {leave}(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert failed == []
assert all(cache.lookup(Request(f"child {{n}}")) for n in range(5))
cache.close()
"""
    run_script(script, hosts.url, hosts.artefact, timeout=120)


def test_nothing_acknowledged_is_lost_and_no_app_sees_an_error_while_a_server_restarts(
    postgres: PostgresServer, hosts: Any
) -> None:
    cache = hosts.open()
    stop = threading.Event()
    stored: list[set[str]] = [set() for _ in range(3)]
    errors: list[BaseException] = []

    def work(n: int) -> None:
        i = 0
        try:
            while not stop.is_set():
                question = f"app{n} asks{i} this"
                assert cache.get_or_create(Request(question), lambda: "a") == "a"
                try:
                    cache.update(Request(question + " too"), "a")
                    stored[n].add(question + " too")
                except SemcacheError:
                    time.sleep(0.01)
                i += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for mode in ("fast", "immediate"):
        before = sum(map(len, stored))
        wait_until(lambda before=before: sum(map(len, stored)) > before + 20)
        postgres.stop(mode)
        postgres.start()
    before = sum(map(len, stored))
    wait_until(lambda: sum(map(len, stored)) > before + 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    for question in set().union(*stored):
        assert cache.lookup(Request(question)) is not None, question

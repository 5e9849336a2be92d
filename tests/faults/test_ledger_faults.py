"""Whatever happens to the ledger's file the app goes on, and when it is over so does the cache."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import WordEmbedder, calibrated
from langchain_core.messages import AIMessage
from scripted_llms import ScriptedLLM, user
from scripted_models import Chat
from semcache_core import Request, SemanticCache, SemcacheError
from semcache_core.errors import LedgerError
from semcache_core.pipeline.process import RETRY_SECONDS
from semcache_core.storage import ledger
from semcache_core.storage.ledger import FILE_NAME
from semcache_core.testing import engine_of, run_background_round

from langchain_semcache import CachedChatModel
from llamaindex_semcache import CachedLLM

TESTS = str(Path(__file__).parents[1])
QUESTION, SAME = "where is the office", "the office is where"


def ask(cache: SemanticCache, question: str = QUESTION, answer: str = "in Basel") -> str:
    return cache.get_or_create(Request(question), lambda: answer)


def held(cache: SemanticCache, question: str = QUESTION) -> str | None:
    hit = cache.lookup(Request(question))
    return None if hit is None else hit.response


# -- locked ----------------------------------------------------------------------------------------


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another process holds the ledger, as a backup or a shell that forgot to commit does."""
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN EXCLUSIVE')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    try:
        yield
    finally:
        other.communicate("")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semcache_core.storage.database.BUSY_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient", "still")
def test_a_locked_ledger_is_read_and_what_cannot_be_written_is_counted(bench: Bench) -> None:
    cache = bench.open()
    ask(cache)
    with locked(bench.path / FILE_NAME):
        assert held(cache) == held(cache, SAME) == "in Basel"
        assert ask(cache, "who pays for lunch", "nobody") == "nobody"
        assert held(cache, "who pays for lunch") is None
        with pytest.raises(LedgerError, match="another process held it"):
            cache.update(Request("a"), "b")
        run_background_round(cache)
        assert cache.stats().failures == {"update": 1}
    assert ask(cache, "who pays for lunch", "we do") == "we do"
    assert held(cache, "who pays for lunch") == "we do"
    run_background_round(cache)
    assert cache.sizes()["hits_ever"] >= 2  # those while it was locked too


@pytest.mark.usefixtures("impatient", "still")
def test_a_cache_opens_on_a_locked_ledger(bench: Bench) -> None:
    with bench.open() as cache:
        ask(cache)
    with locked(bench.path / FILE_NAME):
        cache = bench.open()
        assert held(cache) == held(cache, SAME) == "in Basel"


@pytest.mark.usefixtures("impatient", "still")
def test_writers_behind_a_lock_do_not_wait_for_each_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread whose turn does not come gives up as SQLite does, and does not queue for ever."""
    cache = bench.open()
    database: Any = engine_of(cache).ledger._database
    with database._write_turn(), pytest.raises(LedgerError, match="locked"):
        cache.update(Request("a"), "b")
    assert cache.update(Request("a"), "b")


# -- a full disk -----------------------------------------------------------------------------------

FULL = f"""
import json, os, resource, sys
sys.path.insert(0, {TESTS!r})
from pathlib import Path
from fakes import WordEmbedder
from semcache_core import Request, SemanticCache
from semcache_core.pipeline.background import BackgroundWorker
from semcache_core.testing import run_background_round

BackgroundWorker.start = lambda self: None
base = Path(sys.argv[1])
cache = SemanticCache(
    path=base / "cache", artefact=base / "artefact", embedder=WordEmbedder()
)

def ask(question, answer="x" * 20000):
    return cache.get_or_create(Request(question), lambda: answer) == answer

def found(question):
    return cache.lookup(Request(question)) is not None

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

told = {{"before": ask("before")}}
limit(700_000)  # of any one file
told["during"] = all(ask(f"during {{n}} words{{n}}") for n in range(40))
told["failures"] = cache.stats().failures
told["stored"] = sum(found(f"during {{n}} words{{n}}") for n in range(40))
told["read"] = found("before")
run_background_round(cache)
limit(resource.RLIM_INFINITY)
told["after"] = ask("after all") and found("after all")
told["kept"] = sum(found(f"during {{n}} words{{n}}") for n in range(40))
run_background_round(cache)
print(json.dumps(told))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_on_a_full_disk_the_app_goes_on_and_after_it_the_cache(bench: Bench) -> None:
    command = [sys.executable, "-c", FULL, str(bench.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["before"] and told["during"] and told["read"] and told["after"]
    assert 0 < told["stored"] < 40
    assert told["failures"]["update"] == 40 - told["stored"]
    assert told["kept"] == told["stored"]  # what was acknowledged
    with closing(sqlite3.connect(bench.path / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# -- the file is gone, or another ------------------------------------------------------------------


def remove(path: Path) -> None:
    for file in path.glob(f"{FILE_NAME}*"):
        file.unlink()


@pytest.mark.parametrize("scan_limit", [20_000, 0], ids=["scanned", "indexed"])
def test_a_ledger_deleted_while_open_is_begun_anew(bench: Bench, scan_limit: int) -> None:
    """Nothing is acknowledged into a file that is gone with the process."""
    cache = bench.open(scan_limit=scan_limit)
    ask(cache)
    if not scan_limit:
        cache.rebuild()
    remove(bench.path)
    with pytest.raises(LedgerError, match="deleted or replaced"):
        cache.update(Request("a b c"), "d")
    assert ask(cache, "who pays for lunch", "nobody") == "nobody"
    assert held(cache) is None and held(cache, SAME) is None
    assert held(cache, "for lunch who pays") == "nobody"
    cache.close()
    assert held(bench.open(), "who pays for lunch") == "nobody"


@pytest.mark.usefixtures("still")
def test_the_upkeep_finds_that_the_ledger_is_gone(bench: Bench) -> None:
    cache = bench.open()
    ask(cache)
    held(cache)
    remove(bench.path)
    run_background_round(cache)
    assert held(cache) is None
    assert ask(cache, QUESTION, "anew") == "anew"
    assert held(cache) == "anew"


def test_a_ledger_put_in_its_place_is_the_one_that_is_served(bench: Bench, tmp_path: Path) -> None:
    other = bench.open(path=tmp_path / "other")
    ask(other, QUESTION, "from the backup")
    other.close()
    cache = bench.open()
    ask(cache)
    remove(bench.path)
    (tmp_path / "other" / FILE_NAME).rename(bench.path / FILE_NAME)
    ask(cache, "who pays for lunch")
    assert held(cache) == held(cache, SAME) == "from the backup"


def garbage(file: Path) -> None:
    file.write_bytes(b"no ledger at all " * 10_000)


def truncated(file: Path) -> None:
    os.truncate(file, 5000)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


DAMAGES = [garbage, truncated, emptied]


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_ledger_damaged_while_open_costs_answers_and_no_more(
    bench: Bench, damage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open()
    for number in range(60):
        cache.update(Request(f"word{number} other{number} more{number}"), "a" * 1000)
    with closing(sqlite3.connect(bench.path / FILE_NAME)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(bench.path / FILE_NAME)
    for number in range(3):
        assert ask(cache, f"new{number} question{number}", "answered") == "answered"
        for call in (cache.stats, lambda: held(cache, "word5 more5 other5")):
            with suppress(SemcacheError):
                call()
    run_background_round(cache)
    # moved away, as the error says, it goes on without a restart
    (bench.path / FILE_NAME).rename(bench.path / "broken")
    remove(bench.path)
    ask(cache)
    assert ask(cache, SAME, "anew") in ("in Basel", "anew")
    assert held(cache, SAME) is not None


@pytest.mark.parametrize("damage", [garbage, truncated])
def test_a_damaged_ledger_is_refused_before_anything_is_written(bench: Bench, damage: Any) -> None:
    with bench.open() as cache:
        for number in range(50):
            cache.update(Request(f"word{number}"), "a" * 1000)
    file = bench.path / FILE_NAME
    damage(file)
    before = file.read_bytes()
    with pytest.raises(SemcacheError, match=r"move it away|move the file away"):
        held(bench.open(), "word1")
    assert file.read_bytes() == before


@pytest.mark.usefixtures("still")
def test_a_ledger_that_cannot_be_opened_again_is_not_tried_at_every_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open()
    ask(cache)
    remove(bench.path)
    garbage(bench.path / FILE_NAME)
    run_background_round(cache)
    tries: list[int] = []
    opened = ledger.Ledger.open
    monkeypatch.setattr(ledger.Ledger, "open", lambda *a: (tries.append(1), opened(*a))[1])
    for number in range(5):
        assert ask(cache, f"question{number}", "answered") == "answered"
    assert len(tries) == 1
    remove(bench.path)
    assert RETRY_SECONDS > 1
    cache._process.retry_at = 0.0  # the time has come
    assert ask(cache) == "in Basel"
    assert held(cache) == "in Basel"


READ_ONLY = f"""
import os, sys
sys.path.insert(0, {TESTS!r})
from pathlib import Path
from fakes import WordEmbedder
from semcache_core import SemanticCache, SemcacheError

base = Path(sys.argv[1])
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
for name in ("filled", "empty"):
    try:
        SemanticCache(path=base / name, artefact=base / "artefact", embedder=WordEmbedder())
    except SemcacheError as error:
        print(name, error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_a_directory_that_cannot_be_written_is_refused_with_a_fix(tmp_path: Path) -> None:
    calibrated(tmp_path / "artefact")
    options: dict[str, Any] = {"artefact": tmp_path / "artefact", "embedder": WordEmbedder()}
    with SemanticCache(path=tmp_path / "filled", **options) as cache:
        ask(cache)
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path, *tmp_path.parents):
        if directory.name.startswith(("pytest-", "popen-")):
            directory.chmod(0o755)
    tmp_path.chmod(0o755)
    os.chmod(tmp_path / "filled" / FILE_NAME, 0o444)
    for name in ("filled", "empty"):
        (tmp_path / name).chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    said = done.stdout.splitlines()
    assert [line.split()[0] for line in said] == ["filled", "empty"], done.stderr
    assert all("can be written" in line or "can write" in line for line in said), said


# -- the clock -------------------------------------------------------------------------------------


def test_a_clock_set_back_makes_no_age_negative_and_evicts_nothing_new(bench: Bench) -> None:
    cache = bench.open(max_entries=2, ttl=100.0)
    ask(cache, "first question here")
    ask(cache, "second thing there")
    bench.clock.now -= 10_000
    hit = cache.lookup(Request("first question here"))
    assert hit is not None and hit.age_s == 0
    ask(cache, "third one elsewhere")
    assert held(cache, "third one elsewhere") == "in Basel"
    assert cache.invalidate(older_than=0.0) == 0
    assert cache.stats().entries == 2
    assert cache.explain(Request("elsewhere third one")).hit is not None


def test_a_clock_set_forward_expires_and_set_back_serves_again(bench: Bench, still: None) -> None:
    cache = bench.open(ttl=100.0)
    ask(cache)
    bench.clock.now += 1_000
    assert held(cache) is None and held(cache, SAME) is None
    bench.clock.now -= 1_000
    assert held(cache) == "in Basel"
    bench.clock.now += 1_000
    run_background_round(cache)  # now they are gone for good
    bench.clock.now -= 1_000
    assert held(cache) is None


# -- two models, large answers, many scopes --------------------------------------------------------


class OtherWords(WordEmbedder):
    """Other weights, and vectors of the same length: nothing but the fingerprint tells."""

    fingerprint = "0" * 64


@pytest.mark.parametrize("scan_limit", [20_000, 0], ids=["scanned", "indexed"])
def test_two_models_on_one_path_share_exact_repeats_and_no_vector(
    bench: Bench, tmp_path: Path, scan_limit: int
) -> None:
    other = calibrated(tmp_path / "other", fingerprint=OtherWords.fingerprint)
    one = bench.open(scan_limit=scan_limit)
    two = bench.open(scan_limit=scan_limit, embedder=OtherWords(), artefact=other)
    ask(one)
    ask(two, "who pays for lunch", "nobody")
    assert held(one, SAME) == "in Basel" and held(two, SAME) is None
    assert held(two, "for lunch who pays") == "nobody" and held(one, "for lunch who pays") is None
    assert held(two) == "in Basel" and held(one, "who pays for lunch") == "nobody"


def test_an_answer_of_ten_megabytes_is_stored_whole_where_that_is_allowed(bench: Bench) -> None:
    cache = bench.open(max_response_bytes=16 * 2**20)
    large = "0123456789\n" * (10 * 2**20 // 11)
    cache.update(Request("a"), large)
    assert held(cache, "a") == large
    part = large[: 2 * 2**20]  # the frameworks themselves take seconds for more
    model, llm = Chat().answering(part), ScriptedLLM(part)
    chat, cached = CachedChatModel(model, cache=cache), CachedLLM(llm=llm, cache=cache)
    for _ in range(2):
        assert chat.invoke(QUESTION).text == part
        assert cached.chat(user(QUESTION)).message.content == part
    assert (model.asked, llm.calls) == (1, 1)


@pytest.mark.usefixtures("still")
def test_memory_does_not_grow_with_the_scopes_of_a_namespace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with those whose entries are gone."""
    cache = bench.open(scan_memory_mb=1, ttl=10.0)
    memory = engine_of(cache).retriever._scan
    monkeypatch.setattr(memory, "max_bytes", 2**18)
    for number in range(400):
        cache.update(Request(QUESTION, scope=f"scope {number}"), "in Basel")
        assert cache.lookup(Request(SAME, scope=f"scope {number}")) is not None
    assert memory._held <= 2**18
    assert len(memory._partitions) < 2**18 / 1500
    assert engine_of(cache).retriever.indexed == {}
    dead = len(memory._partitions)
    for name in list(memory._partitions):
        memory.forget(name, list(range(3000)))
    assert memory._held == dead * 1500


# -- texts -----------------------------------------------------------------------------------------

TEXTS = {
    "combining": "e\u0301\u0327" * 50,
    "right to left": "\u202eabc \u05d0\u05d1",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "NUL": "a\x00b",
    "a lone surrogate": "a \ud800 b",
    "both halves apart": "\udc00\ud800",
    "the end of Unicode": "\U0010ffff\uffff",
    "long": "long question " * 8_000,
    "blank": " \u3000\t",
    "JSON": '{"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}',
    "SQL": "'; DROP TABLE semcache_entries; --",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_asked_and_answered_through_everything(bench: Bench, text: str) -> None:
    cache = bench.open()
    for namespace in ("a", f"n{text}"):
        request = Request(text, scope=text, namespace=namespace, tags=(text,))
        assert cache.get_or_create(request, lambda: text) == text
        assert cache.get_or_create(request, lambda: "again") == text
    assert held(cache, text) is None  # another scope
    assert cache.invalidate(tags=[text], namespace="a") == 1
    model, llm = Chat().answering(AIMessage(f"so {text}")), ScriptedLLM(f"so {text}")
    chat, cached = CachedChatModel(model, cache=cache), CachedLLM(llm=llm, cache=cache)
    for _ in range(2):
        assert chat.invoke(text).text == f"so {text}"
        assert cached.chat(user(text)).message.content == f"so {text}"
        assert cached.complete(text).text
    assert model.asked <= 2

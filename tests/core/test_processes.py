"""Several processes on one path: killed, writing at once, forked, taking over from each other."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from scripts_run import run_script
from semcache_core import Request, SemanticCache
from semcache_core.search.chroma import ChromaIndex
from semcache_core.search.remote import RemoteIndex
from semcache_core.testing import engine_of, run_background_round

pytestmark = pytest.mark.slow

TESTS = str(Path(__file__).parents[1])
SOAK_SECONDS = float(os.environ.get("SEMCACHE_SOAK_SECONDS", "5"))
KILLS, KILLS_WHILE_INDEXING = 50, 3

BEGIN = f"""
import json, logging, os, sys, time
sys.path.insert(0, {TESTS!r})
from pathlib import Path
from fakes import WordEmbedder
from large_scopes import settle
from semcache_core import Request, SemanticCache

def open_cache(scan_limit):
    return SemanticCache(
        path=Path(sys.argv[1]) / "cache",
        artefact=Path(sys.argv[1]) / "artefact",
        embedder=WordEmbedder(),
        scan_limit=scan_limit,
    )

def ask(name, i):
    return f"alpha{{name}} beta{{i}} gamma{{name}}{{i}}"

def say(*words):
    # one system call per line, so that a killed process says nothing by halves
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def ask(name: object, i: int) -> str:
    return f"alpha{name} beta{i} gamma{name}{i}"


def permuted(name: object, i: int) -> str:
    return f"gamma{name}{i} alpha{name} beta{i}"


class Child:
    """A Python process that runs `script`, read line by line."""

    def __init__(self, bench: Bench, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + script, str(bench.directory), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise AssertionError(f"the child has ended: {errors}")
        return line.rstrip("\n")

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self) -> str:
        out, errors = self.process.communicate("", timeout=120)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors, errors
        return out

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def child(bench: Bench) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(script: str, *arguments: str) -> Child:
        children.append(Child(bench, script, *arguments))
        return children[-1]

    yield start
    for one in children:
        one.kill()


# The nursery has imported everything and opened nothing; each line makes it fork a writer.
NURSERY = """
import numpy, sqlalchemy
for line in sys.stdin:
    name = line.strip()
    pid = os.fork()
    if pid == 0:
        cache = open_cache(10**6)
        for i in range(10**6):
            cache.update(Request(ask(name, i)), f"answer {name} {i}")
            say("stored", i)
    say("pid", pid)
    os.waitpid(pid, 0)
    say("dead")
"""


def test_fifty_killed_writers_lose_nothing_that_was_stored(
    bench: Bench, child: Callable[..., Child]
) -> None:
    nursery = child(NURSERY)
    chooser = random.Random(5)
    stored: dict[int, int] = {}
    for name in range(KILLS):
        nursery.tell(str(name))
        kill_after = chooser.randrange(1, 25)
        pid, last = 0, -1
        while last < kill_after or not pid:
            word, number = nursery.line().split()
            if word == "pid":
                pid = int(number)
            else:
                last = int(number)
        os.kill(pid, signal.SIGKILL)
        while (line := nursery.line()) != "dead":
            last = int(line.split()[1])
        stored[name] = last
    nursery.end()
    assert sum(stored.values()) > KILLS

    cache = bench.open(scan_limit=20)
    for searched_through in ("scan", "chroma"):
        if searched_through == "chroma":
            run_background_round(cache)
            run_background_round(cache)
            assert cache.stats().indexed_scopes == 1
        for name, last in stored.items():
            for i in range(last + 1):
                for question in (ask(name, i), permuted(name, i)):
                    hit = cache.lookup(Request(question))
                    assert hit is not None, (searched_through, name, i)
                    assert hit.response == f"answer {name} {i}"


INDEXING = """
from semcache_core.search.chroma import ChromaIndex
name, start = sys.argv[2], int(sys.argv[3])
original = ChromaIndex.add

def add(self, *arguments):
    say("indexing")
    begun.set()
    original(self, *arguments)
    say("indexed")

import threading
begun = threading.Event()
ChromaIndex.add = add
cache = open_cache(20)
for i in range(start, 10**6):
    cache.update(Request(ask("w", i)), f"answer {i}")
    say("stored", i)
    if i % 100 == 30:
        cache.lookup(Request("nothing like it"))
    if i == start + 300:
        begun.wait()
"""


def test_writers_killed_while_they_index_lose_nothing(
    bench: Bench, child: Callable[..., Child]
) -> None:
    chooser = random.Random(7)
    last = -1
    for n in range(KILLS_WHILE_INDEXING):
        writer = child(INDEXING, str(n), str(last + 1))
        word = ""
        while word != "indexing":
            word, *number = writer.line().split()
            last = int(number[0]) if word == "stored" else last
        for _ in range(chooser.randrange(0, 30)):
            word, *number = writer.line().split()
            last = int(number[0]) if word == "stored" else last
        writer.process.kill()
        for line in writer.process.communicate()[0].splitlines():
            word, *number = line.split()
            last = int(number[0]) if word == "stored" else last
    assert (bench.path / "index.open").exists()
    with bench.open() as scanning:
        assert found_by_meaning(scanning, last) == last + 1
    cache = bench.open(scan_limit=20)
    for _ in range(3):
        engine_of(cache).retriever.count_requested.set()
        run_background_round(cache)
    assert cache.stats().indexed_scopes == 1
    # HNSW is approximate: of these unclustered vectors it misses about one in a thousand
    assert found_by_meaning(cache, last) >= 0.99 * last


def found_by_meaning(cache: SemanticCache, last: int) -> int:
    found = 0
    for i in range(last + 1):
        hit = cache.lookup(Request(permuted("w", i)))
        assert hit is None or hit.response == f"answer {i}"
        found += hit is not None
    return found


SOAK = """
import random
name, seconds = sys.argv[2], float(sys.argv[3])
logging.basicConfig(stream=sys.stderr)
cache = open_cache(50)
chooser = random.Random(name)
say("ready")
sys.stdin.readline()
until = time.monotonic() + seconds
n = missed = 0
while time.monotonic() < until:
    cache.update(Request(ask(name, n)), f"{name} {n}", tags=[name])
    cache.update(Request(f"shared{n % 5} between{n % 5} us{n % 5}"), f"shared {n % 5}")
    n += 1
    for i in (n - 1, chooser.randrange(n)):
        hit = cache.lookup(Request(ask(name, i)))
        assert hit is not None and hit.response == f"{name} {i}", (i, hit)
        hit = cache.lookup(Request(f"gamma{name}{i} alpha{name} beta{i}"))
        assert hit is None or hit.response == f"{name} {i}", (i, hit)
        missed += hit is None
    k = chooser.randrange(min(n, 5))
    hit = cache.lookup(Request(f"us{k} shared{k} between{k}"))
    assert hit is not None and hit.response == f"shared {k}", (k, hit)
    other = "b" if name == "a" else "a"
    hit = cache.lookup(Request(f"gamma{other}{n} alpha{other} beta{n}"))
    assert hit is None or hit.response == f"{other} {n}", hit
stats = cache.stats()
cache.close()
say(json.dumps({"n": n, "missed": missed, "indexed": stats.indexed_scopes}))
"""


def test_two_processes_that_write_and_read_one_path_lose_nothing(
    bench: Bench, child: Callable[..., Child]
) -> None:
    pair = {name: child(SOAK, name, str(SOAK_SECONDS)) for name in "ab"}
    for one in pair.values():
        assert one.line() == "ready"
    for one in pair.values():
        one.tell("go")
    found = {name: json.loads(one.end()) for name, one in pair.items()}
    cache = bench.open()
    for name, counts in found.items():
        assert counts["n"] > 0
        # HNSW is approximate; whoever does not own the index scans, and misses nothing
        assert counts["missed"] <= (0.01 * counts["n"] if counts["indexed"] else 0)
        for i in range(counts["n"]):
            for question in (ask(name, i), permuted(name, i)):
                hit = cache.lookup(Request(question))
                assert hit is not None and hit.response == f"{name} {i}", question
    assert cache.stats().entries == sum(counts["n"] for counts in found.values()) + 5
    assert cache.invalidate(tags=["a"]) == found["a"]["n"]


HOLDS = """
logging.basicConfig(stream=sys.stderr, format="%(message)s")
from semcache_core.testing import engine_of, run_background_round
from semcache_core.pipeline.background import BackgroundWorker
BackgroundWorker.start = lambda self: None
cache = open_cache(20)
for i in range(120):
    cache.update(Request(ask("c", i)), f"answer {i}")

def settle():
    engine_of(cache).retriever.count_requested.set()
    for _ in range(3):
        engine_of(cache).background._index_sync._retry_at = 0.0
        run_background_round(cache)

settle()
say("indexed", cache.stats().indexed_scopes)
for line in sys.stdin:
    if line.strip() == "close":
        cache.close()
        say("closed")
        break
"""


def _settle(cache: SemanticCache) -> None:
    engine_of(cache).retriever.count_requested.set()
    for _ in range(3):
        engine_of(cache).background._index_sync._retry_at = 0.0
        run_background_round(cache)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("ends", ["closes", "is killed"])
def test_a_second_process_asks_the_owner_until_that_ends_and_then_takes_over(
    ends: str, bench: Bench, child: Callable[..., Child], warnings_of: Any
) -> None:
    owner = child(HOLDS)
    assert owner.line() == "indexed 1"
    cache = bench.open(scan_limit=20)
    _settle(cache)
    _settle(cache)
    assert isinstance(engine_of(cache).retriever.index, RemoteIndex)
    assert len(warnings_of("another process owns")) == 1
    for i in range(120):
        hit = cache.lookup(Request(permuted("c", i)))
        assert hit is not None and hit.response == f"answer {i}"
    assert not warnings_of("large scopes are scanned")
    if ends == "closes":
        owner.tell("close")
        assert owner.line() == "closed"
        owner.end()
    else:
        owner.kill()
    # before the upkeep has noticed: scanned
    hit = cache.lookup(Request(permuted("c", 7)))
    assert hit is not None and hit.response == "answer 7"
    _settle(cache)
    assert isinstance(engine_of(cache).retriever.index, ChromaIndex)
    assert cache.stats().indexed_scopes == 1
    for i in range(120):
        hit = cache.lookup(Request(permuted("c", i)))
        assert hit is not None and hit.response == f"answer {i}"


OPENS = """
sys.stdin.readline()
cache = open_cache(10**6)
cache.update(Request(ask(sys.argv[2], 0)), "a")
cache.close()
"""


def test_processes_that_open_a_new_path_at_once_share_it(
    bench: Bench, child: Callable[..., Child]
) -> None:
    children = [child(OPENS, str(n)) for n in range(6)]
    for one in children:
        one.tell("go")
    for one in children:
        one.end()
    cache = bench.open()
    assert all(cache.lookup(Request(ask(n, 0))) is not None for n in range(6))


# -- fork ----------------------------------------------------------------------------------------

FORKS = (
    BEGIN
    + """
from semcache_core.testing import engine_of, run_background_round
import faulthandler, gc, multiprocessing, signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)
# not dump_traceback_later: a child would wait for its thread, which stays in the parent
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(100)
in_memory = sys.argv[2] == "memory"

def open_in(limit):
    if not in_memory:
        return open_cache(limit)
    artefact = Path(sys.argv[1]) / "artefact"
    return SemanticCache(path=None, artefact=artefact, embedder=WordEmbedder(), scan_limit=limit)

def fill(cache, name, n):
    for i in range(n):
        cache.update(Request(ask(name, i)), f"answer {name} {i}")

def settle(cache):
    engine_of(cache).retriever.count_requested.set()
    for _ in range(3):
        engine_of(cache).background._index_sync._retry_at = 0.0
        run_background_round(cache)

def finds(cache, name, n):
    for i in range(n):
        for question in (ask(name, i), f"gamma{name}{i} alpha{name} beta{i}"):
            hit = cache.lookup(Request(question))
            assert hit is not None and hit.response == f"answer {name} {i}", (question, hit)

def in_child(work, leave=os._exit):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        leave(0)
    assert os.waitpid(pid, 0)[1] == 0

def locked():
    import subprocess
    code = "import sys; from filelock import FileLock, Timeout\\n"
    code += "try: FileLock(sys.argv[1], timeout=0).acquire()\\nexcept Timeout: sys.exit(7)"
    lock = str(Path(sys.argv[1]) / "cache" / "index.lock")
    return subprocess.run([sys.executable, "-c", code, lock]).returncode == 7

cache = open_in(20)
fill(cache, "parent", 120)
settle(cache)
assert cache.stats().indexed_scopes == 1
"""
)


def _run(bench: Bench, script: str, where: str) -> None:
    run_script(FORKS + script, bench.directory, where, timeout=150)


@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_a_forked_child_works_on_and_harms_nothing_of_its_parent(leave: str, bench: Bench) -> None:
    _run(
        bench,
        f"""
def work():
    finds(cache, "parent", 120)
    fill(cache, "child", 130)
    settle(cache)
    finds(cache, "child", 130)

in_child(work, {leave})
assert locked()
assert cache.stats().indexed_scopes == 1
finds(cache, "child", 130)
fill(cache, "after", 120)
settle(cache)
finds(cache, "after", 120)

def drop():
    global cache
    finds(cache, "after", 5)
    cache = None
    gc.collect()

in_child(drop, {leave})
assert locked()
in_child(lambda: cache.close(), {leave})
assert locked()
finds(cache, "parent", 120)
cache.close()
assert not locked()
""",
        "file",
    )


def test_what_a_child_stores_after_its_parent_has_closed_is_kept(bench: Bench) -> None:
    _run(
        bench,
        """
told, tell = os.pipe()
stored, store = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(60)
    fill(cache, "before", 5)
    os.write(store, b"x")
    os.read(told, 1)
    fill(cache, "after", 130)
    settle(cache)
    finds(cache, "after", 130)
    os._exit(0)
os.read(stored, 1)
cache.close()
os.write(tell, b"x")
assert os.waitpid(pid, 0)[1] == 0
cache = open_in(20)
for name, n in (("parent", 120), ("before", 5), ("after", 130)):
    finds(cache, name, n)
cache.close()
""",
        "file",
    )


def test_children_may_be_forked_while_threads_write(bench: Bench) -> None:
    _run(
        bench,
        """
import threading
stop = threading.Event()

def write(name):
    i = 0
    while not stop.is_set():
        cache.update(Request(ask(name, i)), f"answer {name} {i}")
        cache.lookup(Request(ask(name, i)))
        i += 1
    counts[name] = i

counts = {}
threads = [threading.Thread(target=write, args=(f"t{n}",)) for n in range(3)]
for thread in threads:
    thread.start()
for n in range(15):
    def work():
        fill(cache, f"c{n}", 3)
        finds(cache, f"c{n}", 3)
    in_child(work)
stop.set()
for thread in threads:
    thread.join()
for name, n in counts.items():
    finds(cache, name, n)
for n in range(15):
    finds(cache, f"c{n}", 3)
cache.close()
""",
        "file",
    )


def test_multiprocessing_children_and_their_children_work(bench: Bench) -> None:
    _run(
        bench,
        """
def grandchild():
    fill(cache, "grandchild", 3)
    finds(cache, "parent", 10)

def work():
    gc.collect()
    process = context.Process(target=grandchild)
    process.start()
    process.join(50)
    assert process.exitcode == 0
    finds(cache, "grandchild", 3)

context = multiprocessing.get_context("fork")
process = context.Process(target=work)
process.start()
process.join(60)
assert process.exitcode == 0
assert locked()
finds(cache, "grandchild", 3)
cache.close()
""",
        "file",
    )


def test_a_cache_in_memory_starts_empty_in_a_child(bench: Bench) -> None:
    _run(
        bench,
        """
def work():
    assert cache.stats().entries == 0
    assert cache.lookup(Request(ask("parent", 1))) is None
    fill(cache, "child", 130)
    settle(cache)
    finds(cache, "child", 130)
    another = open_in(20)
    fill(another, "another", 130)
    settle(another)
    finds(another, "another", 130)
    another.close()
    cache.close()

in_child(work)
finds(cache, "parent", 120)
assert cache.lookup(Request(ask("child", 1))) is None
cache.close()
""",
        "memory",
    )


def test_a_child_of_a_closed_cache_has_a_closed_cache(bench: Bench) -> None:
    _run(
        bench,
        """
from semcache_core import SemcacheError
cache.close()

def work():
    try:
        cache.lookup(Request("q"))
    except SemcacheError:
        return
    raise AssertionError("open")

in_child(work)
""",
        "file",
    )


def test_closing_during_a_fork_does_not_hang(bench: Bench) -> None:
    _run(
        bench,
        """
import threading
for n in range(10):
    one = open_in(10**6)
    one.update(Request("q"), "a")
    thread = threading.Thread(target=one.close)
    thread.start()
    in_child(lambda: None)
    thread.join(30)
    assert not thread.is_alive()
cache.close()
""",
        "file",
    )

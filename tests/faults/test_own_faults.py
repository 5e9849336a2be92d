"""Faults of the process itself, such as its end, leave the vector index as it was."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from large_scopes import assert_finds, fill, settle
from semcache_core.search import embedded
from semcache_core.search.chroma import ChromaIndex

pytestmark = pytest.mark.usefixtures("still")
LIMIT, ENTRIES = 20, 120

OPENS = f"""
import os, signal, sys, time
# a child of a background job would ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from fakes import WordEmbedder
from semcache_core import SemanticCache

path, artefact, seconds = sys.argv[1:]
cache = SemanticCache(path=path, artefact=artefact, embedder=WordEmbedder(), scan_limit=20)
cache.stats()
print("open", flush=True)
time.sleep(float(seconds))
"""


def opening(bench: Bench, script: str, seconds: float) -> "subprocess.Popen[str]":
    """A process that opens the cache, waits, and goes on with `script`; it closes nothing."""
    command = [sys.executable, "-c", OPENS + script]
    command += [str(bench.path), str(bench.artefact), str(seconds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.4])
def test_a_process_that_ends_right_after_opening_leaves_the_index_as_it_was(
    seconds: float, bench: Bench, index_file: int
) -> None:
    child = opening(bench, "", seconds)
    _, errors = child.communicate(timeout=120)
    assert (errors, child.returncode) == ("", 0)
    assert_is_as_it_was(bench, index_file)


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.6])
def test_a_process_interrupted_right_after_opening_leaves_the_index_as_it_was(
    seconds: float, bench: Bench, index_file: int
) -> None:
    child = opening(bench, "", 60)
    assert child.stdout is not None
    assert child.stdout.readline() == "open\n"
    threading.Event().wait(seconds)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert child.returncode != 0
    assert "vector index" not in errors
    assert_is_as_it_was(bench, index_file)


FORKS = """
if (child := os.fork()):
    sys.exit(os.waitpid(child, 0)[1])
cache.stats()
time.sleep(0.3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_process_forked_while_the_index_opens_leaves_it_as_it_was(
    seconds: float, bench: Bench, index_file: int
) -> None:
    child = opening(bench, FORKS, seconds)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0
    assert "failed" not in errors
    assert_is_as_it_was(bench, index_file)


def test_a_check_of_the_index_that_takes_too_long_does_not_condemn_it(
    bench: Bench, index_file: int, monkeypatch: pytest.MonkeyPatch, warnings_of: Any
) -> None:
    (bench.path / "index.open").touch()  # as an unclean stop leaves it, so that it is checked
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "PROBE_SECONDS", 0.05)  # no process starts in that
        cache = bench.open(scan_limit=LIMIT)
        settle(cache, 1)
        assert cache.stats().indexed_scopes == 0
        assert_finds(cache, step=20)
        assert warnings_of("its check takes longer")
        cache.close()
    assert_is_as_it_was(bench, index_file)


@pytest.fixture
def index_file(bench: Bench) -> int:
    """An index at rest; returns the inode of its database."""
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)
    cache.close()
    return (bench.path / "chroma" / "chroma.sqlite3").stat().st_ino


def assert_is_as_it_was(bench: Bench, index_file: int) -> None:
    """The next process uses the very same index, and none was set aside."""
    assert not (bench.path / "chroma.broken").exists()
    cache = bench.open(scan_limit=LIMIT)
    settle(cache, 1)
    assert cache.stats().indexed_scopes == 1
    assert_finds(cache, step=20)
    assert (bench.path / "chroma" / "chroma.sqlite3").stat().st_ino == index_file
    assert not (bench.path / "chroma.broken").exists()


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
    ids=lambda fault: type(fault).__name__,
)
@pytest.mark.parametrize("call", ["_upsert", "_collection"])
def test_a_process_without_means_does_not_take_its_index_for_broken(
    call: str, fault: Exception, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = bench.open(scan_limit=LIMIT)
    fill(cache)
    settle(cache)

    def fail(*arguments: Any, **named: Any) -> Any:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(ChromaIndex, call, fail)
        fill(cache, ENTRIES, 2 * ENTRIES)
        assert_finds(cache, stop=2 * ENTRIES, step=20)
        settle(cache, 1)
    assert not (bench.path / "chroma.broken").exists()
    settle(cache, 1)
    assert cache.stats().indexed_scopes == 1
    assert_finds(cache, stop=2 * ENTRIES, step=20)

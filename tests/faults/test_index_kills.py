"""kill -9 in every phase of following the ledger: the next process finds every entry.

SEMCACHE_SOAK_ENTRIES=100000 runs it at the size of a large scope.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.retriever import Retriever
from semcache_core.search.sync import IndexSync
from semcache_core.storage.entries import ImportedEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Matrix

ENTRIES = int(os.environ.get("SEMCACHE_SOAK_ENTRIES", "700"))
PARTITION, MODEL, BATCH = b"p" * 32, "f" * 64, 1000

CHILD = """
import os, signal, sys, threading
from pathlib import Path
from semcache_core.search import compaction
from semcache_core.storage.index_state import IndexState
from semcache_core.search.chroma import ChromaIndex
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.sync import IndexSync
from semcache_core.storage.ledger import Ledger
from semcache_core.search.compaction import Compaction
from semcache_core.search.retriever import Retriever

import chromadb  # once, before the processes that are killed are forked: it takes a second
for argument in sys.argv[2:]:
    if not (pid := os.fork()):
        break
    if (ended := os.waitpid(pid, 0)[1]) != signal.SIGKILL:
        sys.exit(f"{argument}: {ended}")
else:
    sys.exit()
path, phase, calls = Path(sys.argv[1]), *argument.split("=")
calls = int(calls)
ledger = Ledger.open(path, None)
retrieval = Retriever(ledger, "f" * 64, 0, 2**40)
indexer = IndexSync(ledger, retrieval, 0, EmbeddedIndex(path), None)

def die_in(owner, name, after):
    original, seen = getattr(owner, name), []
    def wrapped(*arguments, **options):
        seen.append(1)
        if len(seen) < calls:
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, wrapped)

def thread_dies(owner, name):
    # in the middle of the call, wherever that is by then
    original = getattr(owner, name)
    def wrapped(*arguments, **options):
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return original(*arguments, **options)
    setattr(owner, name, wrapped)

if phase in ("removing", "closing", "copying", "copied", "swapped", "dropping"):
    indexer.step(0, threading.Event())
if phase == "filling":
    thread_dies(ChromaIndex, "add")
elif phase == "added":
    die_in(IndexState, "advance", after=False)
elif phase == "noted":
    die_in(IndexState, "advance", after=True)
elif phase == "removing":
    die_in(ChromaIndex, "remove", after=False)
    ledger.entries.delete(7)
elif phase == "closing":
    thread_dies(ChromaIndex, "close")
elif phase == "copying":
    die_in(ChromaIndex, "add", after=True)
elif phase == "copied":
    die_in(IndexState, "swap", after=False)
elif phase == "swapped":
    die_in(IndexState, "swap", after=True)
elif phase == "dropping":
    calls = 1
    compaction.RETIRE_SECONDS = 0.0
    die_in(ChromaIndex, "drop", after=True)
if phase in ("copying", "copied", "swapped", "dropping"):
    indexer.rebuild(threading.Event())
if phase != "closing":
    indexer.step(0, threading.Event())
indexer.close()
os.kill(os.getpid(), signal.SIGKILL)
"""


def vectors() -> Matrix:
    rows = np.random.default_rng(3).normal(size=(ENTRIES, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(path: Path) -> None:
    ledger, rows = Ledger.open(path, None), vectors()
    for start in range(0, ENTRIES, BATCH):
        arrivals = [
            ImportedEntry(
                exact=i.to_bytes(32, "big"),
                partition=PARTITION,
                namespace="n",
                scope="",
                exact_only=False,
                question=f"q{i}",
                response=f"a{i}",
                created=0.0,
                expires=None,
                cost=None,
                tags=(),
                fingerprint=MODEL,
                vector=rows[i],
            )
            for i in range(start, min(start + BATCH, ENTRIES))
        ]
        assert ledger.entries.insert_newer(arrivals, 0.0) == len(arrivals)
    ledger.close()


def kill_in(path: Path, phases: Sequence[str]) -> None:
    """One process after another, each killed in its phase, written phase=call."""
    arguments = [sys.executable, "-c", CHILD, str(path), *phases]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def assert_nothing_is_lost(path: Path) -> None:
    import threading

    ledger, rows = Ledger.open(path, None), vectors()
    retrieval = Retriever(ledger, MODEL, 0, 2**40)
    indexer = IndexSync(ledger, retrieval, 0, EmbeddedIndex(path), None)
    try:
        for settled in (False, True):
            if settled:
                indexer.step(0, threading.Event())
                indexer._retry_at = 0.0
                indexer.step(0, threading.Event())
                assert retrieval.indexed
                assert retrieval.index is not None
            sample = range(0, ENTRIES, max(1, ENTRIES // 100))
            living = [i for i in sample if ledger.lookups.get(i + 1, PARTITION, 0.0) is not None]
            assert len(living) >= len(sample) - 1  # one was deleted
            found = [
                i + 1 in [one.entry.id for one in retrieval.nearest(PARTITION, rows[i], 0.0)]
                for i in living
            ]
            # HNSW is approximate, the scan is not
            assert sum(found) >= (0.99 if settled else 1.0) * len(found)
        live = ledger.index_state(MODEL).all()[PARTITION]
        assert live.through == ENTRIES
    finally:
        indexer.close()
        ledger.close()
    # only the live collection's, and no other
    assert len([p for p in (path / "chroma").iterdir() if p.is_dir()]) == 1


@pytest.mark.parametrize(
    "phases",
    [
        ["filling=1", "added=1", "noted=2", "closing=1"],
        ["copying=2", "copied=1", "swapped=1"],
        ["dropping=1", "removing=1"],
    ],
    ids=["while filling", "while making anew", "while dropping and removing"],
)
def test_a_process_killed_in_any_phase_loses_nothing(phases: list[str], tmp_path: Path) -> None:
    fill(tmp_path)
    kill_in(tmp_path, phases)
    assert_nothing_is_lost(tmp_path)

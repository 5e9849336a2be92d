"""What lies on the disk is its owner's alone, whatever the umask; and nothing there is run."""

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Bench
from semcache_core import Request
from semcache_core.testing import engine_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared/semcache_core", "langchain_semcache", "llamaindex_semcache")
RUNS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
"""Modules that run code when they read."""
WRITES = dict.fromkeys(
    (
        "langchain_semcache/langgraph.py",
        "llamaindex_semcache/llm.py",
        "shared/semcache_core/pipeline/engine.py",
    ),
    "dumps",
)
"""Where something is pickled, and never read back."""


@pytest.fixture(params=[0o000, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def reachable(directory: Path) -> list[str]:
    """What others than the owner may open, or make, below a directory they may enter."""
    found = []
    for inside in sorted(directory.iterdir()):
        status = inside.lstat()
        if stat.S_IMODE(status.st_mode) & 0o077:
            found.append(inside.name)
            if inside.is_dir():
                found += [f"{inside.name}/{name}" for name in reachable(inside)]
    return found


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("there", [False, True], ids=["new directory", "open directory"])
def test_no_file_under_the_path_is_open_to_others(bench: Bench, there: bool) -> None:
    if there:
        bench.path.mkdir(mode=0o755)
        (bench.path / "chroma").mkdir(mode=0o755)  # of an older version
    with bench.open(scan_limit=0) as cache:
        cache.update(Request("where is the office"), "in Basel")
        cache.rebuild()
        cache.lookup(Request("the office is where"))
        assert cache.stats().indexed_scopes == 1
        cache.export_entries(bench.path / "export.jsonl", vectors=True)
        kept = {file.name for file in bench.path.iterdir()}
        assert {"ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm"} <= kept
        assert {"index.lock", "index.open", "chroma", "export.jsonl"} <= kept
        assert reachable(bench.path) == []
        with engine_of(cache).background.paused() as indexer:
            indexer._abandon("the test says that it is broken")  # sets it aside
        assert (bench.path / "chroma.broken").exists()
        assert reachable(bench.path) == []
    assert there or stat.S_IMODE(bench.path.stat().st_mode) == 0o700


@pytest.mark.usefixtures("umask")
def test_a_ledger_that_was_deleted_comes_back_for_its_owner_alone(bench: Bench) -> None:
    cache = bench.open()
    cache.update(Request("where is the office"), "in Basel")
    for file in bench.path.iterdir():
        file.unlink()
    cache.get_or_create(Request("a"), lambda: "b")
    cache.get_or_create(Request("a"), lambda: "b")
    assert (bench.path / "ledger.sqlite3").exists()
    assert reachable(bench.path) == []


def modules() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def test_no_module_reads_what_runs_code() -> None:
    for file in modules():
        name = str(file.relative_to(ROOT))
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in RUNS, name
            elif isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
                assert not imported & RUNS or name in WRITES, name
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "__import__", "yaml.load"), name
                options = {one.arg: ast.unparse(one.value) for one in node.keywords}
                if called in ("np.load", "numpy.load"):
                    assert options.get("allow_pickle") == "False", name
                if called == "torch.load":
                    assert options.get("weights_only") == "True", name
                if called.split(".")[0] in RUNS and called.count(".") == 1:
                    assert called == f"pickle.{WRITES[name]}", name


def test_the_check_above_looks_at_all_that_is_installed() -> None:
    names = {file.name for file in modules()}
    assert {"ledger.py", "lookups.py", "langgraph.py", "llm.py", "checkpoint.py"} <= names

"""Run llama-index-core's own tests of stores and ingestion with SemcacheKVStore in their place.

    git clone --depth 1 --branch v0.14.25 https://github.com/run-llama/llama_index CHECKOUT
    python scripts/upstream_llamaindex.py CHECKOUT

The tag is the installed version's: tests of another one may ask for what it does not have. They are
taken from a checkout as no distribution of llama-index-core holds them, and copied into a temporary
directory, so that it is the installed package that is tested. Exits with 0 when they pass, but for
`EXCEPTIONS`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_index.core

SUITES = ["storage/kvstore", "ingestion/test_cache.py", "ingestion/test_pipeline.py"]
# Test -> why it cannot pass. One that passes all the same is reported, and is a failure too.
EXCEPTIONS = {
    "storage/kvstore/test_simple_kvstore.py::test_kvstore_persist": "there is nothing to persist",
    "storage/kvstore/test_simple_kvstore.py::test_kvstore_dict": "it is no dict in memory",
    "ingestion/test_pipeline.py::test_save_load_pipeline": "load() wants a file that persist() "
    "writes for SimpleKVStore alone",
    "ingestion/test_pipeline.py::test_save_load_pipeline_without_docstore": "as the one above",
}

# Stands for both of LlamaIndex's own stores, in the tests' modules and as the default of a cache.
PLUGIN = """
import shutil
import tempfile
from typing import Any

import pytest
from llama_index.core.ingestion import IngestionCache
from llamaindex_semcache.kvstore import SemcacheKVStore

opened = []


class OurKVStore(SemcacheKVStore):
    def __init__(self, *given: Any) -> None:
        path = tempfile.mkdtemp()  # on a disk: the workers of a pipeline share it
        super().__init__(path=path)
        opened.append((self, path))


IngestionCache.model_fields["cache"].default_factory = OurKVStore
IngestionCache.model_rebuild(force=True)


@pytest.fixture
def simple_kvstore():
    return OurKVStore()


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        for name in ("SimpleKVStore", "MutableMappingKVStore"):
            if hasattr(module, name):
                setattr(module, name, OurKVStore)
                print(name, "replaced in", module.__name__)


@pytest.fixture(autouse=True)
def close_stores():
    yield
    while opened:
        store, path = opened.pop()
        store.cache.close()
        shutil.rmtree(path)
"""


def main() -> int:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        copy(Path(sys.argv[1]), Path(directory))
        outcomes = run(Path(directory))
    return report(outcomes)


def copy(checkout: Path, directory: Path) -> None:
    """The suites of a checkout, with the plugin beside them."""
    tests = checkout / "llama-index-core" / "tests"
    for suite in SUITES:
        if not (tests / suite).exists():
            raise SystemExit(
                f"there is no {tests / suite}; give a checkout of run-llama/llama_index"
            )
        target = directory / "tests" / suite
        target.parent.mkdir(parents=True, exist_ok=True)
        if (tests / suite).is_dir():
            shutil.copytree(tests / suite, target)
        else:
            shutil.copy(tests / suite, target)
    (directory / "semcache_plugin.py").write_text(PLUGIN)


def run(directory: Path) -> dict[str, str]:
    """Test -> passed, failed, skipped ..., as pytest says."""
    # a worker of a pipeline fetches its tokenizer from the network, unless told where it has it
    tokenizer = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    # Without the settings and conftest of either project; `python -m` puts the plugin on the path,
    # for the workers of a pipeline too.
    pytest = [sys.executable, "-m", "pytest", "-p", "semcache_plugin", "-p", "no:cacheprovider"]
    settings = ["-c", "/dev/null", "--rootdir", ".", "--noconftest", "-o", "asyncio_mode=auto"]
    done = subprocess.run(
        [*pytest, *settings, "-v", *(f"tests/{suite}" for suite in SUITES)],
        cwd=directory,
        env={**os.environ, "TIKTOKEN_CACHE_DIR": str(tokenizer)},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = re.findall(r"^tests/(\S+::\S+) ([A-Z]+)", done.stdout, re.MULTILINE)
    if not outcomes or done.returncode not in (0, 1):
        print(done.stdout, done.stderr, sep="\n")
        raise SystemExit("pytest did not run the suites")
    print(*re.findall(r"\S+ replaced in .*", done.stdout), sep="\n")
    return {test: outcome.lower() for test, outcome in outcomes}


def report(outcomes: dict[str, str]) -> int:
    wrong = 0
    for test, outcome in outcomes.items():
        reason = EXCEPTIONS.get(test)
        good = outcome in ("passed", "skipped", "xfail")
        expected = good is (reason is None)
        wrong += not expected
        print(f"{outcome:8}", "  " if expected else "!!", test, f"({reason})" if reason else "")
    passed = sum(outcome == "passed" for outcome in outcomes.values())
    print(f"{passed} of {len(outcomes)} passed, {len(EXCEPTIONS)} exceptions, {wrong} unexpected")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

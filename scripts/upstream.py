"""Run a framework's own tests with semcache's class in the place of the framework's.

python scripts/upstream.py langchain
python scripts/upstream.py llamaindex CHECKOUT

`langchain` downloads the source distribution of the installed langchain-core with pip. No
distribution of llama-index-core has its tests, so `llamaindex` takes a checkout of the tag of the
installed version: git clone --depth 1 --branch v0.14.25 https://github.com/run-llama/llama_index.
The tests run in a temporary directory against the installed packages. Exits with 0 if all pass
but the exceptions listed here.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Suite:
    """`exceptions`: test -> why it cannot pass; one that passes all the same is a failure too."""

    tests: tuple[str, ...]
    plugin: str
    exceptions: dict[str, str]


# Puts our cache into every module that has an InMemoryCache, its own or langchain-core's. Tests
# look at the private `_cache`, a dict of the stored generations: read from the ledger here.
LANGCHAIN_PLUGIN = """
import pytest
import sqlalchemy as sa
from langchain_semcache import SemanticLLMCache
from langchain_semcache.serialization import load_generations
from semcache_core.storage.schema import entries
from semcache_core.testing import engine_of

opened = []


class InMemoryCache(SemanticLLMCache):
    def __init__(self, *, maxsize=None):
        super().__init__(path=None, max_entries=maxsize)
        self._maxsize = maxsize
        opened.append(self)

    @property
    def _cache(self):
        query = sa.select(entries.c.id, entries.c.response).order_by(entries.c.id)
        rows = engine_of(self.cache).ledger.read(query, {})
        return Rows({key: load_generations(text) for key, text in rows}, self)

    @_cache.setter
    def _cache(self, rows):
        self.cache = rows.of.cache

    def __len__(self):
        return len(self._cache)


class Rows(dict):
    def __init__(self, rows, of):
        super().__init__(rows)
        self.of = of

    def copy(self):
        return self


def pytest_collection_modifyitems(items):
    replaced = {item.module for item in items if hasattr(item.module, "InMemoryCache")}
    for module in replaced:
        module.InMemoryCache = InMemoryCache
    print("InMemoryCache replaced in", ", ".join(sorted(module.__name__ for module in replaced)))


@pytest.fixture(autouse=True)
def close_caches():
    yield
    while opened:
        opened.pop().cache.close()
"""

# Replaces both of LlamaIndex's own stores, in the tests' modules and as the default of a cache.
LLAMAINDEX_PLUGIN = """
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

LANGCHAIN = Suite(
    (
        "tests/unit_tests/caches",
        "tests/unit_tests/language_models/chat_models/test_cache.py",
        "tests/unit_tests/language_models/llms/test_cache.py",
    ),
    LANGCHAIN_PLUGIN,
    {
        "tests/unit_tests/caches/test_in_memory_cache.py::test_initialization": (
            "wants InMemoryCache's own words for maxsize=0; ours is a SettingsError about "
            "max_entries"
        ),
    },
)
LLAMAINDEX = Suite(
    ("tests/storage/kvstore", "tests/ingestion/test_cache.py", "tests/ingestion/test_pipeline.py"),
    LLAMAINDEX_PLUGIN,
    {
        "tests/storage/kvstore/test_simple_kvstore.py::test_kvstore_persist": (
            "there is nothing to persist"
        ),
        "tests/storage/kvstore/test_simple_kvstore.py::test_kvstore_dict": (
            "it is no dict in memory"
        ),
        "tests/ingestion/test_pipeline.py::test_save_load_pipeline": (
            "load() wants a file that persist() writes for SimpleKVStore alone"
        ),
        "tests/ingestion/test_pipeline.py::test_save_load_pipeline_without_docstore": (
            "as the one above"
        ),
    },
)


def main() -> int:
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if given == ["langchain"]:
            return run(LANGCHAIN, fetch_langchain(directory))
        if len(given) == 2 and given[0] == "llamaindex":
            # out of the checkout, so that the installed package is tested
            tests = Path(given[1]) / "llama-index-core" / "tests"
            shutil.copytree(tests, directory / "tests")
            return run(LLAMAINDEX, directory)
    raise SystemExit(__doc__)


def fetch_langchain(directory: Path) -> Path:
    """The unpacked source distribution of the installed version."""
    wanted = f"langchain-core=={importlib.metadata.version('langchain-core')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    only_source = ["--no-deps", "--no-binary", ":all:", "--dest", str(directory), wanted]
    subprocess.run([*pip, *only_source], check=True)
    (archive,) = directory.glob("*.tar.gz")
    shutil.unpack_archive(archive, directory)
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def run(suite: Suite, directory: Path) -> int:
    """Run the tests and compare each outcome with what is expected."""
    (directory / "semcache_plugin.py").write_text(suite.plugin)
    # a worker of a LlamaIndex pipeline downloads its tokenizer, unless it is given the path
    spec = importlib.util.find_spec("llama_index.core")
    env = dict(os.environ)
    if spec is not None and spec.origin is not None:
        env["TIKTOKEN_CACHE_DIR"] = str(Path(spec.origin).parent / "_static" / "tiktoken_cache")
    # without the settings and conftest of either project, which need more packages; `python -m`
    # puts the plugin on the path, also for the workers of a pipeline
    pytest = [sys.executable, "-m", "pytest", "-p", "semcache_plugin", "-p", "no:cacheprovider"]
    options = ["-c", "/dev/null", "--rootdir", ".", "--noconftest", "-o", "asyncio_mode=auto", "-v"]
    done = subprocess.run(
        [*pytest, *options, *suite.tests], cwd=directory, env=env, capture_output=True, text=True
    )
    outcomes = re.findall(r"^(tests/\S+::\S+) ([A-Z]+)", done.stdout, re.MULTILINE)
    if not outcomes or done.returncode not in (0, 1):
        raise SystemExit(f"{done.stdout}\n{done.stderr}\npytest did not run the tests")
    print(*re.findall(r"\S+ replaced in .*", done.stdout), sep="\n")
    wrong = 0
    for test, outcome in outcomes:
        reason = suite.exceptions.get(test)
        expected = (outcome in ("PASSED", "SKIPPED", "XFAIL")) is (reason is None)
        wrong += not expected
        print(
            f"{outcome.lower():8}",
            "  " if expected else "!!",
            test,
            f"({reason})" if reason else "",
        )
    print(f"{len(outcomes)} tests, {len(suite.exceptions)} exceptions, {wrong} unexpected")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Run langchain-core's own cache tests with SemanticLLMCache in InMemoryCache's place.

    python scripts/upstream_langchain.py

Fetches the source distribution of the installed langchain-core with pip, unpacks it into a
temporary directory and runs its tests there. Exits with 0 when they pass, but for `EXCEPTIONS`.
"""

import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SUITES = [
    "tests/unit_tests/caches",
    "tests/unit_tests/language_models/chat_models/test_cache.py",
    "tests/unit_tests/language_models/llms/test_cache.py",
]
# Test -> why it cannot pass. One that passes all the same is reported, and is a failure too.
EXCEPTIONS = {
    "caches/test_in_memory_cache.py::test_initialization": (
        "wants InMemoryCache's own words for maxsize=0; ours is a SettingsError about max_entries"
    ),
}

# Puts our cache into every module that has an InMemoryCache, its own or langchain-core's. Tests
# look at the private `_cache`, a dict of the stored generations: read from the ledger here.
PLUGIN = """
import pytest
from langchain_semcache import SemanticLLMCache
from langchain_semcache.serialization import load_generations

opened = []


class InMemoryCache(SemanticLLMCache):
    def __init__(self, *, maxsize=None):
        super().__init__(path=None, max_entries=maxsize, **OPTIONS)
        self._maxsize = maxsize
        opened.append(self)

    @property
    def _cache(self):
        query = "SELECT id, response FROM semcache_entries ORDER BY id"
        with self.cache._use().ledger._engine.connect() as connection:
            rows = connection.exec_driver_sql(query).all()
        return Rows({key: load_generations(bytes(text).decode()) for key, text in rows}, self)

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
# Without the shipped model, the tests' own stand-in does: same words, same vector.
SHIPPED = "OPTIONS = {}\n"
STAND_IN = """
import sys, tempfile
from pathlib import Path
sys.path.append({tests!r})
from fakes import WordEmbedder, calibrated
OPTIONS = {{"embedder": WordEmbedder(), "artefact": calibrated(Path(tempfile.mkdtemp()))}}
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        source = fetch(Path(directory))
        (source / "semcache_plugin.py").write_text(options() + PLUGIN)
        outcomes = run(source)
    return report(outcomes)


def fetch(directory: Path) -> Path:
    """The unpacked source distribution of the installed version."""
    wanted = f"langchain-core=={importlib.metadata.version('langchain-core')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    only_source = ["--no-deps", "--no-binary", ":all:", "--dest", str(directory), wanted]
    subprocess.run([*pip, *only_source], check=True)
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(directory, filter="data")
        else:
            tar.extractall(directory)
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def options() -> str:
    root = Path(__file__).resolve().parent.parent
    if (root / "shared/semcache_core/artefacts/default/calibration.json").exists():
        return SHIPPED
    print("no shipped artefact: running with the tests' word embedder")
    return STAND_IN.format(tests=str(root / "tests"))


def run(source: Path) -> dict[str, str]:
    """Test -> passed, failed, skipped ..., as pytest says."""
    # Without the project's own settings and conftest, which ask for more packages than these need.
    pytest = [sys.executable, "-m", "pytest", "-p", "semcache_plugin", "-p", "no:cacheprovider"]
    settings = [
        "-c",
        "/dev/null",
        "--rootdir",
        ".",
        "--noconftest",
        "-o",
        "asyncio_mode=auto",
        "-v",
    ]
    done = subprocess.run(
        [*pytest, *settings, *SUITES], cwd=source, capture_output=True, text=True, check=False
    )
    outcomes = re.findall(r"^(tests/\S+::\S+) ([A-Z]+)", done.stdout, re.MULTILINE)
    if not outcomes or done.returncode not in (0, 1):
        print(done.stdout, done.stderr, sep="\n")
        raise SystemExit("pytest did not run the suites")
    print(*re.findall(r"InMemoryCache replaced in .*", done.stdout))
    return {test: outcome.lower() for test, outcome in outcomes}


def report(outcomes: dict[str, str]) -> int:
    wrong = 0
    for test, outcome in outcomes.items():
        reason = EXCEPTIONS.get(test.removeprefix("tests/unit_tests/"))
        good = outcome in ("passed", "skipped", "xfail")
        expected = good is (reason is None)
        wrong += not expected
        name = test.removeprefix("tests/unit_tests/")
        print(f"{outcome:8}", "  " if expected else "!!", name, f"({reason})" if reason else "")
    passed = sum(outcome == "passed" for outcome in outcomes.values())
    print(f"{passed} of {len(outcomes)} passed, {len(EXCEPTIONS)} exceptions, {wrong} unexpected")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())

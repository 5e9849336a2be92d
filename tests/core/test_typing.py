"""A user's type checker sees our types. In CI the packages are those of the built wheel."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import semcache_core

import langchain_semcache
import llamaindex_semcache

PACKAGES = [semcache_core, langchain_semcache, llamaindex_semcache]

RIGHT = """
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_semcache import CachedChatModel, SemanticLLMCache
from llama_index.core import Settings
from llama_index.core.llms import MockLLM
from llamaindex_semcache import CachedLLM
from semcache_core import CacheStats, Hit, Request, SemanticCache
from semcache_core.testing import ManualClock, open_word_cache

cache = SemanticCache(path=None, max_error_rate=0.05, ttl=60, clock=ManualClock())
entry_id: int | None = cache.update(Request("how are you?", tags=("a",)), "fine", cost=0.1)
hit: Hit | None = cache.lookup(Request("how are you?"))
text: str = hit.response if hit is not None else cache.get_or_create(Request("q"), lambda: "a")
stats: CacheStats = open_word_cache(namespace="n").stats()
set_llm_cache(SemanticLLMCache(max_error_rate=0.02))
model = CachedChatModel(model=FakeListChatModel(responses=["a"]), cache=cache)
message: AIMessage = model.invoke("hi")
Settings.llm = CachedLLM(llm=MockLLM(), cache=cache)
"""

WRONG = """
from semcache_core import Request, SemanticCache

cache = SemanticCache(max_error_rate="two percent")
cache.update(Request("q"), 5)
cache.lookup(Request("q")).response
cache.no_such_method()
"""


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_package_says_that_it_is_typed(package: ModuleType) -> None:
    assert Path(package.__path__[0], "py.typed").is_file()


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Codes of the errors that one run of `mypy --strict` finds in each of the two scripts."""
    directory = tmp_path_factory.mktemp("typed")
    for name, code in (("right", RIGHT), ("wrong", WRONG)):
        (directory / f"{name}.py").write_text(code, encoding="utf-8")
    # mypy finds installed packages by itself; those of a working tree only here
    places = {Path(package.__path__[0]).parent for package in PACKAGES}
    own = [str(place) for place in sorted(places) if place.name != "site-packages"]
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(directory)]
    done = subprocess.run(
        [*command, "right.py", "wrong.py"],
        cwd=directory,
        env={**os.environ, "MYPYPATH": os.pathsep.join(own)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    return {
        name: [line.rsplit("[", 1)[-1][:-1] for line in found if line.startswith(f"{name}.py:")]
        for name in ("right", "wrong")
    }


@pytest.mark.slow
def test_a_users_script_passes_strict_type_checks(errors: dict[str, list[str]]) -> None:
    assert errors["right"] == []


@pytest.mark.slow
def test_what_a_user_gets_wrong_is_found(errors: dict[str, list[str]]) -> None:
    assert errors["wrong"] == ["arg-type", "arg-type", "union-attr", "attr-defined"]

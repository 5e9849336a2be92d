"""Copies and pickles of a cache: the same one here, its path opened again elsewhere."""

import pickle
import subprocess
import sys
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import FailingEmbedder
from semcache_core import Prices, Request, SemanticCache
from semcache_core.errors import SettingsError
from semcache_core.types import Usage

QUESTION = Request("reset my password")


def loud(text: str) -> str:
    return text.upper() if text.startswith("call") else text


def reopened(cache: SemanticCache, bench: Bench) -> SemanticCache:
    copied: SemanticCache = pickle.loads(pickle.dumps(cache))
    bench.opened.append(copied)
    return copied


@pytest.mark.parametrize("copied", [copy, deepcopy])
def test_a_copy_is_the_same_cache(bench: Bench, copied: Any) -> None:
    cache = bench.open()
    assert copied({"cache": cache})["cache"] is cache or copied(cache) is cache


def test_unpickled_it_opens_the_same_path_with_the_same_settings(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMCACHE_TTL", "77")
    monkeypatch.chdir(bench.directory)
    prices = Prices({"m": (1, 2)})
    cache = bench.open(path="cache", max_error_rate=0.2, prices=prices, redact=loud)
    cache.update(QUESTION, "call us", usage=Usage("m", 1_000_000, 0))
    monkeypatch.delenv("SEMCACHE_TTL")
    monkeypatch.chdir("/")
    copied = reopened(cache, bench)
    assert copied is not cache
    assert (copied.settings.ttl, copied.settings.max_error_rate) == (77, 0.2)
    hit = copied.lookup("my password reset")
    assert hit is not None and (hit.response, hit.kind) == ("CALL US", "semantic")
    assert copied.update("another", "call them", usage=Usage("m", 1_000_000, 0)) is not None
    cache.close()
    copied.close()


def test_unpickled_one_in_memory_is_another_and_empty(bench: Bench) -> None:
    cache = bench.open(path=None)
    cache.update(QUESTION, "Click.")
    assert reopened(cache, bench).lookup(QUESTION) is None


def test_two_that_share_a_cache_share_it_when_unpickled(bench: Bench) -> None:
    cache = bench.open()
    one, other = pickle.loads(pickle.dumps([cache, cache]))
    bench.opened.append(one)
    assert one is other


@pytest.mark.parametrize("name", ["redact", "embedder", "clock"])
def test_an_argument_that_cannot_be_pickled_is_named(bench: Bench, name: str) -> None:
    class Local(FailingEmbedder):
        """Of no module: pickle does not find it."""

    given = {"redact": lambda text: text, "embedder": Local(), "clock": lambda: 1e9}
    with pytest.raises(SettingsError, match=f"a cache with {name}=.* cannot be pickled"):
        pickle.dumps(bench.open(**{name: given[name]}, artefact=None))


IN_ANOTHER_PROCESS = """
import pickle, sys

with pickle.loads(sys.stdin.buffer.read()) as cache:
    print(cache.lookup("How can I reset my password?").response)
"""


@pytest.mark.slow
def test_another_process_serves_what_this_one_stored(tmp_path: Path) -> None:
    with SemanticCache(path=tmp_path / "cache") as cache:
        cache.update("How do I reset my password?", "Click.")
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS]
        other = subprocess.run(command, input=pickle.dumps(cache), capture_output=True, timeout=120)
    assert (other.stdout, other.stderr) == (b"Click.\n", b"")

"""Importing is cheap: heavy libraries are loaded on use."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "sentence_transformers", "transformers", "chromadb", "onnxruntime", "tokenizers")
SCRIPT = f"""
import sys
import MODULE
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "module",
    ["semcache_core", "semcache_core.adapters", "langchain_semcache", "llamaindex_semcache"],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    """LlamaIndex itself loads SQLAlchemy, Pillow and fsspec, which are its own affair."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("MODULE", module)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


USES = """
import sys, tempfile
sys.path[:0] = sys.argv[1:]
from pathlib import Path
from fakes import WordEmbedder, calibrated
from semcache_core import Request, SemanticCache
directory = Path(tempfile.mkdtemp())
cache = SemanticCache(
    path=directory / "c", embedder=WordEmbedder(), artefact=calibrated(directory / "a")
)
cache.update(Request("one two three"), "a")
assert cache.lookup(Request("three two one"))
cache._process.engine.background.round()
cache.close()
print("chromadb" in sys.modules)
"""


def test_a_cache_with_few_entries_never_loads_chroma() -> None:
    from pathlib import Path

    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", USES, tests], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"

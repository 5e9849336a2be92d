"""Importing is cheap: heavy libraries are loaded at first use, and only if they are needed."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch", "sentence_transformers", "transformers", "chromadb", "onnxruntime", "tokenizers",
    "onnx", "sklearn", "matplotlib",
}  # fmt: skip
USE = "a cache of few entries, filled and asked"
IMPORTED = [
    "semcache_core",
    "semcache_core.adapters",
    "langchain_semcache",
    "llamaindex_semcache",
    "llamaindex_semcache.kvstore",
    "llamaindex_semcache.docstore",
    "semcache_core.testing",
    "semcache_core.training",
]
"""In this order, in one interpreter. LlamaIndex itself loads Pillow, fsspec and others."""

SCRIPT = f"""
import importlib, json, sys

found = {{}}

def note(step):
    found[step] = sorted({HEAVY!r} & set(sys.modules))

for name in {IMPORTED!r}:
    importlib.import_module(name)
    note(name)

from semcache_core import Request
from semcache_core.testing import open_word_cache, run_background_round

with open_word_cache(path=sys.argv[1]) as cache:
    cache.update(Request("one two three"), "a")
    assert cache.lookup(Request("three two one"))
    run_background_round(cache)
note({USE!r})

import semcache_core.evaluation.evaluate, semcache_core.evaluation.metrics
from semcache_core.training import calibrate
from semcache_core.evaluation import Evaluation, evaluate, slices_of
assert callable(calibrate), calibrate
assert callable(evaluate), evaluate  # the function, not the module of that name
note("the functions of training and evaluation")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """After each step, the heavy libraries that the interpreter holds."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("used") / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


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


def test_functions_of_training_and_evaluation_load_neither_torch_nor_matplotlib(
    loaded: dict[str, list[str]],
) -> None:
    found = loaded["the functions of training and evaluation"]
    assert not {"torch", "matplotlib", "onnx"} & set(found)


WITHOUT_TORCH = """
import sys
from importlib import import_module

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "sentence_transformers", "transformers", "peft", "datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

# a None in sys.modules would not do: scipy reads the names there
sys.meta_path.insert(0, NotInstalled())
for name in (
    "training.data.mining", "training.data.labelling", "training.calibration.streams",
    "training.calibration.calibrate", "evaluation.evaluate", "evaluation.report",
    "evaluation.simulation", "evaluation.policies",
):
    import_module(f"semcache_core.{name}")
"""


def test_mining_labelling_calibrating_and_evaluating_need_no_torch() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)

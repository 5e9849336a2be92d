"""What an installed wheel weighs, by extra, and how long its imports take.

python -m build && python benchmarks/run.py footprint dist/*.whl
"""

import argparse
import json
import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Any

from harness.results import Results, columns
from harness.timing import import_seconds, summary

ROOT = Path(__file__).parents[2]
EXTRAS = ("", "langchain", "llamaindex", "train")
IMPORTS = {
    "": ("semcache_core",),
    "langchain": ("langchain_core.caches", "langchain_core.language_models", "langchain_semcache"),
    "llamaindex": ("llama_index.core", "llamaindex_semcache"),
}
"""What is imported in the environment of an extra; the framework alone is there to compare."""

SIZES = """
import json
from importlib.metadata import distributions
sizes = {}
for one in distributions():
    if one.name not in ("pip", "setuptools"):
        files = [file.locate() for file in one.files or ()]
        size = sum(file.stat().st_size for file in files if file.is_file())
        sizes[f"{one.name} {one.version}"] = size
print(json.dumps(sizes))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--rounds", type=int, default=11)


def measure(options: argparse.Namespace) -> Results:
    wheel = options.wheel.resolve()
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        pythons = {extra: installed(Path(directory), wheel, extra) for extra in EXTRAS}
        return {
            "wheel": wheel.name,
            "wheel_bytes": wheel.stat().st_size,
            "installed": [weighed(python, extra) for extra, python in pythons.items()],
            "imports": imports(pythons, options.rounds),
        }


def installed(directory: Path, wheel: Path, extra: str) -> Path:
    """The interpreter of a new environment that has the wheel with one extra, or with none."""
    home = directory / (extra or "core")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", wanted], check=True)
    return python


def weighed(python: Path, extra: str) -> dict[str, Any]:
    """Bytes of the files that were installed, without what Python compiles of them later."""
    # -I: nothing of the working directory or of the caller's environment
    found = subprocess.run([python, "-I", "-c", SIZES], stdout=subprocess.PIPE, check=True)
    sizes: dict[str, int] = json.loads(found.stdout)
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:8]
    return {
        "extra": extra,
        "packages": len(sizes),
        "mb": round(sum(sizes.values()) / 1e6, 1),
        "largest_mb": {name: round(size / 1e6, 1) for name, size in largest},
    }


def imports(pythons: dict[str, Path], rounds: int) -> list[dict[str, Any]]:
    """In turn, each in a process of its own; the first round, which compiles, is not counted."""
    asked = [(extra, module) for extra, modules in IMPORTS.items() for module in modules]

    def taken(extra: str, module: str) -> float:
        return import_seconds(module, pythons[extra], env={}, cwd=pythons[extra].parent)

    every = [[taken(*one) for one in asked] for _ in range(rounds + 1)]
    return [
        {"extra": extra, "module": module, **summary(list(seconds))}
        for (extra, module), seconds in zip(asked, zip(*every[1:], strict=True), strict=True)
    ]


def table(results: Results) -> str:
    weights = {
        "semcache-core": lambda one: f"[{one['extra']}]" if one["extra"] else "alone",
        "packages": "{packages}",
        "MB": "{mb:,.0f}",
    }
    times = {
        "import": "{module}",
        "installed with": lambda one: f"[{one['extra']}]" if one["extra"] else "",
        "p50 ms": "{p50_ms:,.0f}",
    }
    return columns(weights, results["installed"]) + "\n\n" + columns(times, results["imports"])

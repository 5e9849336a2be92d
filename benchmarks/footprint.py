"""What an installed wheel weighs, by extra, and how long its imports take. See README.md.

python -m build && python benchmarks/footprint.py dist/*.whl
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from harness.results import Results, columns, hardware, write_json
from harness.timing import IMPORT, summary

OUT = Path(__file__).parent / "results" / "footprint.json"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
EXTRAS = ("", "langchain", "llamaindex", "train")
IMPORTS = {
    "": ("semcache_core",),
    "langchain": ("langchain_core.caches", "langchain_core.language_models", "langchain_semcache"),
    "llamaindex": ("llama_index.core", "llamaindex_semcache"),
}
"""What is imported in the environment of an extra; the framework alone is there to compare."""

SIZES = """
import json
import platform
from importlib.metadata import distributions
sizes = {}
for one in distributions():
    if one.name not in ("pip", "setuptools"):
        files = [file.locate() for file in one.files or ()]
        size = sum(file.stat().st_size for file in files if file.is_file())
        sizes[f"{one.name} {one.version}"] = size
print(json.dumps(sizes))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        pythons = {extra: installed(Path(directory), wheel, extra) for extra in EXTRAS}
        results = {
            "format": 1,
            "settings": {"wheel": wheel.name, "rounds": options.rounds},
            "hardware": hardware(),
            "python": platform.python_version(),
            "wheel_bytes": wheel.stat().st_size,
            "installed": [weighed(python, extra) for extra, python in pythons.items()],
            "imports": imports(pythons, options.rounds),
        }
    write_json(options.out, results)


def table(results: Results) -> str:
    named = [
        {**one, "with": f"[{one['extra']}]" if one["extra"] else ""}
        for one in (*results["installed"], *results["imports"])
    ]
    weights = {
        "semcache-core": lambda one: one["with"] or "alone",
        "packages": "{packages}",
        "MB": "{mb:,.0f}",
    }
    imports = {"import": "{module}", "installed with": "{with}", "p50 ms": "{p50_ms:,.0f}"}
    return "\n\n".join(
        (
            columns(weights, [one for one in named if "packages" in one]),
            columns(imports, [one for one in named if "module" in one]),
        )
    )


def installed(directory: Path, wheel: Path, extra: str) -> Path:
    """The interpreter of a new environment that has the wheel with one extra, or with none."""
    home = directory / (extra or "core")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    wanted = f"{wheel}[{extra}]" if extra else str(wheel)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "-c", CONSTRAINTS, wanted], check=True)
    return python


def weighed(python: Path, extra: str) -> dict[str, Any]:
    """Bytes of the files that were installed, without what Python compiles of them later."""
    sizes: dict[str, int] = json.loads(output(python, SIZES))
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
    seconds: dict[tuple[str, str], list[float]] = {one: [] for one in asked}
    for i in range(rounds + 1):
        for extra, module in asked:
            took = float(output(pythons[extra], IMPORT, module))
            if i:
                seconds[extra, module].append(took)
    return [
        {"extra": extra, "module": module, **summary(seconds[extra, module])}
        for extra, module in asked
    ]


def output(python: Path, script: str, *arguments: str) -> str:
    # -I: nothing of the working directory or of the caller's environment
    done = subprocess.run(
        [python, "-I", "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()

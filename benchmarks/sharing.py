"""A lookup through another process's index, beside one through an own index. See README.md.

python benchmarks/sharing.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corpus import questions
from filling import Layout, artefact_for_timing, fill, opened, stock
from semcache_core import Request
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.search.remote import RemoteIndex
from subjects import TimedEmbedder
from timing import Samples, What, hardware, versions

OUT = Path(__file__).parent / "results" / "sharing.json"
SCOPE = "sharing"
OWNER = """
import sys
from pathlib import Path
from filling import opened
with opened(Path(sys.argv[1]), Path(sys.argv[2])) as cache:
    print("open", flush=True)
    sys.stdin.readline()
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        artefact = artefact_for_timing(DEFAULT_ARTEFACT, Path(directory) / "artefact")
        things = stock(questions(options.seed), artefact)
        path = Path(directory) / "cache"
        fill(path, things, Layout(options.entries, (SCOPE,)), options.seed)
        asked = [text for _, text in things.questions.paraphrases[:100]]
        for _ in range(options.rounds):
            measure(samples, "own index", path, artefact, asked)
            with owned_elsewhere(path, artefact):
                measure(samples, "another process's index", path, artefact, asked)
    settings = {name: getattr(options, name) for name in ("entries", "rounds", "seed")}
    rows = samples.rows()
    results = {"settings": settings, "hardware": hardware(), "versions": versions(), "rows": rows}
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


@contextmanager
def owned_elsewhere(path: Path, artefact: Path) -> Iterator[None]:
    command = [sys.executable, "-c", OWNER, str(path), str(artefact)]
    owner = subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    if owner.stdout.readline() != "open\n":
        raise RuntimeError("the owner of the index did not start")
    try:
        yield
    finally:
        owner.communicate("")


def measure(samples: Samples, whose: str, path: Path, artefact: Path, asked: list[str]) -> None:
    embedder = TimedEmbedder(OnnxEmbedder.load(artefact))
    with opened(path, artefact, embedder) as cache:
        index: Any = cache._use().retriever.index
        if index is None or isinstance(index, RemoteIndex) != (whose != "own index"):
            raise RuntimeError(f"was to ask {whose}, and has {index}")

        def lookup(text: str) -> bool:
            return cache.lookup(Request(text, SCOPE)) is not None

        for text in asked[:10]:
            lookup(text)
        what = What("semcache", f"semantic hit, {whose}")
        embedder.split(samples, what, lookup, asked[10:])


if __name__ == "__main__":
    main()

"""A hit by meaning through another process's index, beside one through an own index."""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.fill import Layout, artefact_for_timing, fill, opened, stock
from harness.pipe import Piped
from harness.results import Results, latency_table
from harness.timing import Samples, What, timed
from semcache_core import Request
from semcache_core.search.remote import RemoteIndex
from semcache_core.testing import engine_of

SCOPE = "sharing"
OWN, OTHER = "own index", "another process's index"
OWNER = """
import sys
from pathlib import Path
from harness.fill import opened
from harness.pipe import serve
class Orders:
    def ready(self): pass
with opened(Path(sys.argv[1]), Path(sys.argv[2])):
    serve(Orders())
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)


def measure(options: argparse.Namespace) -> Results:
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        artefact = artefact_for_timing(Path(directory) / "artefact")
        things = stock(options.seed, artefact)
        path = Path(directory) / "cache"
        fill(path, things, Layout(options.entries, (SCOPE,)), options.seed)
        texts = [text for _, text in things.questions.paraphrases[:100]]
        owner = [sys.executable, "-c", OWNER, str(path), str(artefact)]
        for _ in range(options.rounds):
            ask(samples, OWN, path, artefact, texts)
            with Piped("owner", owner, cwd=Path(__file__).parents[1]) as process:
                process.ask("ready")
                ask(samples, OTHER, path, artefact, texts)
    return {"rows": samples.rows()}


def ask(samples: Samples, whose: str, path: Path, artefact: Path, texts: list[str]) -> None:
    """Each question twice: the second time its vector is known, so the model does not run."""
    whole = What("semcache", f"semantic hit, {whose}")
    rest = replace(whole, part="without forward pass")
    with opened(path, artefact) as cache:
        index: Any = engine_of(cache).retriever.index
        if index is None or isinstance(index, RemoteIndex) != (whose == OTHER):
            raise RuntimeError(f"was to ask {whose}, and has {index}")

        def lookup(text: str) -> None:
            samples.unexpected[whole] += cache.lookup(Request(text, SCOPE)) is None

        timed(lookup, texts[:10])
        for text in texts[10:]:
            for what in (whole, rest):
                samples.add(what, timed(lookup, [text]))


def table(results: Results) -> str:
    return latency_table({"rows": [{**row, "subject": ""} for row in results["rows"]]})

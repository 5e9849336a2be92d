"""Does the time of a miss say that another tenant has, or has just asked, the question?

python studies/miss_timing.py

Two kinds of misses in turns, in random order within each pair: a question that another namespace
holds and asked a moment ago, and a question that nobody ever asked. `auc` (Mann-Whitney) is how
often a miss of the first kind takes longer than one of the second: .5 where time says nothing.
TOLERANCE is how far from .5 it may lie.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Sequence

import numpy as np
from runner import Results, markdown, parser, run_study, short
from semcache_core import Request, SemanticCache
from semcache_core.evaluation.metrics import auc

TOLERANCE = 0.05
WORDS = "card bank account fee limit transfer top up cash machine abroad refund".split()  # noqa: SIM905


def questions(n: int, rng: random.Random) -> list[str]:
    """All different, of the same length in words."""
    return [f"what is the {' '.join(rng.sample(WORDS, 3))} of number {i:06d}" for i in range(n)]


def measured(cache: SemanticCache, n: int, seed: int) -> dict[str, list[float]]:
    rng = random.Random(seed)
    theirs, nobodys = questions(2 * n, rng)[:n], questions(2 * n, rng)[n:]
    for own in range(20):
        cache.update(Request(f"what is my own question {own}", namespace="me"), "mine")
    times: dict[str, list[float]] = {"theirs": [], "nobody's": []}
    for held, free in zip(theirs, nobodys, strict=True):
        cache.update(Request(held, namespace="other"), "his")
        cache.lookup(Request(held, namespace="other"))
        cache.lookup(Request("what is my own question now", namespace="me"))
        pair = [("theirs", held), ("nobody's", free)]
        rng.shuffle(pair)
        for kind, question in pair:
            request = Request(question, namespace="me")
            started = time.perf_counter()
            hit = cache.lookup(request)
            times[kind].append((time.perf_counter() - started) * 1e3)
            assert hit is None or hit.response == "mine"
    return times


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "miss_timing")
    made.add_argument("--n", type=int, default=1000, help="pairs of misses")
    run_study(study, table, made.parse_args(argv))


def study(arguments: argparse.Namespace) -> Results:
    n, seed = arguments.n, arguments.seed
    with SemanticCache(path=None) as cache:
        measured(cache, min(n, 20), seed + 1)  # warm
        times = measured(cache, n, seed)
    of = np.array(times["theirs"] + times["nobody's"])
    found = auc(of, np.repeat([1.0, 0.0], n))
    return {
        "what": "time of a miss: question held and just asked by another namespace, or by nobody",
        "n": n,
        "median_ms": {kind: statistics.median(ms) for kind, ms in times.items()},
        "auc": found,
        "auc_half_width_95": 1.96 * math.sqrt((2 * n + 1) / (12 * n * n)),
        "tolerance": TOLERANCE,
        "within": abs(found - 0.5) <= TOLERANCE,
    }


def table(results: Results) -> str:
    medians = [short(results["median_ms"][kind]) for kind in ("theirs", "nobody's")]
    interval = f"{results['auc']:.3f} ± {results['auc_half_width_95']:.3f}"
    head = ("misses of each kind", "held by another, median ms", "by nobody, median ms", "AUC")
    return markdown(head, [(str(results["n"]), *medians, interval)])


if __name__ == "__main__":
    main()

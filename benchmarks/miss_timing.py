"""Whether the time of a miss tells that another tenant has, or has just asked, the question.

Two kinds of misses in turns, in pairs of which chance says which is first: one of a question that
another namespace holds and asked a moment ago, one of a question nobody ever asked. Compared by
ranks (Mann-Whitney): `auc` is how often a miss of the one kind takes longer than one of the other,
.5 where time tells nothing. TOLERANCE is how far from .5 it may lie; the half-width of its 95 %
interval is 1.96 * sqrt((2 n + 1) / (12 n^2)).

    python benchmarks/miss_timing.py --n 1000 --out benchmarks/results/miss_timing.json
"""

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path

import numpy as np
from semcache_core import Request, SemanticCache
from timing import hardware, versions

TOLERANCE = 0.05
WORDS = "card bank account fee limit transfer top up cash machine abroad refund".split()  # noqa: SIM905


def questions(n: int, rng: random.Random) -> list[str]:
    """All different, of the same length in words."""
    return [f"what is the {' '.join(rng.sample(WORDS, 3))} of number {i:06d}" for i in range(n)]


def auc(one: list[float], other: list[float]) -> float:
    """P(a time of `one` is longer than one of `other`), half for equal ones."""
    ranks = np.argsort(np.argsort(np.array(one + other), kind="stable")) + 1
    n, m = len(one), len(other)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with SemanticCache(path=None) as cache:
        measured(cache, 20, options.seed + 1)  # warm
        times = measured(cache, options.n, options.seed)
    found = auc(times["theirs"], times["nobody's"])
    n = options.n
    result = {
        "what": "time of a miss: question held and just asked by another namespace, or by nobody",
        "n": n,
        "seed": options.seed,
        "median_ms": {kind: statistics.median(ms) for kind, ms in times.items()},
        "auc": found,
        "auc_half_width_95": 1.96 * math.sqrt((2 * n + 1) / (12 * n * n)),
        "tolerance": TOLERANCE,
        "within": abs(found - 0.5) <= TOLERANCE,
        "hardware": hardware(),
        "versions": versions(),
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

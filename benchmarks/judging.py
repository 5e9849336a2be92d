"""What judging costs a lookup: everything between the candidates and the decision.

python benchmarks/judging.py

Retrieval and the forward pass are not in it: the evidence of up to 16 candidates, the guard, the
quarantine, the entry, and noting the hit for audits and feedback. 400 questions of 20 intents are
stored, one answer for each intent; asked are the same questions, reworded by rule. A minute.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semcache_core import Request, SemanticCache
from semcache_core.cli.demo import sample_questions
from semcache_core.decision.decide import HitDecider
from semcache_core.request import key_of
from semcache_core.training.data.augmentation import synthetic_pairs
from timing import hardware, versions

RESULTS = Path(__file__).with_name("results")


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=RESULTS / "judging.json", help="the JSON")
    made.add_argument("--seed", type=int, default=0, help="draws the rewordings")
    made.add_argument("--max-error-rate", type=float, default=0.05)
    arguments = made.parse_args(argv)
    with SemanticCache(path=None, max_error_rate=arguments.max_error_rate) as cache:
        seconds, hits = measured(cache, arguments.seed)
    results = {
        "hardware": hardware(),
        "versions": versions(),
        "seed": arguments.seed,
        "max_error_rate": arguments.max_error_rate,
        "n": len(seconds),
        "hits": hits,
        "median_ms": round(1000 * statistics.median(seconds), 4),
        "p95_ms": round(1000 * statistics.quantiles(seconds, n=20)[-1], 4),
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


def measured(cache: SemanticCache, seed: int) -> tuple[list[float], int]:
    questions = sample_questions()
    for each in questions:
        cache.update(Request(each.question), f"The answer about {each.intent}.")
    asked = [pair.other for pair in synthetic_pairs([q.question for q in questions], seed=seed)]
    random.Random(seed).shuffle(asked)
    parts: Any = cache._use()
    seconds, hits = [], 0
    for question in asked:
        request, now = Request(question), time.time()
        key = key_of(request, cache.settings.namespace)
        vector = parts.vector_cache.embed(parts.embedder, question, "default")
        near = parts.retriever.nearest(key.partition, vector, now)
        started = time.perf_counter()
        decision = HitDecider(parts, 0)._among(near, request, key, now)
        if decision is not None and decision.served is not None:
            parts.watch.served(key, question, decision.served, now)
            hits += 1
        seconds.append(time.perf_counter() - started)
    return seconds, hits


if __name__ == "__main__":
    main()

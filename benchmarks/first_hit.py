"""From `import langchain_semcache` to the first hit, in a process that does nothing else."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from timing import rss_mib, summary

OPERATIONS = ("exact hit", "semantic hit")
PATIENCE_SECONDS = 60


def first_hits(
    path: Path, artefact: Path, llm_string: str, prompts: dict[str, list[str]], rounds: int
) -> list[dict[str, Any]]:
    """A row per operation: ms from the import to the answer, and the memory in use then.

    `prompts` has one prompt per round for each operation.
    """
    results: dict[str, list[dict[str, Any]]] = {operation: [] for operation in OPERATIONS}
    for i in range(rounds):
        for operation in OPERATIONS:
            order = [str(path), str(artefact), llm_string, prompts[operation][i]]
            done = subprocess.run(
                [sys.executable, __file__], input=json.dumps(order), capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"the first {operation} failed: {done.stderr}")
            results[operation].append(json.loads(done.stdout))
    return [_row(operation, each) for operation, each in results.items()]


def _row(operation: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    row = {"operation": operation, **summary([r["seconds"] for r in results])}
    for stage in ("import", "open", "lookup"):
        row[f"{stage}_p50_ms"] = summary([r[stage] for r in results])["p50_ms"]
    return row | {name: max(r[name] for r in results) for name in ("misses", "rss_mib")}


def main() -> None:
    path, artefact, llm_string, prompt = json.load(sys.stdin)
    started = time.perf_counter()
    from langchain_semcache import SemanticLLMCache

    imported = time.perf_counter()
    cache = SemanticLLMCache(path=path, artefact=artefact)
    opened = time.perf_counter()
    misses = 0
    while cache.lookup(prompt, llm_string) is None:  # an index that is opened is a miss meanwhile
        misses += 1
        if time.perf_counter() - opened > PATIENCE_SECONDS:
            raise SystemExit("was to be a hit")
        time.sleep(0.05)
    answered = time.perf_counter()
    memory = rss_mib()
    cache.cache.close()
    stages = {"import": imported - started, "open": opened - imported, "lookup": answered - opened}
    told = {"seconds": answered - started, **stages, "misses": misses, "rss_mib": memory}
    print(json.dumps(told))


if __name__ == "__main__":
    main()

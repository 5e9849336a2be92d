"""What a bound is worth: what is served under it, and how often the error keeps it.

python benchmarks/paper/trust.py --data DIR --seeds 20

DIR holds banking77_train.csv, banking77_test.csv, mqp_dev.jsonl and qqp_test.jsonl. A set that the
artefact was calibrated on does not say what its bound is worth elsewhere: what it was stands in the
results, as `calibrated_on`.

Arrivals: all training questions of Banking77 reach an empty cache, each once, in several orders;
one intent has one answer. Fixed thresholds and a learner per stored question see the similarities
of the untuned base, the artefact its own. The learner promises a share of all requests, the
artefact one of those served by meaning; both shares are given for every policy.

Static: questions against a store that does not grow, a stream for each seed; all can be answered
from it, or half of the answers are missing.

Split: as static, but thresholds are set on half of the questions of every set and judged on the
other half, which no part of the calibration has seen; other halves for each seed.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from arguments import RESULTS, at_least_one
from common import machine
from figures import Results, name_of, plain, write
from semcache_core.cli.progress import Steps
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT
from semcache_core.errors import SemcacheError
from trial import trial_of
from trust_arrivals import ARRIVALS
from trust_split import SPLIT
from trust_static import STATIC

PARTS = (ARRIVALS, STATIC, SPLIT)
"""In the order measured and printed; another kind of data is another part."""


def main(argv: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--data", type=Path, required=True, help="the directory of the four files")
    add("--out", type=Path, default=RESULTS / "trust.json", help="the JSON to write")
    add("--seeds", type=at_least_one, default=20, help="static streams of each kind")
    add("--orders", type=at_least_one, default=5, help="in which the questions arrive")
    add("--artefact", type=Path, default=DEFAULT_ARTEFACT, help="what makes the promise")
    add("--base", help="a sentence-transformers name or directory; all-MiniLM-L6-v2 if none")
    add("--limit", type=at_least_one, help="a random so many rows of each file, for a first look")
    arguments = made.parse_args(argv)
    try:
        write(arguments.out, None)
        results = measured(arguments)
        write(arguments.out, results)
    except SemcacheError as error:
        raise SystemExit(str(error)) from None
    print(table(results))


def measured(arguments: argparse.Namespace) -> Results:
    started = time.perf_counter()
    with Steps() as steps:
        trial = trial_of(arguments, steps)
        parts = {part.name: plain(part.measure(trial)) for part in PARTS}
    return {
        "format": 1,
        "study": "what a bound is worth",
        "artefact": {
            "name": name_of(str(arguments.artefact)),
            "fingerprint": trial.calibration.fingerprint,
            "calibrated_on": trial.calibration.calibrated_on,
        },
        "base": {
            "name": name_of(arguments.base or "all-MiniLM-L6-v2"),
            "fingerprint": trial.untuned.fingerprint,
        },
        "options": {name: getattr(arguments, name) for name in ("seeds", "orders", "limit")},
        **machine(),
        **parts,
        "seconds": round(time.perf_counter() - started),
    }


def table(results: Results) -> str:
    return "\n\n".join(part.table(results[part.name]) for part in PARTS)


if __name__ == "__main__":
    main()

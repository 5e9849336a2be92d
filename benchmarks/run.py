"""Measure one case and write its figures to `results/CASE.json`.

python benchmarks/run.py CASE [options]      # --help after a case shows its options
python benchmarks/run.py tables              # write the tables of README.md from the JSON
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.results import described, write_json

HERE = Path(__file__).parent
CASES = (
    *("adapters", "call_paths", "compaction", "eviction", "hosts", "latency", "scale", "scopes"),
    "sharing",
)


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["tables"]:
        from readme import write_tables

        write_tables()
        return
    if not given or given[0] not in CASES:
        raise SystemExit(f"{__doc__}\nCASE is one of {', '.join(CASES)}.")
    name = given[0]
    case = importlib.import_module(f"cases.{name}")
    parser = argparse.ArgumentParser(prog=f"run.py {name}", description=case.__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"{name}.json")
    parser.add_argument("--seed", type=int, default=7)
    case.add_options(parser)
    options = parser.parse_args(given[1:])
    results = described(options, case.measure(options))
    write_json(options.out, results)
    print(case.table(results))


if __name__ == "__main__":
    main()

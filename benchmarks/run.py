"""Measure one case and write its figures to `results/CASE.json`.

python benchmarks/run.py CASE [options]      # --help after a case shows its options
python benchmarks/run.py tables              # write README's tables and plot from the JSON
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.results import finish, read_json, with_tables

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results"
CASES = sorted(file.stem for file in (HERE / "cases").glob("[a-z]*.py"))


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["tables"]:
        write_tables()
        return
    if not given or given[0] not in CASES:
        raise SystemExit(f"{__doc__}\nCASE is one of {', '.join(CASES)}.")
    name = given[0]
    case = importlib.import_module(f"cases.{name}")
    parser = argparse.ArgumentParser(prog=f"run.py {name}", description=case.__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    parser.add_argument("--seed", type=int, default=7)
    case.add_options(parser)
    options = parser.parse_args(given[1:])
    finish(options, case.measure(options), case.table)


def write_tables() -> None:
    from rivals.report import plot

    README.write_text(with_tables(README, "cases."), encoding="utf-8")
    plot(read_json(RESULTS / "field.json"), RESULTS / "field.svg")


if __name__ == "__main__":
    main()

"""The tables of README.md in this folder, made of the JSON in results/.

python studies/tables.py
"""

from collections.abc import Callable
from pathlib import Path

import attacks
import banking77
import calibration_split
import drift
import guard
import hubs
import miss_timing
import qqp
import trust
from harness.results import read_json, replace_tables
from runner import RESULTS, Results

README = Path(__file__).with_name("README.md")
TABLES: dict[str, Callable[[Results], str]] = {
    "attacks": attacks.table,
    "banking77": banking77.table,
    "calibration_split": calibration_split.table,
    "drift": drift.table,
    "guard": guard.table,
    "hubs": hubs.table,
    "miss_timing": miss_timing.table,
    "qqp": qqp.table,
    "trust": trust.table,
}


def with_tables(text: str) -> str:
    made = {
        name: lambda name=name, table=table: table(read_json(RESULTS / f"{name}.json"))
        for name, table in TABLES.items()
    }
    return replace_tables(text, made)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")

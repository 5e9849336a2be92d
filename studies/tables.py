"""The tables of README.md in this folder, made of the JSON in results/.

python studies/tables.py
"""

from pathlib import Path

import runner  # noqa: F401 - the benchmarks are on the path now
from harness.results import with_tables

README = Path(__file__).with_name("README.md")

if __name__ == "__main__":
    README.write_text(with_tables(README), encoding="utf-8")

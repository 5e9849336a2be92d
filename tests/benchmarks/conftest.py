"""The folders of benchmarks, studies and scripts on the path, as when a script there is run."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / name for name in ("benchmarks", "studies", "scripts")]

sys.path.extend(map(str, FOLDERS))
# they are no part of the source distribution
collect_ignore_glob = [] if all(folder.is_dir() for folder in FOLDERS) else ["test_*.py"]

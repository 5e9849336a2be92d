"""`make test` leaves slow folders and tests that need a server to `make test-slow`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SLOW_FOLDERS

TESTS = Path(__file__).parents[1]
NEEDS_A_SERVER = "search/test_sync.py::TestOnAServer"


def test_slow_folders_exist() -> None:
    assert all((TESTS / folder).is_dir() for folder in SLOW_FOLDERS)


@pytest.mark.slow
def test_nothing_in_a_slow_folder_and_nothing_that_needs_a_server_is_fast() -> None:
    places = [f"tests/{place}" for place in (*SLOW_FOLDERS, NEEDS_A_SERVER)]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not slow", *places]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    found = re.search(r"^no tests collected \((\d+) deselected\)", done.stdout, re.MULTILINE)
    assert found and int(found[1]) > 100, done.stdout + done.stderr

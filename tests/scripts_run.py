"""A script in a Python process of its own, which is to end without an error."""

import subprocess
import sys


def run_script(script: str, *arguments: object, timeout: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr

"""A process that obeys orders: one JSON line per order, one per answer.

`serve` is the end in the process, `Piped` the other one. It needs the standard library alone, so
that any environment can start it, and so that it imports nothing that a measured cache imports.
"""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any


class Piped:
    """A started process; `ask` waits for its answer."""

    def __init__(
        self,
        name: str,
        command: list[str],
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Raises RuntimeError when the process ends or could not do it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.name} process has ended; its error is above")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise RuntimeError(f"{self.name} could not do {do!r}: {answer['failed']}")
        return answer

    def close(self) -> None:
        """The end of its orders is the end of the process; waits for it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Piped":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def serve(orders: object) -> None:
    """Call the method that each line names, until the lines end; give its dictionary back."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    for line in sys.stdin:
        order = json.loads(line)
        try:
            result = getattr(orders, order.pop("do"))(**order)
        except Exception as error:  # noqa: BLE001 - the asker is told, whatever it was
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=answers)

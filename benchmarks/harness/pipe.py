"""A process that obeys orders: one JSON line per order, one per answer.

`serve` runs in that process, `Piped` is the other end. Standard library alone, so that any
environment can start it and nothing is imported that a measured cache imports.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

TICK = 0.001


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
        pipe, variables = subprocess.PIPE, {**os.environ, **(env or {})}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=variables, cwd=cwd
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

    def __enter__(self) -> "Piped":
        return self

    def __exit__(self, *_: object) -> None:
        """End the orders, with which the process ends, and wait for it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve(orders: object) -> None:
    """Call the method that each line names, until the lines end; give its dictionary back."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not end up among the answers
    for line in sys.stdin:
        order = json.loads(line)
        try:
            result = getattr(orders, order.pop("do"))(**order) or {}
        except Exception as error:  # noqa: BLE001 - the asker is told, whatever it was
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=answers)


def rss_mib(pid: int | str = "self") -> float:
    """Memory of a process in use now, shared pages included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


@asynccontextmanager
async def late_ticks() -> AsyncIterator[list[float]]:
    """The seconds by which each tick of the event loop was late; there is at least one."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - due)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    yield late
    await asyncio.sleep(2 * TICK)  # a loop that was blocked all the while ticks now
    ticking.cancel()

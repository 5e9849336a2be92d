"""Real web servers in processes of their own, and clients that ask them at the same time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "examples" / "service"
DEADLINE_SECONDS = 120.0
"""For what takes seconds on a machine that has nothing else to do."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def by_deadline(find: Callable[[], T | None], what: str) -> T:
    """The first thing that `find` finds; it is asked until then."""
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        if found := find():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {DEADLINE_SECONDS:g} s")


@dataclass
class Server:
    """A server that runs, of `workers` processes over the cache at `path`."""

    command: Sequence[str]
    path: Path
    workers: int
    folder: Path = SERVICE
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        command = [word.replace("PORT", str(self.port)) for word in self.command]
        self.log = self.path.parent / "server.log"
        folders = (str(self.folder), str(SERVICE), *(p for p in sys.path if p))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "HOME": str(self.path.parent),  # where gunicorn puts its control socket
                    "SERVICE_CACHE": str(self.path),
                    "SERVICE_MODEL_SECONDS": "0.02",
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join(folders),
                    **self.environment,
                },
            )
        by_deadline(lambda: len(self.worker_ids()) == self.workers, "the start of all workers")

    def call(self, method: str, at: str, body: Any = None, tenant: str = "acme") -> Any:
        """The answer, of whichever worker takes this new connection."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            headers = {"X-Tenant": tenant, "Content-Type": "application/json"}
            connection.request(method, at, body and json.dumps(body), headers)
            response = connection.getresponse()
            said = response.read()
            assert response.status == 200, (response.status, said, self.said())
            return json.loads(said)
        finally:
            connection.close()

    def ask(self, question: str, tenant: str = "acme") -> dict[str, Any]:
        answer: dict[str, Any] = self.call("POST", "/ask", {"question": question}, tenant)
        return answer

    def ask_at_once(self, questions: Sequence[str], threads: int = 16) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.ask, questions))

    def stats(self) -> dict[int, dict[str, Any]]:
        """What the workers say, by process id; those that a few dozen connections reached."""
        found: dict[int, dict[str, Any]] = {}
        with suppress(OSError, HTTPException):  # not there yet, or being killed
            for _ in range(10 * self.workers):
                counts = self.call("GET", "/stats")
                found[counts["worker"]] = counts
                if len(found) == self.workers:
                    break
        return found

    def worker_ids(self) -> set[int]:
        assert self.process.poll() is None, self.said()
        return set(self.stats())

    def owner(self) -> int | None:
        """The worker that has the index of the large scopes open."""
        return next((pid for pid, c in self.stats().items() if c["indexed_scopes"]), None)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def end(self) -> str:
        """Stop it as a deployment does; all that it logged."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(DEADLINE_SECONDS)
        # uvicorn's supervisor has ended in order, then tells its own parent of the signal
        assert code in (0, -signal.SIGTERM), (code, self.said())
        return self.said()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

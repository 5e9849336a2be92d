"""Fixtures of all tests: a place to open caches in, and a Chroma server."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from fakes import ManualClock, WordEmbedder, calibrated
from semcache_core import SemanticCache
from semcache_core.pipeline.background import BackgroundWorker
from semcache_core.search.chroma import local_client
from semcache_core.search.retriever import Retriever

# no deadline: on a machine with other work any single example may take long
hypothesis.settings.register_profile("default", deadline=None, max_examples=25)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

SLOW_FOLDERS = ("benchmarks", "clients", "faults", "services")
"""Below `tests`: whole folders that `make test` leaves to `make test-slow`."""
SERVERS = {"chroma_server", "postgres"}
"""Fixtures that start a server: what needs one is slow, wherever it lies."""


# first: the option `-m` deselects in the same hook
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what lies in a slow folder or needs a server."""
    folders = [Path(__file__).parent / name for name in SLOW_FOLDERS]
    for item in items:
        below = any(item.path.is_relative_to(folder) for folder in folders)
        if below or SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SEMCACHE_")]:
        if name != "SEMCACHE_SOAK_SECONDS":
            monkeypatch.delenv(name)


@dataclass
class Bench:
    """Opens caches for WordEmbedder below one directory, and closes them at the end."""

    directory: Path
    clock: ManualClock = field(default_factory=ManualClock)
    opened: list[SemanticCache] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.directory / "cache"

    @property
    def artefact(self) -> Path:
        return self.directory / "artefact"

    def open(self, **options: Any) -> SemanticCache:
        defaults: dict[str, Any] = {
            "path": self.path,
            "embedder": WordEmbedder(),
            "artefact": self.artefact,
            "clock": self.clock,
        }
        cache = SemanticCache(**{**defaults, **options})
        self.opened.append(cache)
        return cache


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    calibrated(tmp_path / "artefact")
    bench = Bench(tmp_path)
    yield bench
    for cache in bench.opened:
        cache.close()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No upkeep behind the test's back: the test calls `round()` itself."""
    monkeypatch.setattr(BackgroundWorker, "start", lambda self: None)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Partitions that were scanned whole since."""
    found: list[bytes] = []
    original = Retriever._scan_all

    def scan_all(self: Retriever, partition: bytes, *rest: Any) -> list[int]:
        found.append(partition)
        return original(self, partition, *rest)

    monkeypatch.setattr(Retriever, "_scan_all", scan_all)
    return found


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Any:
    """Messages that semcache has logged so far, those with a given text in them."""
    caplog.set_level(logging.INFO, logger="semcache")

    def found(text: str = "") -> list[str]:
        return [r.getMessage() for r in caplog.records if text in r.getMessage()]

    return found


@pytest.fixture
def own_client() -> Iterator[Any]:
    """A Chroma client in memory as an app may have one. The app closes it: as long as one is open,
    what all of them hold in memory is kept.
    """
    client = local_client()
    yield client
    client.close()


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real `chroma run`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    directory = tmp_path_factory.mktemp("chroma-server")
    command = [
        str(Path(sys.executable).with_name("chroma")),
        *("run", "--path", str(directory), "--host", "127.0.0.1", "--port", str(port)),
    ]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert server.poll() is None, "chroma run has ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("chroma run does not listen")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads of torch only wait for each other with matrices as small as a tiny model's."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""Fixtures of the tests that need servers: PostgreSQL, and caches of many hosts upon it."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Bench
from postgres_server import PostgresServer, found


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: semcache-core[postgres]")
    if (programs := found()) is None:
        pytest.skip("PostgreSQL is not installed: `make postgres` tries to install it")
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """Of a ledger that is not there yet."""
    return postgres.url(postgres.new_schema())


class Hosts(Bench):
    """Opens caches that share nothing but servers."""

    url: str
    chroma_client: Any = None

    def open(self, **options: Any) -> Any:
        servers = {"ledger_url": self.url, "chroma_client": self.chroma_client}
        return super().open(**{"path": None, **servers, **options})


@pytest.fixture
def hosts(bench: Bench, url: str) -> Iterator[Hosts]:
    hosts = Hosts(bench.directory)
    hosts.url = url
    yield hosts
    for cache in hosts.opened:
        cache.close()

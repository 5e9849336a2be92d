"""The cache against a dictionary, with PostgreSQL as its ledger and an index on a Chroma server."""

from typing import Any

import chromadb
import pytest
from core.test_cache_stateful import CacheAsDict, run
from postgres_server import PostgresServer


def test_the_cache_remembers_what_a_dictionary_would(
    postgres: PostgresServer, chroma_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = chromadb.HttpClient("127.0.0.1", chroma_server)

    class OnServers(CacheAsDict):
        def place(self) -> dict[str, Any]:
            self.url = getattr(self, "url", None) or postgres.url(postgres.new_schema())
            return {"path": None, "ledger_url": self.url, "chroma_client": client}

    run(OnServers, monkeypatch, 6)

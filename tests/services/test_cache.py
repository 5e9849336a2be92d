"""The cache's own suites, with PostgreSQL as its ledger and a Chroma server as its index."""

from typing import Any

import chromadb
import pytest
from core.test_cache import *  # noqa: F403 - the same tests ...

del TestFiles  # noqa: F821 - ... but for those of a directory


@pytest.fixture
def bench(hosts: Any, chroma_server: int) -> Any:
    hosts.chroma_client = chromadb.HttpClient("127.0.0.1", chroma_server)
    return hosts

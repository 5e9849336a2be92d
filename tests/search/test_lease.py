"""One process at a time holds a lease on the ledger."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lease_contract import LeaseContract
from semcache_core.search.compaction import Lease
from semcache_core.storage.ledger import Ledger


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    opened: list[Ledger] = []

    def reopen() -> Ledger:
        opened.append(Ledger.open(tmp_path, None))
        return opened[-1]

    yield reopen
    for one in opened:
        one.close()


class TestLeaseInSqlite(LeaseContract):
    pass


def test_releasing_to_a_broken_ledger_raises_nothing(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, None)
    lease = Lease(ledger, "a")
    assert lease.acquire()
    ledger.close()
    (tmp_path / "ledger.sqlite3").write_bytes(b"broken" * 1000)
    lease.release()
    assert not lease.held

"""Of the processes on one path one does a thing at a time."""

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


class TestClaimInSqlite(LeaseContract):
    pass


def test_giving_back_to_a_ledger_that_is_gone_raises_nothing(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, None)
    claim = Lease(ledger, "a")
    assert claim.hold()
    ledger.close()
    (tmp_path / "ledger.sqlite3").write_bytes(b"broken" * 1000)
    claim.release()
    assert not claim.held

"""What a lease must do, in every database that keeps a ledger."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from semcache_core.search import compaction
from semcache_core.search.compaction import Lease
from semcache_core.storage.ledger import Ledger


class Seconds:
    """A monotonic clock that a test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class LeaseContract:
    """Subclasses give `reopen`: the same ledger once more, as another process has it."""

    @pytest.fixture
    def seconds(self, monkeypatch: pytest.MonkeyPatch) -> Seconds:
        seconds = Seconds()
        monkeypatch.setattr(compaction, "time", seconds)
        return seconds

    @pytest.mark.usefixtures("seconds")
    def test_one_holds_it_until_it_is_released(self, reopen: Callable[[], Ledger]) -> None:
        one, other = (Lease(reopen(), "a") for _ in range(2))
        assert one.acquire() and one.acquire() and one.held
        assert not other.acquire() and not other.held
        other.release()  # not its own
        assert not other.acquire()
        one.release()
        assert not one.held
        assert other.acquire()
        assert Lease(reopen(), "b").acquire()

    def test_a_lease_that_is_not_renewed_expires(
        self, reopen: Callable[[], Ledger], seconds: Seconds
    ) -> None:
        gone, other, third = (Lease(reopen(), "a") for _ in range(3))
        assert gone.acquire()
        assert not other.acquire()
        seconds.now += compaction.LEASE_SECONDS - 1
        assert not other.acquire()
        seconds.now += 1
        assert not third.acquire()  # it has only just seen it
        assert other.acquire()
        assert not gone.acquire() and not gone.held
        gone.release()
        assert other.acquire() and not third.acquire()

    def test_a_lease_that_is_renewed_is_kept(
        self, reopen: Callable[[], Ledger], seconds: Seconds
    ) -> None:
        one, other = (Lease(reopen(), "a") for _ in range(2))
        for _ in range(5):
            assert one.acquire()
            assert not other.acquire()
            seconds.now += compaction.LEASE_SECONDS - 1

    @pytest.mark.usefixtures("seconds")
    def test_of_many_at_once_one_gets_it(self, reopen: Callable[[], Ledger]) -> None:
        leases = [Lease(reopen(), "a") for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(lambda one: one.acquire(), leases)) == 1
        assert sum(one.acquire() for one in leases) == 1

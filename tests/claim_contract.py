"""What a claim must do, whatever database the ledger is kept in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from semcache_core.search import compaction
from semcache_core.search.compaction import Lease
from semcache_core.storage.ledger import Ledger


class Seconds:
    """Of a monotonic clock that a test moves."""

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
    def test_one_has_it_until_it_is_given_back(self, reopen: Callable[[], Ledger]) -> None:
        one, other = (Lease(reopen(), "a") for _ in range(2))
        assert one.hold() and one.hold() and one.held
        assert not other.hold() and not other.held
        other.release()  # not its own
        assert not other.hold()
        one.release()
        assert not one.held
        assert other.hold()
        assert Lease(reopen(), "b").hold()

    def test_whoever_shows_no_sign_of_life_loses_it(
        self, reopen: Callable[[], Ledger], seconds: Seconds
    ) -> None:
        gone, other, third = (Lease(reopen(), "a") for _ in range(3))
        assert gone.hold()
        assert not other.hold()
        seconds.now += compaction.LEASE_SECONDS - 1
        assert not other.hold()
        seconds.now += 1
        assert not third.hold()  # it has only just seen it
        assert other.hold()
        assert not gone.hold() and not gone.held
        gone.release()
        assert other.hold() and not third.hold()

    def test_whoever_shows_signs_of_life_keeps_it(
        self, reopen: Callable[[], Ledger], seconds: Seconds
    ) -> None:
        one, other = (Lease(reopen(), "a") for _ in range(2))
        for _ in range(5):
            assert one.hold()
            assert not other.hold()
            seconds.now += compaction.LEASE_SECONDS - 1

    @pytest.mark.usefixtures("seconds")
    def test_of_many_at_once_one_gets_it(self, reopen: Callable[[], Ledger]) -> None:
        claims = [Lease(reopen(), "a") for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(lambda one: one.hold(), claims)) == 1
        assert sum(one.hold() for one in claims) == 1

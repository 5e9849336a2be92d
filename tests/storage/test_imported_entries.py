"""The ledger takes entries from elsewhere: which replace what is here, and what they bring."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fakes import entry_fields
from semcache_core.errors import LedgerError
from semcache_core.request import key_of
from semcache_core.storage.entries import ImportedEntry
from semcache_core.storage.eviction import Limits
from semcache_core.storage.ledger import Ledger
from semcache_core.transfer.entries import Listing
from semcache_core.types import Request

NOW = 1000.0
UNIT = np.array([0.6, 0.8], np.float32)
KEY, DIGEST = b"k" * 32, b"d" * 32


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger.open(None, None)
    yield ledger
    ledger.close()


def arrival(question: str, **changes: Any) -> ImportedEntry:
    return ImportedEntry(**entry_fields(question, **{"vector": UNIT} | changes))


def responses(ledger: Ledger) -> list[str]:
    return [one.response for one in Listing(ledger).oldest_first(NOW)]


@pytest.mark.parametrize(
    ("changes", "stays"),
    [
        ({"created": 99.0}, True),
        ({"created": 100.0}, True),
        ({"created": 101.0}, False),
        ({"created": 101.0, "dated": False}, True),
    ],
)
def test_what_is_as_new_or_newer_stays(
    changes: dict[str, Any], stays: bool, ledger: Ledger
) -> None:
    ledger.entries.insert(arrival("a", response="here"))
    comes = [arrival("a", response="comes", **changes)]
    assert ledger.entries.awaited(comes, NOW) == [not stays]
    assert ledger.entries.insert_newer(comes, NOW) == (not stays)
    assert responses(ledger) == ["here" if stays else "comes"]


def test_what_has_expired_does_not_stay(ledger: Ledger) -> None:
    ledger.entries.insert(arrival("a", response="here", expires=NOW))
    comes = [arrival("a", response="comes", created=5.0, dated=False)]
    assert ledger.entries.awaited(comes, NOW) == [True]
    assert ledger.entries.insert_newer(comes, NOW) == 1
    assert ledger.count() == 1


def test_of_two_for_one_request_the_newer_is_stored_in_either_order(ledger: Ledger) -> None:
    old, new = arrival("a", response="old"), arrival("a", response="new", created=200.0)
    assert ledger.entries.insert_newer([old, new], NOW) == 2
    assert ledger.entries.insert_newer([new, old], NOW) == 0
    assert responses(ledger) == ["new"]


def test_an_error_leaves_none_of_them(ledger: Ledger) -> None:
    wrong = arrival("b", cost=object())
    with pytest.raises(LedgerError, match="object"):
        ledger.entries.insert_newer([arrival("a"), wrong], NOW)
    assert ledger.count() == 0


def test_the_least_recently_used_go_beyond_the_most(ledger: Ledger) -> None:
    ledger.entries.insert(arrival("here", created=150.0))
    comes = [arrival(str(n), created=100.0 + 100 * n) for n in range(3)]
    assert ledger.entries.insert_newer(comes, NOW, Limits(2)) == 3
    assert responses(ledger) == ["answer to 1", "answer to 2"]


def test_what_was_learnt_of_an_entry_comes_with_it(ledger: Ledger) -> None:
    ledger.entries.insert_newer(
        [arrival("a", doubt=1.5, exact_only_since=50.0, wrong_for=(KEY, KEY))], NOW
    )
    (found,) = Listing(ledger).oldest_first(NOW)
    assert (found.doubt, found.exact_only_since, found.wrong_for) == (1.5, 50.0, (KEY,))
    (stored,) = ledger.lookups.live(
        [found.id], key_of(Request(""), "default").partition, "model", NOW, KEY
    )
    assert (stored.doubt, stored.exact_only, stored.known_wrong) == (1.5, True, True)


class TestTheSameAnswer:
    FIRST = (arrival("a").exact, DIGEST)

    def answers(self, ledger: Ledger) -> list[int]:
        ids = [one.id for one in Listing(ledger).oldest_first(NOW)]
        partition = key_of(Request(""), "default").partition
        return [one.answer for one in ledger.lookups.live(ids, partition, "model", NOW)]

    def test_is_known_again(self, ledger: Ledger) -> None:
        first = arrival("a", answer_digest=DIGEST)
        comes = [first, arrival("b", same_as=self.FIRST), arrival("c", same_as=self.FIRST)]
        ledger.entries.insert_newer(comes, NOW)
        assert self.answers(ledger) == [1, 1, 1]

    def test_is_that_of_the_answer_here_with_the_same_words(self, ledger: Ledger) -> None:
        ledger.entries.insert(arrival("x"))
        ledger.entries.insert(arrival("a", answer_digest=DIGEST, answer=1))
        ledger.entries.insert_newer([arrival("b", same_as=self.FIRST)], NOW)
        assert self.answers(ledger) == [1, 1, 1]

    def test_is_forgotten_where_another_answer_is_stored_by_now(self, ledger: Ledger) -> None:
        ledger.entries.insert(arrival("a", answer_digest=b"e" * 32))
        ledger.entries.insert_newer([arrival("b", same_as=self.FIRST)], NOW)
        assert self.answers(ledger) == [1, 2]

    def test_is_forgotten_where_none_is_stored(self, ledger: Ledger) -> None:
        ledger.entries.insert_newer([arrival("b", same_as=self.FIRST)], NOW)
        assert self.answers(ledger) == [1]

    def test_is_never_that_of_another_partition(self, ledger: Ledger) -> None:
        elsewhere = key_of(Request("a", "s"), "default")
        ledger.entries.insert(
            arrival("a", exact=elsewhere.exact, partition=elsewhere.partition, answer_digest=DIGEST)
        )
        ledger.entries.insert_newer([arrival("b", same_as=(elsewhere.exact, DIGEST))], NOW)
        listed = {one.question: one for one in Listing(ledger).oldest_first(NOW)}
        assert listed["b"].same_as is None

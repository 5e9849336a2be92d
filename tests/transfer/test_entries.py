"""What a ledger holds, entry by entry, while others write to it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import entry_fields
from semcache_core.quality.verdicts import Verdict, VerdictLog
from semcache_core.request import key_of
from semcache_core.storage.entries import ListedEntry, NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.transfer import entries
from semcache_core.transfer.entries import Listing, Model
from semcache_core.types import Request

UNIT = np.array([0.6, 0.8], np.float32)
KEY = b"k" * 32


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = Ledger.open(None, None)
    yield ledger
    ledger.close()


@pytest.fixture
def two_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FORWARD", "_BACKWARD"):
        monkeypatch.setattr(entries, name, getattr(entries, name).limit(2))


def store(ledger: Ledger, question: str, **changes: Any) -> int:
    return ledger.entries.insert(NewEntry(**entry_fields(question, **{"vector": UNIT} | changes)))


def questions(listed: Iterator[ListedEntry]) -> list[str]:
    return [one.question for one in listed]


@pytest.mark.parametrize("planted", [b"", b"odd", bytes(8), "text"])
def test_an_entry_with_a_planted_vector_is_listed_as_one_without(
    ledger: Ledger, planted: object
) -> None:
    store(ledger, "a")
    with ledger.write() as connection:
        connection.exec_driver_sql("UPDATE semcache_vectors SET vector = ?", (planted,))
    (listed,) = Listing(ledger).oldest_first(200.0)
    assert (listed.question, listed.vector, listed.fingerprint) == ("a", None, None)


def test_an_entry_is_listed_with_all_that_is_kept_of_it(ledger: Ledger) -> None:
    entry_id = store(
        ledger, "a \ud800\0", scope="s\ud800", namespace="acme", expires=300.0, cost=0.0,
        tokens_in=5, tokens_out=7, seconds=0.5, tags=("b", "", "a,\ud800"), answer_text="said",
        writer="w", response="\0",
    )  # fmt: skip
    wrong = Verdict("acme", entry_id, "b", "a", 0.9, 0.95, False, "feedback", 1.0)
    VerdictLog(ledger).judge(wrong, KEY)
    ledger.entries.touch({entry_id: (3, 200.0)})
    listed = next(Listing(ledger).oldest_first(200.0))
    assert listed.doubt > 0
    assert listed.vector is not None and np.array_equal(listed.vector, UNIT)
    assert replace(listed, doubt=0.0, vector=None) == ListedEntry(
        id=entry_id, namespace="acme", scope="s\ud800", exact_only=False, question="a \ud800\0",
        response="\0", created=100.0, expires=300.0, hits=3, cost=0.0,
        tokens_in=5, tokens_out=7, seconds=0.5, answer_text="said",
        doubt=0.0, writer="w", exact_only_since=None, tags=("", "a,\ud800", "b"), wrong_for=(KEY,),
        same_as=None, fingerprint="model", vector=None,
    )  # fmt: skip
    assert Listing(ledger).get(entry_id, 200.0) == replace(listed, vector=None)


def test_what_has_expired_is_not_listed(ledger: Ledger) -> None:
    entry_id = store(ledger, "a", expires=200.0)
    assert questions(Listing(ledger).oldest_first(199.0)) == ["a"]
    assert questions(Listing(ledger).oldest_first(200.0)) == []
    assert questions(Listing(ledger).newest_first(200.0)) == []
    assert Listing(ledger).get(entry_id, 200.0) is None


@pytest.mark.parametrize("cost", [float("inf"), -5.0])
def test_what_no_time_and_no_cost_can_be_is_none(cost: float, ledger: Ledger) -> None:
    store(ledger, "a", expires=float("inf"), cost=cost)
    (listed,) = Listing(ledger).newest_first(200.0)
    assert (listed.expires, listed.cost) == (None, None)


@pytest.mark.usefixtures("two_a_page")
def test_entries_come_in_both_orders_page_by_page(ledger: Ledger) -> None:
    for n in range(5):
        store(ledger, str(n), namespace="even" if n % 2 == 0 else "odd", scope=str(n // 3))
    listing = Listing(ledger)
    assert questions(listing.oldest_first(200.0)) == list("01234")
    assert questions(listing.oldest_first(200.0, "odd")) == list("13")
    assert questions(listing.newest_first(200.0)) == list("43210")
    assert questions(listing.newest_first(200.0, "even")) == list("420")
    assert questions(listing.newest_first(200.0, "even", "0")) == list("20")
    assert questions(listing.newest_first(200.0, scope="1")) == list("43")


@pytest.mark.usefixtures("two_a_page")
def test_an_answer_replaced_between_two_pages_is_met_and_the_rest_once(ledger: Ledger) -> None:
    for n in range(5):
        store(ledger, str(n))
    found = Listing(ledger).oldest_first(200.0)
    met = [next(found)]
    store(ledger, "0", response="new")  # met already: then the new one too
    store(ledger, "4", response="new")  # not met yet: the new one only
    ledger.entries.delete(3)
    met += found
    assert [(one.question, one.response[:3]) for one in met] == [
        ("0", "ans"), ("1", "ans"), ("3", "ans"), ("0", "new"), ("4", "new"),
    ]  # fmt: skip


def test_the_kind_says_how_an_entry_is_found(ledger: Ledger) -> None:
    hub = store(ledger, "a")
    ledger.entries.serve_only_exactly(hub, 150.0)
    store(ledger, "b")
    store(ledger, "c", exact_only=True, vector=None)
    store(ledger, "d", vector=None)
    kinds = [one.kind for one in Listing(ledger).oldest_first(200.0)]
    assert kinds == ["hub", "by meaning", "exact only", "exact only"]


class TestSameAs:
    def test_names_the_first_entry_with_the_same_answer(self, ledger: Ledger) -> None:
        first = store(ledger, "a", answer_digest=b"d" * 32)
        store(ledger, "b", answer=first, answer_digest=b"e" * 32)
        store(ledger, "c", answer=first)
        store(ledger, "d")
        exact = key_of(Request("a"), "default").exact
        named = (exact, b"d" * 32)
        found = [one.same_as for one in Listing(ledger).oldest_first(200.0)]
        assert found == [None, named, named, None]

    def test_names_the_first_that_is_still_there(self, ledger: Ledger) -> None:
        first = store(ledger, "a", answer_digest=b"d" * 32)
        store(ledger, "b", answer=first, answer_digest=b"e" * 32)
        store(ledger, "c", answer=first)
        ledger.entries.delete(first)
        named = (key_of(Request("b"), "default").exact, b"e" * 32)
        assert [one.same_as for one in Listing(ledger).oldest_first(200.0)] == [None, named]

    def test_names_none_whose_answer_has_no_digest(self, ledger: Ledger) -> None:
        first = store(ledger, "a")
        store(ledger, "b", answer=first)
        assert [one.same_as for one in Listing(ledger).oldest_first(200.0)] == [None, None]


def test_models_are_told_with_their_vectors_the_most_used_first(ledger: Ledger) -> None:
    assert Listing(ledger).models() == []
    store(ledger, "a", fingerprint="old")
    for question in "bc":
        store(ledger, question, vector=np.ones(3, np.float32))
    assert Listing(ledger).models() == [Model("model", 3, 2), Model("old", 2, 1)]

"""What decides an answer and hardly moves a similarity."""

from pathlib import Path

import pytest
from fakes import WordEmbedder, calibrated
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request, SemanticCache
from semcache_core.deciding_words import OPPOSITES
from semcache_core.guard import decisive_difference, numbers, same_numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no numbers here", []),
        ("order 1234", ["1234"]),
        ("from 5 to 7", ["5", "7"]),
        ("1,000,000 or 1,000 or 1000", ["1000", "1000", "1000000"]),
        ("1,5 and 1.5", ["1,5", "1.5"]),
        ("on 2024-05-01 at 10:30", ["10:30", "2024-05-01"]),
        ("B2B and COVID19", ["19", "2"]),
    ],
)
def test_numbers_are_found(text: str, found: list[str]) -> None:
    assert numbers(text) == found


def test_the_order_of_the_numbers_does_not_count_but_how_often_each_occurs_does() -> None:
    assert same_numbers("is 5 less than 7", "7 is how much more than 5")
    assert not same_numbers("is 5 less than 5", "is 5 less than")


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ("Is order 1234 here?", "Is order 1235 here?", "other numbers"),
        ("Are two cards free?", "Are three cards free?", "other numbers"),
        ("What does setup.cfg do?", "What does setup.py do?", "other names of files"),
        ("What is user_id for?", "What is group_id for?", "other names of files"),
        ("Is it ready in 2 days?", "Is it ready in 2 hours?", "another unit: days, hours"),
        ("Can I send 5 pounds?", "Can I send 5 kilograms?", "another unit"),
        ("Can I send 5 £?", "Can I send 5 €?", "another unit"),
        ("Is it open in June?", "Is it open on July?", "another unit"),
        ("How do I ENABLE alerts?", "How do I disable alerts?", "the opposite: enable, disable"),
        ("Why is it available?", "Why is it unavailable?", "the opposite: available, unavail"),
        ("Why is it unavailable?", "Why is it available?", "the opposite: available, unavail"),
        ("do girls like what boys like", "do boys like what boys like", "the opposite"),
        ("From Basel to Bern?", "From Bern to Basel?", "the same words the other way round"),
        ("Is aspirin safe?", "Is aspirin not safe?", "a negation"),
        ("Why does my card work?", "Why doesn’t my card work?", "a negation"),
        ("Why can I pay?", "Why can't I pay?", "a negation"),
        ("Why is it open?", "When is it open?", "another question word"),
        ("How long is it?", "How far is it?", "another question word"),
        ("How is it?", "How long is it?", ""),
    ],
)
def test_what_decides_is_seen_from_either_side(one: str, other: str, difference: str) -> None:
    for found in (decisive_difference(one, other), decisive_difference(other, one)):
        assert bool(found) == bool(difference)
    assert decisive_difference(one, other).startswith(difference)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is it safe?", "Is it safe to use?"),
        ("What is the limit?", "How much is the limit?"),
        ("Which is the largest country?", "What is the largest country?"),
        ("How big is it?", "How large is it?"),
        ("Why do I pay fees?", "Why I do pay fees?"),
        ("On a card payment, why is there a fee?", "Why is there a fee on a card payment?"),
        ("I'm here, it's late", "I am here, it is late"),
        ("Can I pay in euros?", "Can I pay in days?"),
        ("How do I set up an iPhone 3G?", "how do i set up an iphone 3g?"),
        ("How to pay my bill?", "My bill, how to pay?"),
        ("My card isn't working", "My card is broken, is it dead?"),
        ("Is 5 kg the limit?", "Is the limit 5 kilograms?"),
        ("", ""),
    ],
)
def test_another_wording_is_no_difference(one: str, other: str) -> None:
    assert decisive_difference(one, other) == decisive_difference(other, one) == ""


def test_an_opposite_or_a_unit_among_much_other_wording_need_not_be_what_differs() -> None:
    one = "how can my PIN be changed while I am out of the country these two days"
    other = "in Austria now and PIN needs a change within the next two hours please help me"
    assert decisive_difference(one, other) == ""


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_is_taken_and_no_text_differs_from_itself(one: str, other: str) -> None:
    assert decisive_difference(one, one) == ""
    assert bool(decisive_difference(one, other)) == bool(decisive_difference(other, one))


def test_every_opposite_is_one_both_ways_and_of_no_word_itself() -> None:
    for word, opposites in OPPOSITES.items():
        assert word not in opposites
        assert all(word in OPPOSITES[other] for other in opposites)


@pytest.fixture
def cache(tmp_path: Path) -> SemanticCache:
    artefact = calibrated(tmp_path / "artefact")
    return SemanticCache(path=None, embedder=WordEmbedder(), artefact=artefact)


STORED = "please tell me as soon as you can where my parcel with the order number 1234 is today"


def test_a_near_question_with_another_number_is_a_miss_that_says_so(cache: SemanticCache) -> None:
    cache.update(Request(STORED), "In Basel.")
    asked = Request(STORED.replace("1234", "1235"))
    explained = cache.explain(asked)
    assert explained.candidates[0].probability >= (explained.threshold or 1)
    assert cache.lookup(asked) is None
    assert "other numbers" in explained.reason


def test_the_next_candidate_with_the_same_number_is_served(cache: SemanticCache) -> None:
    cache.update(Request(STORED.replace("1234", "1235")), "In Bern.")
    cache.update(Request(STORED.replace("please ", "")), "In Basel.")
    asked = Request(STORED.replace("today", "") + " today")
    cache.update(Request(STORED.replace("1234", "1236")), "In Chur.")
    hit = cache.lookup(asked)
    assert hit is not None and hit.response == "In Basel."

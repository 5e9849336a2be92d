"""What decides an answer and hardly moves a similarity."""

from pathlib import Path

import pytest
from fakes import WordEmbedder, calibrated
from semcache_core import Request, SemanticCache
from semcache_core.guard import numbers, same_numbers


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

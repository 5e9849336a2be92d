"""What may differ in system texts, and the hint at a date in one."""

from typing import Any

import pytest
from semcache_core import Explanation, Request, SemanticCache, SemcacheError
from semcache_core.adapters import hinted, normalised

DATED = ["be brief", "it is 2026-11-25"]


def test_a_text_is_compared_without_what_is_taken_out() -> None:
    assert normalised(str.lower, "Be Brief") == "be brief"


@pytest.mark.parametrize("wrong", [None, b"", 7])
def test_a_normaliser_that_gives_no_text_is_an_error(wrong: Any) -> None:
    with pytest.raises(SemcacheError, match=r"normalise_system must give a str, got .* unchanged"):
        normalised(lambda text: wrong, "be brief")


@pytest.fixture
def cache(bench: Any) -> SemanticCache:
    return bench.open(path=None)


def explained(cache: SemanticCache, question: str, scope: str) -> Explanation:
    return cache.explain(Request(question, scope=scope))


def test_a_date_is_named_where_nothing_was_ever_stored(cache: SemanticCache) -> None:
    explanation = explained(cache, "hi there", "s")
    hint = hinted(explanation, DATED).hint
    assert hint is not None and "'2026-11-25'" in hint and "normalise_system" in hint
    for texts in ([], ["be brief"]):
        assert hinted(explanation, texts) is explanation


def test_where_something_is_stored_the_date_is_not_why(cache: SemanticCache) -> None:
    cache.update(Request("hi there", scope="s"), "hello")
    for question in ("hi there", "how warm is it"):  # a hit, and a miss
        explanation = explained(cache, question, "s")
        assert hinted(explanation, DATED) is explanation

"""Courtesy around a question, with the shipped model: the same question is served, no other is."""

from collections.abc import Iterator

import pytest
from semcache_core import Request, SemanticCache, split_question

pytestmark = pytest.mark.slow

STORED = (
    "How do I reset my password?",
    "Where can I download my invoices?",
    "How long does delivery to Spain take?",
    "How do I enable two-factor authentication?",
    "Can I return an item without the receipt?",
)
LOOK_ALIKES = (
    "How do I reset my username?",
    "Where can I upload my invoices?",
    "How long does delivery to Norway take?",
    "How do I disable two-factor authentication?",
    "Can I return an item with the receipt?",
)
DECORATIONS = (
    "Hi there, {}",
    "Hello team! {}",
    "Quick question: {}",
    "Hi, I have a question: {}",
    "{} Thanks in advance!",
    "{} Best regards, John Smith",
    "{} \U0001f60a",
    "\U0001f44b {}",
    "Hi,\n\n{}\n\nKind regards,\nAnna Smith",
    "Hello \U0001f44b, quick question: {} Thanks! \U0001f64f",
)


@pytest.fixture(scope="module")
def cache() -> Iterator[SemanticCache]:
    with SemanticCache(path=None) as cache:
        for question in STORED:
            cache.update(request(question), f"answer: {question}")
        yield cache


def request(text: str) -> Request:
    split = split_question(text)
    assert split is not None
    return Request(split.question, split.frame)


@pytest.mark.parametrize("decoration", DECORATIONS)
def test_a_decorated_question_gets_the_answer_of_the_plain_one(
    cache: SemanticCache, decoration: str
) -> None:
    for question in STORED:
        hit = cache.lookup(request(decoration.format(question)))
        assert hit is not None and hit.response == f"answer: {question}"
        assert hit.similarity == pytest.approx(1)


@pytest.mark.parametrize("decoration", DECORATIONS)
def test_a_decorated_look_alike_gets_no_answer(cache: SemanticCache, decoration: str) -> None:
    for question in LOOK_ALIKES:
        assert cache.lookup(request(decoration.format(question))) is None


@pytest.mark.parametrize("decoration", ("{}", *DECORATIONS))
def test_a_customers_own_figures_are_not_served_to_another(decoration: str) -> None:
    with SemanticCache(path=None) as cache:
        mine, yours = (
            decoration.format(f"My customer number is {number}. What is my balance?")
            for number in (48213, 99999)
        )
        cache.update(request(mine), "Your balance is 12.")
        assert cache.lookup(request(yours)) is None
        assert cache.lookup(request("What is my balance?")) is None

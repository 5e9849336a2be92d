"""Slips of typing are corrected; words, names and codes are left alone."""

import re
from random import Random

import numpy as np
import pytest
from conftest import Bench
from hypothesis import given
from hypothesis import strategies as st
from semcache_core import Request, SemanticCache
from semcache_core.decision.scoring import CandidateScores, Neighbour, Weights
from semcache_core.embedding.spelling import corrected
from semcache_core.testing import engine_of


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("How do I cancle my subscripton?", "How do I cancel my subscription?"),
        ("Where is my recepit", "Where is my receipt"),
        ("chaneg my delivry adress", "change my delivery address"),
        ("an itme I recieved", "an itme I received"),  # "item" is rare in film subtitles
        ("How do I enalbe two-fatcor login?", "How do I enable two-factor login?"),
        ("shiping costs, acount number", "shipping costs, account number"),
        ("Recieve a refund in 3 mnths", "Receive a refund in 3 months"),
        ("authorise or legalise it (analysed)", "authorize or legalize it (analyzed)"),
    ],
)
def test_a_word_one_slip_away_from_a_common_one_is_corrected(slip: str, meant: str) -> None:
    assert corrected(slip) == meant


@pytest.mark.parametrize(
    "text",
    [
        "How do I reset my password?",
        "Is celexa the same as celebrex, or statins, or metformin?",
        "Did Messi or Kalr answer Mrs. Adressi?",  # names inside a sentence
        "RX-abdc, LX124b, my_adress, user@exmaple.com, exmaple.org, /usr/recieve, a.recieve()",
        "git commit --amned -recieve",
        "ADRESS RECIEVED",
        "webhook, postgres, backend, frontend, linux, iphone, paypal, volte, struct, adware",
        "the cat sat on teh mat",  # too short to tell
        "qwrtplk xzvbnmq",  # nothing that was meant
        "a" * 1_000_000,
        "",
    ],
)
def test_everything_else_is_left_as_it_is(text: str) -> None:
    assert corrected(text) == text


@pytest.mark.parametrize("text", ["I am staing here", "her soter"])
def test_a_slip_that_several_common_words_explain_is_left(text: str) -> None:
    assert corrected(text) == text


@given(st.text(max_size=200))
def test_any_text_keeps_its_length_within_one_letter_a_word(text: str) -> None:
    found = corrected(text)
    assert abs(len(found) - len(text)) <= 2 * len(re.findall(r"[A-Za-z]{4,}", text))
    assert re.sub(r"[A-Za-z]", "", found) == re.sub(r"[A-Za-z]", "", text)


def test_the_guard_reads_what_was_meant() -> None:
    weights = Weights(0.0, 1.0, (), {"opposite": -9.0})
    stored = Neighbour(1, "How do I disable alerts?", 1, 0.99)
    (scored,) = CandidateScores("How do I enalbe alerts?", [stored], weights, complete=True)
    assert [one.rule for one in scored.differences] == ["opposite"]


STORED = """
How do I reset my password?
Where can I download my invoices?
How long does delivery to Norway take?
How do I enable two-factor authentication?
Can I return an item without the receipt?
How do I cancel my subscription?
What payment methods do you accept?
How can I change my delivery address?
When will my refund arrive?
Is there a student discount?
How do I contact customer support?
Why was my card declined?
Can I change the email address of my account?
How many vacation days do I have left?
What is the limit for cash withdrawals?
How do I export my data?
Do you ship to Portugal?
How do I track my package?
Where is the nearest branch?
How do I close my account?
""".strip().splitlines()


def with_slip(text: str, chance: Random) -> str:
    """Two letters of a longer word exchanged, one left out or one doubled."""
    word = chance.choice(list(re.finditer(r"(?<=\w)[a-z]{5,}", text)))
    letters, at = word[0], chance.randrange(len(word[0]) - 1)
    slips = (
        letters[:at] + letters[at + 1] + letters[at] + letters[at + 2 :],
        letters[:at] + letters[at + 1 :],
        letters[: at + 1] + letters[at:],
    )
    return text[: word.start()] + chance.choice(slips) + text[word.end() :]


@pytest.mark.slow
def test_questions_with_a_slip_get_the_answer_of_the_right_one_at_the_default_bound() -> None:
    chance, served = Random(7), 0
    with SemanticCache(path=None) as cache:
        for question in STORED:
            cache.update(Request(question), question)
        for question in STORED:
            hit = cache.lookup(Request(with_slip(question, chance)))
            assert hit is None or hit.response == question
            served += hit is not None
    assert served >= 15


@pytest.mark.slow
def test_a_look_alike_with_a_slip_gets_no_answer() -> None:
    with SemanticCache(path=None) as cache:
        cache.update(Request("How do I disable notifications?"), "In settings.")
        assert cache.lookup(Request("How do I disbale notifications?")) is not None
        assert cache.lookup(Request("How do I enalbe notifications?")) is None


def test_a_model_of_ones_own_gets_the_text_as_it_is(bench: Bench) -> None:
    with bench.open(artefact=None, embedder=None) as shipped:
        vectors = engine_of(shipped).embedder.embed(["my adress", "my address"])
        assert np.array_equal(*vectors)
    own = engine_of(bench.open()).embedder.embed(["my adress", "my address"])
    assert not np.array_equal(*own)

"""What counts as the question in a text, and what is left in it because an answer may need it."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from semcache_core._utils.courtesy import core_of, draws_on_person

PLAIN = "How do I reset my password?"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"Hi, {PLAIN}",
        f"Hello team! {PLAIN}",
        f"GOOD MORNING - {PLAIN}",
        f"Dear support team,\n\n{PLAIN}",
        f"Quick question: {PLAIN}",
        f"Hey, I've got a quick question for you. {PLAIN}",
        f"Can I ask you something? {PLAIN}",
        f"{PLAIN} Thanks!",
        f"{PLAIN} Thank you so much in advance.",
        f"{PLAIN} Thanks, Anna",
        f"{PLAIN}\n\nKind regards,\nJosé O'Neill-Smith",
        f"{PLAIN} Any help would be greatly appreciated!",
        f"{PLAIN} \U0001f60a",
        f"{PLAIN} \U0001f62d\U0001f62d",
        f"\U0001f621 {PLAIN}",
        f"{PLAIN} \U0001f91e",
        f"{PLAIN}\U0001f64f\U0001f3fd\U0001f64f\U0001f3fd",
        f"{PLAIN} :-)",
        f"\U0001f44b {PLAIN}",
        f"\u263a\ufe0f {PLAIN} Thanks \U0001f937\u200d\u2640\ufe0f",
        f"Hello all \U0001f44b, one question: {PLAIN} Thanks in advance! \U0001f60a",
        f"My customer number is 48213. {PLAIN}",
        f"Hi, my name is Ana Lopez, my member id: A-77. {PLAIN}",
        f"{PLAIN} My customer number is 48213. Cheers, Ana",
    ],
)
def test_courtesy_around_a_question_is_left_out(text: str) -> None:
    assert core_of(text).text == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        # the greeting, the thanks or the name may be what is asked about
        "Good morning, Vietnam",
        "Hello, Dolly! Who wrote the musical?",
        "Hi Anna, how do I reset my password?",
        "Hi-Fi systems: which do you sell?",
        "How do I say thanks",
        "How do I greet a team? Hello team, good morning",
        "Translate into German: Hi, where is the station? Thanks, Anna",
        'Is "Hello, how are you?" polite?',
        "How do I spell my last name? Thanks, Anna",
        "Who am I and what is my name? Thanks, Anna",
        # a question with a topic of its own before the colon
        "I have a question about cards: how do I get one?",
        "Trivia question: how old is Rome?",
        "Question: where is Basel?",
        # answers that depend on who asks, or on the very number
        "My customer number is 99999. What is my balance?",
        "My customer number is 99999. What is the current balance?",
        "My customer number is 99999. Where is my parcel?",
        "My customer number is 99999. How do I change it?",
        "My name is Ana. How do I write my name in Arabic?",
        "My order number is 123. How do I return an item?",
        "Order 123. How do I return an item?",
        "I am a member. How do I cancel my account?",
        # emoji that may mean something
        "What does \U0001f60a mean?",
        "How do I type \U0001f60a",
        "How many people use \U0001f60a",
        "Which one is better? \U0001f60a \U0001f642",
        "What emotion is this? \U0001f602",
        "How many calories are in a slice? \U0001f355",
        "Do you ship to my country? \U0001f1e9\U0001f1ea",
        "Is that right? \U0001f44d",
        "How do I \U0001f60a reset my password?",
        "Great service \U0001f60a",
        # other languages
        "Bonjour, comment changer mon mot de passe? Merci, Anna",
    ],
)
def test_what_an_answer_may_depend_on_is_left_in(text: str) -> None:
    assert core_of(text).text == text


def test_a_flag_stays_where_the_emoji_after_it_goes() -> None:
    flag = "Do you ship to \U0001f1e9\U0001f1ea?"
    assert core_of(f"{flag} \U0001f60a").text == flag


def test_an_order_number_stays_where_the_thanks_go() -> None:
    assert core_of("Where is order 1234? Thanks, Anna").text == "Where is order 1234?"


PARTS = (
    "Hi|hello team|, |! |\n| |thanks|Thanks, Anna|Regards,\nAnna|?|.|\U0001f60a|\U0001f44d"
    "|\ufe0f|\u200d|:)|question:|quick question: |a|my name is Ana|my customer number is 12"
    "|how do I |pay|it|\ud800|\x00|- "
)
ASSEMBLED = st.lists(st.sampled_from(PARTS.split("|")), max_size=12).map("".join)


@given(st.text(max_size=40) | ASSEMBLED)
@example("")
@example("Hi, Thanks!")
@example("\U0001f60a")
def test_a_core_is_its_own_core_and_never_empty(text: str) -> None:
    core = core_of(text).text
    assert core_of(core).text == core
    assert core == text or len(core.split()) >= 3


@given(st.text(max_size=40))
def test_a_core_holds_no_word_that_the_text_lacks(text: str) -> None:
    whole = f"Hi, {text} Thanks, Anna"
    assert set(re.findall(r"\w+", core_of(whole).text)) <= set(re.findall(r"\w+", whole))


def test_a_long_text_of_greetings_takes_no_time_to_speak_of() -> None:
    """Ten times as long: a search that backtracks over these would not end."""
    for part in ("hi, ", "\U0001f60a ", "thanks \U0001f60a \n", "my name is Ana, ", "- , ; "):
        core_of(part * (900 // len(part)) + "x")


def test_an_answer_that_names_who_asked_first_is_for_nobody_else() -> None:
    stored = core_of(f"My customer number is 48213. {PLAIN} Thanks, Anna Smith")
    assert stored.person == ("48213", "Anna", "Smith")
    for answer in ("Hi Anna, open the settings.", "Log in as 48213."):
        assert draws_on_person(stored, PLAIN, answer)
        assert draws_on_person(stored, f"{PLAIN} Thanks, Annabel. 482130", answer)
    assert not draws_on_person(stored, f"{PLAIN} Thanks, Anna", "Hi Anna, open the settings.")
    assert not draws_on_person(stored, PLAIN, "Open the settings of Annas.")

"""Synthetic pairs: an edit changes what decides the answer, a rewrite nothing that does."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.decision.guard import numbers
from semcache_core.training.data.augmentation import synthetic_pairs
from semcache_core.training.data.word_edits import EDITS, REWRITES, Words, names_in

QUESTIONS = (
    "How many days does it take to fly from Basel to New York?",
    "Is it safe to enable two factor login?",
    "Why can't I withdraw 200 dollars from my account?",
    "What is the best way to buy a phone in Japan?",
    "I do not know what to do with my old phone, please help?",
)


def words(seed: int = 0) -> Words:
    return Words(random.Random(seed), ("Canada", "Zurich"))


@pytest.mark.parametrize(
    ("rule", "question", "wanted"),
    [
        ("number", "Can I pay 7?", r"Can I pay (?!7\?)\d+\?"),
        ("number", "Are three cards free?", r"Are (?!three)\w+ cards free\?"),
        ("unit", "Is it ready in 2 days?", r"Is it ready in 2 (?!days)\w+\?"),
        ("opposite", "How do I ENABLE it?", r"How do I DISABLE it\?"),
        ("negation", "Is it safe?", r"Is it (?:not|never) safe\?"),
        ("negation", "Why does my card not work?", r"Why does my card work\?"),
        ("negation", "Why can't I pay?", r"Why can I pay\?"),
        ("negation", "Why don't you pay?", r"Why do you pay\?"),
        ("name", "Does it work in Japan?", r"Does it work in (?:Canada|Zurich)\?"),
        ("wh-word", "When is it open?", r"(?!When)[A-Z]\w+ is it open\?"),
        ("wh-word", "How often is it open?", r"How (?!often)\w+ is it open\?"),
        ("asked-for", "What is its price?", r"What is its (?!price)\w+\?"),
        ("turned-around", "Trains from Bern to Rome?", r"Trains from Rome to Bern\?"),
        ("turned-around", "Is Rome bigger than Bern?", r"Is Bern bigger than Rome\?"),
    ],
)
def test_an_edit_changes_the_one_thing_it_is_named_for(
    rule: str, question: str, wanted: str
) -> None:
    for seed in range(20):
        changed = EDITS[rule](question, words(seed))
        assert changed is not None
        assert re.fullmatch(wanted, changed), changed


@pytest.mark.parametrize("rule", [*EDITS, *REWRITES])
def test_a_rule_that_finds_nothing_to_change_says_so_or_changes_the_form_only(rule: str) -> None:
    changed = {**EDITS, **REWRITES}[rule]("hm", words())
    assert changed is None or (rule in REWRITES and "hm" in changed.lower())


def test_what_a_contraction_cannot_lose_is_left_alone() -> None:
    assert EDITS["negation"]("I won't pay", words()) is None


@pytest.mark.parametrize(
    ("rule", "question", "one_of"),
    [
        ("contraction", "What is it?", {"What's it?"}),
        ("contraction", "I don't know", {"I do not know"}),
        ("synonym", "Where to buy it?", {"Where to purchase it?"}),
        (
            "punctuation",
            "Why?",
            {"Why", "Why ?", "Why??", "Why...", "Why?!", "Why.", "Why!", "Why ??"},
        ),
    ],
)
def test_a_rewrite_says_the_same(rule: str, question: str, one_of: set[str]) -> None:
    for seed in range(20):
        assert REWRITES[rule](question, words(seed)) in one_of


@given(st.sampled_from(sorted(REWRITES)), st.sampled_from(QUESTIONS), st.integers(0, 1000))
def test_no_rewrite_touches_a_number_or_a_negation(rule: str, question: str, seed: int) -> None:
    changed = REWRITES[rule](question, words(seed))
    if changed is not None:
        assert numbers(question) == numbers(changed)
        negated = r"\b(?:not|never)\b|n't|cannot"
        assert bool(re.search(negated, question, re.I)) == bool(re.search(negated, changed, re.I))


@given(st.lists(st.text(max_size=60), max_size=5), st.integers(0, 100))
def test_any_text_is_taken_and_the_same_seed_gives_the_same_pairs(
    questions: list[str], seed: int
) -> None:
    pairs = synthetic_pairs(questions, seed=seed)
    assert pairs == synthetic_pairs(questions, seed=seed)
    assert all(pair.other.strip() and pair.other != pair.prompt for pair in pairs)


def test_each_question_gives_as_many_edits_and_rewrites_as_asked() -> None:
    pairs = synthetic_pairs(QUESTIONS, per_question=2, seed=3)
    for question in QUESTIONS:
        own = [pair for pair in pairs if pair.prompt == question]
        assert [pair.same_answer for pair in own] == [0.0, 0.0, 1.0, 1.0]
        assert len({pair.domain for pair in own}) == 4  # no rule twice
    assert {pair.domain.split(":")[0] for pair in pairs} == {"edit", "rewrite"}


def test_names_are_capitalised_words_inside_a_sentence() -> None:
    assert names_in(["Does Visa work in New York?", "is it Visa, or Maestro", "Why"]) == (
        "Visa",
        "New York",
        "Maestro",
    )


def test_rules_that_seldom_apply_are_used_whenever_they_do() -> None:
    often, seldom = "Is it safe to eat?", "Can I pay in 3 days?"
    pairs = synthetic_pairs([often, seldom] * 20)
    rules = [p.domain for p in pairs if p.prompt == seldom and p.domain.startswith("edit")]
    # it can be negated too, as the other can, and that is what the other is used up by
    assert {"edit:number", "edit:unit"} <= set(rules)
    assert rules.count("edit:negation") < len(rules) / 4

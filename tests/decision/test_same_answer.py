"""Which responses count as the same answer."""

import numpy as np
import pytest
from fakes import WordEmbedder
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.decision.guard import numbers
from semcache_core.decision.same_answer import LONGEST, answer_digest, by_meaning
from semcache_core.errors import SettingsError
from semcache_core.types import Matrix

ANY_TEXT = st.text(st.characters(blacklist_categories=[]))
"""With lone surrogates, which JSON can spell."""


def same_words(one: str, other: str) -> bool:
    return answer_digest(one) == answer_digest(other)


class TestDigest:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("Yes, you can.", "yes you can"),
            ("Straße", "STRASSE"),
            ("Go to  Settings\n\n- Cards", "Go to Settings: Cards!"),
            ("**Bold** and `code`", "Bold and code"),
            ("“Quoted” – and more…", '"Quoted" - and more...'),
            ("It costs 1,000,000 points.", "It costs 1000000 points"),
            ("well-known", "well known"),
            ("caf\u00e9", "cafe\u0301"),
            ("你好。", "你好"),
            ("", " \n?!"),
        ],
    )
    def test_case_space_and_punctuation_do_not_count(self, one: str, other: str) -> None:
        assert same_words(one, other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("Bern to Basel", "Basel to Bern"),
            ("not able", "notable"),
            ("It is 3.5 %", "It is 35 %"),
            ("It is 5 %", "It is 5"),
            ("It is -5", "It is 5"),
            ("It is .5", "It is 5"),
            ("in 10,00", "in 1000"),
            ("12:30", "1230"),
            ("x != 5", "x = 5"),
            ("a < b", "a > b"),
            ("$5", "€5"),
            ("Use C++", "Use C#"),
            ("Use C", "Use C#"),
            ("cafe", "caf\u00e9"),
            ("की", "का"),
            ("🙂", "🙁"),
            ("\ud800", "\ud801"),
            ("", "Yes"),
        ],
    )
    def test_what_changes_the_sense_counts(self, one: str, other: str) -> None:
        assert not same_words(one, other)

    @given(ANY_TEXT)
    def test_any_text_has_one_of_32_bytes_that_layout_does_not_change(self, text: str) -> None:
        assert len(answer_digest(text)) == 32
        assert same_words(text, f"\n* {text} .\t")

    @given(st.integers(0, 10**12))
    def test_a_number_is_the_same_with_and_without_commas_as_to_the_guard(self, n: int) -> None:
        assert numbers(f"{n:,}") == numbers(f"{n}")
        assert same_words(f"{n:,} points", f"{n} points")

    @pytest.mark.parametrize("text", ["word, and more. ", ",", "1,000,", "-!", "\ud800 "])
    def test_a_text_of_megabytes_is_no_obstacle(self, text: str) -> None:
        # anything worse than linear would not end
        assert len(answer_digest(text * (2_000_000 // len(text)))) == 32


class TestByMeaning:
    def test_the_same_words_are_never_embedded(self) -> None:
        def never(texts: list[str]) -> Matrix:
            raise AssertionError(texts)

        assert by_meaning(never)("Yes, you can.", "yes you can")

    def test_a_cosine_at_the_least_is_enough_and_one_below_is_not(self) -> None:
        def embed(texts: list[str]) -> Matrix:
            return np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)

        cosine = float(np.float32(0.6))
        assert by_meaning(embed, cosine)("You can", "You may")
        assert not by_meaning(embed, cosine + 1e-6)("You can", "You may")
        assert not by_meaning(embed)("You can", "You may")

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("It takes 3 days to arrive", "It takes 5 days to arrive"),
            ("Call get_card to see it", "Call get_cards_v2 or fetch_card"),
            ("You can enable it", "You can disable it"),
            ("You can do it", "You cannot do it"),
        ],
    )
    def test_what_decides_is_not_outweighed_by_a_cosine(self, one: str, other: str) -> None:
        assert not by_meaning(lambda texts: np.ones((2, 1), np.float32))(one, other)

    def test_names_units_and_the_order_of_words_are_left_to_the_cosine(self) -> None:
        same = by_meaning(WordEmbedder().embed)
        assert same("Please ask Ada or Bob", "Please ask Bob or Ada")
        assert same("from Basel to Bern", "to Bern from Basel")

    def test_a_difference_after_what_is_embedded_still_counts(self) -> None:
        long = "word " * 500
        same = by_meaning(WordEmbedder().embed)
        assert same(f"{long} and so on", f"{long} and on so")
        assert not same(f"{long} in 3 days", f"{long} in 5 days")

    def test_only_the_beginning_is_embedded(self) -> None:
        embedder = WordEmbedder()
        by_meaning(embedder.embed)("red " * 500, "blue " * 500)
        assert [len(text) for text in embedder.calls] == [1_000, 1_000]

    def test_very_long_answers_are_the_same_in_the_same_words_only(self) -> None:
        same = by_meaning(lambda texts: np.ones((2, 1), np.float32))
        long = "a" * (LONGEST - 2)
        assert same(f"{long} b", f"{long} c")
        assert same(f"{long} b.!", f"{long} b")
        assert not same(f"{long} bc", f"{long} d")

    def test_a_model_that_gives_no_number_finds_nothing_the_same(self) -> None:
        assert not by_meaning(lambda texts: np.full((2, 1), np.nan, np.float32))("a", "b")

    @pytest.mark.parametrize("at_least", [1.01, -1.01, float("nan")])
    def test_a_bound_that_is_no_cosine_is_refused_by_its_value(self, at_least: float) -> None:
        with pytest.raises(SettingsError, match=f"at_least is {at_least}"):
            by_meaning(WordEmbedder().embed, at_least)

"""The helpers for tests of apps do what their documentation says."""

from collections.abc import Iterator

import pytest
from contracts import EmbedderContract
from fakes import calibration
from semcache_core import Request, SemanticCache
from semcache_core.decision.calibration import load_calibration
from semcache_core.testing import (
    WORD_ARTEFACT,
    ManualClock,
    WordEmbedder,
    open_word_cache,
    run_background_round,
)

ASK, PARAPHRASE = "How do I reset my password?", "my password reset how do I"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[SemanticCache]:
    with open_word_cache(clock=clock) as cache:
        yield cache


class TestWordEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> WordEmbedder:
        return WordEmbedder()

    def test_words_count_and_their_order_and_case_do_not(self, embedder: WordEmbedder) -> None:
        asked, same, other = embedder.embed([ASK, PARAPHRASE, "Where is Basel?"])
        assert asked @ same == pytest.approx(1)
        assert abs(asked @ other) < 0.5

    def test_one_word_in_ten_moves_the_cosine_by_about_a_tenth(
        self, embedder: WordEmbedder
    ) -> None:
        words = [f"word{n}" for n in range(10)]
        asked, near = embedder.embed([" ".join(words), " ".join([*words[:9], "another"])])
        assert asked @ near == pytest.approx(0.9, abs=0.05)

    def test_it_keeps_what_it_was_asked_to_embed(self, embedder: WordEmbedder) -> None:
        embedder.embed(["a", "b"])
        embedder.embed(["c"])
        assert embedder.calls == ["a", "b", "c"]


def test_the_artefact_is_the_calibration_of_our_own_tests() -> None:
    assert load_calibration(WORD_ARTEFACT) == calibration()


def test_the_same_words_are_a_hit_by_meaning_and_others_are_not(cache: SemanticCache) -> None:
    cache.update(Request(ASK), "Settings, then Reset.")
    hit = cache.lookup(Request(PARAPHRASE))
    assert hit is not None and (hit.kind, hit.response) == ("semantic", "Settings, then Reset.")
    assert cache.lookup(Request("Where is Basel?")) is None


def test_options_are_those_of_the_cache() -> None:
    with open_word_cache(namespace="tenant", max_error_rate=0.001) as cache:
        assert cache.settings.namespace == "tenant"
        cache.update(Request(ASK), "a")
        assert cache.lookup(Request(ASK)) is not None
        assert cache.lookup(Request(PARAPHRASE)) is None  # no threshold keeps so strict a bound


def test_time_moves_only_by_hand(cache: SemanticCache, clock: ManualClock) -> None:
    cache.update(Request(ASK), "a", ttl=60)
    clock.advance(59)
    assert cache.lookup(Request(ASK)) is not None
    clock.advance(1)
    assert cache.lookup(Request(ASK)) is None


def test_a_round_removes_what_expired_and_counts_hits(
    cache: SemanticCache, clock: ManualClock
) -> None:
    cache.update(Request(ASK), "a", ttl=60, cost=2.0)
    cache.lookup(Request(ASK))
    run_background_round(cache)
    assert cache.stats().saved.cost == 2.0
    clock.advance(60)
    run_background_round(cache)
    assert cache.sizes()["namespaces"] == 0


def test_a_round_indexes_scopes_that_have_grown_if_asked_to() -> None:
    with open_word_cache(scan_limit=2) as cache:
        for n in range(5):
            cache.update(Request(f"alpha{n} beta{n}"), f"answer {n}")
        run_background_round(cache, index_all=True)
        assert cache.stats().indexed_scopes == 1
        hit = cache.lookup(Request("beta3 alpha3"))
        assert hit is not None and hit.response == "answer 3"

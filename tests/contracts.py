"""What every implementation of a protocol must do: inherit, and give the object as a fixture."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from semcache_core import Embedder, SemcacheError
from semcache_core.decision.verifier import Verifier
from semcache_core.errors import CollectionGoneError
from semcache_core.types import Matrix, VectorIndex

TEXTS = ["How do I reset my password?", "Where is Basel?", "a", "¿Dónde está mi tarjeta?"]


class EmbedderContract:
    """Inherit and define the fixture `embedder`."""

    max_tokens = 40
    exact_repeats = True
    """Whether the same text always gets the same bits, alone or among others."""

    def test_is_an_embedder(self, embedder: Embedder) -> None:
        assert isinstance(embedder, Embedder)

    def test_gives_one_unit_float32_row_per_text(self, embedder: Embedder) -> None:
        rows = embedder.embed(TEXTS)
        assert rows.shape == (len(TEXTS), embedder.dimension)
        assert rows.dtype == np.float32
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)

    def test_a_text_gets_the_same_vector_alone_as_among_others(self, embedder: Embedder) -> None:
        together = embedder.embed(TEXTS)
        alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
        assert np.allclose(together, alone, atol=1e-4)

    def test_different_texts_get_different_vectors(self, embedder: Embedder) -> None:
        rows = embedder.embed(TEXTS)
        similarity = rows @ rows.T
        assert np.all(similarity[~np.eye(len(TEXTS), dtype=bool)] < 0.9999)

    def test_has_a_hex_fingerprint_that_stays(self, embedder: Embedder) -> None:
        assert len(embedder.fingerprint) == 64
        int(embedder.fingerprint, 16)
        before = embedder.fingerprint
        embedder.embed(["anything"])
        assert embedder.fingerprint == before

    def test_reads_a_short_question(self, embedder: Embedder) -> None:
        assert embedder.reads("how do i reset my password", self.max_tokens)

    def test_does_not_read_a_text_beyond_the_limit(self, embedder: Embedder) -> None:
        assert not embedder.reads("word " * 1000, self.max_tokens)

    def test_embeds_any_text_without_an_error_or_says_that_it_does_not_read_it(
        self, embedder: Embedder
    ) -> None:
        for text in ("lone \ud800 surrogate", "nul \x00 inside", "\u200b", "😀" * 5, "\n"):
            if embedder.reads(text, self.max_tokens):
                assert embedder.embed([text]).shape == (1, embedder.dimension)


class ReadsOnlyWholeTexts:
    """For embedders of real models: text that the model cannot see is said not to be read."""

    max_tokens = 40

    def test_does_not_read_a_lone_surrogate(self, embedder: Embedder) -> None:
        # replaced before the model sees it: two such texts would share one vector
        assert not embedder.reads("price of \ud800", self.max_tokens)

    def test_does_not_read_a_long_text_without_spaces(self, embedder: Embedder) -> None:
        assert not embedder.reads("今天天气怎么样" * 100, self.max_tokens)
        assert not embedder.reads("x" * 100_000, self.max_tokens)


class RefusesBadVectors:
    """For embedders that wrap a model: define `wrap(rows)`, an embedder whose model gives these."""

    def wrap(self, rows: Any) -> Any:
        raise NotImplementedError

    @pytest.mark.parametrize(
        "rows",
        [[[float("nan")] * 4], [[0.0] * 4], [[float("inf")] * 4], [[[1.0] * 4]], [["text"] * 4]],
        ids=["nan", "zero", "infinite", "too deep", "text"],
    )
    def test_a_bad_vector_is_refused(self, rows: Any) -> None:
        with pytest.raises(SemcacheError):
            self.wrap(rows)


ODD_TEXTS = ("", "\n", "lone \ud800 surrogate", "nul \x00 inside", "\u200b", "😀" * 5, '{"a": "b')


class VerifierContract:
    """Inherit and define the fixture `verifier`, which can read what `asked` and `stored` say."""

    asked, stored = TEXTS[:2]

    def test_is_a_verifier(self, verifier: Verifier) -> None:
        assert isinstance(verifier, Verifier)

    def test_gives_a_probability(self, verifier: Verifier) -> None:
        probability = verifier.verify(self.asked, self.stored, "an answer")
        assert isinstance(probability, float)
        assert 0 <= probability <= 1

    @pytest.mark.parametrize("odd", ODD_TEXTS)
    def test_judges_any_text(self, verifier: Verifier, odd: str) -> None:
        for question in ((odd, self.stored, odd), (self.asked, odd, odd)):
            assert 0 <= verifier.verify(*question) <= 1

    def test_says_the_same_on_several_threads_at_once(self, verifier: Verifier) -> None:
        questions = [(self.asked, self.stored, ""), (self.stored, self.stored, "")] * 8
        alone = [verifier.verify(*question) for question in questions]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda question: verifier.verify(*question), questions))
        assert together == pytest.approx(alone, abs=1e-5)


PARTITION, OTHER = b"p" * 32, b"q" * 32


def unit(*angles: float) -> Matrix:
    """Unit vectors in the plane, by angle in degrees."""
    radians = np.radians(angles)
    rows = np.zeros((len(angles), 8), np.float32)
    rows[:, 0], rows[:, 1] = np.cos(radians), np.sin(radians)
    return rows


class VectorIndexContract:
    """Inherit and define the fixture `index`, empty at the start of each test."""

    def test_finds_the_nearest_first_with_its_cosine(self, index: VectorIndex) -> None:
        index.add(PARTITION, [1, 2, 3], unit(0, 60, 90))
        found = index.nearest(PARTITION, unit(10)[0], 2)
        assert [entry_id for entry_id, _ in found] == [1, 2]
        assert [s for _, s in found] == pytest.approx(
            [np.cos(np.radians(10)), np.cos(np.radians(50))], abs=1e-5
        )

    def test_gives_fewer_when_it_holds_fewer(self, index: VectorIndex) -> None:
        index.add(PARTITION, [7], unit(0))
        assert [entry_id for entry_id, _ in index.nearest(PARTITION, unit(0)[0], 8)] == [7]

    def test_an_empty_partition_has_no_nearest(self, index: VectorIndex) -> None:
        with suppress(CollectionGoneError):
            assert index.nearest(PARTITION, unit(0)[0], 8) == []
        assert index.count(PARTITION) == 0

    def test_partitions_do_not_see_each_other(self, index: VectorIndex) -> None:
        index.add(PARTITION, [1], unit(0))
        index.add(OTHER, [2], unit(0))
        assert [entry_id for entry_id, _ in index.nearest(PARTITION, unit(0)[0], 8)] == [1]
        assert [entry_id for entry_id, _ in index.nearest(OTHER, unit(0)[0], 8)] == [2]

    def test_adding_an_id_again_replaces_its_vector(self, index: VectorIndex) -> None:
        index.add(PARTITION, [1, 2], unit(0, 90))
        index.add(PARTITION, [1], unit(180))
        assert index.count(PARTITION) == 2
        assert [entry_id for entry_id, _ in index.nearest(PARTITION, unit(0)[0], 1)] == [2]

    def test_removes_ids_also_unknown_ones(self, index: VectorIndex) -> None:
        index.add(PARTITION, [1, 2], unit(0, 90))
        index.remove(PARTITION, [1, 99])
        assert [entry_id for entry_id, _ in index.nearest(PARTITION, unit(0)[0], 8)] == [2]
        assert index.count(PARTITION) == 1

    def test_drop_empties_one_partition(self, index: VectorIndex) -> None:
        index.add(PARTITION, [1], unit(0))
        index.add(OTHER, [2], unit(0))
        index.drop(PARTITION)
        assert (index.count(PARTITION), index.count(OTHER)) == (0, 1)
        index.add(PARTITION, [3], unit(0))
        assert index.count(PARTITION) == 1

    def test_drop_of_what_is_not_there_does_nothing(self, index: VectorIndex) -> None:
        index.drop(PARTITION)
        assert index.count(PARTITION) == 0

    def test_takes_more_than_one_batch(self, index: VectorIndex) -> None:
        angles = [0.1 * i for i in range(701)]
        index.add(PARTITION, list(range(1, 702)), unit(*angles))
        assert index.count(PARTITION) == 701
        assert 701 in [entry_id for entry_id, _ in index.nearest(PARTITION, unit(70)[0], 8)]

"""Whatever somebody wrote into the ledger's file: a miss or a SemcacheError, and no false hit."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Bench
from fakes import WORDS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from semcache_core import Request, SemanticCache, SemcacheError
from semcache_core.errors import EmbedderError, IndexUnavailableError, LedgerError
from semcache_core.search.chroma import ChromaIndex
from semcache_core.storage.lookups import number_from, vector_from, vectors_from
from semcache_core.types import Vector

LEDGER = "ledger.sqlite3"
STORED, ASKED, OTHER = "reset my password", "my password reset", "where is the office"


def unit(axis: int = 0) -> Vector:
    vector = np.zeros(WORDS, np.float32)
    vector[axis] = 1
    return vector


def plant(file: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement, values)
        connection.commit()


def filled(bench: Bench, **options: Any) -> SemanticCache:
    """A cache with an answer, and one beside it that nothing happens to."""
    with bench.open(**options) as cache:
        cache.update(Request(STORED), "by the link")
        cache.update(Request(OTHER), "in Basel")
    return bench.open(**options)


BAD_VECTORS = {
    "empty": b"",
    "no row of numbers": b"\0" * 7,
    "one number short": unit().tobytes()[:-4],
    "one number long": unit().tobytes() + b"\0" * 4,
    "NaN": np.full(WORDS, np.nan, np.float32).tobytes(),
    "infinite": np.full(WORDS, np.inf, np.float32).tobytes(),
    "zero": bytes(4 * WORDS),
    "as long as to be near to everything": (np.ones(WORDS, np.float32) * 1e4).tobytes(),
    "beyond a float32 when squared": (np.ones(WORDS, np.float32) * 1e30).tobytes(),
    "text": "a" * 4 * WORDS,
    "a number": 5,
}


@pytest.mark.parametrize("limit", [20_000, 0], ids=["scanned", "indexed"])
@pytest.mark.parametrize("vector", BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_an_entry_whose_vector_is_none_is_passed_over_and_others_are_not(
    bench: Bench, vector: object, limit: int, warnings_of: Any
) -> None:
    filled(bench, scan_limit=limit).close()
    plant(bench.path / LEDGER, "UPDATE semcache_vectors SET vector=? WHERE rowid=1", vector)
    cache = bench.open(scan_limit=limit)
    if limit == 0:
        cache.rebuild()
    assert cache.lookup(Request(ASKED)) is None
    assert cache.lookup(Request("nothing like it at all")) is None
    hit = cache.lookup(Request("the office is where"))
    assert hit is not None and (hit.response, hit.kind) == ("in Basel", "semantic")
    exact = cache.lookup(Request(STORED))
    assert exact is not None and exact.response == "by the link"
    cache.update(Request("another one altogether"), "stored beside it")
    assert cache.lookup(Request("altogether another one")) is not None
    assert len(warnings_of("not as it was written")) <= 1


def test_what_is_passed_over_is_told_once(bench: Bench, warnings_of: Any) -> None:
    filled(bench).close()
    plant(bench.path / LEDGER, "UPDATE semcache_entries SET doubt='much'")
    cache = bench.open()
    assert [cache.lookup(Request(ASKED)) for _ in range(3)] == [None] * 3
    assert len(warnings_of("not as it was written")) == 1


def test_a_vector_moved_to_another_tenant_serves_him_nothing_and_ends(bench: Bench) -> None:
    with bench.open() as cache:
        cache.update(Request(STORED, namespace="victim"), "the victim's")
        cache.update(Request(OTHER, namespace="mallory"), "Mallory's")
    plant(
        bench.path / LEDGER,
        "UPDATE semcache_vectors SET partition ="
        "(SELECT partition FROM semcache_entries WHERE id=2)",
    )
    cache = bench.open()
    for namespace in ("mallory", "victim"):
        assert cache.lookup(Request(ASKED, namespace=namespace)) is None
    assert cache.lookup(Request("the office is where", namespace="mallory")) is not None


COLUMNS = [
    "created",
    "expires",
    "question",
    "response",
    "doubt",
    "answer",
    "writer",
    "answer_digest",
]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    column=st.sampled_from(COLUMNS),
    value=st.one_of(
        st.binary(max_size=9),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        st.sampled_from([2**62, -(2**62), -1, 1e308, -1e308, float("inf"), -float("inf"), b"\xff"]),
    ),
)
def test_any_value_in_any_column_is_a_miss_an_error_of_ours_or_the_answer(
    bench: Bench, column: str, value: object
) -> None:
    file = bench.path / LEDGER
    with bench.open() as cache:
        cache.clear()
        cache.update(Request(STORED), "by the link")
    plant(file, f"UPDATE semcache_entries SET {column} = ?", value)
    with bench.open() as cache:
        for question in (STORED, ASKED):
            try:
                hit = cache.lookup(Request(question))
            except SemcacheError:
                hit = None
            if hit is not None and column != "response":
                assert hit.response == "by the link" and hit.age_s >= 0
        # the app goes on, and what it stores anew is served
        assert cache.get_or_create(Request(STORED), lambda: "anew") is not None


def test_an_unreadable_answer_is_replaced_by_the_next_one(bench: Bench) -> None:
    filled(bench).close()
    plant(bench.path / LEDGER, "UPDATE semcache_entries SET response=? WHERE id=1", b"\xff")
    cache = bench.open()
    with pytest.raises(LedgerError, match="entry 1 of the ledger"):
        cache.lookup(Request(STORED))
    with pytest.raises(LedgerError, match="entry 1 of the ledger"):
        cache.lookup(Request(ASKED))
    assert cache.get_or_create(Request(STORED), lambda: "anew") == "anew"
    assert cache.get_or_create(Request(STORED), lambda: "never asked") == "anew"


def test_a_number_in_place_of_a_text_takes_no_memory(bench: Bench) -> None:
    filled(bench).close()
    plant(bench.path / LEDGER, "UPDATE semcache_entries SET response=?", 2**40)
    with pytest.raises(LedgerError, match="int and no text"):
        bench.open().lookup(Request(STORED))


@pytest.mark.parametrize(
    "value", [None, "1", b"1", True, float("nan"), float("inf"), -float("inf")]
)
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is no number"):
        number_from(value)


def test_vectors_keep_their_places_where_one_is_unusable() -> None:
    rows = vectors_from([unit(0).tobytes(), b"?", unit(2).tobytes()], WORDS)
    assert np.array_equal(rows, [unit(0), np.zeros(WORDS), unit(2)])
    assert vectors_from([], None).shape == (0, 0)
    assert np.array_equal(vector_from(unit(1).tobytes()), unit(1))


class Replying:
    """A Chroma client whose server says what the test says."""

    id = "one"

    def __init__(self, ids: Any, distances: Any) -> None:
        self.configuration_json = {"hnsw": {"space": "cosine"}}
        self.reply = {"ids": ids, "distances": distances}

    def get_collection(self, *args: Any, **kwargs: Any) -> "Replying":
        return self

    def query(self, **asked: Any) -> Any:
        return self.reply


@pytest.mark.parametrize(
    ("ids", "distances"),
    [
        ([["1"]], [[]]),
        ([["x"]], [[0.0]]),
        ([["-1"]], [[0.0]]),
        ([["0"]], [[0.0]]),
        ([[str(2**63)]], [[0.0]]),
        ([["9" * 5000]], [[0.0]]),
        ([[1]], [[0.0]]),
        ([[None]], [[0.0]]),
        ([["1"]], [[None]]),
        ([], []),
        (None, None),
    ],
)
def test_a_reply_that_is_none_makes_the_index_unavailable(ids: Any, distances: Any) -> None:
    client: Any = Replying(ids, distances)
    with pytest.raises(IndexUnavailableError, match="cannot query"):
        ChromaIndex(client, 1, "f" * 64).nearest(b"p" * 32, unit(), 4)


def test_a_reply_is_never_longer_than_what_was_asked_for() -> None:
    client: Any = Replying([["1", "2", "3"]], [[float("nan"), 0.0, 1.0]])
    found = ChromaIndex(client, 1, "f" * 64).nearest(b"p" * 32, unit(), 2)
    assert [entry_id for entry_id, _ in found] == [1, 2]


def test_a_calibration_for_vectors_of_another_length_serves_nothing(bench: Bench) -> None:
    filled(bench).close()
    file = bench.artefact / "calibration.json"
    file.write_text(file.read_text().replace(f'"dimension": {WORDS}', '"dimension": 8'))
    cache = bench.open()
    with pytest.raises(EmbedderError, match="64 numbers, its calibration is for 8"):
        cache.lookup(Request(ASKED))

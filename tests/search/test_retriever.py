"""Index and scan propose candidates; the ledger says which are live and how near they are."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import OTHER, PARTITION, unit
from semcache_core.errors import (
    CollectionGoneError,
    IndexBusyError,
    IndexStalledError,
    IndexUnavailableError,
)
from semcache_core.search.retriever import CANDIDATES, MOST_CANDIDATES, Retriever
from semcache_core.search.scan import _ROWS_BYTES, ScanMemory
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.ledger import Ledger
from semcache_core.types import EMPTY, Generation, Matrix, Vector

FINGERPRINT = "f" * 64
NOW = 1000.0


class ExactIndex:
    """Holds what it was given, live or not, as Chroma does."""

    def __init__(self) -> None:
        self.held: dict[int, Vector] = {}
        self.asked: list[int] = []
        self.broken: IndexUnavailableError | None = None

    def add(
        self, partition: bytes, ids: Sequence[int], vectors: Matrix, generation: Generation = EMPTY
    ) -> None:
        self.held.update(zip(ids, vectors, strict=True))

    def nearest(
        self, partition: bytes, vector: Vector, k: int, generation: Generation = EMPTY
    ) -> list[tuple[int, float]]:
        if self.broken is not None:
            raise self.broken
        self.asked.append(k)
        scored = [(i, float(v @ vector)) for i, v in self.held.items()]
        return sorted(scored, key=lambda pair: -pair[1])[:k]

    def remove(
        self, partition: bytes, ids: Sequence[int], generation: Generation = EMPTY
    ) -> None: ...

    def drop(self, partition: bytes, number: int = 0) -> None: ...

    def count(self, partition: bytes, generation: Generation = EMPTY) -> int:
        return len(self.held)

    def close(self) -> None: ...


class Shelf:
    """A ledger with a retrieval over it, filled by angle."""

    def __init__(self, directory: Path) -> None:
        self.ledger = Ledger.open(directory, None)
        self.index = ExactIndex()
        self.retrieval = Retriever(self.ledger, FINGERPRINT, 10**6, 2**20)
        self.stored = 0

    def put(self, angle: float, expires: float | None = None, partition: bytes = PARTITION) -> int:
        self.stored += 1
        return self.ledger.entries.insert(
            NewEntry(
                exact=self.stored.to_bytes(32, "big"),
                partition=partition,
                namespace="n",
                scope="",
                exact_only=False,
                question="q",
                response="r",
                created=0.0,
                expires=expires,
                cost=None,
                tags=(),
                fingerprint=FINGERPRINT,
                vector=unit(angle)[0],
            )
        )

    def index_all(self) -> None:
        ids, vectors = self.ledger.lookups.vectors_after(PARTITION, FINGERPRINT, 0)
        self.index.add(PARTITION, [int(i) for i in ids], vectors)
        self.retrieval.index = self.index
        self.retrieval.indexed = {PARTITION: Generation(through=int(ids[-1]))}

    def ids(self, angle: float) -> list[int]:
        return [near.entry.id for near in self.retrieval.nearest(PARTITION, unit(angle)[0], NOW)]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.ledger.close()


def test_the_nearest_come_first_with_their_cosine(shelf: Shelf) -> None:
    far, near = shelf.put(50), shelf.put(10)
    found = shelf.retrieval.nearest(PARTITION, unit(0)[0], NOW)
    assert [one.entry.id for one in found] == [near, far]
    cosines = [one.similarity for one in found]
    assert cosines == pytest.approx([np.cos(np.radians(10)), np.cos(np.radians(50))])


def test_no_more_than_the_best_few_are_given(shelf: Shelf) -> None:
    ids = [shelf.put(angle) for angle in range(0, 90, 3)]
    assert shelf.ids(0) == ids[:CANDIDATES]
    shelf.index_all()
    assert shelf.ids(0) == ids[:CANDIDATES]


def test_nothing_of_another_partition_is_given(shelf: Shelf) -> None:
    other = shelf.put(0, partition=OTHER)
    assert shelf.ids(0) == []
    shelf.put(80)
    shelf.index_all()
    shelf.index.held[other] = unit(0)[0]
    assert other not in shelf.ids(0)


def test_the_similarity_comes_from_the_ledger_and_not_from_the_index(shelf: Shelf) -> None:
    entry_id = shelf.put(60)
    shelf.index_all()
    shelf.index.held[entry_id] = unit(0)[0]
    (found,) = shelf.retrieval.nearest(PARTITION, unit(0)[0], NOW)
    assert (found.entry.id, found.similarity) == (entry_id, pytest.approx(0.5, abs=1e-5))


def test_ids_that_the_ledger_does_not_know_do_no_harm(shelf: Shelf) -> None:
    entry_id = shelf.put(20)
    shelf.index_all()
    for stale in range(1000, 1020):
        shelf.index.held[stale] = unit(0)[0]
    assert shelf.ids(0) == [entry_id]


@pytest.mark.parametrize("dead", [5, CANDIDATES, 40, 3 * MOST_CANDIDATES])
@pytest.mark.parametrize("how", ["expired", "deleted"])
def test_an_index_full_of_dead_entries_still_finds_the_live_one(
    how: str, dead: int, shelf: Shelf
) -> None:
    gone = [shelf.put(0.01 * (i % 50), expires=10.0) for i in range(dead)]
    live = shelf.put(5)
    shelf.index_all()
    if how == "deleted":
        assert shelf.ledger.entries.delete_expired(NOW) == len(gone)
    assert shelf.ids(0) == [live]


@pytest.mark.parametrize("dead_are", ["indexed", "scanned"])
def test_a_far_entry_of_one_source_does_not_end_the_search_in_the_other(
    dead_are: str, shelf: Shelf
) -> None:
    def crowd() -> int:
        for i in range(3 * CANDIDATES):
            shelf.put(0.01 * i, expires=10.0)
        return shelf.put(5)

    if dead_are == "indexed":
        near = crowd()
        shelf.index_all()
        far = shelf.put(80)
    else:
        far = shelf.put(80)
        shelf.index_all()
        near = crowd()
    assert shelf.ids(0) == [near, far]


@pytest.mark.parametrize("indexed", [False, True])
def test_an_entry_replaced_between_finding_it_and_reading_it_is_found_by_its_new_id(
    indexed: bool, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.put(0, expires=10.0)
    far = shelf.put(80)
    if indexed:
        shelf.index_all()
    original = shelf.ledger.lookups.live
    new: list[int] = []

    def live(*args: Any) -> Any:
        if not new:
            shelf.ledger.entries.delete_expired(NOW)
            new.append(shelf.put(0))
        return original(*args)

    monkeypatch.setattr(shelf.ledger.lookups, "live", live)
    assert shelf.ids(0) == [*new, far]


def test_a_scan_full_of_expired_entries_still_finds_the_live_one(shelf: Shelf) -> None:
    for i in range(100):
        shelf.put(0.01 * i, expires=10.0)
    live = shelf.put(5)
    assert shelf.ids(0) == [live]
    assert shelf.ids(0) == [live]


def test_a_partition_where_all_are_dead_gives_nothing(shelf: Shelf) -> None:
    for i in range(30):
        shelf.put(0.01 * i, expires=10.0)
    shelf.index_all()
    assert shelf.ids(0) == []


def test_rows_that_the_index_does_not_have_yet_are_found(shelf: Shelf) -> None:
    indexed = shelf.put(20)
    shelf.index_all()
    new = shelf.put(5)
    assert shelf.ids(0) == [new, indexed]
    newer = shelf.put(1)
    assert shelf.ids(0) == [newer, new, indexed]
    assert new not in shelf.index.held


def test_rows_of_another_process_are_found(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put(20)
    shelf.ids(0)
    other = Shelf(tmp_path)
    other.stored = 100
    theirs = other.put(1)
    other.ledger.close()
    assert shelf.ids(0)[0] == theirs


def test_an_index_that_fails_in_a_query_is_left_and_all_is_scanned(
    shelf: Shelf, warnings_of: Any
) -> None:
    ids = [shelf.put(angle) for angle in (5, 20)]
    shelf.index_all()
    shelf.ids(0)
    shelf.index.broken = IndexUnavailableError("broken in the middle of a query")
    assert shelf.ids(0) == ids
    assert shelf.retrieval.index is None
    assert shelf.ids(0) == ids
    assert len(warnings_of("broken in the middle")) == 1


@pytest.mark.parametrize("error", [CollectionGoneError, IndexBusyError])
def test_one_collection_that_is_gone_or_busy_leaves_the_index_in_use(
    error: type[IndexUnavailableError], shelf: Shelf
) -> None:
    entry_id = shelf.put(5)
    shelf.index_all()
    shelf.retrieval.indexed[OTHER] = Generation(through=3)
    shelf.index.broken = error("not this one")
    assert shelf.ids(0) == [entry_id]
    assert shelf.retrieval.index is shelf.index
    gone = error is CollectionGoneError
    assert shelf.retrieval.indexed.keys() == ({OTHER} if gone else {OTHER, PARTITION})


def test_a_lookup_that_finds_an_old_collection_gone_keeps_the_new_one(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it scans what the old one lacked, not the new one: both belong together."""
    entry_id = shelf.put(5)
    shelf.index_all()
    new = Generation(1, entry_id, 1, "new")

    def swapped_meanwhile(*_: Any) -> Any:
        shelf.retrieval.indexed[PARTITION] = new
        raise CollectionGoneError("the old one")

    monkeypatch.setattr(shelf.index, "nearest", swapped_meanwhile)
    assert shelf.ids(0) == [entry_id]
    assert shelf.retrieval.indexed == {PARTITION: new}


def test_a_lookup_under_way_while_a_shorter_collection_takes_over_misses_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = shelf.put(5), shelf.put(10)
    shelf.index_all()
    long, short = Generation(0, second, 2, "long"), Generation(1, first, 1, "short")
    shelf.retrieval.indexed[PARTITION] = long
    asked: list[Generation] = []

    def nearest(partition: bytes, vector: Vector, k: int, generation: Generation) -> Any:
        asked.append(generation)
        shelf.retrieval.indexed[PARTITION] = short
        return [(i, 0.5) for i in (first, second) if i <= generation.through]

    monkeypatch.setattr(shelf.index, "nearest", nearest)
    for _ in range(2):
        assert shelf.ids(0) == [first, second]
    assert asked == [long, short]


def test_a_partition_that_is_not_indexed_is_not_asked_of_the_index(shelf: Shelf) -> None:
    entry_id = shelf.put(5)
    shelf.retrieval.index = shelf.index
    assert shelf.ids(0) == [entry_id]
    assert shelf.index.asked == []


def test_a_scan_beyond_the_limit_requests_a_count(shelf: Shelf) -> None:
    small = Retriever(shelf.ledger, FINGERPRINT, 3, 2**20)
    for n in range(1, 6):
        shelf.put(n)
        small.nearest(PARTITION, unit(0)[0], NOW)
        assert small.count_requested.is_set() == (n > 3)


class TestAScopeTooLargeToScan:
    """Its vectors would take more memory than scans may have, and a lookup would take seconds."""

    @pytest.fixture
    def large(self, shelf: Shelf) -> Shelf:
        self.ids = [shelf.put(angle / 100) for angle in range(30)]
        few = 10 * unit(0.0).nbytes
        shelf.retrieval = Retriever(shelf.ledger, FINGERPRINT, 5, few)
        shelf.retrieval.index_checked.set()
        return shelf

    def test_is_left_to_the_index(self, large: Shelf) -> None:
        large.index_all()
        assert large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)[0].entry.id == self.ids[0]

    def test_is_not_scanned_and_a_count_is_requested(self, large: Shelf, warnings_of: Any) -> None:
        for _ in range(2):
            with pytest.raises(IndexUnavailableError, match="too large to scan"):
                large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)
        assert large.retrieval.count_requested.is_set()
        assert len(warnings_of("too large to scan")) == 1

    @pytest.mark.parametrize(
        "error", [CollectionGoneError, IndexBusyError, IndexStalledError, IndexUnavailableError]
    )
    def test_is_not_scanned_when_its_index_does_not_answer(
        self, error: type[IndexUnavailableError], large: Shelf
    ) -> None:
        large.index_all()
        large.index.broken = error("not now")
        with pytest.raises(IndexUnavailableError, match="too large to scan"):
            large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)

    def test_is_not_scanned_from_where_the_index_ends_if_that_is_too_much(
        self, large: Shelf
    ) -> None:
        large.index_all()
        large.retrieval.indexed[PARTITION] = Generation(through=self.ids[10])
        with pytest.raises(IndexUnavailableError, match="too large to scan"):
            large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)
        large.retrieval.indexed[PARTITION] = Generation(through=self.ids[20])
        assert large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)[0].entry.id == self.ids[0]

    def test_is_not_counted_at_every_lookup(
        self, large: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large.index_all()
        large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)
        monkeypatch.setattr(large.ledger.lookups, "has_more_vectors", lambda *_: 1 / 0)
        large.put(0.5)
        large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)

    def test_is_scanned_below_the_scan_limit_whatever_the_memory(self, large: Shelf) -> None:
        retrieval = Retriever(large.ledger, FINGERPRINT, 30, 1)
        retrieval.index_checked.set()
        assert retrieval.nearest(PARTITION, unit(0.0)[0], NOW)[0].entry.id == self.ids[0]

    def test_that_was_small_when_it_was_read_is_still_scanned(self, shelf: Shelf) -> None:
        first = shelf.put(0.0)
        retrieval = Retriever(shelf.ledger, FINGERPRINT, 5, 10 * unit(0.0).nbytes)
        assert retrieval.nearest(PARTITION, unit(0.0)[0], NOW)[0].entry.id == first
        for angle in range(1, 30):
            shelf.put(angle / 100)
        assert retrieval.nearest(PARTITION, unit(0.0)[0], NOW)[0].entry.id == first

    def test_waits_for_an_index_that_is_being_opened(self, large: Shelf) -> None:
        large.retrieval.index_checked.clear()

        def open_index() -> None:
            large.index_all()
            large.retrieval.index_checked.set()

        opening = threading.Timer(0.05, open_index)
        opening.start()
        found = large.retrieval.nearest(PARTITION, unit(0.0)[0], NOW)
        opening.join()
        assert found[0].entry.id == self.ids[0]


def test_new_vectors_under_old_ids_are_seen_once_the_old_ones_are_forgotten(shelf: Shelf) -> None:
    entry_id, newer = shelf.put(80), shelf.put(50)
    assert shelf.ids(0) == [newer, entry_id]
    shelf.ledger.entries.replace_vectors([(entry_id, FINGERPRINT, unit(1)[0])])
    shelf.retrieval.forget_vectors()
    assert shelf.ids(0) == [entry_id, newer]


class TestScanMemory:
    def rows(self, shelf: Shelf, memory: ScanMemory, start: int = 0) -> list[int]:
        return [int(i) for i in memory.rows(PARTITION, start).ids]

    def test_rows_are_read_once_and_new_ones_added(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory = ScanMemory(shelf.ledger, FINGERPRINT, 2**20)
        read: list[int] = []
        original = shelf.ledger.lookups.vectors_after

        def counted(*asked: Any, **more: Any) -> Any:
            found = original(*asked, **more)
            read.append(len(found[0]))
            return found

        monkeypatch.setattr(shelf.ledger.lookups, "vectors_after", counted)
        ids = [shelf.put(1), shelf.put(2)]
        assert self.rows(shelf, memory) == ids
        ids.append(shelf.put(3))
        assert self.rows(shelf, memory) == ids
        assert self.rows(shelf, memory) == ids
        assert read == [2, 1, 0]

    def test_rows_handed_out_do_not_change_when_more_are_added(self, shelf: Shelf) -> None:
        memory = ScanMemory(shelf.ledger, FINGERPRINT, 2**20)
        held = []
        for n in range(40):
            shelf.put(n)
            rows = memory.rows(PARTITION, 0)
            held.append((rows, rows.ids.copy(), rows.vectors.copy()))
            if n % 7 == 0:
                memory.forget(PARTITION, [int(rows.ids[0])])
        for rows, ids, vectors in held:
            assert np.array_equal(rows.ids, ids) and np.array_equal(rows.vectors, vectors)

    def test_ids_and_vectors_stay_side_by_side(self, shelf: Shelf) -> None:
        memory = ScanMemory(shelf.ledger, FINGERPRINT, 2**20)
        angles = {shelf.put(angle): angle for angle in range(0, 60, 2)}
        memory.rows(PARTITION, 0)
        memory.forget(PARTITION, list(angles)[3:9])
        angles |= {shelf.put(angle): angle for angle in range(60, 90, 2)}
        rows = memory.rows(PARTITION, 0)
        assert len(rows.ids) == len(angles) - 6
        for entry_id, vector in zip(rows.ids, rows.vectors, strict=True):
            assert np.allclose(vector, unit(angles[int(entry_id)])[0])

    def test_only_rows_above_the_start_are_given_and_all_again_later(self, shelf: Shelf) -> None:
        memory = ScanMemory(shelf.ledger, FINGERPRINT, 2**20)
        ids = [shelf.put(n) for n in range(6)]
        assert self.rows(shelf, memory, 0) == ids
        assert self.rows(shelf, memory, ids[2]) == ids[3:]
        assert self.rows(shelf, memory, ids[4]) == ids[5:]
        assert self.rows(shelf, memory, ids[5]) == []
        assert self.rows(shelf, memory, 0) == ids

    def test_a_start_beyond_all_rows_does_not_hide_later_ones(self, shelf: Shelf) -> None:
        memory = ScanMemory(shelf.ledger, FINGERPRINT, 2**20)
        first = shelf.put(1)
        assert self.rows(shelf, memory, first) == []
        second = shelf.put(2)
        assert self.rows(shelf, memory, first) == [second]
        assert self.rows(shelf, memory, 0) == [first, second]

    def test_the_partition_not_used_for_longest_is_dropped_and_read_again(
        self, shelf: Shelf
    ) -> None:
        row = 8 * 4
        memory = ScanMemory(shelf.ledger, FINGERPRINT, 25 * row + 2 * _ROWS_BYTES)
        names = [bytes([n]) * 32 for n in range(3)]
        for name in names:
            for angle in range(10):
                shelf.put(angle, partition=name)
        for name in (*names, names[1]):
            memory.rows(name, 0)
        assert list(memory._partitions) == [names[2], names[1]]
        assert len(memory.rows(names[0], 0).ids) == 10
        assert list(memory._partitions) == [names[1], names[0]]

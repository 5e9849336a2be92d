"""What every ledger must do, whatever database it is kept in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fakes import WORDS, WordEmbedder, entry_fields
from running_totals import counted_anew
from semcache_core import Request
from semcache_core.request import key_of
from semcache_core.storage.entries import NewEntry
from semcache_core.storage.eviction import Limits
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.schema import (
    Traffic,
    entries,
    judged,
    quarantined,
    served,
    tags,
    vectors,
)
from semcache_core.types import EMPTY, Generation

FINGERPRINT = WordEmbedder.fingerprint
PARTITION = key_of(Request("", ""), "default").partition
ODD = ("", "lone \ud800 surrogate", "nul \x00 inside", "😀" * 5, "x" * 100_000, "'; DROP TABLE --")


def new(question: str, **changes: Any) -> NewEntry:
    unit = (np.ones(WORDS, np.float32) / np.sqrt(WORDS)).astype(np.float32)
    return NewEntry(
        **entry_fields(question, **{"fingerprint": FINGERPRINT, "vector": unit} | changes)
    )


def _serve_and_judge(ledger: Ledger, entry_id: int, namespace: str = "default") -> None:
    row = {"entry_id": entry_id, "asked": "p", "similarity": 0.9, "probability": 0.9, "at": 1.0}
    verdict = {"namespace": namespace, "stored": "q", "correct": False, "source": "audit"}
    with ledger.write() as connection:
        connection.execute(sa.insert(served), {**row, "asked_key": b"k"})
        connection.execute(sa.insert(quarantined), {"asked_key": b"k", "entry_id": entry_id})
        connection.execute(sa.insert(judged), {**row, **verdict})


def _known_of(ledger: Ledger) -> list[list[int]]:
    """Entry ids in the log, in the quarantine and among what was judged."""
    tables = (served, quarantined, judged)
    return [
        sorted(row[0] for row in ledger.read(sa.select(table.c.entry_id), {})) for table in tables
    ]


class LedgerContract:
    """Inherit and define the fixtures `ledger`, an empty one, and `reopen`, which opens the same
    again.
    """

    def test_ids_only_grow_also_over_deletions_and_restarts(
        self, ledger: Ledger, reopen: Callable[[], Ledger]
    ) -> None:
        ids = []
        for _ in range(3):
            ids += [ledger.entries.insert(new("same")), ledger.entries.insert(new("other"))]
            ledger.entries.clear()
            ledger.close()
            ledger = reopen()
        assert ids == sorted(set(ids))

    def test_its_name_and_its_id_stay(self, ledger: Ledger, reopen: Callable[[], Ledger]) -> None:
        again = reopen()
        assert (again.id, again.name) == (ledger.id, ledger.name)

    @pytest.mark.parametrize("odd", ODD)
    def test_any_text_is_found_as_it_was(self, ledger: Ledger, odd: str) -> None:
        entry = new(odd, response=odd, namespace=odd, scope=odd, tags=(odd,), writer=odd)
        entry_id = ledger.entries.insert(entry)
        found = ledger.lookups.find(entry.exact, 100)
        assert found is not None
        assert (found.id, found.question, found.response) == (entry_id, odd, odd)
        (live,) = ledger.lookups.live([entry_id], entry.partition, FINGERPRINT, 100)
        assert (live.question, live.writer) == (odd, odd)
        assert ledger.entries.invalidate([odd], odd, None) == 1

    def test_times_keep_all_their_digits(self, ledger: Ledger) -> None:
        entry = new("q", created=1_764_320_400.123456, expires=1_764_320_401.654321)
        ledger.entries.insert(entry)
        found = ledger.lookups.find(entry.exact, 100)
        assert found is not None
        assert (found.created, found.expires) == (entry.created, entry.expires)

    def test_ids_have_more_than_32_bits(self, ledger: Ledger) -> None:
        first = ledger.entries.insert(new("q", response="", tags=("t",)))
        with ledger.write() as connection:
            for table in (entries, vectors, tags):
                column = table.c["id" if table is entries else "entry_id"]
                connection.execute(
                    sa.update(table).where(column == first).values({column: 1 << 40})
                )
        assert ledger.lookups.answer_text(1 << 40) == ""
        assert ledger.lookups.vectors_after(PARTITION, FINGERPRINT, 1 << 33)[0].tolist() == [
            1 << 40
        ]
        assert ledger.entries.delete(1 << 40) == 1

    def test_what_it_takes_is_known(self, ledger: Ledger) -> None:
        ledger.entries.insert(new("q"))
        assert ledger.bytes_on_disk() > 0

    def test_a_replaced_entry_leaves_no_vector_and_no_tag(self, ledger: Ledger) -> None:
        first = ledger.entries.insert(new("q", tags=("old",)))
        second = ledger.entries.insert(new("q", response="new", tags=("new",)))
        assert second > first
        assert ledger.lookups.vectors_after(PARTITION, FINGERPRINT, 0)[0].tolist() == [second]
        assert ledger.entries.invalidate(["old"], None, None) == 0
        assert ledger.entries.invalidate(["new"], None, None) == 1

    def test_expiry_is_a_matter_of_the_time_given(self, ledger: Ledger) -> None:
        entry = new("q", expires=200.0)
        entry_id = ledger.entries.insert(entry)
        for now, lives in ((199.9, True), (200.0, False), (500.0, False)):
            assert (ledger.lookups.find(entry.exact, now) is not None) == lives
            assert (ledger.lookups.get(entry_id, PARTITION, now) is not None) == lives
            assert bool(ledger.lookups.live([entry_id], PARTITION, FINGERPRINT, now)) == lives
            assert ledger.lookups.has_vectors(PARTITION, FINGERPRINT, now) == lives
            assert ledger.count(now=now) == int(lives)
        assert ledger.entries.delete_expired(199.9) == 0
        assert ledger.entries.delete_expired(200.0) == 1
        assert ledger.count() == 0

    def test_live_takes_a_thousand_ids_and_more(self, ledger: Ledger) -> None:
        ids = [ledger.entries.insert(new(f"q{i}")) for i in range(1100)]
        found = ledger.lookups.live([*ids, 10**9], PARTITION, FINGERPRINT, 100)
        assert sorted(stored.id for stored in found) == ids

    def test_live_gives_nothing_of_another_partition_or_model(self, ledger: Ledger) -> None:
        mine, other = (
            ledger.entries.insert(new("q")),
            ledger.entries.insert(new("q", scope="other")),
        )
        strange = ledger.entries.insert(new("p", fingerprint="f" * 64))
        found = ledger.lookups.live([mine, other, strange], PARTITION, FINGERPRINT, 100)
        assert [stored.id for stored in found] == [mine]

    def test_live_tells_what_a_lookup_weighs(self, ledger: Ledger) -> None:
        first = ledger.entries.insert(new("q"))
        second = ledger.entries.insert(
            new("p", writer="app \ud800", answer=first, answer_digest=b"d" * 32)
        )
        with ledger.write() as connection:
            connection.execute(sa.update(entries).where(entries.c.id == second).values(doubt=0.5))
        ledger.entries.serve_only_exactly(second, 100.0)
        one, other = sorted(
            ledger.lookups.live([first, second], PARTITION, FINGERPRINT, 100),
            key=lambda stored: stored.id,
        )
        assert (one.question, one.answer, one.answer_digest, one.doubt) == ("q", first, None, 0.0)
        assert (one.exact_only, one.writer) == (False, None)
        assert (other.answer, other.answer_digest, other.doubt) == (first, b"d" * 32, 0.5)
        assert (other.exact_only, other.writer) == (True, "app \ud800")
        assert np.allclose(other.vector, np.ones(WORDS) / np.sqrt(WORDS))

    def test_only_the_entry_named_is_from_now_on_served_exactly(self, ledger: Ledger) -> None:
        hub, other = ledger.entries.insert(new("q")), ledger.entries.insert(new("p"))
        ledger.entries.serve_only_exactly(hub, 100.0)
        found = ledger.lookups.live([hub, other], PARTITION, FINGERPRINT, 100)
        assert {stored.id: stored.exact_only for stored in found} == {hub: True, other: False}
        assert ledger.lookups.find(new("q").exact, 100) is not None

    def test_the_text_of_an_answer_is_the_response_unless_it_is_kept_apart(
        self, ledger: Ledger
    ) -> None:
        plain = ledger.entries.insert(new("q", response="Yes."))
        wrapped = ledger.entries.insert(new("p", response='{"text": "Yes."}', answer_text="Yes."))
        assert [ledger.lookups.answer_text(entry_id) for entry_id in (plain, wrapped, 10**9)] == [
            "Yes.",
            "Yes.",
            None,
        ]

    def test_writers_of_an_answer_are_counted_once_each_and_in_their_partition(
        self,
        ledger: Ledger,
    ) -> None:
        first = ledger.entries.insert(new("q0", writer="a"))
        for question, writer in (("q1", "b"), ("q2", "b"), ("q3", None)):
            ledger.entries.insert(new(question, writer=writer, answer=first))
        elsewhere = ledger.entries.insert(new("q0", scope="other", writer="c", answer=first))
        alone = ledger.entries.insert(new("q4", writer="a"))
        nobodys = ledger.entries.insert(new("q5"))
        assert ledger.lookups.writers([first, alone, nobodys, elsewhere], PARTITION) == {
            first: 2,
            alone: 1,
            nobodys: 0,
        }

    def test_get_gives_nothing_of_another_partition(self, ledger: Ledger) -> None:
        other = ledger.entries.insert(new("q", scope="other"))
        assert ledger.lookups.get(other, PARTITION, 100) is None

    def test_vectors_come_in_order_after_an_id_up_to_a_limit(self, ledger: Ledger) -> None:
        ids = [ledger.entries.insert(new(f"q{i}")) for i in range(5)]
        found, matrix = ledger.lookups.vectors_after(PARTITION, FINGERPRINT, ids[0], 3)
        assert found.tolist() == ids[1:4]
        assert matrix.shape == (3, WORDS)
        assert ledger.lookups.vectors_after(PARTITION, FINGERPRINT, ids[-1])[0].tolist() == []

    def test_the_least_recently_used_are_evicted_first(self, ledger: Ledger) -> None:
        ids = [ledger.entries.insert(new(f"q{i}", created=100.0 + i)) for i in range(4)]
        ledger.entries.touch({ids[0]: (1, 200.0)})
        fifth = ledger.entries.insert(new("q4", created=105.0), Limits(3))
        live = [i for i in (*ids, fifth) if ledger.lookups.get(i, PARTITION, 300)]
        assert live == [ids[0], ids[3], fifth]

    def test_the_entry_just_stored_is_not_evicted_when_the_clock_was_set_back(
        self, ledger: Ledger
    ) -> None:
        for i in range(3):
            ledger.entries.insert(new(f"q{i}", created=1000.0), Limits(3))
        entry_id = ledger.entries.insert(new("late", created=1.0), Limits(3))
        assert ledger.lookups.get(entry_id, PARTITION, 1.0) is not None
        assert ledger.count() == 3

    def test_a_touch_counts_hits_and_never_sets_the_last_use_back(self, ledger: Ledger) -> None:
        ids = [ledger.entries.insert(new(f"q{i}", created=100.0)) for i in range(2)]
        ledger.entries.touch({ids[0]: (2, 300.0)})
        ledger.entries.touch({ids[0]: (3, 50.0), 10**9: (1, 1.0)})
        ledger.entries.touch({ids[1]: (1, 200.0)})
        ledger.entries.touch({})
        assert ledger.hits_ever() == 6
        ledger.entries.insert(new("q2", created=400.0), Limits(2))
        assert ledger.lookups.get(ids[0], PARTITION, 0) is not None

    def test_lookups_are_summed_up_and_the_bound_is_of_who_last_served_by_meaning(
        self, ledger: Ledger, reopen: Callable[[], Ledger]
    ) -> None:
        assert (ledger.traffic(), ledger.traffic().hit_rate) == (Traffic(), None)
        for made in (Traffic(1, 0, 2, 0.02), Traffic(0, 3, 0, 0.1), Traffic(4, 0, 0, 0.5)):
            ledger.entries.touch({}, made)
        ledger.entries.touch({}, Traffic(0, 0, 0, 0.7))  # nothing was looked up
        assert reopen().traffic() == Traffic(5, 3, 2, 0.1)
        assert ledger.traffic().hit_rate == 0.8

    def test_conditions_of_invalidate_must_all_hold(self, ledger: Ledger) -> None:
        def fill() -> None:
            ledger.entries.clear()
            ledger.entries.insert(new("a", tags=("x", "y"), created=100.0))
            ledger.entries.insert(new("b", tags=("y",), created=200.0))
            ledger.entries.insert(new("c", namespace="other", tags=("x",), created=100.0))

        for conditions, gone in (
            ((["x"], None, None), 2),
            ((["x", "y"], None, None), 3),
            ((["x"], "default", None), 1),
            ((None, "default", None), 2),
            ((None, None, 150.0), 2),
            ((["y"], "default", 150.0), 1),
            (([], None, None), 0),
            ((["z"], None, None), 0),
        ):
            fill()
            assert ledger.entries.invalidate(*conditions) == gone
            assert ledger.count() == 3 - gone

    def test_deleting_notes_only_what_the_index_holds(self, ledger: Ledger) -> None:
        ids = [ledger.entries.insert(new(f"q{i}")) for i in range(4)]
        ledger.index_state(FINGERPRINT).advance(PARTITION, EMPTY, Generation(0, ids[1], 2))
        ledger.entries.clear()
        assert ledger.index_state(FINGERPRINT).take_removed() == {PARTITION: ids[:2]}
        assert ledger.index_state(FINGERPRINT).take_removed() == {}

    def test_what_the_index_holds_is_kept_per_model_and_partition(self, ledger: Ledger) -> None:
        mine, other = ledger.index_state(FINGERPRINT), ledger.index_state("f" * 64)
        five, seven = Generation(0, 5, 5, "one"), Generation(0, 7, 7, "one")
        assert mine.advance(PARTITION, EMPTY, five)
        assert mine.advance(PARTITION, five, seven)
        assert mine.advance(b"other", EMPTY, Generation(0, 8))
        assert other.advance(PARTITION, EMPTY, Generation(0, 9))
        assert mine.all() == {PARTITION: seven, b"other": Generation(0, 8)}
        assert mine.forget(b"other", Generation(0, 8))
        assert mine.all() == {PARTITION: seven, b"other": Generation(1)}
        mine.forget_all()
        assert mine.all() == {PARTITION: Generation(1), b"other": Generation(2)}
        assert other.all() == {PARTITION: Generation(0, 9)}

    def test_the_index_is_only_said_to_hold_more_by_who_knew_where_it_was(
        self, ledger: Ledger
    ) -> None:
        generations = ledger.index_state(FINGERPRINT)
        three, four = Generation(0, 3, 3, "one"), Generation(0, 4, 4, "one")
        assert not generations.advance(PARTITION, three, four)
        assert generations.advance(PARTITION, EMPTY, three)
        for name, value in (("number", 1), ("through", 2), ("added", 5), ("collection", "x")):
            was = replace(three, **{name: value})
            assert not generations.advance(PARTITION, was, four)
            assert not generations.forget(PARTITION, was)
        assert not generations.advance(PARTITION, EMPTY, four)
        assert generations.all() == {PARTITION: three}

    def test_a_new_generation_takes_the_place_of_the_one_it_was_made_for(
        self, ledger: Ledger
    ) -> None:
        generations = ledger.index_state(FINGERPRINT)
        generations.advance(PARTITION, EMPTY, Generation(0, 9, 9, "one"))
        assert generations.swap(PARTITION, 0, Generation(1, 7, 4, "two"))
        assert not generations.swap(PARTITION, 0, Generation(1, 8, 5, "three"))
        assert generations.all() == {PARTITION: Generation(1, 7, 4, "two")}

    def test_collections_with_more_dead_than_live_entries_are_worn(self, ledger: Ledger) -> None:
        generations = ledger.index_state(FINGERPRINT)
        ids = [ledger.entries.insert(new(f"q{i}")) for i in range(4)]
        generations.advance(PARTITION, EMPTY, Generation(0, ids[-1], 9, "one"))
        generations.advance(b"other", EMPTY, Generation(0, ids[-1], 4, "two"))
        assert generations.worn(5) == [PARTITION]
        assert generations.worn(6) == []
        assert ledger.index_state("f" * 64).worn(0) == []

    @pytest.mark.parametrize("noted", [True, False])
    def test_new_vectors_begin_the_index_of_their_partition_anew(
        self, noted: bool, ledger: Ledger
    ) -> None:
        generations = ledger.index_state(FINGERPRINT)
        ids = [ledger.entries.insert(new(f"q{i}", fingerprint="f" * 64)) for i in range(600)]
        if noted:
            generations.advance(PARTITION, EMPTY, Generation(0, ids[-1], 600, "one"))
            generations.advance(b"other", EMPTY, Generation(0, ids[-1], 600, "two"))
        vector = np.eye(WORDS, dtype=np.float32)[0]
        ledger.entries.replace_vectors([(i, FINGERPRINT, vector) for i in ids[-2:]])
        held = {b"other": Generation(0, ids[-1], 600, "two")} if noted else {}
        assert generations.all() == {PARTITION: Generation(1), **held}
        # what was read of the partition before does not count any more
        assert not generations.advance(PARTITION, EMPTY, Generation(0, ids[-1], 600, "one"))

    def test_a_new_vector_replaces_that_of_another_model(self, ledger: Ledger) -> None:
        old = ledger.entries.insert(new("q", fingerprint="f" * 64))
        bare = ledger.entries.insert(new("p", vector=None))
        ledger.entries.insert(new("o", vector=None, exact_only=True))
        assert ledger.lookups.unembedded(FINGERPRINT, 0, 10) == [(old, "q"), (bare, "p")]
        assert ledger.lookups.unembedded(FINGERPRINT, old, 10) == [(bare, "p")]
        vector = np.eye(WORDS, dtype=np.float32)[0]
        ledger.entries.replace_vectors([(old, FINGERPRINT, vector), (10**9, FINGERPRINT, vector)])
        assert ledger.lookups.vectors_after(PARTITION, FINGERPRINT, 0)[0].tolist() == [old]
        assert ledger.lookups.vectors_after(PARTITION, "f" * 64, 0)[0].tolist() == []

    def test_an_entry_keeps_who_wrote_it_and_whose_answer_it_has(self, ledger: Ledger) -> None:
        first = ledger.entries.insert(new("q"))
        second = ledger.entries.insert(new("p", writer="app \ud800", answer=first))
        columns = (entries.c.id, entries.c.writer, entries.c.answer, entries.c.doubt)
        rows = ledger.read(sa.select(*columns, entries.c.exact_only_since), {})
        assert [tuple(row) for row in rows] == [
            (first, None, None, 0.0, None),
            (second, "app \ud800", first, 0.0, None),
        ]

    @pytest.mark.parametrize(
        "delete",
        [
            lambda ledger: ledger.entries.delete_expired(150.0),
            lambda ledger: ledger.entries.invalidate(["gone"], None, None),
            lambda ledger: ledger.entries.insert(new("gone", response="new")),
            lambda ledger: ledger.entries.insert(new("another", created=300.0), Limits(2)),
        ],
        ids=["expired", "invalidated", "replaced", "evicted"],
    )
    def test_the_log_and_the_quarantine_of_an_entry_go_with_it_and_its_judgements_stay(
        self, delete: Any, ledger: Ledger
    ) -> None:
        gone = ledger.entries.insert(new("gone", tags=("gone",), expires=150.0))
        stays = ledger.entries.insert(new("stays", created=200.0))
        for entry_id in (gone, stays):
            _serve_and_judge(ledger, entry_id)
        delete(ledger)
        assert _known_of(ledger) == [[stays], [stays], [gone, stays]]

    def test_what_was_judged_of_a_namespace_is_cleared_with_it(self, ledger: Ledger) -> None:
        mine, other = (
            ledger.entries.insert(new("q")),
            ledger.entries.insert(new("q", namespace="other")),
        )
        _serve_and_judge(ledger, mine)
        _serve_and_judge(ledger, other, "other")
        assert ledger.entries.clear("other") == 1
        assert _known_of(ledger) == [[mine], [mine], [mine]]
        assert ledger.entries.clear() == 1
        assert _known_of(ledger) == [[], [], []]

    def test_threads_write_and_read_without_losing_anything(self, ledger: Ledger) -> None:
        def work(thread: int) -> None:
            for i in range(25):
                entry = new(f"{thread}-{i}")
                entry_id = ledger.entries.insert(entry)
                found = ledger.lookups.find(entry.exact, 100)
                assert found is not None and found.id == entry_id
                assert (
                    entry_id
                    in ledger.lookups.vectors_after(PARTITION, FINGERPRINT, entry_id - 1)[0]
                )

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert ledger.count() == 200

    def test_the_totals_stay_right_and_the_limit_holds_when_many_write_at_once(
        self, ledger: Ledger, reopen: Callable[[], Ledger]
    ) -> None:
        def work(thread: int) -> None:
            with closing(reopen()) as own:
                for i in range(20):
                    own.entries.insert(new(f"{thread % 2}-{i}", tags=("t",)), Limits(25))
                    own.entries.delete_exact(new(f"{(thread + 1) % 2}-{i - 3}").exact, 100)
                    own.entries.replace_vectors([(i, "f" * 64, np.eye(WORDS, dtype=np.float32)[0])])

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
        space = ledger.space()
        assert (space.entries, space.bytes) == counted_anew(ledger)
        assert 0 < space.entries <= 25

    def test_an_error_inside_a_write_leaves_nothing_of_it(self, ledger: Ledger) -> None:
        with pytest.raises(ZeroDivisionError), ledger.write() as connection:
            connection.exec_driver_sql("DELETE FROM semcache_meta")
            raise ZeroDivisionError
        assert ledger.read("SELECT 1", {}) if False else ledger.entries.insert(new("q"))
        with ledger.write() as connection:
            assert (
                connection.exec_driver_sql("SELECT count(*) FROM semcache_meta").scalar_one() == 2
            )

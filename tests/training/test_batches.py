"""Batches: what is together, in which order, and that nothing is lost or encoded twice."""

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.training.batches import LengthBatches, TrainingBatches, make_batch
from semcache_core.training.data.records import Pair

sizes = st.lists(st.integers(0, 50), max_size=200)


@given(lengths=sizes, batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_an_epoch_holds_everything_once_in_batches_of_the_size_asked_for(lengths, batch_size, seed):
    batches = LengthBatches(lengths, batch_size, seed)
    epoch = batches.epoch(0)
    assert sorted(index for batch in epoch for index in batch) == list(range(len(lengths)))
    assert len(epoch) == batches.per_epoch
    assert sum(len(batch) < batch_size for batch in epoch) <= 1
    assert all(0 < len(batch) <= batch_size for batch in epoch)


@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    batch_size=st.integers(1, 9),
    step=st.integers(0, 100),
)
def test_starting_at_a_step_gives_what_a_run_from_the_beginning_reaches(lengths, batch_size, step):
    batches = LengthBatches(lengths, batch_size, seed=3)
    resumed = list(islice(batches.starting_at(step), 20))
    assert resumed == list(islice(batches.starting_at(0), step, step + 20))


def test_batches_are_alike_in_length_and_do_not_come_in_order_of_length():
    lengths = np.random.default_rng(0).integers(1, 100, size=4096).tolist()
    epoch = LengthBatches(lengths, 64, seed=0).epoch(0)
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in epoch]
    assert np.mean(spread) < 10  # about 95 when batches are drawn at random
    shortest = [min(lengths[i] for i in batch) for batch in epoch]
    assert 0.3 < np.mean(np.diff(shortest) > 0) < 0.7


def test_seed_and_epoch_decide_the_batches():
    lengths = [1] * 100
    batches = LengthBatches(lengths, 10, seed=1)
    assert batches.epoch(0) == LengthBatches(lengths, 10, seed=1).epoch(0)
    assert batches.epoch(0) != batches.epoch(1)
    assert batches.epoch(0) != LengthBatches(lengths, 10, seed=2).epoch(0)
    # seed 1 is not seed 0 an epoch later
    assert batches.epoch(0) != LengthBatches(lengths, 10, seed=0).epoch(1)


def test_without_anything_to_batch_there_are_no_batches():
    assert list(LengthBatches([], 4, seed=0).starting_at(0)) == []


def test_a_text_that_pairs_share_is_one_row_and_made_texts_come_last():
    batch = make_batch(
        [Pair("a", "b", 1), Pair("c", "a", 0.25)],
        [Pair("b", "b!", 0), Pair("b", "b?", 1), Pair("d", "a", 1)],
        {"a": 0, "b": 0, "c": 5},
    )
    assert batch.texts == ["a", "b", "c", "d", "b!", "b?"]
    assert batch.given == 4
    assert batch.pairs.tolist() == [[0, 1], [2, 0]]
    assert batch.labels.tolist() == [1, 0.25]
    assert batch.synthetic.tolist() == [[1, 4], [1, 5], [3, 0]]
    assert batch.synthetic_labels.tolist() == [0, 1, 1]
    assert batch.answers[:3].tolist() == [0, 0, 5]
    assert len(set(batch.answers.tolist())) == 5


def test_a_batch_without_synthetic_pairs_has_empty_rows_for_them():
    batch = make_batch([Pair("a", "b", 1)], [], {})
    assert batch.synthetic.shape == (0, 2)
    assert batch.synthetic_labels.shape == (0,)


def test_unlabelled_are_questions_that_no_pair_and_no_chain_of_positives_joins():
    # x, y and z share an answer, though no pair of this batch joins x and z
    batch = make_batch(
        [Pair("x", "y", 1), Pair("z", "other", 0)],
        [Pair("extra", "made", 0), Pair("extra", "z", 0)],
        {"x": 0, "y": 0, "z": 0, "other": 1},
    )
    x, y, z, other, extra = range(5)
    mask = batch.unlabelled()
    assert mask.shape == (5, 5)
    assert (mask == mask.T).all()
    assert not mask.diagonal().any()
    assert not mask[x, y] and not mask[x, z] and not mask[z, other]
    assert not mask[z, extra]
    assert mask[x, other] and mask[y, other] and mask[x, extra] and mask[other, extra]


QUESTIONS = [f"how do i reset the {i} pin of my card" for i in range(40)]
PAIRS = [Pair(q, q.replace("reset", "change"), i % 2) for i, q in enumerate(QUESTIONS)]
EXTRA = [f"what is the fee for {i} dollars" for i in range(80)]


def training_batches(pairs=PAIRS, questions=(), synthetic=0.5, steps=50, seed=0):
    return TrainingBatches(
        pairs, questions, batch_size=8, synthetic=synthetic, steps=steps, seed=seed
    )


def contents(batch):
    return batch.texts, batch.pairs.tolist(), batch.synthetic.tolist()


def test_each_batch_has_its_share_of_edits_and_rewrites_of_the_same_questions():
    for batch in islice(training_batches().starting_at(0), 20):
        assert len(batch.pairs) == 8
        assert len(batch.synthetic) == 4
        # of two questions an edit and a rewrite each
        assert sorted(batch.synthetic_labels.tolist()) == [0, 0, 1, 1]
        assert len(set(batch.synthetic[:, 0].tolist())) == 2
        made = set(batch.synthetic[:, 1].tolist())
        assert made >= set(range(batch.given, len(batch.texts)))


def test_without_a_share_there_are_no_synthetic_pairs():
    batch = next(training_batches(synthetic=0).starting_at(0))
    assert len(batch.pairs) == 8
    assert len(batch.synthetic) == 0


def test_all_pairs_are_seen_in_an_epoch_with_their_labels():
    seen = {}
    for batch in islice(training_batches().starting_at(0), 5):
        for (left, right), label in zip(batch.pairs, batch.labels, strict=True):
            seen[batch.texts[left], batch.texts[right]] = label
    assert seen == {(pair.prompt, pair.other): pair.same_answer for pair in PAIRS}


def test_unlabelled_questions_are_made_pairs_of_as_those_of_the_pairs_are():
    batches = islice(training_batches(questions=EXTRA).starting_at(0), 50)
    asked = {batch.texts[row] for batch in batches for row in batch.synthetic[:, 0]}
    paired = {text for pair in PAIRS for text in (pair.prompt, pair.other)}
    assert asked <= paired | set(EXTRA)
    # 100 of the 160 questions are needed
    assert len(asked) > 90
    assert 0.3 < len(asked & paired) / len(asked) < 0.7


def test_no_more_synthetic_pairs_are_made_than_the_steps_need():
    batches = training_batches(questions=EXTRA, steps=3).starting_at(0)
    asked = {b.texts[row] for b in islice(batches, 50) for row in b.synthetic[:, 0]}
    assert len(asked) == 6


def test_a_resumed_run_meets_the_batches_it_would_have_met():
    straight = list(map(contents, islice(training_batches().starting_at(0), 23)))
    resumed = map(contents, islice(training_batches().starting_at(13), 10))
    assert list(resumed) == straight[13:]
    assert straight != list(map(contents, islice(training_batches(seed=1).starting_at(0), 23)))


def test_questions_joined_by_positive_pairs_anywhere_share_an_answer_in_every_batch():
    # a0 - a1 - ... - a9: one answer; b0 - b1, ... look-alikes of it
    chain = [Pair(f"a{i}", f"a{i + 1}", 1) for i in range(9)]
    alike = [Pair(f"a{i}", f"b{i}", 0) for i in range(9)]
    for batch in islice(training_batches([*chain, *alike], synthetic=0).starting_at(0), 6):
        kind = [text[0] for text in batch.texts]
        answers = [answer for answer, of in zip(batch.answers, kind, strict=True) if of == "a"]
        assert len(set(answers)) == 1
        assert len(set(batch.answers.tolist())) == 1 + kind.count("b")

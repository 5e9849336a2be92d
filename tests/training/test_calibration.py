"""lambda and c, the threshold table, and calibrating an embedder from pairs; worked by hand."""

import json
import math

import numpy as np
import pytest
from fakes import WordEmbedder
from semcache_core.errors import TrainingError
from semcache_core.predictor import load_calibration
from semcache_core.training.calibration import (
    calibrate,
    covered_tokens,
    fit_probability,
    threshold_table,
)
from semcache_core.training.pairs import Pair
from semcache_core.training.streams import Outcomes


def outcomes(right: list[bool], domain: str = "d", questions: list[int] | None = None) -> Outcomes:
    """From the most similar down: similarities .99, .989, .988 and so on."""
    n = len(right)
    return Outcomes(
        domain=domain,
        similarity=0.99 - np.arange(n) / 1000,
        right=np.array(right),
        answerable=np.ones(n, np.bool_),
        question=np.arange(n) if questions is None else np.array(questions),
    )


def ranked(n: int, *wrong: int) -> list[bool]:
    """n outcomes, of which those at these ranks (from 1) are wrong."""
    return [rank not in wrong for rank in range(1, n + 1)]


def p_at(rank: int) -> float:
    """With lambda 0.1 and c 8."""
    return 1 / (1 + math.exp(-((0.99 - (rank - 1) / 1000) / 0.1 - 8)))


def table(*domains: Outcomes, bounds=(0.1,)):
    return threshold_table(domains, 0.1, 8.0, bounds)


def test_lambda_and_c_are_those_of_the_logits_at_two_similarities():
    # a quarter same at similarity 0, three quarters at 1: logits -ln 3 and ln 3,
    # so 1/lambda = 2 ln 3 and c = ln 3
    similarities = [0.0] * 400 + [1.0] * 400
    labels = ([1] * 100 + [0] * 300) + ([1] * 300 + [0] * 100)
    lam, c = fit_probability(similarities, labels)
    assert lam == pytest.approx(1 / (2 * math.log(3)), rel=1e-3)
    assert c == pytest.approx(math.log(3), rel=1e-3)


def test_a_label_in_between_counts_for_both_classes():
    lam, c = fit_probability([0.0] * 400 + [1.0] * 400, [0.25] * 400 + [0.75] * 400)
    assert lam == pytest.approx(1 / (2 * math.log(3)), rel=1e-3)
    assert c == pytest.approx(math.log(3), rel=1e-3)


def test_weights_count_like_repetitions():
    # one pair of each kind, weighted 100, 300, 300, 100
    lam, c = fit_probability([0, 0, 1, 1], [1, 0, 1, 0], [100, 300, 300, 100])
    assert lam == pytest.approx(1 / (2 * math.log(3)), rel=1e-3)
    assert c == pytest.approx(math.log(3), rel=1e-3)


def test_pairs_that_a_similarity_separates_still_give_a_finite_positive_lambda():
    lam, c = fit_probability([0.1] * 200 + [0.9] * 200, [0] * 200 + [1] * 200)
    assert lam > 0.01
    assert math.isfinite(c)


def test_a_similarity_that_ranks_the_wrong_way_round_is_an_error():
    with pytest.raises(TrainingError, match="the fitted slope is -"):
        fit_probability([0.1] * 50 + [0.9] * 50, [1] * 40 + [0] * 20 + [1] * 10 + [0] * 30)


@pytest.mark.parametrize("label", [-0.5, 1.5, math.nan])
def test_a_label_outside_0_to_1_is_an_error_naming_it(label):
    with pytest.raises(TrainingError, match=f"same_answer of pair 1 is {label}"):
        fit_probability([0.1, 0.2, 0.3], [0, label, 1])


@pytest.mark.parametrize(("labels", "seen"), [([1, 1], "all 2 are 1"), ([], "there are none")])
def test_labels_of_one_class_are_an_error_saying_which(labels, seen):
    with pytest.raises(TrainingError, match=seen):
        fit_probability([0.5] * len(labels), labels)


def test_the_threshold_is_the_last_before_the_error_first_exceeds_the_bound():
    # wrong at 15 and 16: 1/15 is within .1, 2/16 is not
    (row,) = table(outcomes(ranked(18, 15, 16)))
    assert row.probability == pytest.approx(p_at(15))
    assert (row.served, row.wrong) == (15, 1)
    assert row.share_served == pytest.approx(15 / 18)


def test_a_later_dip_below_the_bound_is_not_taken():
    # at rank 40 the error is 2/40 = .05, but at 16 it was 2/16
    (row,) = table(outcomes(ranked(40, 15, 16)))
    assert row.probability == pytest.approx(p_at(15))


def test_an_error_that_meets_the_bound_exactly_is_within_it():
    (row,) = table(outcomes(ranked(10, 10)))
    assert (row.served, row.wrong) == (10, 1)


def test_a_wrong_answer_at_the_very_top_does_not_decide_alone():
    # before 10 have been served one wrong answer exceeds .1 whatever the embedder is worth
    (row,) = table(outcomes(ranked(30, 1, 25, 26)))
    assert row.probability == pytest.approx(p_at(25))


def test_without_1_over_bound_answers_there_is_no_threshold():
    (row,) = table(outcomes(ranked(9)))
    assert (row.probability, row.share_served, row.served, row.wrong) == (None, 0.0, 0, 0)


def test_the_same_question_of_another_seed_does_not_count_again():
    (row,) = table(outcomes(ranked(27), questions=[i // 3 for i in range(27)]))
    assert row.probability is None
    (row,) = table(outcomes(ranked(30), questions=[i // 3 for i in range(30)]))
    assert row.served == 30


def test_an_error_above_the_bound_from_the_start_leaves_no_threshold():
    (row,) = table(outcomes(ranked(30, 1, 2)))
    assert row.probability is None


def test_equal_similarities_are_served_together_or_not_at_all():
    # ranks 13 to 16 tie; serving all four makes 2/16
    one = outcomes(ranked(16, 15, 16))
    similarity = one.similarity.copy()
    similarity[12:] = similarity[12]
    tied = Outcomes(one.domain, similarity, one.right, one.answerable, one.question)
    (row,) = table(tied)
    assert row.served == 12


def test_the_order_of_the_outcomes_does_not_matter():
    one = outcomes(ranked(40, 15, 16))
    order = np.random.default_rng(0).permutation(40)
    mixed = Outcomes(
        one.domain,
        one.similarity[order],
        one.right[order],
        one.answerable[order],
        one.question[order],
    )
    assert table(mixed) == table(one)


def test_the_strictest_domain_sets_threshold_and_figures():
    easy, hard = outcomes(ranked(60), "easy"), outcomes(ranked(40, 15, 16), "hard")
    for domains in ((easy, hard), (hard, easy)):
        (row,) = table(*domains)
        assert row.probability == pytest.approx(p_at(15))
        assert (row.served, row.wrong, row.share_served) == (15, 1, 15 / 40)


def test_one_domain_without_a_threshold_leaves_the_table_without():
    (row,) = table(outcomes(ranked(60), "easy"), outcomes(ranked(30, 1, 2), "hopeless"))
    assert row.probability is None


def test_what_holds_for_a_bound_holds_for_a_looser_one():
    # .1 counts from 10 different questions on: rank 10, where 2/10 breaks it. .05 counts from 20
    # on: rank 40, where 2/40 keeps it. An error of .05 is within .1 too.
    questions = [*range(10), *([9] * 20), *range(10, 20)]
    one = outcomes(ranked(40, 2, 10), questions=questions)
    (alone,) = table(one, bounds=(0.1,))
    assert alone.probability is None
    for row in table(one, bounds=(0.1, 0.05)):
        assert row.probability == pytest.approx(p_at(40))
        assert (row.served, row.wrong) == (40, 2)


def test_a_table_without_streams_is_an_error():
    with pytest.raises(TrainingError, match="no streams"):
        table()


TOPICS = [f"topic{i}" for i in range(240)]


def pairs() -> list[Pair]:
    """Rewordings share two words of three with their prompt, look-alikes one."""
    positive = [Pair(f"{t} a{t} b{t}", f"{t} a{t} c{t}", 1) for t in TOPICS]
    negative = [Pair(f"{t} a{t} b{t}", f"d{t} a{t} e{t}", 0) for t in TOPICS]
    return positive + negative


def pairs_file(tmp_path, lines=None):
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": p.prompt, "other": p.other, "same_answer": p.same_answer}
        for p in (pairs() if lines is None else lines)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_calibrating_from_a_file_writes_what_the_cache_reads(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_text("somebody else's")
    made = calibrate(WordEmbedder(), str(pairs_file(tmp_path)), out=str(out), seeds=(0, 1))
    assert load_calibration(out) == made
    assert made.fingerprint == WordEmbedder.fingerprint
    assert made.dimension == WordEmbedder.dimension
    assert made.max_tokens == 3
    assert sorted(file.name for file in out.iterdir()) == ["calibration.json", "model.onnx"]
    assert (out / "model.onnx").read_text() == "somebody else's"
    assert "480 pairs" in made.calibrated_on


def test_calibration_serves_rewordings_and_not_look_alikes(tmp_path):
    made = calibrate(WordEmbedder(), pairs(), seeds=(0, 1))
    threshold = made.threshold(0.05)
    assert threshold is not None
    assert made.probability(2 / 3) > threshold
    assert made.probability(1 / 3) < threshold


def test_domains_named_in_the_pairs_are_measured_one_by_one():
    # in the second domain the "look-alikes" are as near as the rewordings: no bound holds there
    easy = [Pair(p.prompt, p.other, p.same_answer, "easy") for p in pairs()]
    hard = [Pair(f"q{t} x{t} y{t}", f"q{t} x{t} z{t}", 1, "hard") for t in TOPICS]
    hard += [Pair(f"q{t} x{t} y{t}", f"q{t} x{t} w{t}", 0, "hard") for t in TOPICS]
    alone = calibrate(WordEmbedder(), easy, seeds=(0,))
    together = calibrate(WordEmbedder(), easy + hard, seeds=(0,))
    assert alone.threshold(0.1) is not None
    assert together.threshold(0.1) is None


def test_each_domain_weighs_the_same_in_lambda_and_c():
    # ten times the pairs of one domain must not pull the fit towards it
    easy = [Pair(p.prompt, p.other, p.same_answer, "easy") for p in pairs()]
    other = [
        Pair(f"q{t} x{t} y{t}", f"q{t} x{t} z{t}", i % 2, "other") for i, t in enumerate(TOPICS)
    ]
    once = calibrate(WordEmbedder(), easy + other, seeds=(0,))
    repeated = calibrate(WordEmbedder(), easy * 10 + other, seeds=(0,))
    assert repeated.lam == pytest.approx(once.lam, rel=1e-3)
    assert repeated.c == pytest.approx(once.c, rel=1e-3)


def test_fewer_than_200_positives_are_an_error_with_both_numbers(tmp_path):
    few = pairs()[41:]
    with pytest.raises(TrainingError, match=r"has 199 pairs with the same answer.* at least 200"):
        calibrate(WordEmbedder(), pairs_file(tmp_path, few), out=tmp_path)
    assert not (tmp_path / "calibration.json").exists()


def test_pairs_of_one_class_are_an_error():
    with pytest.raises(TrainingError, match="all 240 are 1"):
        calibrate(WordEmbedder(), pairs()[:240])


def test_a_pair_with_a_label_outside_0_to_1_is_an_error():
    with pytest.raises(TrainingError, match="same_answer of pair 480 is 7"):
        calibrate(WordEmbedder(), [*pairs(), Pair("a", "b", 7)])


def test_the_covered_length_is_what_99_percent_of_the_questions_keep_within():
    texts = ["one two three"] * 99 + ["w " * 50]
    assert covered_tokens(WordEmbedder(), texts) == 3
    assert covered_tokens(WordEmbedder(), texts[1:]) == 50


def test_questions_the_embedder_cannot_read_do_not_stretch_the_covered_length():
    class NoGreek(WordEmbedder):
        def reads(self, text: str, max_tokens: int) -> bool:
            return "λ" not in text and super().reads(text, max_tokens)

    assert covered_tokens(NoGreek(), ["one two"] * 50 + ["λ " * 90] * 50) == 2
    with pytest.raises(TrainingError, match="reads none of 1 questions"):
        covered_tokens(NoGreek(), ["λ"])

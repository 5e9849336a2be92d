"""lambda and c, and calibrating an embedder from pairs; worked by hand."""

import json
import math

import pytest
from fakes import WordEmbedder
from semcache_core.decision.calibration import load_calibration
from semcache_core.decision.guard import differences, read
from semcache_core.decision.scoring import sigmoid
from semcache_core.errors import TrainingError
from semcache_core.training.calibration.calibrate import (
    calibrate,
    check_pairs,
    covered_tokens,
    fit_probability,
)
from semcache_core.training.data.records import Pair


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


TOPICS = [f"topic{i}" for i in range(240)]


def pairs() -> list[Pair]:
    """Rewordings share two words of three with their prompt, look-alikes one."""
    positive = [Pair(f"{t} a{t} b{t}", f"{t} a{t} c{t}", 1) for t in TOPICS]
    negative = [Pair(f"{t} a{t} b{t}", f"d{t} a{t} e{t}", 0) for t in TOPICS]
    return positive + negative


def of_few_answers(answers: int, each: int) -> list[Pair]:
    """Questions of a few answers, and look-alikes of each with another answer."""
    return [
        Pair(f"q{answer} a{i}", f"{'q' if same else 'd'}{answer} b{i}", same)
        for answer in range(answers)
        for i in range(each)
        for same in (1, 0)
    ] + [
        Pair(f"q{answer} a0", f"q{answer} a{i}", 1)
        for answer in range(answers)
        for i in range(each)
    ]


def test_too_few_answers_are_refused_however_many_questions_they_have() -> None:
    with pytest.raises(TrainingError, match="the log has questions of 7 different answers"):
        check_pairs(of_few_answers(7, 300), "the log")
    check_pairs(of_few_answers(25, 20), "the log")


def test_answers_without_a_look_alike_support_no_bound() -> None:
    few = [pair for pair in of_few_answers(25, 20) if pair.positive]
    few += [Pair("q1 a0", f"d b{i}", 0) for i in range(18)]
    with pytest.raises(TrainingError, match="25 different answers to ask, and look-alikes of 19"):
        check_pairs(few, "the log")


def pairs_file(tmp_path, lines=None):
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": p.prompt, "other": p.other, "same_answer": p.same_answer}
        for p in (pairs() if lines is None else lines)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.slow
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


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, float("nan")])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(TrainingError, match="confidence is"):
        calibrate(WordEmbedder(), pairs(), confidence=confidence)


@pytest.mark.slow
def test_calibration_serves_rewordings_and_not_look_alikes(tmp_path):
    made = calibrate(WordEmbedder(), pairs(), seeds=(0, 1))
    threshold = made.threshold(0.1)
    assert threshold is not None

    def likeliest(pair: Pair, similarity: float) -> float:
        found = differences(read(pair.prompt), read(pair.other))
        return sigmoid(made.judged_by.log_odds(similarity, made.judged_by.widest, found))

    assert likeliest(pairs()[0], 2 / 3) >= threshold
    assert likeliest(pairs()[-1], 1 / 3) < threshold
    assert made.confidence == 0.95
    assert all(row.upper <= row.max_error_rate for row in made.thresholds if row.probability)


@pytest.mark.slow
def test_domains_named_in_the_pairs_are_measured_one_by_one():
    # in the second domain the "look-alikes" are as near as the rewordings: no bound holds there
    easy = [Pair(p.prompt, p.other, p.same_answer, "easy") for p in pairs()]
    hard = [Pair(f"q{t} x{t} y{t}", f"q{t} x{t} z{t}", 1, "hard") for t in TOPICS]
    hard += [Pair(f"q{t} x{t} y{t}", f"q{t} x{t} w{t}", 0, "hard") for t in TOPICS]
    alone = calibrate(WordEmbedder(), easy, seeds=(0,))
    together = calibrate(WordEmbedder(), easy + hard, seeds=(0,))
    assert alone.threshold(0.1) is not None
    assert together.threshold(0.1) is None


@pytest.mark.slow
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

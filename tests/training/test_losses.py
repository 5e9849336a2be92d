"""Losses: worked out by hand, and their gradients against finite differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from semcache_core.errors import TrainingError
from semcache_core.training.batches import make_batch
from semcache_core.training.data.records import Pair
from semcache_core.training.losses import (
    BinaryCrossEntropyLoss,
    PairPredictor,
    SquaredLogDifferenceLoss,
    TuningLoss,
    distillation_loss,
    encode,
    ranking_loss,
)

LOSSES = [BinaryCrossEntropyLoss, SquaredLogDifferenceLoss]


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def predictor(lam: float = 0.5, c: float = 1.0) -> PairPredictor:
    made = PairPredictor().double()
    with torch.no_grad():
        made.log_lambda.fill_(math.log(lam))
        made.c.fill_(c)
    return made


def unit(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float64), dim=1)


def test_the_logit_is_similarity_over_lambda_minus_c():
    assert predictor(0.5, 1)(doubles(0.5, 1, -1)).tolist() == pytest.approx([0, 1, -3])
    assert PairPredictor(0.25, 3).lam == pytest.approx(0.25)
    assert PairPredictor(0.25, 3)(torch.tensor([1.0])).item() == pytest.approx(1)


def test_lambda_stays_above_0_however_far_it_is_pushed():
    made = predictor()
    with torch.no_grad():
        made.log_lambda -= 20
    assert 0 < made.lam < 1e-8


@pytest.mark.parametrize("lam", [0, -1, float("nan")])
def test_a_lambda_that_is_not_above_0_is_refused(lam):
    with pytest.raises(TrainingError, match=f"lambda is {lam}"):
        PairPredictor(lam)


def test_cross_entropy_of_hard_and_soft_labels_worked_out_by_hand():
    loss = BinaryCrossEntropyLoss(predictor(0.5, 1))
    # similarity 0.5: logit 0, p 1/2; similarity 1: logit 1, p 1 / (1 + 1/e)
    p = 1 / (1 + math.exp(-1))
    assert loss(doubles(0.5), doubles(1)).item() == pytest.approx(math.log(2))
    assert loss(doubles(1), doubles(0)).item() == pytest.approx(-math.log(1 - p))
    soft = -(0.25 * math.log(p) + 0.75 * math.log(1 - p))
    assert loss(doubles(1), doubles(0.25)).item() == pytest.approx(soft)
    assert loss(doubles(0.5, 1), doubles(1, 0.25)).item() == pytest.approx((math.log(2) + soft) / 2)


def test_squared_log_difference_of_hard_and_soft_labels_worked_out_by_hand():
    loss = SquaredLogDifferenceLoss(predictor(0.5, 1), floor=0.1)
    assert loss(doubles(0.5), doubles(1)).item() == pytest.approx(math.log(2) ** 2)
    assert loss(doubles(0.5), doubles(0.25)).item() == pytest.approx(math.log(2) ** 2)
    # a label below the floor counts as the floor
    assert loss(doubles(0.5), doubles(0)).item() == pytest.approx(math.log(0.5 / 0.1) ** 2)
    assert loss(doubles(0.5, 0.5), doubles(0.5, 1)).item() == pytest.approx(math.log(2) ** 2 / 2)


def test_a_p_too_small_for_a_logarithm_gives_a_finite_loss_and_gradient():
    similarity = torch.tensor([-1.0], requires_grad=True)
    loss = SquaredLogDifferenceLoss(PairPredictor(0.001, 0), floor=0.1)
    value = loss(similarity, torch.tensor([1.0]))
    value.backward()
    assert value.item() == pytest.approx(1000**2, rel=1e-4)
    assert similarity.grad is not None
    assert similarity.grad.item() == pytest.approx(-2 * 1000 * 1000, rel=1e-4)


@pytest.mark.parametrize("floor", [0, 1, -0.1, float("nan")])
def test_a_floor_outside_0_to_1_is_refused(floor):
    with pytest.raises(TrainingError, match=f"floor is {floor}"):
        SquaredLogDifferenceLoss(PairPredictor(), floor)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_agree_with_finite_differences(kind):
    similarity = doubles(-0.3, 0.1, 0.45, 0.8, 0.95)
    label = doubles(0, 0.4, 1, 0, 0.9)
    loss = kind(predictor(0.2, 2))

    def at(moved: torch.Tensor, lam: float, c: float) -> float:
        return kind(predictor(lam, c))(moved, label).item()

    similarity.requires_grad_()
    loss(similarity, label).backward()
    h, still = 1e-6, similarity.detach()
    for i in range(len(still)):
        step = torch.zeros_like(still)
        step[i] = h
        slope = (at(still + step, 0.2, 2) - at(still - step, 0.2, 2)) / (2 * h)
        assert similarity.grad[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)
    slope = (at(still, 0.2 + h, 2) - at(still, 0.2 - h, 2)) / (2 * h)
    # d/d(log lambda) = lambda * d/d(lambda)
    assert loss.predictor.log_lambda.grad.item() == pytest.approx(0.2 * slope, rel=1e-6)
    slope = (at(still, 0.2, 2 + h) - at(still, 0.2, 2 - h)) / (2 * h)
    assert loss.predictor.c.grad.item() == pytest.approx(slope, rel=1e-6)


def test_ranking_takes_every_other_right_as_a_negative_those_of_negative_pairs_too():
    left, right = unit((1, 0), (0, 1), (1, 1)), unit((1, 0), (1, 0), (0, 1))
    wanted = torch.tensor([True, False, False])
    # the scores of the first left are 2, 2 and 0
    by_hand = -math.log(math.exp(2) / (2 * math.exp(2) + 1))
    assert ranking_loss(left, right, wanted, 2.0).item() == pytest.approx(by_hand)


def test_ranking_is_the_mean_over_the_positives_and_0_without_any():
    left, right = unit((1, 0), (0, 1)), unit((1, 0), (0, 1))
    one = ranking_loss(left, right, torch.tensor([True, False]), 3.0)
    assert one.item() == pytest.approx(math.log(1 + math.exp(-3)))
    both = ranking_loss(left, right, torch.tensor([True, True]), 3.0)
    assert both.item() == pytest.approx(one.item())
    assert ranking_loss(left, right, torch.tensor([False, False]), 3.0).item() == 0


def test_questions_known_to_have_the_same_answer_are_no_negatives():
    left, right = unit((1, 0), (0, 1), (1, 1)), unit((1, 0), (1, 0), (0, 1))
    wanted = torch.tensor([True, False, False])
    loss = ranking_loss(left, right, wanted, 2.0, torch.tensor([7, 7, 8]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    loss = ranking_loss(left, right, wanted, 2.0, torch.tensor([7, 7, 7]))
    assert loss.item() == 0


def test_keeping_compares_the_cosines_that_the_mask_marks():
    vectors = unit((1, 0), (0, 1), (1, 0))
    reference = unit((1, 0, 0), (1, 0, 0), (0, 1, 0))
    # cosines of 0-1, 0-2, 1-2: 0, 1, 0 against 1, 0, 0
    mask = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    assert distillation_loss(vectors, reference, mask).item() == pytest.approx(0.5)
    mask[1, 2] = False
    assert distillation_loss(vectors, reference, mask).item() == pytest.approx(1)
    assert distillation_loss(vectors, reference, torch.zeros_like(mask)).item() == 0


def test_a_rotation_of_all_vectors_is_nothing_to_keep_from():
    vectors, everything = unit((1, 2), (3, -1), (0.5, 1)), torch.ones(3, 3, dtype=torch.bool)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert distillation_loss(vectors @ turn, vectors, everything).item() == pytest.approx(
        0, abs=1e-24
    )


def test_gradients_of_ranking_and_keeping_agree_with_finite_differences():
    torch.manual_seed(0)
    left, right, reference = (torch.randn(4, 3, dtype=torch.float64) for _ in range(3))
    wanted, answers = torch.tensor([True, False, True, True]), torch.tensor([0, 1, 2, 0])
    mask = ~torch.eye(4, dtype=torch.bool)
    inputs = (left.requires_grad_(), right.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: ranking_loss(a, b, wanted, 2, answers), inputs)
    assert torch.autograd.gradcheck(lambda a: distillation_loss(a, reference, mask), inputs[:1])


class Features(dict):
    def to(self, device: torch.device) -> "Features":
        return self


class TableModel(torch.nn.Module):
    """Stands for a sentence-transformers model: a vector for each text, from a table.

    `asked` lists the calls, `cut` the number of tokens that each text was to be cut at.
    """

    device = torch.device("cpu")
    max_seq_length = 20

    def __init__(self, **vectors: tuple[float, ...]) -> None:
        super().__init__()
        self.names = list(vectors)
        self.table = torch.nn.Parameter(torch.tensor(list(vectors.values())))
        self.asked: list[list[str]] = []
        self.cut: list[int] = []

    def tokenizer(self, texts, *, padding, truncation, max_length, return_tensors) -> Features:
        assert padding and truncation and return_tensors == "pt"
        self.asked.append(texts)
        self.cut.append(max_length)
        return Features(rows=torch.tensor([self.names.index(text) for text in texts]))

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sentence_embedding": self.table[features["rows"]]}


def test_encoding_gives_unit_rows_in_the_order_of_the_texts():
    model = TableModel(long=(3.0, 4.0), b=(0.0, 2.0), cc=(5.0, 0.0))
    rows = encode(model, ["long", "b", "cc", "b"], max_tokens=64)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0, 1], [1, 0], [0, 1]]))
    assert model.cut == [20]
    encode(model, ["b"], max_tokens=5)
    assert model.cut == [20, 5]


def test_many_texts_are_encoded_in_parts_alike_in_length():
    texts = ["x" * (1 + 37 * i % 130) for i in range(130)]
    model = TableModel(**{text: (float(len(text)), 1.0) for text in texts})
    rows = encode(model, texts, max_tokens=5)
    assert [len(part) for part in model.asked] == [32, 32, 32, 32, 2]
    lengths = [len(text) for part in model.asked for text in part]
    assert lengths == sorted(lengths)
    wanted = torch.nn.functional.normalize(model.table.detach()[: len(texts)], dim=1)
    torch.testing.assert_close(rows.detach(), wanted)


STUDENT = {"a": (1.0, 0.0), "b": (0.6, 0.8), "c": (0.0, 1.0), "d": (0.8, -0.6), "made": (1.0, 0.0)}
BASE = {"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (0.0, 1.0), "d": (1.0, 0.0)}
BATCH = make_batch([Pair("a", "b", 1), Pair("d", "c", 0)], [Pair("d", "made", 0)], {"a": 0, "b": 0})


def bce(similarity: float, label: float) -> float:
    p = 1 / (1 + math.exp(-(similarity / 0.5 - 1)))
    return -(label * math.log(p) + (1 - label) * math.log(1 - p))


def tuning_loss(
    student=None, base=None, *, synthetic=0.0, ranking=0.0, distillation=0.0
) -> TuningLoss:
    return TuningLoss(
        student or TableModel(**STUDENT),
        base or TableModel(**BASE),
        BinaryCrossEntropyLoss(PairPredictor(0.5, 1)),
        synthetic=synthetic,
        ranking=ranking,
        distillation=distillation,
        max_tokens=64,
    )


PAIRS_LOSS = (bce(0.6, 1) + bce(-0.6, 0)) / 2
SYNTHETIC_LOSS = bce(0.8, 0)
# a's scores of b and c
RANKING_LOSS = -math.log(math.exp(20 * 0.6) / (math.exp(20 * 0.6) + 1))
# a-d: 0.8, once 1; b-d: 0, once 0; a-c: 0, once 0; b-c: 0.8, once 1; a-b and c-d are labelled
KEEP_LOSS = 100 * (0.2**2 + 0.2**2) / 4


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ({}, PAIRS_LOSS),
        ({"synthetic": 0.5}, PAIRS_LOSS + 0.5 * SYNTHETIC_LOSS),
        ({"ranking": 0.3}, PAIRS_LOSS + 0.3 * RANKING_LOSS),
        ({"distillation": 2.0}, PAIRS_LOSS + 2 * KEEP_LOSS),
        (
            {"synthetic": 1.0, "ranking": 1.0, "distillation": 1.0},
            PAIRS_LOSS + SYNTHETIC_LOSS + RANKING_LOSS + KEEP_LOSS,
        ),
    ],
)
def test_the_loss_of_a_batch_is_the_weighted_sum_worked_out_by_hand(weights, wanted):
    # what is not asked for costs nothing: with synthetic 0 the batches have no such pairs
    batch = BATCH if "synthetic" in weights else replace(BATCH, synthetic=BATCH.synthetic[:0])
    assert tuning_loss(**weights)(batch).item() == pytest.approx(wanted, rel=1e-5)


def test_each_text_is_encoded_once_and_the_untuned_model_sees_the_given_ones_only():
    student, base = TableModel(**STUDENT), TableModel(**BASE)
    tuning_loss(student, base, synthetic=1, ranking=1, distillation=1)(BATCH).backward()
    assert [sorted(part) for part in student.asked] == [["a", "b", "c", "d", "made"]]
    assert [sorted(part) for part in base.asked] == [["a", "b", "c", "d"]]
    assert student.table.grad is not None and student.table.grad.abs().sum() > 0
    assert base.table.grad is None
    tuning_loss(student, base, distillation=0)(BATCH)
    assert len(base.asked) == 1


def test_positives_known_to_have_the_same_answer_are_not_ranked_against_each_other():
    vectors = {**STUDENT, "d": (1.0, 0.0), "c": (0.6, 0.8)}
    batch = make_batch([Pair("a", "b", 1), Pair("d", "c", 1)], [], dict.fromkeys("abcd", 0))
    apart = replace(batch, answers=np.array([0, 0, 1, 1]))
    model = TableModel(**vectors)
    assert tuning_loss(model, ranking=1)(batch) < tuning_loss(model, ranking=1)(apart) - 0.5

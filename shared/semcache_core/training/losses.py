"""Losses for fine-tuning an embedding model; every loss is a scalar."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

from semcache_core.errors import TrainingError
from semcache_core.training.batches import Batch

# cosines move by hundredths and their squares are small: this makes them count as the pairs do
_DISTILLATION_SCALE = 100.0
_RANKING_SCALE = 20.0
# texts encoded at once, sorted by length before: padding costs more than another call
_TOGETHER = 32


class PairPredictor(nn.Module):
    """p(same answer) = sigmoid(similarity / lambda - c), with lambda and c trainable.

    Source: arXiv 2402.01173. The logarithm of lambda is trained, which keeps lambda above 0. p is
    one half where the cosine is lambda * c.
    """

    def __init__(self, lam: float = 1 / 15, c: float = 11.25) -> None:
        super().__init__()
        if not lam > 0:
            raise TrainingError(f"lambda is {lam}; it must be above 0")
        self.log_lambda = nn.Parameter(torch.tensor(lam).log())
        self.c = nn.Parameter(torch.tensor(float(c)))

    @property
    def lam(self) -> float:
        return float(self.log_lambda.detach().exp())

    def forward(self, similarity: Tensor) -> Tensor:
        """The logit of p, [n], from cosines [n]."""
        logit: Tensor = similarity / self.log_lambda.exp() - self.c
        return logit


class PairLoss(nn.Module):
    """Distance of a predictor's p from labels between 0 and 1; cosines and labels are [n]."""

    def __init__(self, predictor: PairPredictor) -> None:
        super().__init__()
        self.predictor = predictor


class BinaryCrossEntropyLoss(PairLoss):
    """Binary cross-entropy between p and the label (arXiv 2402.01173)."""

    def forward(self, similarity: Tensor, label: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.predictor(similarity), label)


class SquaredLogDifferenceLoss(PairLoss):
    """Squared difference of the logarithms: mean of (log p - log max(y, floor))^2.

    Source: arXiv 2402.01173, which keeps labels away from 0. Below `floor`, in (0, 1), the loss
    pulls p of a negative pair up again.
    """

    def __init__(self, predictor: PairPredictor, floor: float = 0.05) -> None:
        super().__init__(predictor)
        if not 0 < floor < 1:
            raise TrainingError(f"floor is {floor}; it must be between 0 and 1, say 0.05")
        self.floor = floor

    def forward(self, similarity: Tensor, label: Tensor) -> Tensor:
        log_p = functional.logsigmoid(self.predictor(similarity))
        return (log_p - label.clamp(min=self.floor).log()).square().mean()


def ranking_loss(
    left: Tensor, right: Tensor, is_positive: Tensor, scale: float, answers: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding a positive's `right` among those of all pairs, by scaled cosine.

    The in-batch negatives of MultipleNegativesRankingLoss (arXiv 1705.00652). 0 when there is no
    positive.

    Args:
        left, right: unit vectors of the pairs, [n, d] each.
        is_positive: bool [n].
        scale: what the cosines are multiplied with before the softmax.
        answers: int [n]; pairs with equal ones are not each other's negatives.
    """
    positives = is_positive.nonzero()[:, 0]
    if not len(positives):
        return left.new_zeros(())
    scores = left[positives] @ right.T * scale
    if answers is not None:
        same = answers[positives][:, None] == answers[None, :]
        same[torch.arange(len(positives), device=same.device), positives] = False
        scores = scores.masked_fill(same, float("-inf"))
    return functional.cross_entropy(scores, positives)


def distillation_loss(vectors: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the cosines among `vectors` and among `reference`.

    Distillation from the untuned model: questions without labels keep their neighbourhoods.

    Args:
        vectors: unit vectors of the texts by the model in training, [n, d].
        reference: unit vectors of the same texts by the untuned model, [n, e].
        mask: bool [n, n], True where the cosine is to be kept; the loss is 0 when it is empty.
    """
    difference = vectors @ vectors.T - reference @ reference.T
    return (difference.square() * mask).sum() / mask.sum().clamp(min=1)


@dataclass
class TuningLoss:
    """Weighted sum of four losses of a batch.

    `pair_loss` of the labelled pairs has weight 1, of the synthetic pairs `synthetic`; the ranking
    among the labelled pairs has weight `ranking`, the distillation from `base` `distillation`.
    """

    student: SentenceTransformer
    base: SentenceTransformer
    pair_loss: PairLoss
    synthetic: float
    ranking: float
    distillation: float
    max_tokens: int

    def __call__(self, batch: Batch) -> Tensor:
        vectors = encode(self.student, batch.texts, self.max_tokens)
        pairs, labels = _tensors(vectors, batch.pairs, batch.labels)
        loss: Tensor = self.pair_loss(cosines(vectors, pairs), labels)
        if len(batch.synthetic):
            made, made_labels = _tensors(vectors, batch.synthetic, batch.synthetic_labels)
            loss = loss + self.synthetic * self.pair_loss(cosines(vectors, made), made_labels)
        if self.ranking:
            left, right = vectors[pairs].unbind(1)
            (answers,) = _tensors(vectors, batch.answers[batch.pairs[:, 1]])
            ranking = ranking_loss(left, right, labels > 0.5, _RANKING_SCALE, answers)
            loss = loss + self.ranking * ranking
        if self.distillation:
            with torch.no_grad():
                reference = encode(self.base, batch.texts[: batch.given], self.max_tokens)
            (mask,) = _tensors(vectors, batch.unlabelled())
            kept = distillation_loss(vectors[: batch.given], reference, mask)
            loss = loss + self.distillation * _DISTILLATION_SCALE * kept
        return loss


def encode(model: SentenceTransformer, texts: Sequence[str], max_tokens: int) -> Tensor:
    """Float32 unit vectors [texts, d], with gradients; bfloat16 inside where the hardware has it.

    Texts are tokenized as the exported artefact does it: without a prompt of the model.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows = []
    with torch.autocast(model.device.type, torch.bfloat16, enabled=_has_bfloat16(model.device)):
        for start in range(0, len(order), _TOGETHER):
            # the tokenizer takes only valid Unicode: lone surrogates become question marks
            some = [
                texts[index].encode("utf-8", "replace").decode("utf-8")
                for index in order[start : start + _TOGETHER]
            ]
            features = model.tokenizer(
                some,
                padding=True,
                truncation=True,
                max_length=min(max_tokens, model.max_seq_length or max_tokens),
                return_tensors="pt",
            )
            rows.append(model(dict(features.to(model.device)))["sentence_embedding"])
    back = torch.tensor(order, device=model.device).argsort()
    return functional.normalize(torch.cat(rows).float(), dim=1)[back]


def cosines(vectors: Tensor, pairs: Tensor) -> Tensor:
    """[n] cosines of pairs, int64 [n, 2], of rows of the unit `vectors` [m, d]."""
    left, right = vectors[pairs].unbind(1)
    return (left * right).sum(1)


def _tensors(beside: Tensor, *arrays: NDArray[Any]) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array).to(beside.device) for array in arrays)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: it is on CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # older torch cannot tell
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(supported())

"""The model card of an artefact: fills in `card_template.md`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from semcache_core.decision.calibration import Calibration
from semcache_core.decision.scoring import Weights
from semcache_core.training.calibration.streams import similarities_of
from semcache_core.training.data.mining import match_similarity
from semcache_core.training.data.records import Pair
from semcache_core.training.trainer import FitOptions, FitResult
from semcache_core.types import Embedder

CARD_FILE = "card.md"
_LEAST_TESTED = 20  # of each class: an AUC of fewer says nothing


@dataclass(frozen=True)
class Ranking:
    """ROC AUC of a model on labelled pairs, and on the hard ones, whose indices are `hard`.

    Those are matched by the similarity of the model before training, which is at chance on them.
    """

    pairs: int
    auc: float
    hard: NDArray[np.int64]
    hard_auc: float


def ranking_of(pairs: Sequence[Pair], embedder: Embedder, before: Ranking | None) -> Ranking | None:
    """Rank `pairs`; `before` is the untuned model's, None when this is it.

    None when there are fewer than 20 pairs of either class.
    """
    labels = np.array([pair.positive for pair in pairs], np.bool_)
    if min(labels.sum(), (~labels).sum()) < _LEAST_TESTED:
        return None
    similarity = similarities_of(embedder, pairs)
    hard = match_similarity(pairs, similarity) if before is None else before.hard
    return Ranking(
        pairs=len(pairs),
        auc=float(roc_auc_score(labels, similarity)),
        hard=hard,
        hard_auc=float(roc_auc_score(labels[hard], similarity[hard])) if len(hard) else math.nan,
    )


def threshold_rows(calibration: Calibration) -> str:
    """The threshold table in Markdown, with its head.

    The cosine is that of a question without any rival or difference: others need more.
    """
    weights = calibration.judged_by
    rows = [
        "| max_error_rate | probability | cosine, at least | served, of all asked "
        "| wrong, of the served | upper limit |",
        "|---|---|---|---|---|---|",
    ]
    for row in calibration.thresholds:
        if row.probability is None:
            rows.append(f"| {row.max_error_rate:.1%} | none: only exact repeats | | | | |")
            continue
        rows.append(
            f"| {row.max_error_rate:.1%} | {row.probability:.4f} | "
            f"{weights.similarity_at(row.probability):.3f} | {row.share_served:.1%} | "
            f"{row.wrong:,} of {row.served:,} | "
            f"{'-' if row.upper is None else f'{row.upper:.2%}'} |"
        )
    return "\n".join(rows)


def weight_rows(weights: Weights) -> str:
    """The weights of the evidence, in log-odds, as a table in Markdown."""
    rows = [
        "| evidence | weight |",
        "|---|---|",
        f"| intercept | {weights.intercept:.2f} |",
        f"| cosine | {weights.similarity:.2f} |",
        *(f"| margin, up to {knot:g} | {slope:.2f} |" for knot, slope in weights.margins),
        *(f"| differs in: {rule} | {weight:.2f} |" for rule, weight in weights.rules.items()),
    ]
    return "\n".join(rows)


def card_of(
    *,
    base_name: str,
    options: FitOptions,
    splits: Mapping[str, Sequence[Pair]],
    calibration: Calibration,
    result: FitResult,
    before: Ranking | None,
    after: Ranking | None,
) -> str:
    """The card, in Markdown."""
    template = Path(__file__).with_name("card_template.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        base=base_name,
        fingerprint=calibration.fingerprint,
        made_with=", ".join(
            f"{name} {version(name)}"
            for name in ("torch", "sentence-transformers", "onnx", "onnxruntime", "scikit-learn")
        ),
        split_rows="\n".join(
            f"| {name} | {len(pairs):,} | {sum(pair.positive for pair in pairs):,} | "
            f"{', '.join(sorted({pair.domain for pair in pairs if pair.domain})) or '-'} |"
            for name, pairs in splits.items()
        ),
        option_rows=option_rows(options),
        steps=f"{result.steps:,}",
        minutes=f"{result.seconds / 60:.1f}",
        losses=", ".join(f"{loss:.3f}" for loss in result.losses[:: len(result.losses) // 8 + 1]),
        ranking_rows=_ranking_rows(before, after),
        lam=f"{calibration.lam:.5f}",
        c=f"{calibration.c:.3f}",
        max_tokens=calibration.max_tokens,
        calibrated_on=calibration.calibrated_on,
        threshold_rows=threshold_rows(calibration),
        weight_rows=weight_rows(calibration.judged_by),
        confidence=f"{calibration.confidence or 0:.0%}",
    )


def option_rows(options: FitOptions) -> str:
    """The options of a fine-tuning as rows of a table."""
    return "\n".join(f"| {name} | {value} |" for name, value in asdict(options).items())


def _ranking_rows(before: Ranking | None, after: Ranking | None) -> str:
    if before is None or after is None:
        return "| too few test pairs | | | |"
    return "\n".join(
        f"| {name} | {ranking.auc:.4f} | {ranking.hard_auc:.4f} | "
        f"{ranking.pairs:,}, {len(ranking.hard):,} of them hard |"
        for name, ranking in (("before, float32", before), ("after, int8", after))
    )

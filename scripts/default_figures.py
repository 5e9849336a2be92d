"""The tables of the shipped artefact's card."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from semcache_core.decision.calibration import Calibration
from semcache_core.decision.guard import differences, read
from semcache_core.decision.scoring import sigmoid
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.embedding.wrappers import SentenceTransformerEmbedder
from semcache_core.evaluation import evaluate
from semcache_core.training.calibration.streams import (
    SEEDS,
    Decided,
    Remembering,
    decide,
    domain_from_edits,
    run_trials,
    similarities_of,
)
from semcache_core.training.data.augmentation import synthetic_pairs
from semcache_core.training.data.records import Pair
from semcache_core.types import Embedder
from sentence_transformers import SentenceTransformer
from sklearn.metrics import roc_auc_score

RESAMPLES = 200
SHOWN_BOUNDS = (0.02, 0.05, 0.1)
CARD_SEEDS = SEEDS[:8]
SYNTHETIC_SEED = 20_000  # not that of the training


@dataclass(frozen=True)
class Auc:
    """AUC on the QQP test pairs, of both models, with the spread of the difference."""

    float32: float
    int8: float
    spread: float
    spread_of_difference: float


@dataclass(frozen=True)
class Artefact:
    """A model with its calibration; it lies `share` of the way from the published weights (0) to
    the tuned ones (1).
    """

    share: float
    model: SentenceTransformer
    embedder: Remembering
    calibration: Calibration


def measure_auc(pairs: list[Pair], shipped: Artefact) -> Auc:
    labels = np.array([pair.positive for pair in pairs])
    exact = similarities_of(SentenceTransformerEmbedder(shipped.model), pairs)
    rounded = similarities_of(shipped.embedder, pairs)
    chooser = np.random.default_rng(0)
    drawn = [chooser.integers(0, len(pairs), len(pairs)) for _ in range(RESAMPLES)]
    scores = [
        (roc_auc_score(labels[i], exact[i]), roc_auc_score(labels[i], rounded[i])) for i in drawn
    ]
    return Auc(
        float32=float(roc_auc_score(labels, exact)),
        int8=float(roc_auc_score(labels, rounded)),
        spread=statistics.stdev(b for _, b in scores),
        spread_of_difference=statistics.stdev(a - b for a, b in scores),
    )


def measure_latency(embedder: OnnxEmbedder, texts: tuple[str, ...]) -> tuple[float, float]:
    """Medians, in ms, of the CPU time and of the time passed in embedding one question."""
    embedder.embed(list(texts[:50]))
    computed, passed = [], []
    for text in texts[:1000]:
        # the session has one thread, the caller's: other load on the machine does not count here
        cpu, clock = time.thread_time(), time.perf_counter()
        embedder.embed([text])
        computed.append(1000 * (time.thread_time() - cpu))
        passed.append(1000 * (time.perf_counter() - clock))
    return statistics.median(computed), statistics.median(passed)


def stream_rows(calibration: Calibration, streams: Sequence[tuple[str, Decided]]) -> str:
    """Per domain, form and bound: what the shipped threshold does, with the spread of the seeds."""
    rows = []
    for form, decided in streams:
        for bound in SHOWN_BOUNDS:
            threshold = calibration.threshold(bound)
            if threshold is None:
                continue
            served = decided.probability >= threshold
            wrong = served & ~decided.right
            by_seed, wrong_by_seed = (one.reshape(len(CARD_SEEDS), -1) for one in (served, wrong))
            errors = wrong_by_seed.sum(1) / np.maximum(by_seed.sum(1), 1)
            rows.append(
                f"| {decided.domain} | {form} | {bound:.0%} | {by_seed.mean():.1%} | "
                f"{(served & decided.right).sum() / decided.answerable.sum():.1%} | "
                f"{wrong.sum() / max(served.sum(), 1):.1%} ± {errors.std(ddof=1):.1%} | "
                f"{int((errors <= bound).sum())} of {len(CARD_SEEDS)} | "
                f"{len(np.unique(decided.question[wrong])):,} of "
                f"{len(np.unique(decided.question[served])):,} |"
            )
    return "\n".join(rows)


def edited_rows(calibration: Calibration, embedder: Embedder, texts: Sequence[str]) -> str:
    """Per bound: the share served of edits, which have another answer, and of rewrites."""
    domain = domain_from_edits("edited", texts, seed=SYNTHETIC_SEED)
    met = run_trials(domain, embed_texts(embedder, domain.texts), missing=0, seeds=(0,))
    decided = decide("edited", met, calibration.judged_by)
    rows = []
    for row in calibration.thresholds:
        if row.probability is not None:
            served = decided.probability >= row.probability
            edits, rewrites = (served[decided.answerable == kind] for kind in (False, True))
            rows.append(
                f"| {row.max_error_rate:.0%} | {edits.mean():.1%} of {len(edits):,} | "
                f"{rewrites.mean():.1%} of {len(rewrites):,} |"
            )
    return "\n".join(rows)


def way_header(points: Sequence[Artefact], shipped: float) -> str:
    """The head of the table that compares points on the way from published to tuned weights."""
    named = {0.0: "published weights", 1.0: "tuned weights"}
    titles = [
        named.get(point.share, f"{point.share:g} of the way")
        + (", shipped" if point.share == shipped else "")
        for point in points
    ]
    return f"| set | figure | {' | '.join(titles)} |\n|---|---|{'---|' * len(points)}"


def way_rows(sets: dict[str, list[Pair]], points: Sequence[Artefact]) -> str:
    """Per set and figure: a cell for each point on the way."""
    rows = []
    for name, pairs in sets.items():
        reference = similarities_of(points[0].embedder, pairs)
        figures = [
            evaluate(pairs, one.embedder, one.calibration, base_similarities=reference).as_json()
            for one in points
        ]
        rows += [
            _row(name, title, [_cell(found, path) for found in figures])
            for title, path in _FIGURES.items()
        ]
    questions = [pair.prompt for pairs in sets.values() for pair in pairs[::4]]
    made = synthetic_pairs(list(dict.fromkeys(questions)), seed=SYNTHETIC_SEED)
    for title, label in (("edits that change the answer", 0.0), ("harmless rewrites", 1.0)):
        chosen = [pair for pair in made if pair.same_answer == label]
        cells = [_served(chosen, one) for one in points]
        rows.append(_row("synthetic", f"{title} ({len(chosen):,}), served", cells))
    return "\n".join(rows)


def _row(*cells: str | list[str]) -> str:
    flat = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
    return f"| {' | '.join(flat)} |"


_FIGURES = {
    "AUC": ("auc",),
    "AUC, hard for the published weights": ("hard_auc",),
    "served at 2 %, all answerable": ("served_at_error", "0.02"),
    "served at 5 %, all answerable": ("served_at_error", "0.05"),
    "served at 2 %, half missing": ("served_at_error_half_missing", "0.02"),
    "served at 5 %, half missing": ("served_at_error_half_missing", "0.05"),
}


def _cell(figures: dict[str, object], path: Sequence[str]) -> str:
    value, interval = figures, figures["intervals"]
    for name in path:
        value, interval = value[name], interval[name]  # type: ignore[index]
    low, high = interval  # type: ignore[misc]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _served(pairs: list[Pair], artefact: Artefact) -> str:
    threshold = artefact.calibration.threshold(0.02)
    if threshold is None:
        return "none: exact repeats only"
    weights = artefact.calibration.judged_by
    similarity = similarities_of(artefact.embedder, pairs)
    log_odds = [
        weights.log_odds(value, weights.widest, differences(read(pair.prompt), read(pair.other)))
        for value, pair in zip(similarity.tolist(), pairs, strict=True)
    ]
    return f"{np.mean([sigmoid(one) >= threshold for one in log_odds]):.1%}"

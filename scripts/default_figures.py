"""The tables of the shipped artefact's card."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from semcache_core.embedding import OnnxEmbedder, SentenceTransformerEmbedder
from semcache_core.evaluation import evaluate
from semcache_core.guard import decisive_difference
from semcache_core.predictor import Calibration
from semcache_core.training.calibration import MISSING, threshold_table
from semcache_core.training.card import cosine
from semcache_core.training.pairs import Pair
from semcache_core.training.streams import (
    SEEDS,
    Domain,
    Outcomes,
    Remembering,
    embed_texts,
    run_streams,
    similarities_of,
)
from semcache_core.training.synthetic import synthetic_pairs
from sentence_transformers import SentenceTransformer
from sklearn.metrics import roc_auc_score

RESAMPLES = 200
SHOWN_BOUNDS = (0.02, 0.05)
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


def stream_rows(calibration: Calibration, streams: list[tuple[str, Outcomes]]) -> str:
    """Per domain, form and bound: what the shipped threshold does, with the spread of the seeds."""
    rows = []
    for form, outcomes in streams:
        for bound in SHOWN_BOUNDS:
            shipped = calibration.threshold(bound)
            if shipped is None:
                continue
            served = outcomes.similarity >= cosine(calibration, shipped) - 1e-9
            by_seed = served.reshape(len(SEEDS), -1)
            wrong = served & ~outcomes.right
            wrong_by_seed = wrong.reshape(len(SEEDS), -1)
            errors = wrong_by_seed.sum(1) / np.maximum(by_seed.sum(1), 1)
            rows.append(
                f"| {outcomes.domain} | {form} | {bound:.0%} | "
                f"{by_seed.mean():.1%} ± {by_seed.mean(1).std(ddof=1):.1%} | "
                f"{(served & outcomes.right).sum() / outcomes.answerable.sum():.1%} | "
                f"{wrong.sum() / max(served.sum(), 1):.1%} ± {errors.std(ddof=1):.1%} | "
                f"{len(np.unique(outcomes.question[wrong])):,} of "
                f"{len(np.unique(outcomes.question[served])):,} |"
            )
    return "\n".join(rows)


def held_out_rows(calibration: Calibration, complete: Outcomes, halved: Outcomes) -> str:
    """Per bound that has a threshold: the error among the served, in both forms."""
    rows = []
    for row in calibration.thresholds:
        if row.probability is None:
            continue
        cells = []
        for outcomes in (complete, halved):
            served = outcomes.similarity >= cosine(calibration, row.probability) - 1e-9
            wrong = int((served & ~outcomes.right).sum())
            cells.append(f"{wrong / max(served.sum(), 1):.1%} ({wrong:,} of {served.sum():,})")
        rows.append(f"| {row.max_error_rate:.0%} | {' | '.join(cells)} |")
    return "\n".join(rows)


def own_rows(calibration: Calibration, streams: list[tuple[str, Outcomes]]) -> str:
    """Per domain and form: what a threshold of its own would serve, were the form known."""
    rows = []
    for form, outcomes in streams:
        cells = [_own(calibration, outcomes, bound) for bound in SHOWN_BOUNDS]
        rows.append(f"| {outcomes.domain} | {form} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _own(calibration: Calibration, outcomes: Outcomes, bound: float) -> str:
    (row,) = threshold_table([outcomes], calibration.lam, calibration.c, (bound,))
    if row.probability is None:
        return "none"
    share = (row.served - row.wrong) / outcomes.answerable.sum()
    return f"{share:.1%} (cosine {cosine(calibration, row.probability):.3f})"


def way_header(points: Sequence[Artefact], shipped: float) -> str:
    """The head of the table that compares points on the way from published to tuned weights."""
    named = {0.0: "published weights", 1.0: "tuned weights"}
    titles = [
        named.get(point.share, f"{point.share:g} of the way")
        + (", shipped" if point.share == shipped else "")
        for point in points
    ]
    return f"| set | figure | {' | '.join(titles)} |\n|---|---|{'---|' * len(points)}"


def way_rows(
    sets: dict[str, list[Pair]], domains: Sequence[Domain], points: Sequence[Artefact]
) -> str:
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
    for domain in domains:
        vectors = [embed_texts(one.embedder, domain.texts) for one in points]
        halved = [run_streams(domain, of_one, missing=MISSING) for of_one in vectors]
        rows += [
            _row(
                domain.name,
                f"served at {bound:.0%}, half missing, threshold of its own",
                [_own(one.calibration, o, bound) for one, o in zip(points, halved, strict=True)],
            )
            for bound in SHOWN_BOUNDS
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
    similarity = similarities_of(artefact.embedder, pairs)
    near = similarity >= cosine(artefact.calibration, threshold) - 1e-9
    alike = [not decisive_difference(pair.prompt, pair.other) for pair in pairs]
    return f"{(near & alike).mean():.1%}"

"""Evaluates an artefact on labelled pairs, and on slices of them by plain rules in English."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from semcache_core.decision.calibration import Calibration
from semcache_core.decision.guard import numbers
from semcache_core.decision.lexicon import ASKING, NEGATIONS, NUMBERS
from semcache_core.embedding.batching import embed_texts
from semcache_core.embedding.wrappers import as_embedder
from semcache_core.errors import TrainingError
from semcache_core.evaluation import metrics
from semcache_core.evaluation.metrics import Figure, Floats
from semcache_core.evaluation.served import (
    MIN_ASKED,
    Forms,
    Measure,
    Streams,
    probabilities,
    stream_figures,
    streams_of,
)
from semcache_core.training.batches import check_labelled
from semcache_core.training.calibration.calibrate import MISSING
from semcache_core.training.data.mining import matched_subset
from semcache_core.training.data.records import Pair, Progress, texts_of
from semcache_core.types import Embedder, Vector

Predicate: TypeAlias = Callable[[Pair], bool]

SHORT, LONG = 8, 20
"""A short pair has at most 8 words in its longer text, a long one more than 20."""

# without "one": "which one" and "how does one" name no number
_NUMBER_WORDS = {word: str(value) for word, value in NUMBERS.items() if value > 1} | {"dozen": "12"}
_NEGATIONS = NEGATIONS | {"nobody", "nothing", "nowhere", "without", "aint"}
_WH = {"what": "what", **ASKING, "which": "which"}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def slices_of(pairs: Sequence[Pair]) -> dict[str, NDArray[np.bool_]]:
    """Which pairs are in each named slice, bool [pairs] each; a pair is in several.

    Numbers and negation look at both texts, the wh-word at the prompt, the length at the longer
    text. Every domain that the pairs name is a slice `source: NAME`. Slices may be empty.
    """
    slices = {
        name: np.array([predicate(pair) for pair in pairs], np.bool_)
        for name, predicate in PREDICATES.items()
    }
    for source in sorted({pair.domain for pair in pairs if pair.domain}):
        slices[f"source: {source}"] = np.array([pair.domain == source for pair in pairs], np.bool_)
    return slices


def _numbers(text: str) -> list[str]:
    """All numbers of a text as digits: "two" is 2, "a dozen" 12."""
    words = [_NUMBER_WORDS[word] for word in _words(text) if word in _NUMBER_WORDS]
    return sorted(numbers(text) + words)


def _negated(text: str) -> bool:
    return any(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in _words(text))


def _wh_word(text: str) -> str:
    stems = (re.split("['’]", word)[0] for word in _words(text))
    return next((_WH[stem] for stem in stems if stem in _WH), "other")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _length(pair: Pair) -> int:
    return max(len(pair.prompt.split()), len(pair.other.split()))


def _wh(name: str) -> Predicate:
    return lambda pair: _wh_word(pair.prompt) == name


PREDICATES: dict[str, Predicate] = {
    "numbers: appear": lambda pair: bool(_numbers(pair.prompt) or _numbers(pair.other)),
    "numbers: differ": lambda pair: _numbers(pair.prompt) != _numbers(pair.other),
    "negation: in any": lambda pair: _negated(pair.prompt) or _negated(pair.other),
    "negation: in one only": lambda pair: _negated(pair.prompt) != _negated(pair.other),
    **{f"wh-word: {name}": _wh(name) for name in (*dict.fromkeys(_WH.values()), "other")},
    f"length: at most {SHORT} words": lambda pair: _length(pair) <= SHORT,
    f"length: {SHORT + 1} to {LONG} words": lambda pair: SHORT < _length(pair) <= LONG,
    f"length: over {LONG} words": lambda pair: _length(pair) > LONG,
}

MIN_OF_EACH_CLASS = 10
"""A slice with fewer positives or negatives has no AUC worth a number."""


@dataclass(frozen=True)
class PairFigures:
    """Figures of the pairs; `hard_auc` is over `hard_n` pairs matched on `hard_matched_on`."""

    auc: Figure
    average_precision: Figure
    brier: Figure
    ece: Figure
    p_chr_auc: Figure
    hard_auc: Figure
    hard_n: int
    hard_matched_on: str


@dataclass(frozen=True)
class Slice:
    """A kind of pairs; the figures are empty with fewer than MIN_OF_EACH_CLASS of either label."""

    n: int
    positives: int
    auc: Figure
    average_precision: Figure


@dataclass(frozen=True)
class Evaluation:
    """All figures, and the outcomes they come from; `similarity` and `probability` are [pairs].

    `domains` holds the figures of each domain; it is empty when the pairs name one.
    """

    pairs: tuple[Pair, ...]
    similarity: Floats
    probability: Floats
    calibration: Calibration
    all_answerable: Streams
    half_missing: Streams
    figures: PairFigures
    forms: Forms
    domains: dict[str, Forms]
    slices: dict[str, Slice]
    seeds: int
    resamples: int
    seed: int

    @property
    def label(self) -> Floats:
        return np.array([pair.same_answer for pair in self.pairs], np.float64)

    @property
    def positives(self) -> int:
        return sum(pair.positive for pair in self.pairs)

    @property
    def streams_note(self) -> str | None:
        """Why there are no figures of streams; None when there are."""
        asked = min(self.forms.all_answerable.asked, self.forms.half_missing.asked)
        if asked >= MIN_ASKED:
            return None
        return (
            f"too few pairs for streams: they would ask {asked} questions, and fewer than "
            f"{MIN_ASKED} tell nothing; give more pairs of both labels"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything but the pairs, as plain JSON types without NaN.

        `intervals` repeats the shape of what is measured, with [low, high] or null at its leaves.
        """
        tree = {
            "n": len(self.pairs),
            "positives": self.positives,
            **vars(self.figures),
            "ece_bins": metrics.BINS,
            **self.forms.tree(self.calibration),
            "streams_note": self.streams_note,
            "domains": {name: forms.tree(self.calibration) for name, forms in self.domains.items()},
            "slices": {name: vars(figures) for name, figures in self.slices.items()},
            "fingerprint": self.calibration.fingerprint,
            "calibrated_on": self.calibration.calibrated_on,
            "seeds": self.seeds,
            "resamples": self.resamples,
            "seed": self.seed,
            "interval_level": metrics.LEVEL,
        }
        return {**_values(tree), "intervals": _intervals(tree)}


def _values(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _values(branch) for name, branch in tree.items()}
    return tree.value if isinstance(tree, Figure) else tree


def _intervals(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, branch in tree.items():
        if isinstance(branch, Figure):
            found[name] = None if branch.interval is None else list(branch.interval)
        elif isinstance(branch, dict) and (inner := _intervals(branch)):
            found[name] = inner
    return found


def evaluate(
    pairs: Sequence[Pair],
    embedder: object,
    calibration: Calibration,
    *,
    base_similarities: Floats | Sequence[float] | None = None,
    seeds: int = 8,
    resamples: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure an artefact on labelled pairs that it was neither trained nor calibrated on.

    `embedder` is anything the cache takes. Figures of pairs include the AUC on a hard subset, with
    as many positives as negatives in each bin of a reference similarity: `base_similarities`
    [pairs], such as an untuned model's, else the artefact's own, on which its AUC is near .5 by
    construction.

    Figures of streams (`run_trials`; the domains have own stores and are pooled under one
    threshold), with every question answerable and, in `seeds` streams, with half of the right
    answers missing: the share served at each error bound with the best threshold in hindsight, and
    what the calibration's own threshold serves and errs.

    Intervals hold 95 % of `resamples` bootstrap draws of pairs, or of questions for streams; pairs
    that share a question count as independent. Intervals of a best threshold in hindsight are too
    high, because a draw repeats questions. `seed` fixes all that is drawn.

    Raises TrainingError for no pairs, labels outside [0, 1] or of one class, a calibration of
    another model, and base similarities that do not fit the pairs.
    """
    model, tell = as_embedder(embedder), progress or (lambda what, done, total: None)
    check_labelled(pairs, "evaluate")
    label = np.array([pair.same_answer for pair in pairs], np.float64)
    base = None if base_similarities is None else _checked_base(base_similarities, len(pairs))
    _check_counts(seeds=seeds, resamples=resamples)
    _check_model(model, calibration)
    measure = partial(metrics.measured, seed=seed, resamples=resamples)
    vectors = _embedded(model, pairs, tell)
    similarity = _similarities(pairs, vectors)
    probability = probabilities(calibration, similarity)
    tell("measuring", 0, 3)
    figures = _pair_figures(similarity, probability, label, base, measure, seed)
    tell("measuring", 1, 3)
    every, half = (
        streams_of(
            pairs,
            vectors,
            calibration.judged_by,
            missing=missing,
            seeds=range(seed, seed + count),
        )
        # nothing is drawn when nothing is missing: all seeds would be the same stream
        for missing, count in ((0.0, 1), (MISSING, seeds))
    )
    forms, domains = _all_forms(every, half, calibration, measure)
    tell("measuring", 2, 3)
    slices = {
        name: _slice(similarity[chosen], label[chosen], measure)
        for name, chosen in slices_of(pairs).items()
    }
    tell("measuring", 3, 3)
    return Evaluation(
        pairs=tuple(pairs),
        similarity=similarity,
        probability=probability,
        calibration=calibration,
        all_answerable=every,
        half_missing=half,
        figures=figures,
        forms=forms,
        domains=domains,
        slices=slices,
        seeds=seeds,
        resamples=resamples,
        seed=seed,
    )


def _pair_figures(
    similarity: Floats,
    probability: Floats,
    label: Floats,
    base: Floats | None,
    measure: Measure,
    seed: int,
) -> PairFigures:
    hard = matched_subset(similarity if base is None else base, label, seed=seed)
    return PairFigures(
        auc=measure(metrics.auc, similarity, label),
        average_precision=measure(metrics.average_precision, similarity, label),
        brier=measure(metrics.brier, probability, label),
        ece=measure(metrics.expected_calibration_error, probability, label),
        p_chr_auc=measure(metrics.p_chr_auc, similarity, label),
        hard_auc=measure(metrics.auc, similarity[hard], label[hard]),
        hard_n=len(hard),
        hard_matched_on="own similarity" if base is None else "base similarities",
    )


def _all_forms(
    every: Streams, half: Streams, calibration: Calibration, measure: Measure
) -> tuple[Forms, dict[str, Forms]]:
    """Of all domains pooled, and of each by itself where there are several."""

    def forms(*streams: Streams) -> Forms:
        return Forms(*(stream_figures(form, calibration, measure) for form in streams))

    names = sorted(set(every.domain))
    by_domain = {name: forms(every.of(name), half.of(name)) for name in names if len(names) > 1}
    return forms(every, half), by_domain


def _slice(similarity: Floats, label: Floats, measure: Measure) -> Slice:
    n, positives = len(label), int((label > 0.5).sum())
    if min(positives, n - positives) < MIN_OF_EACH_CLASS:
        return Slice(n, positives, Figure(), Figure())
    return Slice(
        n,
        positives,
        measure(metrics.auc, similarity, label),
        measure(metrics.average_precision, similarity, label),
    )


def _embedded(model: Embedder, pairs: Sequence[Pair], tell: Progress) -> dict[str, Vector]:
    """The unit vector of every text."""
    texts = texts_of(pairs)
    tell("embedding", 0, len(texts))
    vectors = embed_texts(model, texts, progress=partial(tell, "embedding"))
    return dict(zip(texts, vectors, strict=True))


def _similarities(pairs: Sequence[Pair], vectors: dict[str, Vector]) -> Floats:
    left = np.stack([vectors[pair.prompt] for pair in pairs]).astype(np.float64)
    right = np.stack([vectors[pair.other] for pair in pairs]).astype(np.float64)
    similarities: Floats = (left * right).sum(axis=1)
    return similarities


def _checked_base(base: Floats | Sequence[float], n: int) -> Floats:
    similarities = np.asarray(base, np.float64)
    if similarities.shape != (n,):
        raise TrainingError(
            f"base_similarities have shape {list(similarities.shape)}, but there are {n} pairs; "
            "give one similarity per pair, in their order"
        )
    if not np.isfinite(similarities).all():
        index = int(np.argmin(np.isfinite(similarities)))
        raise TrainingError(
            f"base_similarities[{index}] is {similarities[index]}; give finite numbers"
        )
    return similarities


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise TrainingError(f"{name} is {count}; give at least 1")


def _check_model(model: Embedder, calibration: Calibration) -> None:
    if model.fingerprint != calibration.fingerprint:
        raise TrainingError(
            f"the calibration is for the model {calibration.fingerprint[:12]}..., the embedder is "
            f"{model.fingerprint[:12]}...; give the calibration.json of the same artefact"
        )

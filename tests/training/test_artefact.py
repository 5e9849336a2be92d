"""From pairs to an artefact: what comes out loads and is described, and nothing is half done."""

import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from semcache_core import Request, SemanticCache
from semcache_core.decision.calibration import Calibration, Threshold
from semcache_core.errors import TrainingError
from semcache_core.training import pipeline
from semcache_core.training.calibration.model_card import Ranking
from semcache_core.training.data.records import Pair
from semcache_core.training.pipeline import FILES, TrainedArtefact, train
from semcache_core.training.trainer import FitOptions, FitResult
from sentence_transformers import SentenceTransformer
from tiny_models import FILLERS, OTHERS, word_model

OPTIONS = FitOptions(
    batch_size=10, learning_rate=5e-3, ranking=0, distillation=0, synthetic=0, epochs=4
)


def overlapping_pairs(count: int, seed: int) -> list[Pair]:
    """Questions of five words: the more words they share, the likelier is the same answer."""
    chance = random.Random(seed)
    pairs = []
    for index in range(count):
        same = index % 2
        words = chance.sample(FILLERS, 5)
        others = [*words[: 4 if same else 2], *chance.sample(OTHERS, 1 if same else 3)]
        pairs.append(Pair(" ".join(words), " ".join(others), same, "toys"))
    return pairs


PAIRS = overlapping_pairs(50, seed=2)
CALIBRATION = overlapping_pairs(420, seed=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return word_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def made(base: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "artefact"
    train(PAIRS, base, out, OPTIONS, base_name="toy", calibrate_on=CALIBRATION)
    return out


def test_fifty_pairs_become_an_artefact_that_a_cache_serves_with(made: Path) -> None:
    assert sorted(file.name for file in made.iterdir()) == sorted(FILES)
    with SemanticCache(path=None, artefact=made, max_error_rate=0.2) as cache:
        cache.update(Request("filler1 filler2 filler3 filler4"), "a")
        assert cache.lookup(Request("filler1 filler2 filler3 filler4")) is not None
        assert cache.explain(Request("filler1 filler2 filler4 filler3")).candidates


def test_the_card_names_base_data_split_seed_options_and_bounds(made: Path) -> None:
    card = (made / "card.md").read_text()
    for said in ("| base | toy |", "| seed | 0 |", "| loss | bce |", "| calibration | 420 | 210 |"):
        assert said in card
    assert "toys" in card
    assert "$" not in card


def test_without_other_pairs_a_part_is_calibrated_on_and_no_question_trained_on_too(
    base: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    monkeypatch.setattr(pipeline, "check_pairs", lambda *_: None)

    def texts(pairs: list[Pair]) -> set[str]:
        return {text for pair in pairs for text in (pair.prompt, pair.other)}

    def stop(name: str) -> object:
        def called(*arguments: object, **_: object) -> None:
            seen[name] = texts(next(a for a in arguments if isinstance(a, list)))
            if name == "calibrate":
                raise KeyboardInterrupt

        return called

    real = pipeline.fit

    def fit(pairs: list[Pair], *arguments: object, **options: object) -> object:
        seen["fit"] = texts(pairs)
        return real(pairs, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "fit", fit)
    monkeypatch.setattr(pipeline, "calibrate", stop("calibrate"))
    with pytest.raises(KeyboardInterrupt):
        train(PAIRS, base, tmp_path / "out", OPTIONS)
    assert seen["fit"] and seen["calibrate"]
    assert not seen["fit"] & seen["calibrate"]
    assert not (tmp_path / "out").exists()


def test_too_few_calibration_pairs_are_refused_before_any_training(
    base: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(TrainingError, match=r"the part .* has \d+ pairs .* at least 200"):
        train(PAIRS, base, tmp_path / "out", OPTIONS)
    with pytest.raises(TrainingError, match=r"has 50 pairs .* at least 200"):
        train(PAIRS, base, tmp_path / "out", OPTIONS, calibrate_on=CALIBRATION[:100])
    assert list(tmp_path.iterdir()) == []


def artefact(
    before: float, after: float, *thresholds: tuple[float, float | None]
) -> TrainedArtefact:
    """With these AUCs and these (bound, probability)."""
    rows = tuple(
        Threshold(bound, p, 0.1 if p else 0.0, 10 if p else 0, 0) for bound, p in thresholds
    )
    calibration = Calibration("f", 2, 0.1, 5.0, 64, rows, "pairs")
    rankings = [Ranking(80, auc, np.arange(20), 0.5) for auc in (before, after)]
    result = cast(FitResult, None)
    return TrainedArtefact(Path("out"), calibration, result, rankings[0], rankings[1])


def test_an_artefact_that_is_better_and_keeps_the_default_bound_has_no_problems() -> None:
    made = artefact(0.8, 0.9, (0.02, 0.99))
    assert not made.worse and made.problems() == []
    # what int8 costs is no harm
    assert not artefact(0.9, 0.898, (0.02, 0.99)).worse


def test_an_artefact_that_is_worse_than_its_base_says_so_and_what_to_do() -> None:
    made = artefact(0.9, 0.85, (0.02, 0.99))
    assert made.worse
    (said,) = made.problems()
    assert "worse than its base: AUC 0.850 on 80 held-out pairs, 0.900 before" in said
    assert "more labelled pairs" in said


def test_an_artefact_without_a_threshold_at_the_default_bound_names_the_smallest_with_one() -> None:
    (said,) = artefact(0.8, 0.9, (0.02, None), (0.05, 0.9), (0.1, 0.8)).problems()
    assert "default bound, max_error_rate=0.02" in said
    assert "the smallest bound with a threshold is max_error_rate=0.05" in said
    (said,) = artefact(0.8, 0.9, (0.02, None), (0.2, None)).problems()
    assert "none of the bounds up to 0.2 has one" in said
    assert "more answers" in said


def test_an_artefact_that_could_not_be_compared_says_so() -> None:
    made = replace(artefact(0.8, 0.9, (0.02, 0.99)), before=None, after=None)
    assert not made.worse
    assert "could not be compared" in made.problems()[0]


def test_a_failure_after_training_leaves_the_artefact_before_and_is_gone_on_from(
    base: SentenceTransformer, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "artefact"
    out.mkdir()
    (out / "card.md").write_text("the one before")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "calibrate", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(PAIRS, base, out, OPTIONS, calibrate_on=CALIBRATION)
    assert (out / "card.md").read_text() == "the one before"
    steps: list[int] = []
    train(
        PAIRS, base, out, OPTIONS, calibrate_on=CALIBRATION, resume=True,
        progress=lambda step, of, loss: steps.append(step),
    )  # fmt: skip
    assert steps == []  # all of the training was there already
    assert (out / "model.onnx").read_bytes() == (made / "model.onnx").read_bytes()
    assert not list(tmp_path.glob(".artefact*"))
    assert not (tmp_path / "artefact.checkpoint").exists()

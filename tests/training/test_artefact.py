"""From pairs to an artefact: what comes out loads and is described, and nothing is half done."""

import random
from pathlib import Path

import pytest
from semcache_core import Request, SemanticCache
from semcache_core.errors import TrainingError
from semcache_core.training import pipeline
from semcache_core.training.data.records import Pair
from semcache_core.training.pipeline import FILES, train
from semcache_core.training.trainer import FitOptions
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


def test_without_other_pairs_a_tenth_is_calibrated_on_and_no_question_trained_on_too(
    base: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    monkeypatch.setattr(pipeline, "MIN_POSITIVES", 1)

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
    with pytest.raises(TrainingError, match=r"a tenth of those given; at least 200"):
        train(PAIRS, base, tmp_path / "out", OPTIONS)
    with pytest.raises(TrainingError, match=r"there are 50 pairs .* at least 200"):
        train(PAIRS, base, tmp_path / "out", OPTIONS, calibrate_on=CALIBRATION[:100])
    assert list(tmp_path.iterdir()) == []


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
